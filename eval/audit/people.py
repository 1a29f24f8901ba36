"""People's labels of some prompts: a csv, or another form of `prompts.tables`."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path

from eval.audit.verdicts import Judged
from icr.base.errors import UserError, some
from prompts.ids import normalise_id, read_id
from prompts.tables import raise_all, read_file

WORDS = {"model": 1.0, "baseline": 0.0, "tie": 0.5, "draw": 0.5}
"""What a `label` may be."""
FORM = "write id (or index, from 0), lang, and preference (0 to 1, of the model) or label (model, baseline, tie)"
Labels = dict[str, dict[str, float]]
"""Language → prompt id → people's preference of the model, 0 to 1: the mean, where several labelled it."""


def read_labels(path: Path, languages: Mapping[str, Sequence[Judged]]) -> Labels:
    """People's labels of prompts of an evaluation.

    Args:
        languages: of the evaluation. A row without `lang` is of its only language; `index` is a prompt's number in the
            answers of its language, from 0.

    Raises:
        UserError, ConfigError: a file that cannot be read, rows that are no labels, prompts that were not judged.
    """
    if not path.is_file():
        raise UserError("file not found", where=f"--human {path}", do=FORM)
    problems: list[UserError] = []
    found: dict[str, defaultdict[str, list[float]]] = {lang: defaultdict(list) for lang in languages}
    for where, row in read_file(path, problems):
        try:
            lang, id, value = _read_row(row, where, languages)
            found[lang][id].append(value)
        except UserError as error:
            problems.append(error)
    raise_all(problems)
    labels = {lang: {id: sum(of) / len(of) for id, of in ids.items()} for lang, ids in found.items() if ids}
    if not labels:
        raise UserError("the file has no label", where=str(path), do=FORM)
    return labels


def _read_row(row: object, where: str, languages: Mapping[str, Sequence[Judged]]) -> tuple[str, str, float]:
    """(language, prompt id, preference). Raises UserError."""
    if not isinstance(row, dict):
        raise UserError("not a row with columns", where=where, do=FORM)
    lang = str(row.get("lang") or "").strip() or (next(iter(languages)) if len(languages) == 1 else "")
    if lang not in languages:
        what = f"{lang} was not judged" if lang else "the row has no lang"
        raise UserError(what, where=where, do=f"the languages are {', '.join(languages)}")
    id = read_id(row, where) or _at(normalise_id(row.get("index"), where), languages[lang], where)
    if id not in {item.id for item in languages[lang]}:
        raise UserError(f"prompt {id} was not judged in {lang}", where=where, do="label prompts of this evaluation")
    return lang, id, _preference(row, where)


def _at(index: str | None, items: Sequence[Judged], where: str) -> str:
    """The id of the prompt with that number."""
    if index is None:
        raise UserError("the row has neither id nor index", where=where, do=FORM)
    if not index.isdecimal() or int(index) >= len(items):
        raise UserError(
            f"no prompt has the index {index}", where=where, do=f"write a number from 0 to {len(items) - 1}"
        )
    return items[int(index)].id


def _preference(row: Mapping[str, object], where: str) -> float:
    given = [name for name in ("preference", "label") if str(row.get(name) or "").strip() or row.get(name) == 0]
    if len(given) != 1:
        what = "both preference and label are given" if given else "neither preference nor label is given"
        raise UserError(what, where=where, do=FORM)
    text = str(row[given[0]]).strip()
    if given == ["label"]:
        if text.lower() not in WORDS:
            raise UserError(f"unknown label {some([text])}", where=where, do=f"write one of {', '.join(WORDS)}")
        return WORDS[text.lower()]
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not 0 <= value <= 1:
        raise UserError(f"preference {some([text])} is not a number from 0 to 1", where=where, do=FORM)
    return value
