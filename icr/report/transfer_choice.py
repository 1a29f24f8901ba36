"""Which source to take for each target, and how sure that is: the head of the page of `icr transfer`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.languages import english_name
from icr.report.numbers import listed, number
from icr.report.plots import HEAT_STEPS
from icr.report.transfer_align import is_behind


@dataclass(frozen=True)
class Choice:
    """The source to take for a target."""

    target: str
    source: str
    """The first by accuracy."""
    sure: bool
    """Its lead over every other source has a whole interval above 0."""
    chance: float | None
    """How often it is best over bootstrap samples; None of a single source, or without a bootstrap."""
    cell: Fields
    """Its figures in the target."""
    alike: list[str] = field(default_factory=list)
    """Sources that the rows cannot distinguish from it."""
    behind: list[str] = field(default_factory=list)
    others: list[float] = field(default_factory=list)
    """Accuracies of all other sources."""

    @property
    def above_length(self) -> bool | None:
        """Whether it is better than length alone with the whole interval; None where that is not known."""
        interval = self.cell.get("above_length_interval")
        return None if interval is None else interval[0] > 0


def in_words(code: str) -> str:
    """A source or a target in words: "Spanish", "English + Spanish", "English → Spanish" for a translation."""
    if "-to-" in code:
        return " → ".join(in_words(part) for part in code.split("-to-"))
    return " + ".join(_name(part) for part in code.split("+"))


def _name(code: str) -> str:
    try:
        return english_name(code)
    except UserError:
        return code


def choose(result: Fields) -> list[Choice]:
    """A choice for each target that has ranks or a single source."""
    cells = {(cell["source"], cell["target"]): cell for cell in result["cells"]}
    found = []
    for target, of in result["targets"].items():
        if of["order"]:
            best, others = of["order"][0], of["order"][1:]
            ahead = {source: is_behind(of["ahead"][source]) for source in others}
            chance = of["chances"][best] if others and of["chances"] else None
            alike = [source for source in others if not ahead[source]]
            behind = [source for source in others if ahead[source]]
            rest = [cells[source, target]["accuracy"] for source in others]
            sure = bool(others) and not alike
            found.append(Choice(target, best, sure, chance, cells[best, target], alike, behind, rest))
    return found


def summarise(choices: Sequence[Choice]) -> str:
    """The answer in one or two sentences, for somebody who reads nothing else."""
    compared = [choice for choice in choices if choice.alike or choice.behind]
    if not compared:
        return ""
    sure = [f"{in_words(choice.source)} for {in_words(choice.target)}" for choice in compared if choice.sure]
    if not sure:
        text = f"For none of {len(compared)} targets is one source better than every other one; several may be equally "
        text += "good, as far as these rows can tell."
    else:
        text = f"For {len(sure)} of {len(compared)} targets one source is better than every other one: {listed(sure)}."
        if len(sure) < len(compared):
            text += " For the others several may be equally good, as far as these rows can tell."
    worse = [in_words(choice.target) for choice in compared if choice.behind and not choice.sure]
    if worse:
        text += f" But some are worse for {listed(worse)}."
    weak = [in_words(choice.target) for choice in compared if choice.above_length is False]
    if weak:
        text += f" In {listed(weak)} no model is clearly better than length alone; do not rely on a choice there."
    return text


def scale_of(choices: Sequence[Choice]) -> tuple[float, float]:
    """From where to where the page draws accuracies: all of them, length alone and the intervals, in steps of ten."""
    values = [value for choice in choices for value in _drawn(choice)]
    if not values:
        return 0.0, 100.0
    low, high = 10 * (min(values) // 10), 10 * -(-max(values) // 10)
    return max(low, 0.0), max(min(high, 100.0), low + 10)


def _drawn(choice: Choice) -> list[float]:
    interval = choice.cell.get("accuracy_interval") or []
    values = [choice.cell["accuracy"], choice.cell.get("length"), *interval, *choice.others]
    return [value for value in values if value is not None]


def describe(choice: Choice) -> str:
    """A drawing of a choice in words."""
    interval = choice.cell.get("accuracy_interval")
    between = f", 95 % interval {number(interval[0])} to {number(interval[1])}" if interval else ""
    length = f"; length alone {number(choice.cell['length'])}" if choice.cell.get("length") is not None else ""
    return f"{in_words(choice.target)}: {number(choice.cell['accuracy'])}{between}{length}"


def heat_step(value: float, low: float | None, high: float | None) -> int:
    """Which of the steps of colour a value has, from the lowest value to the highest; the middle if all are one."""
    if low is None or high is None or high <= low:
        return HEAT_STEPS // 2
    return min(int((value - low) / (high - low) * HEAT_STEPS), HEAT_STEPS - 1)


def heat_bounds(rows: Sequence[Mapping[str, float | None]], key: str) -> tuple[float | None, float | None]:
    """The lowest and the highest value of a column; None where it has none."""
    values = [value for row in rows if (value := row.get(key)) is not None]
    return (min(values), max(values)) if values else (None, None)
