"""`icr rm look`: what a reward model's scores hang on, and how its space of languages has changed."""

from __future__ import annotations

import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, cast

from eval.reward_models.bag_of_words import explain_scores
from eval.reward_models.evaluate import Split, select_rows
from eval.reward_models.features import Features, Rate, compare_features, read_features, read_rates
from eval.reward_models.flat import make_csv, without_lists
from eval.reward_models.looked_spaces import check_base, look_at_spaces, read_parallel
from eval.reward_models.rows import name_models
from eval.reward_models.scoring import Scorer, locate_reward_model
from icr.base.content import identify_model
from icr.base.fields import Fields
from icr.base.files import write_json, write_text
from icr.base.lock import RunLock
from icr.base.problems import Collector
from icr.engines.body import Place
from icr.engines.folders import locate
from icr.languages import check_languages
from icr.work.machine import Machine
from prompts.preferences.make import PreferenceData, Rows, load_data
from prompts.preferences.rows import PairRow, RatingRow

if TYPE_CHECKING:
    from rich.console import Console

KEY = "MODEL"
RESULT = "look.json"
PARTS = ("words", "spaces", "retrieval", "norms", "norm_distances", "features")
"""Tables of the result: OUT/NAME.csv each, where there is one."""


@dataclass(frozen=True)
class Look:
    """What is looked at."""

    models: Sequence[str]
    data: Path | None
    """A folder of `icr rm data`, for the words."""
    split: Split
    parallel: str | None
    """Texts with one id in all languages, for the spaces and norms."""
    languages: Sequence[str] | None
    limit: int
    """Parallel texts."""
    base: str | None
    """What distances are measured to."""
    place: Place
    rates: str | None
    column: str
    """Of the rates."""
    features: str | None


@dataclass(frozen=True)
class LookInputs:
    """What the checks read on their way."""

    models: Mapping[str, str]
    """Short name → folder or hub id."""
    base: str | None
    data: PreferenceData | None
    rows: Rows
    texts: Mapping[str, Sequence[str]]
    """Language → the parallel texts, in one order."""
    left_out: int
    """Ids that not all languages have."""
    rates: Sequence[Rate]
    features: Features


def check_look(look: Look) -> LookInputs:
    """Check everything before a model is loaded.

    Raises:
        ConfigError: every problem.
    """
    found = Collector()
    named = found.attempt({}, name_models, look.models)
    place = locate_reward_model if look.data is not None else locate
    models = {name: found.attempt("", place, model, KEY) for name, model in named.items()}
    if look.data is None and look.parallel is None and look.features is None:
        do = "name --data, --parallel, or --rates with --features"
        found.add("nothing to measure", where="icr rm look", do=do)
    if look.models and look.data is None and look.parallel is None:
        found.add("models are named, but no texts", where=KEY, do="name --data or --parallel")
    if not look.models and (look.data or look.parallel):
        found.add("texts are named, but no model", where="--data, --parallel", do="name a model")
    if (look.rates is None) != (look.features is None):
        found.add("--rates and --features need each other", where="--rates, --features", do="name both")
    codes = list(look.languages or [])
    found.attempt(None, check_languages, codes, "--languages") if codes else None
    data = found.attempt(None, load_data, look.data, "--data") if look.data is not None else None
    rows: Rows = []
    if data is not None:
        where = f"--data: {look.data}"
        rows = found.attempt(rows, select_rows, data, look.split, None, where)
        there = {row["lang"] for row in rows}
        wanted = [lang for lang in codes if lang in there or look.parallel is None or not there & set(codes)]
        rows = found.attempt(rows, select_rows, data, look.split, wanted or None, where)
    texts: Mapping[str, Sequence[str]] = {}
    left_out = 0
    if look.parallel is not None:
        texts, left_out = found.attempt((texts, 0), read_parallel, look.parallel, codes, look.limit)
    base = None
    if look.base is not None:
        base = found.attempt(None, check_base, look.base, list(models.values()), look.parallel)
    rates = found.attempt([], read_rates, look.rates, look.column) if look.rates else []
    features: Features = found.attempt({}, read_features, look.features) if look.features else {}
    if rates and features:
        found.attempt([], compare_features, rates, features)
    found.raise_any()
    return LookInputs(models, base, data, rows, texts, left_out, rates, features)


def look_into(look: Look, out: Path, console: Console) -> Fields:
    """Look at everything that `look` names; OUT/look.json and a csv for each table. Scores are kept in OUT.

    Returns:
        The tables PARTS that were asked for, `place`, `base`, `texts` and `left_out`.

    Raises:
        ConfigError: everything that is wrong with the inputs.
        UserError: the folder is in use; a model's states have another size than the base's.
        StageFailed: a worker failed.
    """
    inputs = check_look(look)
    out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out / ".lock")
    machine = Machine(out, console, [lock.fd])
    try:
        return look_with(machine, look, inputs, out)
    finally:
        machine.stop()
        lock.release()


def look_with(machine: Machine, look: Look, inputs: LookInputs, out: Path) -> Fields:
    """The same with workers and inputs that are there."""
    result: Fields = {}
    named = {*inputs.models.values(), *([inputs.base] if inputs.base else [])}
    folders = machine.folders(named, None) if named else {}
    models = {name: folders[place] for name, place in inputs.models.items()}
    if inputs.data is not None:
        result["words"] = _look_at_words(machine, models, inputs.rows, out)
    if inputs.texts:
        base = folders[inputs.base] if inputs.base else None
        result |= look_at_spaces(machine, models, base, inputs.texts, look.place, out / "spaces")
        facts = {"place": look.place, "base": look.base, "texts": len(next(iter(inputs.texts.values())))}
        result |= {**facts, "left_out": inputs.left_out}
    if inputs.features:
        result |= {"features": compare_features(inputs.rates, inputs.features), "column": look.column}
    write_json(out / RESULT, result)
    for name in PARTS:
        if name in result:
            write_text(out / f"{name}.csv", make_csv([without_lists(row) for row in result[name]]))
    if "words" in result:
        write_text(out / "heaviest_words.csv", make_csv(_heaviest(result["words"])))
    shutil.rmtree(out / "spaces" / "states", ignore_errors=True)
    return result


def _look_at_words(machine: Machine, models: Mapping[str, str], rows: Rows, out: Path) -> list[Fields]:
    """A row for each model and language."""
    answers = list(dict.fromkeys(answer for row in rows for answer in _answers(row)))
    found = []
    for name, model in models.items():
        folder = out / "scores" / identify_model(model).replace("/", "_")[:40]
        scorer = Scorer(machine, model, machine.precision("auto"), folder, name)
        scores = scorer.scores([(prompt, response) for _, _, prompt, response in answers])
        for lang in sorted({answer[0] for answer in answers}):
            own = [(a, s) for a, s in zip(answers, scores, strict=True) if a[0] == lang]
            known = [(a, s) for a, s in own if s is not None]
            explained = explain_scores([a[3] for a, _ in known], [s for _, s in known], [a[1] for a, _ in known])
            found.append({"model": name, "language": lang, "dropped": len(own) - len(known), **explained})
    return found


def _answers(row: PairRow | RatingRow) -> list[tuple[str, str, str, str]]:
    """(language, group, prompt, response) of a row's responses."""
    if "response" in row:
        rating = cast(RatingRow, row)
        return [(rating["lang"], rating["group"], rating["prompt"], rating["response"])]
    return [(row["lang"], row["group"], row["prompt"], row[side]) for side in ("chosen", "rejected")]  # type: ignore[literal-required]


def _heaviest(words: Sequence[Fields]) -> list[Fields]:
    return [
        {"model": row["model"], "language": row["language"], "side": side, **word}
        for row in words
        for side in ("raising", "lowering")
        for word in row[side]
    ]
