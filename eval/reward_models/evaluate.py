"""`icr rm eval`: reward models, implicit rewards and judges on preference data, a row each, and how far they agree."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING, Literal, cast

import numpy as np

from eval.reward_models.accuracy import agree_on, compare_rights
from eval.reward_models.flat import make_csv, without_lists
from eval.reward_models.judged import JudgeRow, ask_judge, measure_verdicts, pair_ratings, pick_asked
from eval.reward_models.rows import Asked, RewardRow, Workplace, open_workplace
from eval.reward_models.scoring import Measured, by_language, measure_known, score_rows
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import write_json, write_text
from prompts.preferences.make import PreferenceData, Rows, load_data
from prompts.preferences.rows import Kind, PairRow, RatingRow

if TYPE_CHECKING:
    from rich.console import Console

Split = Literal["train", "validation", "all"]
NO_DOCUMENTS = "the responses have no prompts or documents: the models saw them alone"
Table = dict[str, dict[str, Measured]]
"""Name of a row → language → what was measured."""


@dataclass(frozen=True)
class Asking:
    """The judges of one command."""

    judges: Sequence[JudgeRow] = ()
    most: int | None = None
    """Pairs of each language that they are asked about; None: all."""

    @property
    def models(self) -> list[str]:
        """Local ones, located."""
        return [model for judge in self.judges for model in judge.located.values()]


NO_JUDGES = Asking()


@dataclass
class Found:
    """What one command has measured."""

    on_rows: Table = field(default_factory=dict)
    """On the data's own rows."""
    on_pairs: Table = field(default_factory=dict)
    """On good against bad answers, where the data are ratings and judges are asked."""
    judged: Table = field(default_factory=dict)
    kinds: dict[str, str] = field(default_factory=dict)
    """Name of a row → what it is."""


def evaluate_models(
    rows: Sequence[RewardRow],
    data: Path,
    split: Split,
    languages: Sequence[str] | None,
    out: Path,
    console: Console,
    precision: Asked = "auto",
    asking: Asking = NO_JUDGES,
) -> Fields:
    """Accuracy of each row on each language, in OUT/accuracy.json and OUT/accuracy.csv.

    Args:
        rows: what gives responses a score.
        data: a folder of `icr rm data`; its training rows are what the length baseline is fitted to.
        languages: of the data; None: all.

    Returns:
        `models` (name → language → figures), `kinds` (name → what it is), `differences` (of each further row to the
        first: name → language), `pairs` (as `models`, on good against bad answers, where the data are ratings and
        judges are asked), `judges` (name → who it is, its cost and its figures by language), `agreement` (a row for
        each two and language), `documents` and `notes`.

    Raises:
        UserError: no such data, a language without rows, two rows of one name.
        StageFailed: a worker failed.
    """
    found = load_data(data, "--data")
    chosen = select_rows(found, split, languages, f"--data: {data}")
    with open_workplace(rows, out, console, precision, asking.models) as at:
        measured = _measure(rows, found, chosen, at, asking)
        judges = {judge.name: judge.summary(out) for judge in asking.judges}
    documents = any(row["prompt"] for row in chosen)
    result: Fields = {
        "data": data.name,
        "split": split,
        "documents": documents,
        "kinds": measured.kinds,
        "models": _figures(measured.on_rows),
        "pairs": _figures(measured.on_pairs),
        "judges": {name: {**judges[name], "languages": of} for name, of in _figures(measured.judged).items()},
        "differences": _differences(measured),
        "agreement": compare_rows(measured),
        "notes": [] if documents else [NO_DOCUMENTS],
    }
    write_json(out / "accuracy.json", result)
    flat = [
        {"model": name, "data": data.name, "split": split, "language": lang, **without_lists(figures)}
        for table in (measured.on_rows, measured.on_pairs, measured.judged)
        for name, by_lang in _figures(table).items()
        for lang, figures in by_lang.items()
    ]
    write_text(out / "accuracy.csv", make_csv(flat))
    return result


def _measure(rows: Sequence[RewardRow], found: PreferenceData, chosen: Rows, at: Workplace, asking: Asking) -> Found:
    rated = found.kind == "ratings" and bool(asking.judges)
    pairs, train = (pairs_of(found.kind, of) if asking.judges else [] for of in (chosen, found.train))
    if rated and not pairs:
        what = "no document has a good and a bad answer, so there is nothing to ask a judge"
        raise UserError(what, where="--judge", do="leave --judge out, or name data with several answers a document")
    measured = Found(kinds=name_kinds(rows, asking))
    for row in rows:
        known = score_rows(row.open(at), found.kind, chosen)
        measured.on_rows[row.name] = measure_known(known, found.kind, chosen, found.train)
        if rated:
            measured.on_pairs[row.name] = measure_known(known, "pairs", pairs, train)
    for judge in asking.judges:
        measured.judged[judge.name] = _judge(judge, pairs, train, at, asking.most)
    return measured


def name_kinds(rows: Sequence[RewardRow], asking: Asking) -> dict[str, str]:
    """Name of a row → what it is."""
    return {row.name: row.kind for row in rows} | {judge.name: judge.kind for judge in asking.judges}


def pairs_of(kind: Kind, rows: Rows) -> list[PairRow]:
    """The pairs that judges are asked about: the rows themselves, or what `pair_ratings` makes of ratings."""
    return pair_ratings(cast(list[RatingRow], rows)) if kind == "ratings" else cast(list[PairRow], rows)


def _judge(
    judge: JudgeRow, pairs: Sequence[PairRow], train: Sequence[PairRow], at: Workplace, most: int | None
) -> dict[str, Measured]:
    """One judge's figures by language. Its `right` has all pairs: those that it was not asked about are NaN."""
    asked = pick_asked(pairs, most)
    verdicts = ask_judge(judge, [pairs[n] for of in asked.values() for n in of], at)
    found = {}
    for lang, own in by_language(pairs).items():
        places = {n: place for place, n in enumerate(n for n, row in enumerate(pairs) if row["lang"] == lang)}
        trained = [row for row in train if row["lang"] == lang]
        of_asked = measure_verdicts([pairs[n] for n in asked[lang]], verdicts[lang], trained)
        right = np.full(len(own), np.nan)
        right[[places[n] for n in asked[lang]]] = of_asked.right
        found[lang] = Measured(of_asked.figures, right, [row["group"] for row in own])
    return found


def compare_rows(found: Found) -> list[Fields]:
    """How far every two rows agree, instance by instance, in each language.

    The instances are the data's pairs or ratings; where judges are asked about ratings, pairs of a good and a bad one.
    """
    table = (found.on_pairs or found.on_rows) | found.judged
    rows = []
    for one, other in combinations(table, 2):
        for lang, first in table[one].items():
            agreed = agree_on(first.right, table[other][lang].right, first.groups)
            kinds = [found.kinds[one], found.kinds[other]]
            rows.append({"rows": [one, other], "kinds": kinds, "language": lang, **agreed})
    return rows


def _differences(found: Found) -> dict[str, dict[str, Fields]]:
    """Of each further row to the first, by language, on the same instances."""
    differences: dict[str, dict[str, Fields]] = {}
    for table in (found.on_rows | ({} if found.on_pairs else found.judged), found.on_pairs | found.judged):
        first, *others = table or [""]
        differences |= {name: _compare(table[first], table[name]) for name in others if name not in differences}
    return differences


def _figures(table: Mapping[str, Mapping[str, Measured]]) -> dict[str, dict[str, Fields]]:
    return {name: {lang: of.figures for lang, of in languages.items()} for name, languages in table.items()}


def select_rows(found: PreferenceData, split: Split, languages: Sequence[str] | None, where: str) -> Rows:
    """The rows to measure on.

    Raises:
        UserError: there are none, or a language has none.
    """
    parts = {"train": found.train, "validation": found.validation, "all": [*found.train, *found.validation]}
    rows = cast(Rows, [row for row in parts[split] if languages is None or row["lang"] in languages])
    there = {row["lang"] for row in rows}
    if absent := [lang for lang in languages or [] if lang not in there]:
        do = "name other languages, or another --split" if where.startswith("--") else "name other languages"
        raise UserError(f"the data has no {split} rows in {', '.join(absent)}", where=where, do=do)
    if not rows:
        raise UserError(f"the data has no {split} rows", where=where, do="use --split train or all")
    return rows


def _compare(first: Mapping[str, Measured], second: Mapping[str, Measured]) -> dict[str, Fields]:
    """Second minus first, by language, on the same rows."""
    return {
        lang: compare_rights(first[lang].right, measured.right, measured.groups) for lang, measured in second.items()
    }
