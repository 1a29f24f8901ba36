"""Reward accuracy: how often a judge, asked head to head, prefers the response that the reward chose (Table 1 of ICR).

The wording of the rubric is ours, after the form of the paper's Appendix E.3: answer1, answer2 or tie, order shuffled.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow as pa

from eval.judges.asking import Judging, Sheet
from eval.judges.question import Question, Verdict
from eval.rates import macro_average, win_rate
from icr.base.errors import UserError
from icr.base.files import read_rows
from icr.languages import english_name

Row = dict[str, Any]
LABELS = ("answer1", "answer2", "tie")

AGREEMENT = pa.schema(
    [
        ("prompt_id", pa.string()),
        ("chosen_first", pa.bool_()),
        ("agreement", pa.float64()),  # share of the judge's verdict that goes to the chosen response, a tie as half
        ("tie", pa.float64()),
        ("reason", pa.string()),
        ("raw", pa.string()),
        ("shortened", pa.bool_()),
    ]
)


def pick_pairs(pairs: Path, count: int) -> dict[str, list[Row]]:
    """`count` pairs of each language out of a round's pairs.parquet, the same ones every time.

    Raises:
        UserError: there are no pairs.
    """
    if not pairs.is_file():
        raise UserError("this round has no pairs", where=str(pairs), do="name a round that has been paired")
    columns = ["prompt_id", "lang", "prompt", "chosen", "rejected"]
    by_language: dict[str, list[Row]] = {}
    for row in read_rows(pairs, columns):
        by_language.setdefault(row["lang"], []).append(row)
    return {lang: sorted(rows, key=lambda row: _hash(lang, row["prompt_id"]))[:count]
            for lang, rows in by_language.items()}  # fmt: skip


def run_agreement(judging: Judging, picked: Mapping[str, Sequence[Row]], out: Path) -> None:
    """Ask the judge about every pair: `out`/LANG.parquet, rows of AGREEMENT.

    Raises:
        UserError: as `Judging.ask`.
    """
    judging.ask(out, [_sheet(lang, rows) for lang, rows in picked.items()], "reward accuracy", "accuracy", 100)


def _sheet(lang: str, pairs: Sequence[Row]) -> Sheet:
    def row(number: int, verdict: Verdict) -> Row:
        first = chosen_first(pairs[number])
        agreement, tie = agreement_of(verdict, first)
        return {
            "prompt_id": pairs[number]["prompt_id"],
            "chosen_first": first,
            "agreement": agreement,
            "tie": tie,
            "reason": verdict.reason,
            "raw": verdict.raw,
            "shortened": verdict.shortened,
        }

    points = [_points(chosen_first(pair)) for pair in pairs]
    return Sheet(lang, [_question(lang, pair) for pair in pairs], points, AGREEMENT, row)


def _points(first: bool) -> tuple[float, ...]:
    """What each of LABELS says for the chosen response: a tie is half."""
    return (1.0, 0.0, 0.5) if first else (0.0, 1.0, 0.5)


def chosen_first(pair: Row) -> bool:
    """Whether the judge sees the chosen response first: a coin that depends on the pair alone."""
    return _hash("order", pair["lang"], pair["prompt_id"])[0] % 2 == 0


def agreement_of(verdict: Verdict, first: bool) -> tuple[float | None, float | None]:
    """(agreement, tie) of a verdict over LABELS; None when unscored."""
    if verdict.shares is None:
        return None, None
    return verdict.expect(_points(first)), verdict.shares[2]


def summarise(out: Path, judge: str) -> Row:
    """Accuracy in percent per language and on average, with standard errors; None with a `why` without verdicts."""
    languages = {file.stem: _language(read_rows(file)) for file in sorted(out.glob("*.parquet"))}
    average = macro_average(languages, ("accuracy", "accuracy_se"))
    del average["why"]  # it stands in the language that has none
    return {"judge": judge, "languages": languages, "average": average}


def _language(rows: Sequence[Row]) -> Row:
    scored = [row for row in rows if row["agreement"] is not None]
    reasons = dict(Counter(row["reason"] for row in rows if row["reason"] is not None).most_common())
    row: Row = {"n": len(scored), "unscored": len(rows) - len(scored), "reasons": reasons}
    if not scored:
        return row | {"accuracy": None, "accuracy_se": None, "ties": None, "why": {"accuracy": "no pair has a verdict"}}
    rate, error = win_rate([r["agreement"] for r in scored])
    return row | {"accuracy": rate, "accuracy_se": error, "ties": fmean(r["tie"] for r in scored)}


def _question(lang: str, pair: Row) -> Question:
    texts = (pair["chosen"], pair["rejected"]) if chosen_first(pair) else (pair["rejected"], pair["chosen"])
    return Question(
        id=pair["prompt_id"],
        template="judge_accuracy.txt",
        labels=LABELS,
        texts=(("instruction", pair["prompt"]), ("first", texts[0]), ("second", texts[1])),
        values=(("language", english_name(lang)), ("lang", lang)),
        cut=("first", "second"),
        explained=True,
    )


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode()).digest()
