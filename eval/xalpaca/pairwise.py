"""Two answers to one instruction: which is better? The questions of X-AlpacaEval, and their verdicts."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import pyarrow as pa

from eval.judges.asking import Asking, Shown
from eval.judges.base import Judge
from eval.judges.question import Question, Verdict
from eval.xalpaca.answers import Answer, Baseline, read_answers
from icr.base.progress import Reporter
from icr.languages import english_name

Order = Literal["policy-first", "baseline-first"]
ORDERS: tuple[Order, ...] = ("policy-first", "baseline-first")

VERDICTS = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("order", pa.string()),
        ("preference", pa.float64()),  # of the policy, 0 to 1; null when unscored
        ("reason", pa.string()),  # null, or why there is no preference
        ("raw", pa.string()),
        ("shortened", pa.bool_()),  # an answer was cut to fit the judge's context
    ]
)


@dataclass(frozen=True)
class Comparison:
    """Two answers to one instruction, in the order in which the judge sees them."""

    id: str
    lang: str
    instruction: str
    first: str
    second: str

    def question(self) -> Question:
        return Question(
            id=self.id,
            template="judge_pairwise.txt",
            labels=("A", "B"),
            texts=(("instruction", self.instruction), ("first", self.first), ("second", self.second)),
            values=(("language", english_name(self.lang)), ("lang", self.lang)),
            cut=("first", "second"),
        )


def run_verdicts(
    judge: Judge, answers: Path, baseline: Baseline, out: Path, reporter: Reporter, orders: str = "both"
) -> None:
    """Judge the policy's answers against the baseline's: `out`/verdicts/LANG.parquet, rows of `VERDICTS`.

    Args:
        answers: folder of the policy's LANG.parquet.
        baseline: what `eval.xalpaca.answers.load_baseline` returns for these answers.
        orders: `both`, or `seeded`: one order per item, a coin thrown by its id, the same in every run.

    Raises:
        UserError: no answers, or an endpoint that cannot be used (nothing judged before is lost).
    """
    work = {lang: comparisons(lang, rows, baseline[lang], orders) for lang, rows in read_answers(answers).items()}
    asking = Asking(
        judge, out / "verdicts", reporter, sum(map(len, work.values())), Shown("win rate", "preference", 100)
    )
    for lang, pairs in work.items():

        def row(number: int, verdict: Verdict, pairs: list[_Pair] = pairs) -> dict[str, Any]:
            order, comparison = pairs[number]
            return {
                "prompt_id": comparison.id,
                "order": order,
                "preference": _policy_preference(order, verdict),
                "reason": verdict.reason,
                "raw": verdict.raw,
                "shortened": verdict.shortened,
            }

        asking.language(lang, [c.question() for _, c in pairs], VERDICTS, row)
    asking.close()


_Pair = tuple[Order, Comparison]


def comparisons(lang: str, answers: Sequence[Answer], baseline: Mapping[str, str], orders: str) -> list[_Pair]:
    """What is asked about these answers: the orders of every item, side by side."""
    pairs: list[_Pair] = []
    for a in answers:
        other = baseline[a.id]
        for order in ORDERS if orders == "both" else (seeded_order(lang, a.id),):
            first, second = (a.text, other) if order == "policy-first" else (other, a.text)
            pairs.append((order, Comparison(a.id, lang, a.instruction, first, second)))
    return pairs


def seeded_order(lang: str, prompt_id: str) -> Order:
    """A fair coin that depends on the item alone."""
    return ORDERS[hashlib.sha256(f"{lang}\x1f{prompt_id}".encode()).digest()[0] % 2]


def _policy_preference(order: Order, verdict: Verdict) -> float | None:
    if verdict.shares is None:
        return None
    return verdict.shares[0] if order == "policy-first" else verdict.shares[1]
