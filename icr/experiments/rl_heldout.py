"""What is measured of a policy between the steps of its training: scores, KL, length and language of held-out samples.

The KL to π_SFT is estimated on the policy's own samples, y ~ π:

    KL a sequence = E[log π(y|x) − log π_SFT(y|x)]        KL a token = E[log π(y|x) − log π_SFT(y|x)] / E[|y|]

Means are over prompts and then over languages, with errors over prompts (`eval.clusters`).
"""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypedDict

import pyarrow as pa

from eval.clusters import Estimate, Part, estimate
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_rows, write_rows, write_text
from icr.languages import detect, same_language
from loops.rl_spec import DRIVER, HeldOutSample

FILE, FOLDER = "heldout.jsonl", "heldout"
Value = Callable[[HeldOutSample], float | None]


class Mean(TypedDict):
    """None: no sample has a value, or there is no error."""

    mean: float | None
    se: float | None


def write_measurement(run: Path, beta: float, step: int, samples: Sequence[HeldOutSample]) -> dict[str, float]:
    """Write a step's samples to RUN/heldout and its figures to RUN/heldout.jsonl; what later steps left is removed.

    Returns:
        The figures that the training needs and trackers get.

    Raises:
        UserError: the reward model could read none of the samples.
    """
    row = {"step": step, **describe_samples(samples, beta)}
    names = sorted(samples[0].scores)
    columns = [
        *((name, pa.string()) for name in ("prompt_id", "lang", "prompt", "response", "finish_reason")),
        *((name, pa.int32()) for name in ("sample", "tokens")),
        *((name, pa.float64()) for name in ("log_ratio", *map(_column, names))),
    ]
    table = [
        {**one.model_dump(exclude={"scores"}), **{_column(name): one.scores[name] for name in names}} for one in samples
    ]
    for old in (run / FOLDER).glob("step-*.parquet"):
        if int(old.stem.removeprefix("step-")) > step:
            old.unlink()
    write_rows(run / FOLDER / f"step-{step}.parquet", table, pa.schema(columns))
    kept = [before for before in read_measurements(run) if before["step"] < step]
    write_text(run / FILE, "".join(json.dumps(one, ensure_ascii=False) + "\n" for one in [*kept, row]))
    scores = {name if name == DRIVER else f"scores/{name}": of["mean"] for name, of in row["scores"].items()}
    others = {name: row[name] for name in ("kl", "kl_per_token", "length", "tokens", "right_language", "cut_off")}
    shown = {**scores, "reward_with_kl": row["reward_with_kl"]["mean"], **others}
    return {name: float(value) for name, value in shown.items() if value is not None}


def _column(name: str) -> str:
    return f"score_{name}"


def read_measurements(run: Path) -> list[Fields]:
    """The rows of RUN/heldout.jsonl."""
    file = run / FILE
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()] if file.is_file() else []


def describe_samples(samples: Sequence[HeldOutSample], beta: float) -> Fields:
    """The figures of a measurement, over all languages and under `languages` for each."""
    if all(one.scores[DRIVER] is None for one in samples):
        raise UserError(
            "the reward model can read none of the held-out samples: they are too long for it",
            where="reward.model",
            do="lower sampling.max_tokens, use shorter prompts, or a reward model that reads more",
        )
    languages = sorted({one.lang for one in samples})
    by_language = {lang: _figures([one for one in samples if one.lang == lang], beta) for lang in languages}
    return {**_figures(samples, beta), "languages": by_language}


def _figures(samples: Sequence[HeldOutSample], beta: float) -> Fields:
    def with_kl(one: HeldOutSample) -> float | None:
        reward = one.scores[DRIVER]
        return None if reward is None else reward - beta * one.log_ratio

    names = sorted(samples[0].scores, key=lambda name: (name != DRIVER, name))
    kl, per_token = estimate(_parts(samples, lambda one: one.log_ratio)), estimate(_kl_per_token(samples))
    return {
        "samples": len(samples),
        "scores": {name: _mean(samples, lambda one, name=name: one.scores[name]) for name in names},  # type: ignore[misc]
        "reward_with_kl": _mean(samples, with_kl),
        "kl": kl.value,
        "kl_se": kl.se,
        "kl_per_token": per_token.value,
        "kl_per_token_se": per_token.se,
        "length": _mean(samples, lambda one: len(one.response))["mean"],
        "tokens": _mean(samples, lambda one: one.tokens)["mean"],
        "right_language": _mean(samples, lambda one: same_language(detect(one.response), one.lang))["mean"],
        "cut_off": _mean(samples, lambda one: one.finish_reason == "length")["mean"],
        "unscored": sum(one.scores[DRIVER] is None for one in samples),
    }


def _mean(samples: Sequence[HeldOutSample], value: Value) -> Mean:
    parts = _parts(samples, value)
    if not parts:
        return {"mean": None, "se": None}
    found = estimate(parts)
    return {"mean": found.value, "se": found.se}


def _by_prompt(samples: Sequence[HeldOutSample], value: Value) -> dict[str, dict[str, float]]:
    """Language → prompt → mean over its samples that have a value."""
    values: dict[str, dict[str, list[float]]] = {}
    for one in samples:
        if (found := value(one)) is not None:
            values.setdefault(one.lang, {}).setdefault(one.prompt_id, []).append(float(found))
    return {lang: {id: sum(all_) / len(all_) for id, all_ in of.items()} for lang, of in values.items()}


def _parts(samples: Sequence[HeldOutSample], value: Value) -> list[Part]:
    return [Part.of(of) for of in _by_prompt(samples, value).values()]


def _kl_per_token(samples: Sequence[HeldOutSample]) -> list[Part]:
    """By language R = Σ_i r_i / Σ_i t_i over prompts, whose error is that of a ratio:

    u_i = (r_i − R·t_i) / (n·mean t) · √(n/(n − 1))
    """
    ratios = _by_prompt(samples, lambda one: one.log_ratio)
    tokens = _by_prompt(samples, lambda one: one.tokens)
    parts = []
    for lang, r in ratios.items():
        t, n = tokens[lang], len(r)
        whole = sum(t.values())
        rate = sum(r.values()) / whole
        scale = math.sqrt(n / max(n - 1, 1)) / whole
        parts.append(Part(rate, {id: (r[id] - rate * t[id]) * scale for id in r}))
    return parts


def read_samples(run: Path, step: int) -> list[HeldOutSample]:
    """The samples of a measurement."""
    rows = read_rows(run / FOLDER / f"step-{step}.parquet")
    names = [name.removeprefix("score_") for name in rows[0] if name.startswith("score_")]
    return [HeldOutSample(**row, scores={name: row[_column(name)] for name in names}) for row in rows]


def compare_steps(before: Sequence[HeldOutSample], after: Sequence[HeldOutSample]) -> dict[str, Estimate]:
    """Reward model → by how much its score has risen, prompt by prompt, with the error and interval of differences."""
    found = {}
    for name in after[0].scores:
        old, new = (_by_prompt(samples, lambda one, n=name: one.scores[n]) for samples in (before, after))  # type: ignore[misc]
        both = {lang: [id for id in of if id in old.get(lang, {})] for lang, of in new.items()}
        parts = [Part.of({id: new[lang][id] - old[lang][id] for id in ids}) for lang, ids in both.items() if ids]
        if parts:
            found[name] = estimate(parts)
    return found
