"""Several judges on one benchmark: each one's verdicts, what they say together, and how far they agree."""

from __future__ import annotations

import re
from collections import Counter, defaultdict
from collections.abc import Callable, Hashable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean
from typing import Any

import pyarrow.parquet as pq

from eval.clusters import Part, estimate
from eval.folders import verdicts_folder
from eval.judges.open import find_terms, name_judge
from eval.judges.prompts import find_prompts
from eval.krippendorff import nominal_alpha
from eval.rates import missing_for
from eval.xalpaca.items import discrete_preference, read_items
from icr.base.fields import Fields
from icr.base.files import read_rows, write_rows
from icr.config.schema import Judge as JudgeConfig

FOLDER = "judges"
NO_ALPHA = "no item has two verdicts, or all verdicts are the same"
NO_VALUE = "no item has a verdict"

Row = dict[str, Any]
Values = dict[str, float]
"""Item → value."""


def member_folder(out: Path, name: str) -> Path:
    """Where one judge's cache and verdicts are."""
    return out / FOLDER / (re.sub(r"[^\w.+-]+", "_", name).strip("_.") or "judge")


@dataclass(frozen=True)
class Kind:
    """What a benchmark's rows say."""

    value: str
    """The column that is averaged over judges; `others` are averaged with it."""
    others: tuple[str, ...]
    values: Callable[[Sequence[Row]], Values]
    """Out of one judge's rows: each item's value."""
    category: Callable[[float], float]
    """What counts as one verdict when agreement and majority are counted."""
    scale: float
    decides: bool
    """The categories are won, drawn and lost, so that there is a majority."""


def _preferences(rows: Sequence[Row]) -> Values:
    return read_items(rows).preferences  # type: ignore[arg-type]


def _agreements(rows: Sequence[Row]) -> Values:
    return {row["prompt_id"]: row["agreement"] for row in rows if row["agreement"] is not None}


def _grades(rows: Sequence[Row]) -> Values:
    return {f"{row['key']} turn {row['turn']}": row["grade"] for row in rows if row["grade"] is not None}


KINDS = {
    "xalpaca": Kind("preference", (), _preferences, discrete_preference, 100, decides=True),
    "accuracy": Kind("agreement", ("tie",), _agreements, discrete_preference, 100, decides=True),
    "mtbench": Kind("grade", (), _grades, round, 1, decides=False),
}


def join_verdicts(config: JudgeConfig, out: Path, benchmark: str) -> None:
    """Write what the judges say together, in the place of one judge's verdicts: the mean of theirs.

    A question that one of them has not answered has no verdict, with that judge's reason.
    """
    kind, folder = KINDS[benchmark], verdicts_folder(out, benchmark)
    places = {name: verdicts_folder(member_folder(out, name), benchmark) for name in config.members}
    judge = name_judge(config)
    for file in sorted(next(iter(places.values())).glob("*.parquet")):
        tables = {name: read_rows(place / file.name) for name, place in places.items()}
        rows = [_join(dict(zip(tables, of, strict=True)), kind) for of in zip(*tables.values(), strict=True)]
        rows = [{**row, "judge": judge} if "judge" in row else row for row in rows]  # MT-Bench's rows name it
        write_rows(folder / file.name, rows, pq.read_schema(file).remove_metadata())


def _join(of: Mapping[str, Row], kind: Kind) -> Row:
    first = next(iter(of.values()))
    reasons = [row["reason"] for row in of.values() if row["reason"] is not None]
    joined = {name: None if reasons else fmean(row[name] for row in of.values()) for name in (kind.value, *kind.others)}
    said = "\n".join(f"{name}: {row['reason'] or format(row[kind.value], '.4g')}" for name, row in of.items())
    shortened = any(row["shortened"] for row in of.values())
    return {**first, **joined, "reason": reasons[0] if reasons else None, "raw": said, "shortened": shortened}


def describe_panel(config: JudgeConfig, out: Path, benchmark: str) -> Fields:
    """What a summary says of several judges.

    Returns:
        `judges`: name → who it is, its address, its prompt, and its value by language and on average, in the
        benchmark's unit; `alpha`: Krippendorff's, by language and over all items; `majority`: the value of what most
        judges say, where there are two answers. What is missing is None, with the reason in `why`.
    """
    kind = KINDS[benchmark]
    by_judge: dict[str, dict[str, Values]] = {}
    for name in config.members:
        files = sorted(verdicts_folder(member_folder(out, name), benchmark).glob("*.parquet"))
        by_judge[name] = {file.stem: kind.values(read_rows(file)) for file in files}
    languages = list(next(iter(by_judge.values())))
    judges = {
        name: {
            "judge": name_judge(config.members[name]),
            **find_terms(config.members[name]),
            **find_prompts(config.members[name], benchmark).summary(),
            **_rates(of, kind.scale),
        }
        for name, of in by_judge.items()
    }
    found: Fields = {"judges": judges, "alpha": _alphas(by_judge, languages, kind)}
    if kind.decides:
        votes = {lang: _votes([of[lang] for of in by_judge.values()], kind) for lang in languages}
        found["majority"] = _rates({lang: _majorities(of) for lang, of in votes.items()}, kind.scale)
    return found


def _votes(of_judges: Sequence[Values], kind: Kind) -> dict[str, list[float | None]]:
    """Item → what each judge says."""
    items = dict.fromkeys(item for of in of_judges for item in of)
    return {item: [kind.category(of[item]) if item in of else None for of in of_judges] for item in items}


def _alphas(by_judge: Mapping[str, Mapping[str, Values]], languages: Sequence[str], kind: Kind) -> Fields:
    units: defaultdict[str, list[Sequence[Hashable | None]]] = defaultdict(list)
    for lang in languages:
        for votes in _votes([of[lang] for of in by_judge.values()], kind).values():
            units[lang].append(votes)
            units["all"].append(votes)
    alphas = {name: nominal_alpha(units[name]) for name in [*languages, "all"]}
    why = {name: NO_ALPHA for name, value in alphas.items() if value is None}
    return {**alphas, **({"why": why} if why else {})}


def _majorities(votes: Mapping[str, Sequence[float | None]]) -> Values:
    return {item: majority(said) for item, said in votes.items() if None not in said}  # type: ignore[arg-type]


def majority(votes: Sequence[float]) -> float:
    """1 or 0 where more judges say so than say anything else; 0.5 otherwise."""
    (first, most), *others = Counter(votes).most_common()
    return 0.5 if others and others[0][1] == most else first


def _rates(values: Mapping[str, Values], scale: float) -> Fields:
    """Means by language and on average, with standard errors (`eval.clusters`)."""
    parts = {lang: Part.of({item: scale * value for item, value in of.items()}) if of else None
             for lang, of in values.items()}  # fmt: skip
    rows = {lang: _row([part]) if part else {"value": None, "why": NO_VALUE} for lang, part in parts.items()}
    whole = [part for part in parts.values() if part]
    missing = [lang for lang, part in parts.items() if part is None]
    average = {"value": None, "why": missing_for(missing)} if missing else _row(whole)
    return {"languages": rows, "average": average}


def _row(parts: Sequence[Part]) -> Fields:
    found = estimate(parts)
    return {"value": found.value, "se": found.se}
