"""From preference data to the data file of a reward model's training."""

from __future__ import annotations

import shutil
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import cast

import pyarrow as pa

from icr.base.content import hash_value, identify_model
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.config.reward_model import RewardModelConfig
from icr.engines.templates import Template
from icr.experiments.reward_inputs import Base, RewardInputs
from icr.work.classify import PROMPTED, ReadTask
from icr.work.machine import Machine
from icr.work.shards import cut_table
from loops.data import HELD, write_training_data
from loops.reward_model import PairwiseFamily, PointwiseFamily
from prompts.preferences.make import Rows
from prompts.preferences.rows import PairRow, RatingRow

SHARD = 2048
"""Texts that a worker reads at a time."""
REASONS = ("too_long", "read_alike")
"""Why a row is left out."""

Sequence_ = tuple[list[int], list[int]]
"""(ids, segments)"""


def write_data(
    run: Path, config: RewardModelConfig, inputs: RewardInputs, base: Path, read_as: Base, machine: Machine
) -> Fields:
    """The training's data file. Returns the rows that are left out, by reason, split and language: `too_long`, and
    `read_alike`, pairs whose responses are the same tokens to the base.

    Raises:
        UserError: no training row or no validation row fits; all pairs of a language are read alike.
    """
    rows = [(row, False) for row in _mixed(inputs.train, config.data.mix)] + [(row, True) for row in inputs.validation]
    read = _read(run, config, base, machine, [text for row, _ in rows for text in texts(row)])
    left_out: dict[str, defaultdict[str, Counter[str]]] = {reason: defaultdict(Counter) for reason in REASONS}
    kept = []
    for row, held in rows:
        sides = [_fit(read[text], read_as, config.truncate) for text in texts(row)]
        reason = "too_long" if None in sides else "read_alike" if len(sides) == 2 and sides[0] == sides[1] else None
        if reason:
            left_out[reason]["validation" if held else "train"][row["lang"]] += 1
        else:
            kept.append(_make_row(row, held, cast(list[Sequence_], sides), config.margin))
    _refuse_alike(left_out["read_alike"].get("train", Counter()), rows, str(base))
    for held, name in ((False, "training"), (True, "validation")):
        if not any(row[HELD] is held for row in kept):
            what = f"no {name} row fits into {read_as.longest} tokens"
            raise UserError(
                what, where="max_tokens", do="raise it, set truncate: left, or use a base with more context"
            )
    family = PairwiseFamily if inputs.loss == "pairwise" else PointwiseFamily
    write_training_data(run / "data.parquet", kept, family.columns)
    return {reason: {name: dict(of) for name, of in counts.items()} for reason, counts in left_out.items()}


def _refuse_alike(alike: Counter[str], rows: Sequence[tuple[PairRow | RatingRow, bool]], base: str) -> None:
    """Raises UserError where the base sees no difference in any training pair of a language."""
    every = Counter(row["lang"] for row, held in rows if not held)
    if blind := [lang for lang, count in alike.items() if count == every[lang]]:
        raise UserError(
            f"the base reads both responses of every training pair in {', '.join(blind)} as the same tokens",
            where=f"base: {base}",
            do="use a base whose tokenizer knows the language, or another chat_template",
        )


def _read(
    run: Path, config: RewardModelConfig, base: Path, machine: Machine, texts: Sequence[tuple[str, str]]
) -> dict[tuple[str, str], Sequence_]:
    """(prompt, response) → what the classifier reads."""
    different = list(dict.fromkeys(texts))
    table = pa.table({"prompt": [p for p, _ in different], "response": [r for _, r in different]}, schema=PROMPTED)
    template = Template(file=config.chat_template, arguments=config.template_arguments)
    place = run / "tokens" / hash_value([identify_model(str(base)), template.model_dump(), different])[:16]
    tables, _ = machine.fill(place, ReadTask(model=str(base), template=template), cut_table(table, SHARD), "tokens")
    read = [
        both for table in tables for both in zip(table["ids"].to_pylist(), table["segments"].to_pylist(), strict=True)
    ]
    shutil.rmtree(run / "tokens")
    return dict(zip(different, read, strict=True))


def texts(row: PairRow | RatingRow) -> list[tuple[str, str]]:
    """(prompt, response) of the row's responses."""
    if "response" in row:
        rating = cast(RatingRow, row)
        return [(rating["prompt"], rating["response"])]
    return [(row["prompt"], row["chosen"]), (row["prompt"], row["rejected"])]


def _fit(read: Sequence_, base: Base, truncate: str) -> Sequence_ | None:
    """A sequence of at most so many tokens; None where it is left out. An encoder's first token stays."""
    ids, segments = read
    over = len(ids) - base.longest
    if over <= 0:
        return read
    if truncate == "drop":
        return None
    first = 0 if base.decoder else 1
    return ids[:first] + ids[first + over :], segments[:first] + segments[first + over :]


def _make_row(row: PairRow | RatingRow, held: bool, sides: list[Sequence_], margin: bool) -> Mapping[str, object]:
    """A row of the data file. Its prompt is in the sequences."""
    made: dict[str, object] = {"prompt_id": row["group"], "prompt_ids": [], HELD: held}
    if "response" in row:
        ((ids, segments),) = sides
        return made | {
            "response_ids": ids,
            "response_segments": segments,
            "label": float(cast(RatingRow, row)["label"]),
        }
    (chosen, chosen_segments), (rejected, rejected_segments) = sides
    return made | {
        "chosen_ids": chosen,
        "rejected_ids": rejected,
        "chosen_segments": chosen_segments,
        "rejected_segments": rejected_segments,
        "margin": (row["margin"] or 0.0) if margin else 0.0,
    }


def _mixed(rows: Rows, mix: str) -> Iterator[PairRow | RatingRow]:
    """The training rows; with `even`, those of languages that have fewer are repeated in turn."""
    by_language: defaultdict[str, list[PairRow | RatingRow]] = defaultdict(list)
    for row in rows:
        by_language[row["lang"]].append(row)
    most = max(map(len, by_language.values()))
    for own in by_language.values():
        count = most if mix == "even" else len(own)
        yield from (own[n % len(own)] for n in range(count))
