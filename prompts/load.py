"""Parallel prompts: read in any of three forms, joined with English by id, every defect named by file and line."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icr.base.conversation import Conversation, dump_conversation
from icr.base.errors import ConfigError, UserError
from prompts.messages import check_filled, is_blank, name_roles, read_prompt

MAX_PROBLEMS = 20


@dataclass(frozen=True)
class Prompt:
    """One conversation in one language, beside its English original; a plain instruction is one of one message."""

    id: str
    lang: str
    messages: Conversation
    english: Conversation

    @property
    def text(self) -> str:
        """As tables hold it: an instruction as it is, a longer conversation as JSON."""
        return dump_conversation(self.messages)


@dataclass(frozen=True)
class _Row:
    id: str
    lang: str
    messages: Conversation
    where: str


def load_prompts(
    path: str, languages: list[str], *, limit: int | None = None, key: str = "prompts.path", pivot: str = "en"
) -> list[Prompt]:
    """The prompts of `languages`, by English order and then by language.

    Args:
        path: a folder of LANG.jsonl (or LANG.json), one jsonl/parquet table with a `lang` column, or a hub data set.
        languages: ISO 639-1 codes; `en` among them.
        limit: keep the first N English prompts and their translations.
        key: the config key, for messages.
        pivot: the language that every prompt needs a partner in; "": none, and `Prompt.english` is empty.

    Raises:
        ConfigError: all defects at once (the first 20): not UTF-8, not JSON, no id, no instruction, messages that are
            not a conversation, duplicate ids, an id without English partner or with one of other roles, a language
            without prompts.
        UserError: a language has none of the first `limit` prompts.
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
                    do="give every prompt its own id",
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
                    do=f"add prompts in {lang}, or remove it from the languages",
                )
            )
        problems.extend(_compare_with_english(by_lang[lang], english) if pivot else ())
    if problems:
        raise ConfigError(capped(problems))
    kept = [
        Prompt(id, lang, by_lang[lang][id].messages, english[id].messages if pivot else [])
        for id in list(order)[:limit]
        for lang in languages
        if id in by_lang[lang]
    ]
    if missing := sorted(set(languages) - {prompt.lang for prompt in kept}):
        raise UserError(
            f"none of the first {limit} prompts exists in {', '.join(missing)}",
            where=f"{key}: {path}",
            do="raise the limit, or remove the language",
        )
    return kept


def _compare_with_english(rows: Mapping[str, _Row], english: Mapping[str, _Row]) -> Iterator[UserError]:
    """What is wrong with a language's prompts beside their English."""
    for row in rows.values():
        if row.id not in english:
            do = "add the English prompt with this id, or remove the line"
            yield UserError(f"id {row.id} has no English partner", where=row.where, do=do)
        elif (here := name_roles(row.messages)) != (there := name_roles(english[row.id].messages)):
            what = f"id {row.id} has the messages {here}, and its English partner {there}"
            do = "give both the same messages in the same order"
            yield UserError(what, where=f"{row.where} and {english[row.id].where}", do=do)


@dataclass(frozen=True)
class EnglishPrompts:
    """Prompts to translate by id, in the source's order, and how many were left out for which reason."""

    prompts: dict[str, Conversation]
    left_out: Counter[str]


def load_english(path: str, *, limit: int | None = None, key: str = "--source") -> EnglishPrompts:
    """English prompts alone, as the source of translations.

    Beyond `load_prompts` it takes tables without a `lang` column as English, `prompt` and `prompt_id` as names of the
    columns, and prompts without an id, which get the SHA-256 of their text (as tables hold it) as id. Empty prompts
    and repeated ones (same id, same text) are left out and counted: data sets have some, which users cannot fix.

    Args:
        path: a folder with en.jsonl, a jsonl or parquet file, or a hub data set (`org/name`, `org/name:split`).
        limit: keep the first N prompts; no more are read.

    Raises:
        ConfigError: not UTF-8, not JSON, a prompt that is no text and no conversation, one id with two texts, or no
            prompts at all.
        UserError: the source is not found.
    """
    problems: list[UserError] = []
    prompts: dict[str, Conversation] = {}
    left_out: Counter[str] = Counter()
    for where, value in _english_values(path, key, problems):
        if len(prompts) == limit:
            break
        if not isinstance(value, dict):
            problems.append(UserError("not a JSON object", where=where, do='write {"id": …, "instruction": …}'))
        elif value.get("lang", "en") == "en":
            _add_english(value, where, prompts, left_out, problems)
    if not prompts and not problems:
        problems.append(UserError("no English prompts", where=f"{key}: {path}", do="name a source of English prompts"))
    if problems:
        raise ConfigError(capped(problems))
    return EnglishPrompts(prompts, left_out)


def _add_english(
    value: Mapping[str, object],
    where: str,
    prompts: dict[str, Conversation],
    left_out: Counter[str],
    problems: list[UserError],
) -> None:
    try:
        messages = read_prompt(value, where)
    except UserError as error:
        problems.append(error)
        return
    given = (value.get(name) for name in ("instruction_id", "id", "prompt_id"))
    of_text = hashlib.sha256(dump_conversation(messages).encode()).hexdigest()
    id = next((str(v) for v in given if v not in (None, "")), of_text)
    if is_blank(messages):
        left_out["empty"] += 1
    elif id not in prompts:
        prompts[id] = messages
    elif prompts[id] == messages:
        left_out["repeated"] += 1
    else:
        problems.append(UserError(f"id {id} has two texts", where=where, do="give every prompt its own id"))


def _english_values(path: str, key: str, problems: list[UserError]) -> Iterator[tuple[str, object]]:
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
    return [*problems[:MAX_PROBLEMS], UserError(f"… and {rest} more such problems")]


def _rows(path: str, languages: list[str], key: str, problems: list[UserError]) -> Iterator[_Row]:
    source = Path(path)
    if source.is_dir():
        for lang in languages:
            file = language_file(source, lang)
            if file is None:
                problems.append(
                    UserError(
                        f"no prompts in {lang}: {lang}.jsonl not found",
                        where=f"{key}: {path}",
                        do=f"add the file, or remove {lang} from the languages",
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


def _table(path: str, key: str, problems: list[UserError]) -> Iterator[tuple[str, object]]:
    source = Path(path)
    if source.is_file():
        return _parquet(source) if source.suffix == ".parquet" else json_objects(source, problems)
    if path.count("/") == 1 and not path.startswith((".", "/", "~")):
        return _hub(path, key)
    raise UserError(
        f"file or folder {path} not found",
        where=key,
        do="name a folder of LANG.jsonl, a table with a `lang` column, or a hub data set",
    )


def _row(value: object, lang: str, where: str, problems: list[UserError]) -> Iterator[_Row]:
    if not isinstance(value, dict):
        problems.append(UserError("not a JSON object", where=where, do='write {"id": …, "instruction": …}'))
        return
    id = value.get("instruction_id", value.get("id"))
    if id is None or id == "":
        problems.append(UserError("a prompt without id", where=where, do="add `id` (or `instruction_id`)"))
        return
    try:
        messages = check_filled(read_prompt(value, where), f"id {id}", where)
    except UserError as error:
        problems.append(error)
    else:
        yield _Row(str(id), lang, messages, where)


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


def _parquet(file: Path) -> Iterator[tuple[str, object]]:
    import pyarrow as pa
    import pyarrow.parquet as pq

    try:
        rows = pq.read_table(file).to_pylist()
    except pa.ArrowInvalid as error:
        raise UserError(f"not a parquet file: {error}", where=str(file), do="write the file again") from error
    yield from ((f"{file}, row {i}", row) for i, row in enumerate(rows, 1))


def _hub(name: str, key: str) -> Iterator[tuple[str, object]]:
    """Rows of a hub data set: `org/name`, or `org/name:split` where the split is not called train."""
    import datasets

    repository, _, split = name.partition(":")
    try:
        data = datasets.load_dataset(repository, split=split or "train")
    except Exception as error:  # datasets raises many kinds; each means that the user cannot have this data set
        raise UserError(
            f"the data set {name} cannot be loaded: {str(error).splitlines()[0]}",
            where=key,
            do="check the name and the network, or use a local folder",
        ) from error
    yield from ((f"{name}, row {i}", dict(row)) for i, row in enumerate(data, 1))
