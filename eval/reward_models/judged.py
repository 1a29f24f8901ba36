"""A generative judge as a row beside reward models: which of two answers is better, asked in both orders.

A judge says nothing of one answer alone, so it is measured on pairs. Of ratings, a good answer and a bad one to one
document are a pair.
"""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import product
from pathlib import Path
from statistics import fmean
from typing import ClassVar, TypedDict

import numpy as np

from eval.accuracy import points_of
from eval.evaluate import evaluation_config, key_of_judge
from eval.folders import cache_path
from eval.judges.asking import Judging, Sheet
from eval.judges.open import check_judge, count_cost, find_terms, locate_judges, name_judge
from eval.judges.panel import member_folder
from eval.judges.prompts import check_prompts, find_prompts
from eval.judges.question import Question, Verdict
from eval.judges.wording import Wording
from eval.reward_models.accuracy import NO_SCORE, NO_TRAINING, beside_length, rate_of
from eval.reward_models.baselines import CHANCE, fit_pair_rule
from eval.reward_models.bootstrap import draw_weights
from eval.reward_models.rows import Workplace
from eval.reward_models.scoring import Measured, by_language, short_name
from eval.xalpaca.items import discrete_preference, position_bias
from eval.xalpaca.pairwise import Comparison
from icr.base.conversation import load_conversation
from icr.base.fields import Fields
from icr.base.files import read_rows
from icr.base.problems import Collector
from icr.base.rundir import start_date
from icr.config.evaluation import Benchmark
from icr.config.schema import Judge as JudgeConfig
from icr.engines.check import check_located
from icr.rows import make_schema
from prompts.preferences.rows import PairRow, RatingRow

BENCHMARK: Benchmark = "accuracy"
"""Whose prompts and settings are used: it asks as well which of two answers is better."""
IDENTICAL = "the two answers are identical; the judge was not asked"


class PairVerdict(TypedDict):
    """What the judge says of a pair in one order: judges/NAME/verdicts/LANG.parquet, two rows a pair."""

    pair_id: str
    chosen_first: bool
    preference: float | None
    """For the chosen answer, from 0 to 1; None when unscored."""
    reason: str | None
    """None, or why it is unscored."""
    raw: str
    shortened: bool


VERDICTS = make_schema(PairVerdict)


@dataclass(frozen=True)
class JudgeRow:
    """One judge."""

    kind: ClassVar[str] = "judge"
    name: str
    config: JudgeConfig
    located: Mapping[str, str]
    """Its local model: as the config names it → located."""
    benchmark: Benchmark = BENCHMARK
    """Whose prompts it is asked with."""

    def judging(self, at: Workplace) -> Judging:
        """Who is asked. Raises UserError as `Judging.of`."""
        local = self.config.local_model
        model = at.folders[self.located[local]] if local else None
        key = key_of_judge(self.config, self.located, self.benchmark)
        return Judging.of(self.config, model, at.machine, key, self.cache(at.out), start_date(at.out))

    def cache(self, out: Path) -> Path:
        return cache_path(member_folder(out, self.name), self.benchmark)

    def summary(self, out: Path) -> Fields:
        """Who judges, with which prompt, and what was paid."""
        return {
            "judge": name_judge(self.config),
            **find_terms(self.config),
            **find_prompts(self.config, self.benchmark).summary(),
            "cost": count_cost(self.config, self.cache(out)),
        }


def find_judge(given: str, overrides: Sequence[str] = (), benchmark: Benchmark = BENCHMARK) -> JudgeRow:
    """A `--judge`.

    Args:
        given: `local:MODEL`, `openai:MODEL` or a custom `module:Class`.
        overrides: as in `--set`, of `judge.…`.
        benchmark: whose prompts it is asked with.

    Raises:
        ConfigError, UserError: everything that is wrong with it.
    """
    config = evaluation_config(benchmark, "", given, {"languages": ["en"]}, overrides).judge
    found = Collector()
    found.attempt(None, check_judge, config)
    found.attempt(None, check_prompts, config)
    located = found.attempt({}, locate_judges, config)
    for model in located.values():
        if model:
            found.attempt(None, check_located, model, "--judge")
    if config.judges:
        found.add("several judges cannot be one row", where="judge.judges", do="repeat --judge, once for each")
    found.raise_any()
    name = config.own.rpartition(":")[2] if config.own else short_name(config.model or "").removesuffix(".gguf")
    return JudgeRow(name, config, located, benchmark)


def pair_ratings(rows: Sequence[RatingRow]) -> list[PairRow]:
    """Every good answer with every bad one to the same document in the same language.

    An answer with several ratings has the label that most of them have; where they are split, it is in no pair.
    """
    labels: defaultdict[tuple[str, str, str, str], list[int]] = defaultdict(list)
    for row in rows:
        labels[row["lang"], row["group"], row["prompt"], row["response"]].append(row["label"])
    sides: defaultdict[tuple[str, str, str], tuple[list[str], list[str]]] = defaultdict(lambda: ([], []))
    for (*document, response), of in labels.items():
        if fmean(of) != 0.5:
            sides[document[0], document[1], document[2]][fmean(of) < 0.5].append(response)
    return [
        PairRow(id=_hash(lang, prompt, good, bad)[:16], lang=lang, prompt=prompt, chosen=good, rejected=bad,
                source="ratings", group=group, margin=None)
        for (lang, group, prompt), (goods, bads) in sides.items() for good, bad in product(goods, bads)
    ]  # fmt: skip


def pick_asked(pairs: Sequence[PairRow], most: int | None) -> dict[str, list[int]]:
    """Language → the places of the pairs that judges are asked about: at most so many, the same ones every time.

    Args:
        pairs: of all languages; None as `most`: all of them.
    """
    places: defaultdict[str, list[int]] = defaultdict(list)
    for place, row in enumerate(pairs):
        places[row["lang"]].append(place)
    drawn = {lang: sorted(of, key=lambda n: _hash(lang, *_texts(pairs[n]))) for lang, of in sorted(places.items())}
    return {lang: sorted(of[:most]) for lang, of in drawn.items()}


def ask_judge(judge: JudgeRow, pairs: Sequence[PairRow], at: Workplace) -> dict[str, list[PairVerdict]]:
    """Language → two verdicts a pair, in the pairs' order. What was asked before is not asked again.

    Raises:
        UserError, TooManyUnscored, StageFailed: as `Judging.ask`.
    """
    judging, folder = judge.judging(at), member_folder(at.out, judge.name) / "verdicts"
    wording = judging.prompts[BENCHMARK].one
    of_languages = by_language(pairs)
    sheets = [_sheet(lang, rows, wording) for lang, rows in of_languages.items()]
    judging.ask(folder, sheets, f"verdicts: {judge.name}", "accuracy", 100)
    judging.close()
    return {lang: read_rows(folder / f"{lang}.parquet") for lang in of_languages}


def make_questions(lang: str, pairs: Sequence[PairRow], wording: Wording) -> list[Question]:
    """What is asked about the pairs of one language: both orders of each, side by side."""
    found = []
    for row in pairs:
        prompt, chosen, rejected = load_conversation(row["prompt"]), row["chosen"], row["rejected"]
        for first, second in ((chosen, rejected), (rejected, chosen)):
            found.append(Comparison(row["id"], lang, prompt, first, second).question(wording))
    return found


def _sheet(lang: str, pairs: Sequence[PairRow], wording: Wording) -> Sheet:
    points = [points_of(first, wording) for _ in pairs for first in (True, False)]

    def row(number: int, verdict: Verdict) -> PairVerdict:
        return {
            "pair_id": pairs[number // 2]["id"],
            "chosen_first": number % 2 == 0,
            "preference": verdict.expect(points[number]),
            "reason": verdict.reason,
            "raw": verdict.raw,
            "shortened": verdict.shortened,
        }

    draw = Verdict((0.5, 0.5, *(0.0 for _ in wording.labels[2:])), raw=IDENTICAL)
    same = [n for n, pair in enumerate(pairs) if pair["chosen"] == pair["rejected"]]
    known = {number: draw for n in same for number in (2 * n, 2 * n + 1)}
    return Sheet(lang, make_questions(lang, pairs, wording), points, VERDICTS, row, known)


Orders = tuple[float, float] | None
"""Of a pair, the preference for the chosen answer as the first and as the second one. None: a verdict is missing, and a
judge that prefers the first answer would decide the pair by chance."""


def read_orders(verdicts: Sequence[PairVerdict]) -> list[Orders]:
    """Of each pair."""
    found: list[Orders] = []
    for one, other in zip(verdicts[::2], verdicts[1::2], strict=True):
        first, second = one["preference"], other["preference"]
        found.append(None if first is None or second is None else (first, second))
    return found


def measure_verdicts(pairs: Sequence[PairRow], verdicts: Sequence[PairVerdict], train: Sequence[PairRow]) -> Measured:
    """One judge on the pairs of one language. A pair without a verdict in one of its orders is unscored.

    Args:
        verdicts: two a pair.
        train: training pairs of the language, for the length baseline.
    """
    orders = read_orders(verdicts)
    right = np.array([np.nan if of is None else discrete_preference(fmean(of)) for of in orders], dtype=np.float64)
    groups = [row["group"] for row in pairs]
    whole = [of for of in orders if of is not None]
    facts: Fields = {"kind": "pairs", "n": len(whole), "dropped": 0, "unscored": len(orders) - len(whole)}
    facts["reasons"] = dict(Counter(row["reason"] for row in verdicts if row["reason"] is not None).most_common())
    facts["chance"] = 100 * CHANCE
    if not whole:
        return Measured(facts | {"why": {"accuracy": NO_SCORE}}, right, groups)
    there = np.isfinite(right)
    kept = [row for row, scored in zip(pairs, there, strict=True) if scored]
    weights = draw_weights([row["group"] for row in kept])
    bias = position_bias(whole)
    facts |= {
        "groups": len({row["group"] for row in kept}),
        **rate_of("accuracy", right[there], weights),
        "ties": 100 * float(np.mean(right[there] == 0.5)),
        "position_bias": None if bias is None else 100 * bias,
    }
    if not train:
        return Measured(facts | {"why": {"length": NO_TRAINING}}, right, groups)
    rule = fit_pair_rule(train)
    by_length = np.array([rule.prefers(row["chosen"], row["rejected"]) for row in kept])
    return Measured(facts | beside_length(right[there], by_length, weights, rule), right, groups)


def _texts(row: PairRow) -> tuple[str, str, str]:
    return row["prompt"], row["chosen"], row["rejected"]


def _hash(*parts: str) -> str:
    return hashlib.sha256("\x1f".join(parts).encode()).hexdigest()
