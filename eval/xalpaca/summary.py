"""From verdicts to `summary.json`: rates per language and their macro average, with errors and counts."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from eval.clusters import Part
from eval.judges.prompts import built_in
from eval.judges.wording import Prompts
from eval.rates import RATES, average_rate, explained, join, language_rate, missing_for, no_rate, percent
from eval.xalpaca.answers import Answer, Baseline, read_answers
from eval.xalpaca.fidelity import measure_fidelity
from eval.xalpaca.items import discrete_preference, position_bias, read_items
from eval.xalpaca.judged_pairs import JudgedPairs, read_difficulty, read_gamed
from eval.xalpaca.lc import length_controlled
from eval.xalpaca.pairwise import BENCHMARK, VerdictRow
from eval.xalpaca.style import Controlled, contrast, control_style, count_style
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_rows
from icr.config.schema import Judge as JudgeConfig
from icr.languages import detect, same_language

NO_BIAS = "no item was scored in both orders"
HARD = (0.0, 0.5, 1.0)
"""What a verdict without probabilities says; others are weighted by the labels' probabilities."""
Parts = dict[str, Part | None]
"""A language's rates by name, as averages need them; None where there is none."""


@dataclass(frozen=True)
class Difficulty:
    """What turns the length-controlled win rate into AlpacaEval's own: user-given, for one set of instructions."""

    values: Mapping[str, float]
    """By the instruction's index."""
    index: Mapping[str, str]
    """Prompt id → index: the prompt's number in its file, from 0."""
    gamed: Sequence[JudgedPairs] = ()


def read_difficulties(config: JudgeConfig, ids: Sequence[str]) -> Difficulty | None:
    """What `judge.difficulty` and `judge.gamed` name, or None.

    Args:
        ids: of all prompts of the prompt file, in its order.

    Raises:
        UserError: a table that cannot be read, or gamed pairs without difficulties.
    """
    if config.difficulty is None:
        if config.gamed is not None:
            raise UserError("gamed pairs need difficulties", where="judge.gamed",
                            do="set judge.difficulty, or remove judge.gamed")  # fmt: skip
        return None
    index = {id: str(number) for number, id in enumerate(ids)}
    return Difficulty(read_difficulty(Path(config.difficulty)), index,
                      read_gamed(Path(config.gamed)) if config.gamed else ())  # fmt: skip


def summarise(
    answers: Path,
    baseline: Baseline,
    out: Path,
    judge_name: str,
    baseline_name: str,
    orders: str = "both",
    difficulty: Difficulty | None = None,
    prompts: Prompts | None = None,
) -> Fields:
    """The content of `summary.json`, from the verdicts that `eval.xalpaca.pairwise.run_verdicts` wrote to `out`.

    An item is scored when every order that was asked has a verdict; its preference is the mean over them. Rates are in
    percent, shares 0 to 1, lengths in characters. What cannot be computed is None, with the reason in `why`.

    Args:
        answers: folder of the policy's LANG.parquet.
        baseline: language → prompt id → the baseline's answer.
        out: the judge's folder, with verdicts/LANG.parquet.
        judge_name, baseline_name, orders: shown as they are.
        difficulty: of the instructions; without it, the length-controlled rate is fitted from the lengths alone.
        prompts: what the judge was asked with; icr's own where there is none.
    """
    rows: dict[str, Fields] = {}
    parts: dict[str, Parts] = {}
    for lang, of in read_answers(answers).items():
        verdicts = read_rows(out / "verdicts" / f"{lang}.parquet")
        rows[lang], parts[lang] = _language(lang, of, baseline[lang], verdicts, difficulty)
    averages = [average_rate(name, {lang: of[name] for lang, of in parts.items()}) for name in RATES]
    return _summary(judge_name, baseline_name, orders, rows, averages, prompts)


def baseline_summary(answers: Path) -> Fields:
    """Round 0 against its own answers: nothing is judged, and every rate is 50 % by definition."""
    rates = [_by_definition(name) for name in RATES]
    rows: dict[str, Fields] = {}
    for lang, of in read_answers(answers).items():
        facts = _facts(lang, of, {a.id: a.text for a in of})
        bias = {"position_bias": None, "why": {"position_bias": "the baseline is not judged against itself"}}
        rows[lang] = {"n": len(of), "unscored": 0} | join([*rates, facts, bias])
    return _summary("none (baseline)", "round-0", "none", rows, rates)


def _by_definition(name: str) -> Fields:
    why = {f"{name}_interval": "it is 50 by definition"}
    return {name: 50.0, f"{name}_se": 0.0, f"{name}_interval": None, "why": why}


def _summary(
    judge: str,
    baseline: str,
    orders: str,
    rows: Mapping[str, Fields],
    averages: Sequence[Fields],
    prompts: Prompts | None = None,
) -> Fields:
    lengths = {lang: row["mean_length"] for lang, row in rows.items()}
    missing = [lang for lang, length in lengths.items() if length is None]
    length: Fields = {"mean_length": None if missing else _mean(list(lengths.values())), "why": {}}
    if missing:
        length["why"] = {"mean_length": missing_for(missing)}
    return {
        "judge": judge,
        "baseline": baseline,
        "orders": orders,
        **(prompts or built_in()[BENCHMARK]).summary(),
        "languages": {lang: explained(row) for lang, row in rows.items()},
        "average": {"n": sum(row["n"] for row in rows.values()), **explained(join([*averages, length]))},
    }


def _language(
    lang: str,
    answers: Sequence[Answer],
    baseline: Mapping[str, str],
    verdicts: Sequence[VerdictRow],
    difficulty: Difficulty | None,
) -> tuple[Fields, Parts]:
    items, same = read_items(verdicts), {a.id for a in answers if a.text == baseline[a.id]}
    facts = _facts(lang, answers, baseline)
    rates, parts = _rates(answers, baseline, items.preferences, difficulty)
    bias = position_bias([orders for id, orders in items.orders.items() if id not in same])
    given = [row["preference"] for row in verdicts if row["preference"] is not None and row["prompt_id"] not in same]
    row: Fields = {
        "n": len(items.orders),
        **rates,
        "unscored": len(answers) - len(items.orders),
        "one_order": len(items.one_order),
        "identical": len(same),
        "unscored_verdicts": sum(row["preference"] is None for row in verdicts),
        "hard_verdicts": sum(value in HARD for value in given),
        "soft_verdicts": sum(value not in HARD for value in given),
        "reasons": dict(Counter(row["reason"] for row in verdicts if row["reason"] is not None).most_common()),
        "shortened": sum(row["shortened"] for row in verdicts),
        **facts,
        "position_bias": bias,
        "why": rates["why"] | facts["why"] | ({} if bias is not None else {"position_bias": NO_BIAS}),
    }
    return row, parts


def _rates(
    answers: Sequence[Answer],
    baseline: Mapping[str, str],
    preferences: Mapping[str, float],
    difficulty: Difficulty | None,
) -> tuple[Fields, Parts]:
    """The rates of one language, and how far each prompt moves them."""
    scored = [a for a in answers if a.id in preferences]
    if not scored:
        return join([no_rate(name, "no item has a verdict") for name in RATES]), dict.fromkeys(RATES)
    result = length_controlled(
        JudgedPairs(
            np.array([preferences[a.id] for a in scored]),
            np.array([float(len(a.text)) for a in scored]),
            np.array([float(len(baseline[a.id])) for a in scored]),
            tuple(difficulty.index[a.id] for a in scored) if difficulty else None,
        ),
        difficulty.values if difficulty else None,
        difficulty.gamed if difficulty else None,
    )
    parts: Parts = {
        "win_rate": percent({a.id: preferences[a.id] for a in scored}),
        "discrete_win_rate": percent({a.id: discrete_preference(preferences[a.id]) for a in scored}),
        "lc_win_rate": None,
        "style_win_rate": None,
    }
    if result.moves is not None:
        moves = dict(zip((a.id for a in scored), result.moves, strict=True))
        parts["lc_win_rate"] = Part(result.lc_win_rate, moves)
    contrasts = {a.id: contrast(count_style(a.text), count_style(baseline[a.id])) for a in scored}
    styled = control_style({a.id: preferences[a.id] for a in scored}, contrasts)
    if isinstance(styled, Controlled):
        parts["style_win_rate"] = styled.part
    # icr lc shows the raw rate in its place; here a column is one quantity in every language
    reasons = {"lc_win_rate": (result.note or "").partition(": ")[2], "style_win_rate": str(styled)}
    rows = [language_rate(name, part) if part else no_rate(name, reasons[name]) for name, part in parts.items()]
    rates = join(rows) | {"lc_variant": result.variant}
    if isinstance(styled, Controlled):
        rates |= {"style_weights": styled.weights}
    return rates | ({"lc_note": result.note} if result.note and parts["lc_win_rate"] else {}), parts


def _facts(lang: str, answers: Sequence[Answer], baseline: Mapping[str, str]) -> Fields:
    """What needs no judge: lengths in characters, and the shares of truncated and right-language answers."""
    if not answers:
        names = (
            "mean_length",
            "mean_length_baseline",
            "right_language",
            "line_pass",
            "line_pass_baseline",
            "truncated",
        )
        return dict.fromkeys(names) | {"language_unknown": 0, "why": dict.fromkeys(names, "no answers")}
    known = [code for a in answers if (code := detect(a.text)) is not None]
    right = sum(same_language(code, lang) for code in known) / len(known) if known else None
    fidelity = measure_fidelity([a.text for a in answers], lang)
    theirs = measure_fidelity([baseline[a.id] for a in answers], lang)
    row: Fields = {
        "mean_length": _mean([len(a.text) for a in answers]),
        "mean_length_baseline": _mean([len(baseline[a.id]) for a in answers]),
        "right_language": right,
        "language_unknown": len(answers) - len(known),
        "line_pass": fidelity.line_pass,
        "line_pass_baseline": theirs.line_pass,
        "with_long_lines": fidelity.n,
        "truncated": _mean([a.truncated for a in answers]),
        "why": {} if known else {"right_language": "no answer has a known language"},
    }
    if fidelity.word_pass is not None:
        row["word_pass"] = fidelity.word_pass
    for name, found in (("line_pass", fidelity), ("line_pass_baseline", theirs)):
        if found.line_pass is None:
            row["why"][name] = "no answer has a line of five words"
    return row


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
