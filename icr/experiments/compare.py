"""`icr compare`: runs that differ in a few settings, side by side; work that they share is done once."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations, product
from pathlib import Path
from typing import NotRequired, TypedDict

import numpy as np
from scipy.stats import spearmanr

from eval.difference import Difference
from eval.difference import compare as difference
from icr.base.errors import ConfigError, UserError
from icr.base.fields import Fields
from icr.base.files import read_json, read_rows, write_json
from icr.base.rundir import RoundDir, RunDir
from icr.base.yaml_text import parse_yaml
from icr.config.schema import Config
from icr.rounds.context import Inputs
from icr.rounds.preflight import load_checked
from icr.rows import is_empty

NOT_VARIED = ("run", "rounds", "prompts", "judge")
"""Sections that are the same in all variants: on other prompts or by another judge there is nothing to compare."""


class Found(TypedDict):
    """What a round of a variant left behind."""

    summary: Fields | None
    """The judge's; None where nothing was judged."""
    pairs: NotRequired[dict[str, Fields]]
    """The pair stage's counts by language."""
    alpha: NotRequired[dict[str, float]]
    """By language."""


class MeanAgreement(TypedDict):
    """How alike two variants reward the same responses."""

    rank_correlation: float
    """Spearman's ρ of the rewards within a prompt, averaged over prompts."""
    equal_pairs: float
    """Share of prompts with the same chosen and the same rejected response, among those where both make a pair."""


class LanguageAgreement(MeanAgreement):
    """The same for one language."""

    prompts: int
    """Where both make a pair."""


class RewardAgreement(TypedDict):
    """Of two variants, on the first round's responses."""

    variants: list[str]
    languages: dict[str, LanguageAgreement]
    average: MeanAgreement


class Comparison(TypedDict):
    """compare.json."""

    baseline: str
    """The first variant."""
    rounds: str
    """The number of the last round."""
    languages: list[str]
    judge: str | None
    """None where nothing was judged."""
    variants: dict[str, dict[str, Found]]
    """By name and round."""
    differences: dict[str, dict[str, Difference]]
    """From the first variant, by name and round."""
    not_compared: dict[str, str]
    """Why a variant has no difference, by name."""
    agreement: list[RewardAgreement]
    """Of every two variants on responses that they share."""
    shared: dict[str, dict[str, str]]
    """By name: stages that were taken over, and from whom."""


@dataclass(frozen=True)
class Variant:
    """One combination of the varied settings."""

    name: str
    config: Config
    inputs: Inputs

    @property
    def run(self) -> RunDir:
        assert self.config.run is not None
        return RunDir(Path(self.config.run))


def make_variants(
    path: Path, vary: Sequence[str], out: Path, overrides: Sequence[str], changes: Mapping[str, object]
) -> list[Variant]:
    """Every combination of the `vary` settings, each `key=value,value,…`; the first is what others are compared with.

    Raises:
        UserError: a setting is not written like this, is varied twice, or cannot be varied.
        ConfigError: the problems of all variants.
    """
    axes = dict(_axis(text) for text in vary)
    if len(axes) < len(vary):
        raise UserError("a setting is varied twice", where="--vary", do="give each key once, with all its values")
    names, texts = _short_names(list(axes)), [_texts(values) for values in axes.values()]
    variants, problems = [], dict[str, UserError]()
    for values, shown in zip(product(*axes.values()), product(*texts), strict=True):
        name = ", ".join(f"{short}={text}" for short, text in zip(names, shown, strict=True))
        run = out / "variants" / re.sub(r"[^\w.=-]+", "_", name)
        try:
            settings = dict(changes) | dict(zip(axes, values, strict=True)) | {"run": str(run.resolve())}
            variants.append(Variant(name, *load_checked(path, overrides, settings)))
        except ConfigError as error:
            problems |= {str(problem): problem for problem in error.problems}
    if problems:
        raise ConfigError(list(problems.values()))
    if len({v.config.run for v in variants}) < len(variants):
        raise UserError(
            "two variants have the same folder name", where="--vary", do="use values that differ in letters or digits"
        )
    return variants


def _axis(text: str) -> tuple[str, list[object]]:
    key, sep, values = text.partition("=")
    if not sep or not values:
        raise UserError(
            f"--vary {text}: values are missing", do="write it like --vary reward.kind=cross-lingual,random"
        )
    if key.split(".")[0] in NOT_VARIED:
        raise UserError(f"{key} cannot be varied", where="--vary", do="it must be the same in all variants")
    # in brackets, so that a value may be a list or a mapping with commas in it
    found = parse_yaml(f"[{values}]", f"--vary {text}", numbered=False).data
    if not isinstance(found, list) or not found:
        raise UserError(f"--vary {text}: values are missing", do="write it like --vary sampling.n=4,8")
    if len(set(map(str, found))) < len(found):
        raise UserError(f"--vary {text}: a value is repeated", do="give each value once")
    return key, found


def _short_names(keys: list[str]) -> list[str]:
    """The last part of each key, or the whole key if that is ambiguous."""
    last = [key.rpartition(".")[2] for key in keys]
    return last if len(set(last)) == len(last) else keys


def _texts(values: list[object]) -> list[str]:
    """Paths are shown by their names, if these are unambiguous."""
    names = [Path(value).name if isinstance(value, str) and "/" in value else str(value) for value in values]
    return names if len(set(names)) == len(names) else list(map(str, values))


def compare(variants: Sequence[Variant], out: Path) -> Comparison:
    """What came out, also as `out`/compare.json."""
    rounds = variants[0].config.rounds
    found = {v.name: {str(n): _found(v, n) for n in range(rounds + 1)} for v in variants}
    differences = {v.name: _differences(variants[0], v, rounds) for v in variants[1:]}
    result: Comparison = {
        "baseline": variants[0].name,
        "rounds": str(rounds),
        "languages": variants[0].config.prompts.languages,
        "judge": next((s["judge"] for f in found.values() if (s := f[str(rounds)]["summary"])), None),
        "variants": found,
        "differences": {name: by_round for name, (by_round, _) in differences.items() if by_round},
        "not_compared": {name: why for name, (_, why) in differences.items() if why},
        "agreement": [a for one, two in combinations(variants, 2) if (a := agreement(one, two))],
        "shared": {v.name: _shared(v) for v in variants},
    }
    write_json(out / "compare.json", result)
    return result


def _found(variant: Variant, number: int) -> Found:
    at = variant.run.round(number)
    found: Found = {"summary": read_json(at.summary) if at.done("judge") and at.summary.is_file() else None}
    if at.done("pair"):
        found["pairs"] = at.record.stages["pair"].counts["languages"]
        found["alpha"] = {lang: row["alpha"] for lang, row in read_json(at.lengths).items()}
    return found


def _differences(first: Variant, second: Variant, rounds: int) -> tuple[dict[str, Difference], str | None]:
    """From the first variant, by round, where both were judged; and what forbade one, if anything did."""
    found: dict[str, Difference] = {}
    why = None
    for n in range(1, rounds + 1):
        one, two = first.run.round(n), second.run.round(n)
        if one.done("judge") and two.done("judge") and one.summary.is_file():
            try:
                found[str(n)] = difference(one.judge, two.judge, "xalpaca")
            except UserError as error:
                why = error.what
    return found, why


def _shared(variant: Variant) -> dict[str, str]:
    """Which stages were taken over, and from whom."""
    return {
        f"round {r.number} {stage}": record.counts["shared_with"]
        for r in variant.run.rounds()
        for stage, record in r.record.stages.items()
        if "shared_with" in record.counts
    }


def agreement(one: Variant, two: Variant) -> RewardAgreement | None:
    """How alike two variants reward the first round's responses; no judge is needed.

    None where the responses differ or have no rewards.
    """
    folders = [v.run.round(1) for v in (one, two)]
    if not all(f.done("pair") for f in folders):
        return None
    if len({f.record.stages["sample"].key for f in folders}) > 1:
        return None
    languages: dict[str, LanguageAgreement] = {}
    for lang in one.config.prompts.languages:
        rewards = [competing_rewards(f, lang) for f in folders]
        pairs = [_pairs(f.pairs, lang) for f in folders]
        both = pairs[0].keys() & pairs[1].keys()
        by_prompt = [rank_correlation(rewards[0][id], rewards[1][id]) for id in rewards[0].keys() & rewards[1].keys()]
        correlations = [c for c in by_prompt if c is not None]
        if both and correlations:
            equal = sum(pairs[0][id] == pairs[1][id] for id in both) / len(both)
            correlation = float(np.mean(correlations))
            languages[lang] = {"rank_correlation": correlation, "equal_pairs": equal, "prompts": len(both)}
    if not languages:
        return None
    average: MeanAgreement = {
        "rank_correlation": float(np.mean([row["rank_correlation"] for row in languages.values()])),
        "equal_pairs": float(np.mean([row["equal_pairs"] for row in languages.values()])),
    }
    return {"variants": [one.name, two.name], "languages": languages, "average": average}


def competing_rewards(at: RoundDir, lang: str) -> dict[str, dict[int, float]]:
    """Prompt id → sample → reward, of the responses that compete."""
    responses = read_rows(at.responses / f"{lang}.parquet", ["prompt_id", "sample", "response"])
    empty = {(row["prompt_id"], row["sample"]) for row in responses if is_empty(row)}
    found: dict[str, dict[int, float]] = {}
    for row in read_rows(at.rewards / f"{lang}.parquet"):
        if row["dropped"] is None and row["reward"] is not None and (row["prompt_id"], row["sample"]) not in empty:
            found.setdefault(row["prompt_id"], {})[row["sample"]] = row["reward"]
    return found


def _pairs(path: Path, lang: str) -> dict[str, tuple[int, int]]:
    return {r["prompt_id"]: (r["chosen_sample"], r["rejected_sample"]) for r in read_rows(path) if r["lang"] == lang}


def rank_correlation(one: dict[int, float], two: dict[int, float]) -> float | None:
    """Spearman's ρ of one prompt's rewards (by sample) on the samples that both have; None for fewer than two of them,
    or where either's are all equal."""
    shared = sorted(one.keys() & two.keys())
    a, b = ([of[sample] for sample in shared] for of in (one, two))
    if len(set(a)) < 2 or len(set(b)) < 2:
        return None
    return float(spearmanr(a, b).statistic)
