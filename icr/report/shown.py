"""A judged prompt as a page shows it: both answers, and what the judge said of them in each order."""

from __future__ import annotations

from dataclasses import dataclass

from eval.audit.summary import label
from eval.audit.verdicts import Judged

VERDICTS = ("baseline better", "draw", "model better")
SHOWN_FIRST = {"policy-first": "model first", "baseline-first": "baseline first"}


@dataclass(frozen=True)
class Shown:
    """A prompt as the page shows it."""

    item: Judged
    number: int
    """Of its language, from 0."""
    people: float | None
    """People's preference of the model, 0 to 1."""

    @property
    def orders(self) -> list[tuple[str, str, str]]:
        """Of each order: which answer was first, the verdict in words, and what the judge wrote."""
        return [(SHOWN_FIRST[row["order"]], _say(row["preference"], row["reason"]), row["raw"])
                for row in self.item.verdicts]  # fmt: skip

    @property
    def flips(self) -> bool:
        """Another answer wins in the other order."""
        return len({label(value) for _, value in self.item.scored}) > 1

    @property
    def disputed(self) -> bool:
        """People and the judge's mean over the orders disagree."""
        own = self.item.preference
        return own is not None and self.people is not None and label(own) != label(self.people)

    @property
    def by_people(self) -> str | None:
        return None if self.people is None else _say(self.people, None)

    @property
    def marks(self) -> str:
        """Classes that the filters look for."""
        found = {"flips": self.flips, "disputed": self.disputed, "wrong": self.item.wrong != 0,
                 "unscored": len(self.item.scored) < len(self.item.verdicts)}  # fmt: skip
        return " ".join([f"l{self.number}", *(name for name, there in found.items() if there)])


def _say(preference: float | None, reason: str | None) -> str:
    if preference is None:
        return f"unscored: {reason}"
    word = VERDICTS[label(preference)]
    return word if preference in (0, 0.5, 1) else f"{word}, {100 * preference:.0f} % for the model"
