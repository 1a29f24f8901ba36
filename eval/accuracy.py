"""Reward accuracy: how often a judge prefers the response that the reward chose (Table 1 of ICR).

The wording of the rubric is ours, after the form of the paper's Appendix E.3: answer1, answer2 or tie, order shuffled.
"""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean
from typing import TypedDict

from eval.clusters import Part
from eval.judges.asking import Judging, Sheet
from eval.judges.prompts import built_in
from eval.judges.question import Question, Verdict, pass_messages
from eval.judges.wording import Prompts, Wording
from eval.rates import average_rate, explained, join, language_rate, no_rate, percent
from icr.base.conversation import load_conversation, show_conversation
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_rows
from icr.languages import english_name
from icr.rows import make_schema

BENCHMARK = "accuracy"
NO_VERDICT = "no pair has a verdict"


class PairTexts(TypedDict):
    """Those columns of a round's pairs that a judge is shown, or that say which pair it is."""

    prompt_id: str
    lang: str
    prompt: str
    chosen: str
    rejected: str


class Agreement(TypedDict):
    """What the judge says of a pair: accuracy/LANG.parquet."""

    prompt_id: str
    chosen_first: bool
    agreement: float | None
    """Share of the judge's verdict that goes to the chosen response, a tie as half; None when unscored."""
    tie: float | None
    reason: str | None
    """None, or why it is unscored."""
    raw: str
    shortened: bool


AGREEMENT = make_schema(Agreement)


def pick_pairs(pairs: Path, count: int) -> dict[str, list[PairTexts]]:
    """`count` pairs of each language out of a round's pairs.parquet, the same ones every time.

    Raises:
        UserError: there are no pairs.
    """
    if not pairs.is_file():
        raise UserError("this round has no pairs yet", where=str(pairs), do="choose a round whose stage pair is done")
    found: list[PairTexts] = read_rows(pairs, list(PairTexts.__annotations__))
    by_language: dict[str, list[PairTexts]] = {}
    for row in found:
        by_language.setdefault(row["lang"], []).append(row)
    return {lang: sorted(rows, key=lambda row: _hash(lang, row["prompt_id"]))[:count]
            for lang, rows in by_language.items()}  # fmt: skip


def run_agreement(judging: Judging, picked: Mapping[str, Sequence[PairTexts]], out: Path) -> None:
    """Ask the judge about every pair: `out`/LANG.parquet, rows of AGREEMENT.

    Raises:
        UserError: as `Judging.ask`.
    """
    wording = judging.prompts[BENCHMARK].one
    sheets = [_sheet(lang, rows, wording) for lang, rows in picked.items()]
    judging.ask(out, sheets, "reward accuracy", "accuracy", 100)


def _sheet(lang: str, pairs: Sequence[PairTexts], wording: Wording) -> Sheet:
    def row(number: int, verdict: Verdict) -> Agreement:
        first = chosen_first(pairs[number])
        agreement, tie = agreement_of(verdict, points[number])
        return {
            "prompt_id": pairs[number]["prompt_id"],
            "chosen_first": first,
            "agreement": agreement,
            "tie": tie,
            "reason": verdict.reason,
            "raw": verdict.raw,
            "shortened": verdict.shortened,
        }

    points = [points_of(chosen_first(pair), wording) for pair in pairs]
    return Sheet(lang, [make_question(lang, pair, wording) for pair in pairs], points, AGREEMENT, row)


def points_of(first: bool, wording: Wording) -> tuple[float, ...]:
    """What each label says for the chosen response: a tie is half."""
    return wording.points if first else tuple(1 - point for point in wording.points)


def chosen_first(pair: PairTexts) -> bool:
    """Whether the judge sees the chosen response first: a coin that depends on the pair alone."""
    return _hash("order", pair["lang"], pair["prompt_id"])[0] % 2 == 0


def agreement_of(verdict: Verdict, points: Sequence[float]) -> tuple[float | None, float | None]:
    """(agreement, tie) of a verdict; None when unscored. Where the judge has no label for a tie, none is one."""
    if verdict.shares is None:
        return None, None
    return verdict.expect(points), sum(verdict.shares[2:])


def summarise(out: Path, judge: str, prompts: Prompts | None = None) -> Fields:
    """Accuracy in percent per language and on average, with errors and intervals; what is None is in `why`."""
    verdicts: dict[str, list[Agreement]] = {file.stem: read_rows(file) for file in sorted(out.glob("*.parquet"))}
    scored = {
        lang: {row["prompt_id"]: row["agreement"] for row in rows if row["agreement"] is not None}
        for lang, rows in verdicts.items()
    }
    parts = {lang: percent(values) if values else None for lang, values in scored.items()}
    languages = {lang: _language(rows, parts[lang]) for lang, rows in verdicts.items()}
    average = explained(average_rate("accuracy", parts))
    return {
        "judge": judge,
        **(prompts or built_in()[BENCHMARK]).summary(),
        "languages": languages,
        "average": average,
    }


def _language(rows: Sequence[Agreement], part: Part | None) -> Fields:
    ties = [row["tie"] for row in rows if row["tie"] is not None]
    scored = sum(row["agreement"] is not None for row in rows)
    reasons = dict(Counter(row["reason"] for row in rows if row["reason"] is not None).most_common())
    rate = language_rate("accuracy", part) if part else no_rate("accuracy", NO_VERDICT)
    row = {"n": scored, "unscored": len(rows) - scored, "reasons": reasons, "ties": fmean(ties) if ties else None}
    return explained(join([row | {"why": {} if ties else {"ties": NO_VERDICT}}, rate]))


def make_question(lang: str, pair: PairTexts, wording: Wording) -> Question:
    """Which of a pair's two responses is better, shown in an order that depends on the pair alone."""
    texts = (pair["chosen"], pair["rejected"]) if chosen_first(pair) else (pair["rejected"], pair["chosen"])
    prompt = load_conversation(pair["prompt"])
    return Question.of(
        pair["prompt_id"],
        wording,
        texts=(("instruction", show_conversation(prompt)), ("first", texts[0]), ("second", texts[1])),
        values=(("language", english_name(lang)), ("lang", lang), *pass_messages(prompt)),
        cut=("first", "second"),
    )


def _hash(*parts: str) -> bytes:
    return hashlib.sha256("\x1f".join(parts).encode()).digest()
