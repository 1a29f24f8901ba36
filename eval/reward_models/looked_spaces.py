"""The spaces of models on parallel texts: rows for each layer and language, and between languages."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from eval.reward_models.spaces import describe_norms, describe_space, norm_distance, retrieval
from icr.base.content import hash_value, identify_model
from icr.base.conversation import show_conversation
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json, write_json
from icr.engines.body import Place
from icr.engines.check import find_folder
from icr.engines.folders import locate
from icr.engines.models import check_same_vocabulary
from icr.work.machine import Machine
from icr.work.represent import TEXT, RepresentTask
from icr.work.shards import cut_table
from prompts.load import load_prompts

Floats = NDArray[np.float64]
Texts = Mapping[str, Sequence[str]]
BATCH_TOKENS = 8192
SHARD = 128
"""Texts."""
FEWEST_TEXTS = 2
TABLES = ("spaces", "retrieval", "norms", "norm_distances")


class Seen(NamedTuple):
    """The texts of one language as one model sees them."""

    states: Floats
    """Shape (texts, layers, dimensions)."""
    norms: list[Floats]
    """Of each text's tokens."""
    read: NDArray[np.bool_]
    """Of each text: whether the model reads it whole."""


def read_parallel(
    path: str, languages: Sequence[str], limit: int, key: str = "--parallel"
) -> tuple[dict[str, list[str]], int]:
    """Language → the texts whose ids all languages have, in one order; and how many ids not all have.

    Args:
        key: what the user sets `path` by.

    Raises:
        ConfigError, UserError: as `prompts.load.load_prompts`; no languages, no ids in common.
    """
    if not languages:
        raise UserError(
            "--parallel needs the languages of its texts", where="--languages", do="name them, such as en,es,th"
        )
    found = load_prompts(path, list(languages), key=key, pivot="")
    by_id: dict[str, dict[str, str]] = {}
    for prompt in found:
        by_id.setdefault(prompt.id, {})[prompt.lang] = show_conversation(prompt.messages)
    whole = [texts for texts in by_id.values() if len(texts) == len(languages)]
    if len(whole) < FEWEST_TEXTS:
        what = f"{len(whole)} texts are in all of {', '.join(languages)}"
        raise UserError(what, where=f"{key}: {path}", do="give translations one id in all languages")
    return {lang: [texts[lang] for texts in whole[:limit]] for lang in languages}, len(by_id) - len(whole)


def check_base(base: str, models: Sequence[str], parallel: str | None) -> str:
    """The base as a folder or hub id.

    Raises:
        UserError: there are no parallel texts; it is not found; a model has another vocabulary.
    """
    if parallel is None:
        raise UserError("distances to a base need parallel texts", where=f"--base {base}", do="name --parallel")
    found = locate(base, "--base")
    if found.endswith(".gguf"):
        raise UserError(
            "a .gguf file has no hidden states here", where=f"--base {base}", do="name a folder or a hub id"
        )
    for model in models:
        if find_folder(found) and model and find_folder(model):
            do = "name the model that it was trained from"
            check_same_vocabulary(str(find_folder(model)), str(find_folder(found)), f"--base {base}", do)
    return found


def look_at_spaces(
    machine: Machine, models: Mapping[str, str], base: str | None, texts: Texts, place: Place, folder: Path
) -> Fields:
    """The tables TABLES. The figures of a model are kept in `folder`, by what they were made from.

    Raises:
        UserError: a model's states have another size than the base's. StageFailed: a worker failed.
    """
    tables: Fields = {name: [] for name in TABLES}
    base_key = identify_model(base) if base else None
    for name, model in models.items():
        key = hash_value([identify_model(model), base_key, place, {lang: list(of) for lang, of in texts.items()}])
        file = folder / f"{key[:16]}.json"
        if not file.is_file():
            write_json(file, _describe(machine, name, model, base, texts, place, folder / "states"))
        for table, rows in read_json(file).items():
            tables[table] += [{"model": name, **row} for row in rows]
    return tables


def _describe(
    machine: Machine, name: str, model: str, base: str | None, texts: Texts, place: Place, folder: Path
) -> Fields:
    """Of one model."""
    ours = _see(machine, name, model, texts, place, folder)
    theirs = _see(machine, "the base", base, texts, place, folder) if base else None
    every = [*ours.values(), *(theirs or {}).values()]
    read = np.logical_and.reduce([seen.read for seen in every])
    if read.sum() < FEWEST_TEXTS:
        what = f"{name} can read only {read.sum()} of {len(read)} texts in full in all languages"
        raise UserError(what, where="--parallel", do="name shorter texts")
    kept = {lang: seen.states[read] for lang, seen in ours.items()}
    bases = {lang: seen.states[read] for lang, seen in theirs.items()} if theirs else {}
    first = next(iter(kept.values()))
    if bases and next(iter(bases.values())).shape != first.shape:
        what = f"{name} and the base have hidden states of different sizes"
        raise UserError(what, where="--base", do="name the model that it was trained from")
    layers = range(first.shape[1])
    norms = {
        lang: np.concatenate([n for n, there in zip(seen.norms, read, strict=True) if there])
        for lang, seen in ours.items()
    }
    return {
        "spaces": [
            {"language": lang, "layer": layer, "too_long": int((~read).sum()),
             **_known(describe_space(states[:, layer], bases[lang][:, layer] if bases else None))}
            for lang, states in kept.items() for layer in layers
        ],
        "retrieval": [
            {"language": a, "other": b, "layer": layer, "n": int(read.sum()),
             "share": retrieval(kept[a][:, layer], kept[b][:, layer])}
            for a, b in combinations(kept, 2) for layer in layers
        ],
        "norms": [{"language": lang, **describe_norms(of)} for lang, of in norms.items()],
        "norm_distances": [
            {"language": a, "other": b, "distance": norm_distance(norms[a], norms[b])}
            for a, b in combinations(norms, 2)
        ],
    }  # fmt: skip


def _known(figures: Fields) -> Fields:
    """NaN as None: JSON knows no NaN."""
    return {key: None if isinstance(value, float) and math.isnan(value) else value for key, value in figures.items()}


def _see(machine: Machine, name: str, model: str, texts: Texts, place: Place, folder: Path) -> dict[str, Seen]:
    task = RepresentTask(model=model, place=place, batch_tokens=BATCH_TOKENS)
    found = {}
    for lang, of_lang in texts.items():
        key = hash_value([identify_model(model), place, list(of_lang)])[:16]
        shards = cut_table(pa.table({"text": list(of_lang)}, schema=TEXT), SHARD)
        tables, _ = machine.fill(folder / key, task, shards, f"states: {name}, {lang}")
        found[lang] = _read(pa.concat_tables(tables))
    return found


def _read(table: pa.Table) -> Seen:
    """Texts that are too long have zeros as their states."""
    layers = np.array(table["layers"].to_pylist())
    count = int(layers.max(initial=0))
    sizes = [len(row) for row in table["states"]]
    states = np.zeros((table.num_rows, max(count, 1), max(sizes, default=0) // max(count, 1)))
    for number, row in enumerate(table["states"]):
        if layers[number]:
            states[number] = row.values.to_numpy().reshape(count, -1)
    norms = [np.asarray(row.values.to_numpy(), dtype=np.float64) for row in table["norms"]]
    return Seen(states, norms, layers > 0)
