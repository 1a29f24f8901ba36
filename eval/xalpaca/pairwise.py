"""Two answers to one instruction: which is better? The questions of X-AlpacaEval, and their verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, TypedDict

from eval.judges.asking import Judging, Sheet
from eval.judges.prompts import built_in
from eval.judges.question import Question, Verdict, pass_messages
from eval.judges.wording import Wording
from eval.xalpaca.answers import Answer, Baseline, read_answers
from icr.base.conversation import Conversation, show_conversation
from icr.languages import english_name
from icr.rows import make_schema

Order = Literal["policy-first", "baseline-first"]
ORDERS: tuple[Order, ...] = ("policy-first", "baseline-first")
BENCHMARK = "xalpaca"
IDENTICAL = "the two answers are identical; the judge was not asked"


class VerdictRow(TypedDict):
    """What the judge says of a prompt's two answers in one order: verdicts/LANG.parquet."""

    prompt_id: str
    order: str
    """One of ORDERS."""
    preference: float | None
    """Of the policy, 0 to 1; None when unscored."""
    reason: str | None
    """None, or why there is no preference."""
    raw: str
    shortened: bool
    """An answer was cut to fit the judge's context."""


VERDICTS = make_schema(VerdictRow)


@dataclass(frozen=True)
class Comparison:
    """Two answers to one prompt, in the order in which the judge sees them."""

    id: str
    lang: str
    prompt: Conversation
    first: str
    second: str

    def question(self, wording: Wording | None = None) -> Question:
        """What is asked, in icr's own words where there are no others."""
        return Question.of(
            self.id,
            wording or built_in()[BENCHMARK].one,
            texts=(
                ("instruction", show_conversation(self.prompt)),
                ("first", self.first),
                ("second", self.second),
            ),
            values=(("language", english_name(self.lang)), ("lang", self.lang), *pass_messages(self.prompt)),
            cut=("first", "second"),
        )


def run_verdicts(judging: Judging, answers: Path, baseline: Baseline, out: Path, orders: str = "both") -> None:
    """Judge the policy's answers against the baseline's: `out`/verdicts/LANG.parquet, rows of `VERDICTS`.

    Args:
        answers: folder of the policy's LANG.parquet.
        baseline: what `eval.xalpaca.answers.load_baseline` returns for these answers.
        orders: `both`, or `seeded`: one order per item, a coin thrown by its id, the same in every run.

    Raises:
        UserError: no answers, or an endpoint that cannot be used (nothing judged before is lost).
    """
    work = {lang: comparisons(lang, rows, baseline[lang], orders) for lang, rows in read_answers(answers).items()}
    wording = judging.prompts[BENCHMARK].one
    sheets = [_sheet(lang, pairs, wording) for lang, pairs in work.items()]
    judging.ask(out / "verdicts", sheets, "verdicts", "win rate", 100)


def points_of(order: Order, wording: Wording) -> tuple[float, ...]:
    """What each label says for the policy."""
    return wording.points if order == "policy-first" else tuple(1 - point for point in wording.points)


def _sheet(lang: str, pairs: Sequence[_Pair], wording: Wording) -> Sheet:
    points = [points_of(order, wording) for order, _ in pairs]

    def row(number: int, verdict: Verdict) -> VerdictRow:
        order, comparison = pairs[number]
        return {
            "prompt_id": comparison.id,
            "order": order,
            "preference": verdict.expect(points[number]),
            "reason": verdict.reason,
            "raw": verdict.raw,
            "shortened": verdict.shortened,
        }

    draw = Verdict((0.5, 0.5, *(0.0 for _ in wording.labels[2:])), raw=IDENTICAL)
    known = {n: draw for n, (_, comparison) in enumerate(pairs) if comparison.first == comparison.second}
    return Sheet(lang, [c.question(wording) for _, c in pairs], points, VERDICTS, row, known)


_Pair = tuple[Order, Comparison]


def comparisons(lang: str, answers: Sequence[Answer], baseline: Mapping[str, str], orders: str) -> list[_Pair]:
    """What is asked about these answers: the orders of every item, side by side."""
    pairs: list[_Pair] = []
    for a in answers:
        other = baseline[a.id]
        for order in ORDERS if orders == "both" else (seeded_order(lang, a.id),):
            first, second = (a.text, other) if order == "policy-first" else (other, a.text)
            pairs.append((order, Comparison(a.id, lang, a.prompt, first, second)))
    return pairs


def seeded_order(lang: str, prompt_id: str) -> Order:
    """A fair coin that depends on the item alone."""
    return ORDERS[hashlib.sha256(f"{lang}\x1f{prompt_id}".encode()).digest()[0] % 2]
