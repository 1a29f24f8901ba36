"""From verdicts to `summary.json`: rates per language and their macro average, with errors and counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from eval.rates import DISCRETE, RATES, macro_average, win_rate
from eval.xalpaca.answers import Answer, Baseline, read_answers
from eval.xalpaca.judged_pairs import JudgedPairs, read_difficulty, read_gamed
from eval.xalpaca.lc import NOT_CONTROLLED, length_controlled
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_rows
from icr.config.schema import Judge as JudgeConfig
from icr.languages import detect, same_language

if TYPE_CHECKING:
    from eval.xalpaca.pairwise import VerdictRow


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
                            do="give judge.difficulty, or no gamed pairs")  # fmt: skip
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
) -> Fields:
    """The content of `summary.json`, from the verdicts that `eval.xalpaca.pairwise.run_verdicts` wrote to `out`.

    An item is scored when one of its two orders is; its preference is the mean over its scored orders. Rates are in
    percent, shares 0 to 1, lengths in characters. What cannot be computed is None, with the reason in `why`.

    Args:
        answers: folder of the policy's LANG.parquet.
        baseline: language → prompt id → the baseline's answer.
        out: the judge's folder, with verdicts/LANG.parquet.
        judge_name, baseline_name, orders: shown as they are.
        difficulty: of the instructions; without it, the length-controlled rate is fitted from the lengths alone.
    """
    languages = {
        lang: _language(lang, rows, baseline[lang], read_rows(out / "verdicts" / f"{lang}.parquet"), difficulty)
        for lang, rows in read_answers(answers).items()
    }
    return _summary(judge_name, baseline_name, languages, orders)


def baseline_summary(answers: Path) -> Fields:
    """Round 0 against its own answers: nothing is judged, and every rate is 50 % by definition."""
    languages = {}
    for lang, rows in read_answers(answers).items():
        facts = _facts(lang, rows, {a.id: a.text for a in rows})
        languages[lang] = {"n": len(rows), "win_rate": 50.0, "win_rate_se": 0.0, "lc_win_rate": 50.0,
                           "lc_win_rate_se": 0.0, "discrete_win_rate": 50.0,
                           "discrete_win_rate_se": 0.0, "unscored": 0, **facts, "position_bias": None,
                           "why": facts["why"] | {"position_bias": "the baseline is not judged against itself"},
                           }  # fmt: skip
    return _summary("none (baseline)", "round-0", languages, "none")


def _summary(judge: str, baseline: str, languages: dict[str, Fields], orders: str) -> Fields:
    return {
        "judge": judge,
        "baseline": baseline,
        "orders": orders,
        "languages": {lang: _explained(row) for lang, row in languages.items()},
        "average": {"n": sum(row["n"] for row in languages.values())} | _explained(macro_average(languages)),
    }


def _explained(row: Fields) -> Fields:
    """Without an empty `why`. A value that is None without a reason would be a mistake of ours."""
    why = row.pop("why")
    unexplained = [key for key, value in row.items() if value is None and key not in why]
    assert not unexplained, unexplained
    return row | {"why": why} if why else row


def _language(
    lang: str,
    answers: Sequence[Answer],
    baseline: Mapping[str, str],
    verdicts: Sequence[VerdictRow],
    difficulty: Difficulty | None,
) -> Fields:
    orders = orders_of_items(verdicts)
    facts = _facts(lang, answers, baseline)
    preferences = {id: item_preference(of_item) for id, of_item in orders.items()}
    rates = _rates(answers, baseline, preferences, difficulty)
    bias = position_bias(list(orders.values()))
    no_bias = {} if bias is not None else {"position_bias": "no item was scored in both orders"}
    return {
        "n": len(orders),
        **rates,
        "unscored": len(answers) - len(orders),
        "unscored_verdicts": sum(row["preference"] is None for row in verdicts),
        "reasons": dict(Counter(row["reason"] for row in verdicts if row["reason"] is not None).most_common()),
        "shortened": sum(row["shortened"] for row in verdicts),
        **facts,
        "position_bias": bias,
        "why": rates["why"] | facts["why"] | no_bias,
    }


def orders_of_items(verdicts: Sequence[VerdictRow]) -> dict[str, list[float]]:
    """Prompt id → preferences of its scored orders; items without one are left out."""
    orders: dict[str, list[float]] = defaultdict(list)
    for row in verdicts:
        if row["preference"] is not None:
            orders[row["prompt_id"]].append(row["preference"])
    return dict(orders)


def item_preference(orders: Sequence[float]) -> float:
    """Preference of the policy in one item: the mean over its scored orders."""
    return sum(orders) / len(orders)


def discrete_preference(preference: float) -> float:
    """1 where the policy wins, 0 where the baseline does, 0.5 for a draw."""
    return 0.5 if preference == 0.5 else float(preference > 0.5)


def position_bias(items: Sequence[Sequence[float]]) -> float | None:
    """Share of the items, among those scored in both orders, in which another answer wins in the other order."""
    both = [orders for orders in items if len(orders) == 2]
    if not both:
        return None
    return sum((first - 0.5) * (second - 0.5) < 0 for first, second in both) / len(both)


def _rates(
    answers: Sequence[Answer],
    baseline: Mapping[str, str],
    preferences: Mapping[str, float],
    difficulty: Difficulty | None,
) -> Fields:
    scored = [a for a in answers if a.id in preferences]
    if not scored:
        reason = "no item has a verdict"
        names = (*RATES, *DISCRETE)
        return dict.fromkeys(names) | {"why": dict.fromkeys(names, reason)}
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
    discrete = win_rate([discrete_preference(preferences[a.id]) for a in scored])
    rates: Fields = {name: getattr(result, name) for name in RATES} | {"lc_variant": result.variant}
    rates |= dict(zip(DISCRETE, discrete, strict=True))
    why: dict[str, str] = {}
    if result.variant == NOT_CONTROLLED:
        # icr lc shows the raw rate in its place; here a column is one quantity in every language
        reason = (result.note or "").partition(": ")[2]
        rates |= {"lc_win_rate": None, "lc_win_rate_se": None}
        why |= {"lc_win_rate": reason, "lc_win_rate_se": reason}
    elif result.note:
        rates["lc_note"] = result.note
    if result.win_rate_se is None:
        why |= dict.fromkeys(("win_rate_se", "discrete_win_rate_se"), "a single item has no standard error")
    return rates | {"why": why}


def _facts(lang: str, answers: Sequence[Answer], baseline: Mapping[str, str]) -> Fields:
    """What needs no judge: lengths in characters, and the shares of truncated and right-language answers."""
    if not answers:
        names = ("mean_length", "mean_length_baseline", "right_language", "truncated")
        return dict.fromkeys(names) | {"language_unknown": 0, "why": dict.fromkeys(names, "no answers")}
    known = [code for a in answers if (code := detect(a.text)) is not None]
    right = sum(same_language(code, lang) for code in known) / len(known) if known else None
    return {
        "mean_length": _mean([len(a.text) for a in answers]),
        "mean_length_baseline": _mean([len(baseline[a.id]) for a in answers]),
        "right_language": right,
        "language_unknown": len(answers) - len(known),
        "truncated": _mean([a.truncated for a in answers]),
        "why": {} if known else {"right_language": "no answer has a known language"},
    }


def _mean(values: Sequence[float]) -> float:
    return sum(values) / len(values)
