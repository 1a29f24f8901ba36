"""Parallel prompts: read in any of three forms, joined with English by id, every defect named by file and line."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icr.errors import ConfigError, UserError

MAX_PROBLEMS = 20


@dataclass(frozen=True)
class Prompt:
    """One instruction in one language, beside its English original."""

    id: str
    lang: str
    text: str
    english: str


@dataclass(frozen=True)
class _Row:
    id: str
    lang: str
    text: str
    where: str


def load_prompts(
    path: str, languages: list[str], *, limit: int | None = None, key: str = "prompts.path"
) -> list[Prompt]:
    """The prompts of `languages`, by English order and then by language.

    Args:
        path: a folder of LANG.jsonl (or LANG.json), one jsonl/parquet table with a `lang` column, or a hub data set.
        languages: ISO 639-1 codes; `en` among them.
        limit: keep the first this-many English prompts and their translations.
        key: the config key, for messages.

    Raises:
        ConfigError: all defects at once (the first 20): not UTF-8, not JSON, no id, no instruction, duplicate ids,
            an id without English partner, a language without prompts.
    """
    problems: list[UserError] = []
    by_lang: dict[str, dict[str, _Row]] = {lang: {} for lang in languages}
    for row in _rows(path, languages, key, problems):
        seen = by_lang[row.lang].get(row.id)
        if seen:
            problems.append(
                UserError(
                    f"id {row.id} appears twice",
                    where=f"{row.where} and {seen.where}",
                    do="give every prompt an id of its own",
                )
            )
        else:
            by_lang[row.lang][row.id] = row
    english = by_lang["en"]
    for lang in languages:
        if not by_lang[lang] and not problems:
            problems.append(
                UserError(
                    f"no prompts in {lang}",
                    where=f"{key}: {path}",
                    do=f"add prompts in {lang} or take it out of the languages",
                )
            )
        problems.extend(
            UserError(
                f"id {row.id} has no English partner",
                where=row.where,
                do="add the English prompt with this id, or remove the line",
            )
            for row in by_lang[lang].values()
            if row.id not in english
        )
    if problems:
        raise ConfigError(_capped(problems))
    return [
        Prompt(id, lang, by_lang[lang][id].text, english[id].text)
        for id in list(english)[:limit]
        for lang in languages
        if id in by_lang[lang]
    ]


def _capped(problems: list[UserError]) -> list[UserError]:
    if len(problems) <= MAX_PROBLEMS:
        return problems
    rest = len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], UserError(f"… and {rest} more of the kind")]


def _rows(path: str, languages: list[str], key: str, problems: list[UserError]) -> Iterator[_Row]:
    source = Path(path)
    if source.is_dir():
        for lang in languages:
            file = next((f for f in (source / f"{lang}.jsonl", source / f"{lang}.json") if f.is_file()), None)
            if file is None:
                problems.append(
                    UserError(
                        f"no prompts in {lang}: there is no {lang}.jsonl",
                        where=f"{key}: {path}",
                        do=f"add the file, or take {lang} out of the languages",
                    )
                )
                continue
            for where, value in json_objects(file, problems):
                yield from _row(value, lang, where, problems)
        return
    if source.is_file():
        values = _parquet(source) if source.suffix == ".parquet" else json_objects(source, problems)
    elif path.count("/") == 1 and not path.startswith((".", "/", "~")):
        values = _hub(path, key)
    else:
        raise UserError(
            f"there is no file or folder {path}",
            where=key,
            do="name a folder of LANG.jsonl, a table with a `lang` column, or a hub data set",
        )
    for where, value in values:
        code = value.get("lang") if isinstance(value, dict) else None
        if not isinstance(code, str):
            problems.append(UserError("a prompt without `lang`", where=where, do="add its ISO 639-1 code"))
        elif code in languages:
            yield from _row(value, code, where, problems)


def _row(value: Any, lang: str, where: str, problems: list[UserError]) -> Iterator[_Row]:
    if not isinstance(value, dict):
        problems.append(UserError("not a JSON object", where=where, do='write {"id": …, "instruction": …}'))
        return
    id = value.get("instruction_id", value.get("id"))
    text = value.get("instruction")
    if id is None or id == "":
        problems.append(UserError("a prompt without id", where=where, do="add `id` (or `instruction_id`)"))
    elif not isinstance(text, str):
        problems.append(UserError("a prompt without `instruction`", where=where, do="add its text"))
    elif not text.strip():
        problems.append(UserError(f"the instruction of id {id} is empty", where=where, do="fill it or remove the line"))
    else:
        yield _Row(str(id), lang, text, where)


def json_objects(file: Path, problems: list[UserError]) -> Iterator[tuple[str, Any]]:
    """(place, value) of each JSON line, or of each element of one JSON array."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        at = error.object[: error.start].count(b"\n") + 1
        problems.append(UserError("not UTF-8", where=f"{file}:{at}", do="save the file as UTF-8"))
        return
    if file.suffix == ".json":
        try:
            values = json.loads(text)
        except json.JSONDecodeError as error:
            problems.append(UserError(f"not JSON: {error.msg}", where=f"{file}:{error.lineno}", do="mend the file"))
            return
        yield from ((f"{file}, element {i}", value) for i, value in enumerate(values, 1))
        return
    for number, line in enumerate(text.split("\n"), 1):
        if not line.strip():
            continue
        where = f"{file}:{number}"
        try:
            yield where, json.loads(line)
        except json.JSONDecodeError as error:
            problems.append(UserError(f"not JSON: {error.msg}", where=where, do="write one object a line"))


def _parquet(file: Path) -> Iterator[tuple[str, Any]]:
    import pyarrow.parquet as pq

    yield from ((f"{file}, row {i}", row) for i, row in enumerate(pq.read_table(file).to_pylist(), 1))


def _hub(name: str, key: str) -> Iterator[tuple[str, Any]]:
    import datasets

    try:
        data = datasets.load_dataset(name, split="train")
    except Exception as error:  # datasets raises many kinds; each means that the user cannot have this data set
        raise UserError(
            f"the data set {name} cannot be loaded: {str(error).splitlines()[0]}",
            where=key,
            do="check the name and the network, or name a local folder",
        ) from error
    yield from ((f"{name}, row {i}", dict(row)) for i, row in enumerate(data, 1))
