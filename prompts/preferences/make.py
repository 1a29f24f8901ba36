"""`icr rm data`: sources in any form become DIR/train.parquet, DIR/validation.parquet and DIR/report.json."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import cast

from icr.base.errors import ConfigError, UserError
from icr.base.fields import Fields
from icr.base.files import atomic_folder, check_folder, read_object, read_rows, write_json, write_rows
from prompts.preferences.forms import Options, read_preferences
from prompts.preferences.reading import NO_LANGUAGE, SAME, Reading
from prompts.preferences.rows import PAIRS, RATINGS, Kind, PairRow, RatingRow
from prompts.preferences.splits import check_groups, count_overlap, split_rows
from prompts.tables import capped

TRAIN, VALIDATION, REPORT = "train.parquet", "validation.parquet", "report.json"
OVERLAP = "group also in the validation"
Rows = list[PairRow] | list[RatingRow]
Parts = tuple[Sequence[PairRow], Sequence[PairRow]]
"""Training and validation. Ratings are passed as pairs, of which they share the columns that are read."""


@dataclass
class Tally:
    """One language of a data set."""

    rows: int
    """As the sources count them."""
    train: int
    validation: int
    prompts: int
    """Different ones; of documents where ratings have them."""
    left_out: dict[str, int]
    longer_wins: float | None
    """Pairs: share in which the chosen response has more characters, equal lengths as half."""
    positive: float | None
    """Ratings: share of label 1."""
    identical: float
    """Share of pairs with the same response twice, among those kept and those left out for it."""
    overlap: int
    """Validation groups whose prompt is also a training prompt."""


@dataclass
class DataReport:
    """What `icr rm data` made, as in DIR/report.json."""

    kind: Kind
    sources: list[str]
    seed: int | None
    """Of the split; None where the splits were given."""
    documents: bool
    """Whether responses have a prompt or document."""
    languages: dict[str, Tally]
    notes: list[str]


def make_data(
    sources: Sequence[str],
    out: Path,
    options: Options,
    *,
    validation: float = 0.05,
    given: Sequence[str] = (),
    drop_overlap: bool = False,
    seed: int = 42,
) -> DataReport:
    """Read, split and write.

    Args:
        sources: as `prompts.preferences.forms.read_preferences` takes them.
        out: must not exist, or be empty.
        validation: share of the rows, or their number; groups stay together.
        given: sources of the validation, in place of a split.
        drop_overlap, seed: see `check_groups` and `split_rows`.

    Raises:
        ConfigError: every bad row of every source.
        UserError: no such source, an unknown form, both kinds in one, no rows; `out` has files.
    """
    if out.exists() and (not out.is_dir() or any(out.iterdir())):
        raise UserError("the folder is not empty", where=f"--out: {out}", do="name a new one: nothing is overwritten")
    first = _read_all(sources, options)
    second = _read_all(given, options)
    _raise([*first, *second])
    kind = _kind([*first, *second])
    rows = _rows(first, kind)
    taken: Counter[str] = Counter()
    if given:
        held = _rows(second, kind)
        train, taken = check_groups(cast(list[PairRow], rows), cast(list[PairRow], held), drop=drop_overlap)
        parts = train, cast(list[PairRow], held)
    else:
        parts = split_rows(cast(list[PairRow], rows), validation, seed)
    report = describe_data(kind, [*first, *second], parts, taken, None if given else seed)
    with atomic_folder(out) as folder:
        write_parts(folder, kind, parts)
        write_json(folder / REPORT, asdict(report))
    return report


def _read_all(sources: Sequence[str], options: Options) -> list[Reading]:
    return [read_preferences(source, options) for source in sources]


def _raise(readings: Sequence[Reading]) -> None:
    problems = [problem for reading in readings for problem in reading.problems]
    ids: dict[str, str] = {}
    for reading in readings:
        for row in [*reading.pairs, *reading.ratings]:
            name = f"{row['lang']}\n{row['id']}"
            if ids.setdefault(name, reading.source) != reading.source:
                what = f"id {row['id']} appears twice in {row['lang']}"
                do = "name each source once, and give every row its own id"
                problems.append(UserError(what, where=f"{reading.source} and {ids[name]}", do=do))
    if problems:
        raise ConfigError(capped(problems))


def _kind(readings: Sequence[Reading]) -> Kind:
    pairs = [reading.source for reading in readings if reading.pairs]
    ratings = [reading.source for reading in readings if reading.ratings]
    if pairs and ratings:
        what = f"{pairs[0]} has pairs, and {ratings[0]} has ratings"
        raise UserError(what, where="SOURCE", do="make one folder of each: a reward model is trained on one kind")
    if not pairs and not ratings:
        reasons: Counter[str] = Counter()
        for reading in readings:
            reasons.update(*[dict(found) for found in reading.left_out.values()])
        shown = ", ".join(f"{count} {reason}" for reason, count in reasons.items())
        do = "name the language with --lang, or another source" if NO_LANGUAGE in reasons else "name another source"
        raise UserError(f"no row is left: {shown or 'there are none'}", where="SOURCE", do=do)
    return "pairs" if pairs else "ratings"


def _rows(readings: Sequence[Reading], kind: Kind) -> Rows:
    if kind == "pairs":
        return [row for reading in readings for row in reading.pairs]
    return [row for reading in readings for row in reading.ratings]


def write_parts(folder: Path, kind: Kind, parts: Parts) -> None:
    """Both tables of a folder."""
    schema = PAIRS if kind == "pairs" else RATINGS
    for name, part in zip((TRAIN, VALIDATION), parts, strict=True):
        write_rows(folder / name, part, schema)


def describe_data(
    kind: Kind, readings: Sequence[Reading], parts: Parts, taken: Counter[str], seed: int | None
) -> DataReport:
    """What a folder's report has.

    Args:
        readings: their counts by language, of rows and of what was left out, and their notes.
        parts: training and validation.
        taken: rows that were taken out of the training because of the validation, by language.
        seed: of the split; None where it was given.
    """
    train, held = parts
    every = [*train, *held]
    rows: Counter[str] = Counter()
    left_out: defaultdict[str, Counter[str]] = defaultdict(Counter)
    for reading in readings:
        rows.update(reading.rows)
        for lang, found in reading.left_out.items():
            left_out[lang].update(found)
    for lang, count in taken.items():
        left_out[lang][OVERLAP] += count
    overlap = count_overlap(train, held)
    trained, validated = (Counter(row["lang"] for row in part) for part in (train, held))
    languages = {}
    for lang in sorted(rows):
        own = [row for row in every if row["lang"] == lang]
        prompts = len({row["prompt"] or row["group"] for row in own})
        measured = _measure(kind, own)
        why = dict(left_out[lang].most_common())
        identical = _share_identical(own, why.get(SAME, 0)) if kind == "pairs" else 0.0
        counts = rows[lang], trained[lang], validated[lang], prompts
        languages[lang] = Tally(*counts, why, *measured, identical, overlap.get(lang, 0))
    sources = list(dict.fromkeys(reading.name for reading in readings))
    documents = any(row["prompt"] for row in every)
    notes = [note for reading in readings for note in reading.notes]
    bare = sum(not row["prompt"] for row in every)
    if every and not documents:
        notes.append("the responses have no prompts or documents: a reward model sees them alone")
    elif bare:
        notes.append(f"{bare} of {len(every)} rows have no prompt: a reward model sees their responses alone")
    return DataReport(kind, sources, seed, documents, languages, notes)


def _measure(kind: Kind, rows: Sequence[PairRow]) -> tuple[float | None, float | None]:
    """(longer wins, positive) of one language."""
    if not rows:
        return None, None
    if kind == "ratings":
        ratings = cast(Sequence[RatingRow], rows)
        return None, sum(row["label"] for row in ratings) / len(ratings)
    return longer_wins(rows), None


def _share_identical(pairs: Sequence[PairRow], left_out: int) -> float:
    same = sum(row["chosen"] == row["rejected"] for row in pairs)
    return (same + left_out) / max(1, len(pairs) + left_out)


def longer_wins(pairs: Sequence[PairRow]) -> float:
    """Share of pairs in which the chosen response has more characters; equal lengths count half."""
    gaps = [len(row["chosen"]) - len(row["rejected"]) for row in pairs]
    return sum(0.5 + 0.5 * ((gap > 0) - (gap < 0)) for gap in gaps) / len(gaps)


@dataclass(frozen=True)
class PreferenceData:
    """A folder that `icr rm data` made."""

    kind: Kind
    train: Rows
    validation: Rows
    report: Fields


def load_data(folder: Path, key: str) -> PreferenceData:
    """Read a folder of `icr rm data`.

    Args:
        key: the config key or option that names it, for messages.

    Raises:
        UserError: it is not such a folder.
    """
    do = "make it with icr rm data SOURCE --out FOLDER"
    check_folder(folder, key, f"check the path, or {do}")
    try:
        report = read_object(folder / REPORT)
        train, validation = read_rows(folder / TRAIN), read_rows(folder / VALIDATION)
    except (OSError, ValueError) as error:
        raise UserError("not a folder of preference data", where=f"{key}: {folder}", do=do) from error
    if report.get("kind") not in ("pairs", "ratings"):
        raise UserError("the folder's report does not name a kind of data", where=str(folder / REPORT), do=do)
    return PreferenceData(report["kind"], train, validation, report)
