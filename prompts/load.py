"""Parallel prompts: read in any of three forms, joined with English by id, every defect named by file and line."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icr.base.errors import ConfigError, UserError

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
    path: str, languages: list[str], *, limit: int | None = None, key: str = "prompts.path", pivot: str = "en"
) -> list[Prompt]:
    """The prompts of `languages`, by English order and then by language.

    Args:
        path: a folder of LANG.jsonl (or LANG.json), one jsonl/parquet table with a `lang` column, or a hub data set.
        languages: ISO 639-1 codes; `en` among them.
        limit: keep the first this-many English prompts and their translations.
        key: the config key, for messages.
        pivot: the language that every prompt needs a partner in; "": none, and `Prompt.english` is empty.

    Raises:
        ConfigError: all defects at once (the first 20): not UTF-8, not JSON, no id, no instruction, duplicate ids,
            an id without English partner, a language without prompts.
        UserError: a language that has none of the first `limit`.
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
    english = by_lang[pivot] if pivot else {}
    order = english or {id: row for lang in languages for id, row in by_lang[lang].items()}
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
            if pivot and row.id not in english
        )
    if problems:
        raise ConfigError(capped(problems))
    kept = [
        Prompt(id, lang, by_lang[lang][id].text, english[id].text if pivot else "")
        for id in list(order)[:limit]
        for lang in languages
        if id in by_lang[lang]
    ]
    if missing := sorted(set(languages) - {prompt.lang for prompt in kept}):
        raise UserError(
            f"none of the first {limit} prompts is there in {', '.join(missing)}",
            where=f"{key}: {path}",
            do="raise the limit, or take the language out",
        )
    return kept


@dataclass(frozen=True)
class EnglishPrompts:
    """Prompts to translate: id → text, in the source's order, and how many were left out for which reason."""

    texts: dict[str, str]
    left_out: Counter[str]


def load_english(path: str, *, limit: int | None = None, key: str = "--source") -> EnglishPrompts:
    """English prompts alone, as the source of translations.

    Beyond `load_prompts` it takes tables without a `lang` column as English, `prompt` and `prompt_id` as names of the
    columns, and prompts without an id, which get the SHA-256 of their text as id. Empty prompts and repeated ones
    (same id, same text) are left out and counted: data sets have some, and nobody can fix a data set.

    Args:
        path: a folder with en.jsonl, a jsonl or parquet file, or a hub data set (`org/name`, `org/name:split`).
        limit: keep the first this-many prompts; no more are read.

    Raises:
        ConfigError: not UTF-8, not JSON, a prompt that is not text, one id with two texts, or no prompts at all.
        UserError: there is no such source.
    """
    problems: list[UserError] = []
    texts: dict[str, str] = {}
    left_out: Counter[str] = Counter()
    for where, value in _english_values(path, key, problems):
        if len(texts) == limit:
            break
        if not isinstance(value, dict):
            problems.append(UserError("not a JSON object", where=where, do='write {"id": …, "instruction": …}'))
        elif value.get("lang", "en") == "en":
            _add_english(value, where, texts, left_out, problems)
    if not texts and not problems:
        problems.append(UserError("no English prompts", where=f"{key}: {path}", do="name a source that has some"))
    if problems:
        raise ConfigError(capped(problems))
    return EnglishPrompts(texts, left_out)


def _add_english(
    value: dict[str, Any], where: str, texts: dict[str, str], left_out: Counter[str], problems: list[UserError]
) -> None:
    text = value.get("instruction", value.get("prompt"))
    if not isinstance(text, str):
        problems.append(
            UserError("a prompt without text", where=where, do="add `instruction` or `prompt`, as a string")
        )
        return
    given = (value.get(name) for name in ("instruction_id", "id", "prompt_id"))
    id = next((str(v) for v in given if v not in (None, "")), hashlib.sha256(text.encode()).hexdigest())
    if not text.strip():
        left_out["empty"] += 1
    elif id not in texts:
        texts[id] = text
    elif texts[id] == text:
        left_out["repeated"] += 1
    else:
        problems.append(UserError(f"id {id} has two texts", where=where, do="give every prompt an id of its own"))


def _english_values(path: str, key: str, problems: list[UserError]) -> Iterator[tuple[str, Any]]:
    source = Path(path)
    if not source.is_dir():
        return _table(path, key, problems)
    file = language_file(source, "en")
    if file is None:
        raise UserError("the folder has no en.jsonl", where=f"{key}: {path}", do="name a folder of English prompts")
    return json_objects(file, problems)


def language_file(folder: Path, lang: str) -> Path | None:
    """The file of a language in a folder of prompts."""
    return next((f for f in (folder / f"{lang}.jsonl", folder / f"{lang}.json") if f.is_file()), None)


def load_heldout(path: str, languages: list[str], limit: int | None = None) -> list[Prompt]:
    """Prompts that a model is judged on. Where English is not among the languages, they need no English partner.

    Raises:
        ConfigError: as `load_prompts`.
    """
    return load_prompts(path, languages, limit=limit, key="judge.prompts", pivot="en" if "en" in languages else "")


def capped(problems: list[UserError]) -> list[UserError]:
    """The first problems, and how many more there are."""
    if len(problems) <= MAX_PROBLEMS:
        return problems
    rest = len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], UserError(f"… and {rest} more of the kind")]


def _rows(path: str, languages: list[str], key: str, problems: list[UserError]) -> Iterator[_Row]:
    source = Path(path)
    if source.is_dir():
        for lang in languages:
            file = language_file(source, lang)
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
    for where, value in _table(path, key, problems):
        code = value.get("lang") if isinstance(value, dict) else None
        if not isinstance(code, str):
            problems.append(UserError("a prompt without `lang`", where=where, do="add its ISO 639-1 code"))
        elif code in languages:
            yield from _row(value, code, where, problems)


def _table(path: str, key: str, problems: list[UserError]) -> Iterator[tuple[str, Any]]:
    source = Path(path)
    if source.is_file():
        return _parquet(source) if source.suffix == ".parquet" else json_objects(source, problems)
    if path.count("/") == 1 and not path.startswith((".", "/", "~")):
        return _hub(path, key)
    raise UserError(
        f"there is no file or folder {path}",
        where=key,
        do="name a folder of LANG.jsonl, a table with a `lang` column, or a hub data set",
    )


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
            problems.append(UserError(f"not JSON: {error.msg}", where=f"{file}:{error.lineno}", do="fix the file"))
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
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(file).to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"not parquet: {error}", where=str(file), do="write the file anew") from error
    yield from ((f"{file}, row {i}", row) for i, row in enumerate(rows, 1))


def _hub(name: str, key: str) -> Iterator[tuple[str, Any]]:
    """Rows of a hub data set: `org/name`, or `org/name:split` where the split is not called train."""
    import datasets

    repository, _, split = name.partition(":")
    try:
        data = datasets.load_dataset(repository, split=split or "train")
    except Exception as error:  # datasets raises many kinds; each means that the user cannot have this data set
        raise UserError(
            f"the data set {name} cannot be loaded: {str(error).splitlines()[0]}",
            where=key,
            do="check the name and the network, or name a local folder",
        ) from error
    yield from ((f"{name}, row {i}", dict(row)) for i, row in enumerate(data, 1))
