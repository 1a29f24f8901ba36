"""`icr rm eval` and `icr rm bench`: reward models on preference data, and on RewardBench and its like."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

from eval.reward_models.accuracy import Score, compare_rights
from eval.reward_models.bench import Scores, longer_wins, summarise
from eval.reward_models.bench_rows import BenchRow, read_bench
from eval.reward_models.flat import make_csv, without_lists
from eval.reward_models.scoring import Measured, Scorer, locate_reward_model, measure, short_name
from icr.base.content import identify_model
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import write_json, write_text
from icr.base.lock import RunLock
from icr.base.problems import Collector
from icr.work.machine import Machine
from prompts.preferences.make import PreferenceData, Rows, load_data

if TYPE_CHECKING:
    from rich.console import Console

KEY = "MODEL"
Split = Literal["train", "validation", "all"]
NO_DOCUMENTS = "the responses have no prompts or documents: the models saw them alone"


def name_models(models: Sequence[str]) -> dict[str, str]:
    """Short name → model: the last part of its name; of RUN/model, the run's.

    Raises:
        UserError: two have one name.
    """
    named: dict[str, str] = {}
    for model in models:
        name = short_name(model)
        if name in named:
            do = "give one of them a folder of another name"
            raise UserError(f"two models are called {name}", where=f"{named[name]}, {model}", do=do)
        named[name] = model
    return named


def evaluate_models(
    models: Sequence[str], data: Path, split: Split, languages: Sequence[str] | None, out: Path, console: Console
) -> Fields:
    """Accuracy of each model on each language, in OUT/accuracy.json and OUT/accuracy.csv.

    Args:
        data: a folder of `icr rm data`; its training rows are what the length baseline is fitted to.
        languages: of the rows; None: all.

    Returns:
        `models` (name → language → figures), `differences` (of each further model to the first: name → language),
        `documents` and `notes`.

    Raises:
        ConfigError: everything that is wrong with the models.
        UserError: no such data, a language without rows, two models of one name.
        StageFailed: a worker failed.
    """
    found = load_data(data, "--data")
    rows = select_rows(found, split, languages, f"--data: {data}")
    result: Fields = {
        "data": data.name,
        "split": split,
        "documents": any(row["prompt"] for row in rows),
        "models": {},
        "differences": {},
    }
    first: dict[str, Measured] = {}
    for name, measured in measure_models(models, found, rows, out, console).items():
        result["models"][name] = {lang: of_lang.figures for lang, of_lang in measured.items()}
        if first:
            result["differences"][name] = _compare(first, measured)
        first = first or measured
    result["notes"] = [] if result["documents"] else [NO_DOCUMENTS]
    write_json(out / "accuracy.json", result)
    flat = [
        {"model": name, "data": data.name, "split": split, "language": lang, **without_lists(figures)}
        for name, by_language in result["models"].items()
        for lang, figures in by_language.items()
    ]
    write_text(out / "accuracy.csv", make_csv(flat))
    return result


def select_rows(found: PreferenceData, split: Split, languages: Sequence[str] | None, where: str) -> Rows:
    """The rows to measure on.

    Raises:
        UserError: there are none, or a language has none.
    """
    parts = {"train": found.train, "validation": found.validation, "all": [*found.train, *found.validation]}
    rows = cast(Rows, [row for row in parts[split] if languages is None or row["lang"] in languages])
    there = {row["lang"] for row in rows}
    if absent := [lang for lang in languages or [] if lang not in there]:
        do = "name other languages, or another --split"
        raise UserError(f"the data has no {split} rows in {', '.join(absent)}", where=where, do=do)
    if not rows:
        raise UserError(f"the data has no {split} rows", where=where, do="use --split train or all")
    return rows


def measure_models(
    models: Sequence[str], found: PreferenceData, rows: Rows, out: Path, console: Console
) -> dict[str, dict[str, Measured]]:
    """Short name of a model → language → its accuracy on these rows. Scores are kept in OUT/scores.

    Raises:
        ConfigError, UserError, StageFailed: as `evaluate_models`.
    """
    with open_scorers(models, out, console) as scorers:
        return {name: measure(scorer, found.kind, rows, found.train) for name, scorer in scorers}


def _compare(first: Mapping[str, Measured], second: Mapping[str, Measured]) -> dict[str, Fields]:
    """Second minus first, by language, on the same rows."""
    return {
        lang: compare_rights(first[lang].right, measured.right, measured.groups) for lang, measured in second.items()
    }


def bench_models(models: Sequence[str], source: str, lang: str, out: Path, console: Console) -> Fields:
    """Figures of each model on a benchmark, in OUT/bench.json, OUT/bench.csv and OUT/scores-NAME.jsonl.

    Args:
        models: may be empty: what length alone gets is always there.
        source: a file or a data set on the hub.
        lang: of rows that do not name theirs.

    Returns:
        `models` (name → language → figures) and `longer` (language → subset → percent).

    Raises:
        ConfigError: everything that is wrong with the rows or the models.
        UserError, StageFailed: as `evaluate_models`.
    """
    rows = read_bench(source, lang)
    longer = longer_wins(rows)
    result: Fields = {"rows": len(rows), "longer": longer, "models": {}}
    with open_scorers(models, out, console) as scorers:
        for name, scorer in scorers:
            scores = _score(scorer.scores, rows)
            result["models"][name] = summarise(rows, scores)
            write_text(out / f"scores-{name}.jsonl", _score_file(rows, scores))
    write_json(out / "bench.json", result)
    flat = [
        {
            "model": name,
            "language": lang,
            "subset": subset,
            **without_lists(figures),
            "longer": longer[lang][subset],
        }
        for name, languages in result["models"].items()
        for lang, found in languages.items()
        for subset, figures in found["subsets"].items()
    ]
    write_text(out / "bench.csv", make_csv(flat))
    return result


@contextmanager
def open_scorers(models: Sequence[str], out: Path, console: Console) -> Iterator[Iterator[tuple[str, Scorer]]]:
    """Each model at work, one after the other, in the folder OUT.

    Raises:
        ConfigError: everything that is wrong with them.
    """
    named = name_models(models)
    found = Collector()
    located = {name: found.attempt("", locate_reward_model, model, KEY) for name, model in named.items()}
    found.raise_any()
    out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out / ".lock")
    machine = Machine(out, console, [lock.fd])
    try:
        folders = machine.folders(set(located.values()), None) if located else {}
        yield (
            (name, _open(machine, folders[place], out / "scores" / identify_model(place).replace("/", "_")[:40], name))
            for name, place in located.items()
        )
    finally:
        machine.stop()
        lock.release()


def _open(machine: Machine, model: str, folder: Path, name: str) -> Scorer:
    return Scorer(machine, model, machine.precision("auto"), folder, name)


def _score(score: Callable[[Sequence[tuple[str, str]]], list[Score]], rows: Sequence[BenchRow]) -> list[Scores]:
    texts = [(row.prompt, text) for row in rows for text in (*row.chosen, *row.rejected)]
    values = iter(score(texts))
    return [([next(values) for _ in row.chosen], [next(values) for _ in row.rejected]) for row in rows]


def _score_file(rows: Sequence[BenchRow], scores: Sequence[Scores]) -> str:
    """One object a row, with the scores of its answers, for other tools."""
    lines = (
        {"id": row.id, "subset": row.subset, "language": row.lang, "scores_chosen": list(chosen),
         "scores_rejected": list(rejected)}
        for row, (chosen, rejected) in zip(rows, scores, strict=True)
    )  # fmt: skip
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
