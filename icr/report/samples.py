"""Texts to look at: the training pairs and the judged answers of every round and language, picked by rule."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypedDict

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eval.audit.summary import label
from eval.audit.verdicts import Judged, read_evaluation
from icr.base.conversation import load_conversation, show_conversation
from icr.base.errors import UserError
from icr.base.rundir import RunDir
from icr.report.numbers import number
from icr.report.results import Language, Results
from icr.report.shown import Shown

EXAMPLES = {"widest margin": 1.0, "median margin": 0.5, "narrowest margin": 0.0}
"""Which pairs of a language are shown, as quantiles of its margins: picked by rule, not by taste."""
MOST_ANSWERS = 240
"""Judged answers on the page, over all rounds and languages; of each the first, in the prompts' order."""
FEWEST_ANSWERS, MOST_OF_ONE = 2, 12
"""Of one round and language, whatever MOST_ANSWERS says."""
PRINTED = 1
"""Articles of a language, of the last round, that are on paper."""
OUTCOMES = ("lost", "drawn", "won")


class ShownPair(TypedDict):
    """Those columns of pairs.parquet that the page shows."""

    prompt: str
    chosen: str
    rejected: str
    chosen_reward: float | None
    rejected_reward: float | None


@dataclass(frozen=True)
class Side:
    """One of two texts."""

    name: str
    note: str
    text: str


@dataclass(frozen=True)
class Article:
    """A prompt with two texts, as the page shows it."""

    language: Language
    round: int
    kind: str
    """`pairs` or `answers`."""
    head: str
    prompt: str
    sides: tuple[Side, Side]
    said: list[tuple[str, str, str]] = field(default_factory=list)
    """Of each order: which answer was first, the verdict in words, what the judge wrote."""
    outcomes: tuple[str, ...] = ()
    """What the filters look for besides."""
    printed: bool = False
    place: int = 0
    """Of its round, language and kind, from 0."""

    @property
    def id(self) -> str:
        """The same each time that the page is written, as long as the text is on it."""
        return f"{self.kind}-{self.round}-{self.language.slot}-{self.place}"

    @property
    def marks(self) -> str:
        """Classes that the filters look for."""
        few = ("few",) if self.printed else ()
        return " ".join((f"l{self.language.slot}", f"r{self.round}", self.kind, *self.outcomes, *few))


def read_articles(run: RunDir, results: Results) -> list[Article]:
    """Answers of the judged rounds, then pairs; the last round first. What cannot be read is named in `missing`."""
    languages = {language.code: language for language in results.languages}
    paired = [r.number for r in reversed(results.rounds) if r.margins]
    compared = [r.number for r in reversed(results.compared)]
    most = min(max(MOST_ANSWERS // max(len(compared) * len(languages), 1), FEWEST_ANSWERS), MOST_OF_ONE)
    articles: list[Article] = []
    for n in compared:
        try:
            found = read_evaluation(run.round(n).judge, most)
        except (OSError, ValueError, KeyError, UserError, pa.ArrowException) as error:
            what = error.what if isinstance(error, UserError) else error
            results.missing.append(f"The answers of round {n} cannot be shown: {what}.")
            continue
        for code, language in languages.items():
            last = n == compared[0]
            items = found.languages.get(code, [])
            articles += [_of_answer(item, language, n, i, last) for i, item in enumerate(items)]
    for n in paired:
        picked = pick_pairs(run.round(n).pairs)
        for code, language in languages.items():
            rows, last = picked.get(code, []), n == paired[0]
            articles += [_of_pair(row, name, language, n, i, last) for i, (name, row) in enumerate(rows)]
    return articles


def _of_answer(item: Judged, language: Language, at: int, place: int, last: bool) -> Article:
    shown = Shown(item, language.slot, None)
    preference = item.preference
    outcomes = [] if preference is None else [OUTCOMES[label(preference)]]
    outcomes += [mark for mark in shown.marks.split()[1:] if mark in ("flips", "wrong", "unscored")]
    head = "identical to the baseline's answer, so not judged" if item.identical else ""
    if item.wrong:
        head = f"the {'policy' if item.wrong > 0 else 'baseline'}'s answer is in the wrong language"
    sides = (_side("Policy", item.ours), _side("Baseline", item.theirs))
    said, printed = shown.orders, last and place < PRINTED
    return Article(language, at, "answers", head, item.instruction, sides, said, tuple(outcomes), printed, place)


def _side(name: str, text: str) -> Side:
    return Side(name, f"{number(len(text), 0)} characters", text)


def _of_pair(row: ShownPair, which: str, language: Language, at: int, place: int, last: bool) -> Article:
    chosen, rejected = row["chosen_reward"], row["rejected_reward"]
    head = which
    if chosen is not None and rejected is not None:
        head += f": {number(chosen - rejected, 2)}"
    prompt = show_conversation(load_conversation(row["prompt"]))
    sides = (
        Side("Chosen", _reward(chosen), row["chosen"]),
        Side("Rejected", _reward(rejected), row["rejected"]),
    )
    return Article(language, at, "pairs", head, prompt, sides, printed=last and place < PRINTED, place=place)


def _reward(value: float | None) -> str:
    return "" if value is None else f"reward {number(value, 2)}"


def pick_pairs(path: Path) -> dict[str, list[tuple[str, ShownPair]]]:
    """Three pairs of every language, by the quantiles of EXAMPLES; of pairs without rewards, any three."""
    table = pq.read_table(path, columns=["lang", "prompt_id", "chosen_reward", "rejected_reward"])
    table = table.append_column("row", pa.array(range(len(table))))
    margin = pc.subtract(table["chosen_reward"], table["rejected_reward"])
    order = table.append_column("margin", margin).sort_by([("margin", "ascending"), ("prompt_id", "ascending")])
    by_language: dict[str, list[int]] = {}
    for lang, row in zip(order["lang"].to_pylist(), order["row"].to_pylist(), strict=True):
        by_language.setdefault(lang, []).append(row)
    texts = pq.read_table(path, columns=list(ShownPair.__annotations__))
    shown: dict[str, list[tuple[str, ShownPair]]] = {}
    for lang, rows in by_language.items():
        picked = {rows[round(q * (len(rows) - 1))]: name for name, q in EXAMPLES.items()}
        shown[lang] = [(name, texts.slice(row, 1).to_pylist()[0]) for row, name in picked.items()]
    return shown


@dataclass(frozen=True)
class Choices:
    """What the filters offer: (value, name); the first of each is chosen."""

    languages: list[tuple[str, str]]
    rounds: list[tuple[str, str]]
    kinds: list[tuple[str, str]]
    outcomes: list[tuple[str, str]]

    @property
    def groups(self) -> list[tuple[str, str, list[tuple[str, str]]]]:
        """(id, label, options) of each filter that has a choice."""
        every = [
            ("language", "Language", [*self.languages, ("", "all")]),
            ("round", "Round", [*self.rounds, ("", "all")]),
            ("kind", "What", [("", "answers and training pairs"), *self.kinds]),
            ("outcome", "Verdict", [("", "any"), *self.outcomes]),
        ]
        return [group for group in every if len(group[2]) > 2 or (group[0] == "outcome" and self.outcomes)]


VERDICTS = {
    "won": "policy better",
    "lost": "baseline better",
    "drawn": "draw",
    "flips": "another winner in the other order",
    "wrong": "one answer in the wrong language",
    "unscored": "a verdict is missing",
}
KINDS = {"answers": "judged answers", "pairs": "training pairs"}


def choices_of(articles: Sequence[Article]) -> Choices:
    """Of what is there."""
    languages = {article.language.slot: article.language.name for article in articles}
    rounds = sorted({article.round for article in articles}, reverse=True)
    kinds = {article.kind for article in articles}
    outcomes = {mark for article in articles for mark in article.outcomes}
    return Choices(
        languages=[(f"l{slot}", name) for slot, name in sorted(languages.items())],
        rounds=[(f"r{n}", str(n)) for n in rounds],
        kinds=[(kind, name) for kind, name in KINDS.items() if kind in kinds],
        outcomes=[(mark, name) for mark, name in VERDICTS.items() if mark in outcomes],
    )
