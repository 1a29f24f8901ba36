"""Parallel prompts: read in many forms, joined with English by id, every defect named by file and line."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

from icr.base.conversation import Conversation, dump_conversation
from icr.base.errors import ConfigError, UserError, some
from prompts.hub import is_hub_name, read_hub
from prompts.ids import read_id
from prompts.messages import check_filled, is_blank, name_roles, read_prompt
from prompts.tables import READERS, Rows, capped, find_file, read_file, suffix_of

EACH = "{lang}"
"""In a path or a name on the hub: each language in its own file, config or data set."""


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
        path: a folder of LANG.jsonl (or any form of `prompts.tables`), one such table with a `lang` column, or a data
            set on the hub (`hf:org/name`, see `prompts.hub`); with `{lang}` in it, one for each language.
        languages: ISO 639-1 codes; `en` among them.
        limit: keep the first N English prompts and their translations.
        key: the config key, for messages.
        pivot: the language that every prompt needs a partner in; "": none, and `Prompt.english` is empty.

    Raises:
        ConfigError: all defects at once (the first 20): not UTF-8, not JSON, no id, no instruction, messages that are
            not a conversation, duplicate ids, an id without English partner or with one of other roles, a language
            without prompts.
        UserError: a language has none of the first `limit` prompts; no such file, folder or data set.
    """
    problems: list[UserError] = []
    by_lang: dict[str, dict[str, _Row]] = {lang: {} for lang in languages}
    unread: list[UserError] = []
    for row in _rows(path, languages, key, unread):
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
    problems[:0] = unread
    english = by_lang[pivot] if pivot else {}
    first = sorted(languages, key=lambda lang: lang != "en")
    order = english or {id: row for lang in first for id, row in by_lang[lang].items()}
    for lang in languages:
        if not by_lang[lang] and not problems:
            problems.append(
                UserError(
                    f"no prompts in {lang}",
                    where=f"{key}: {path}",
                    do=f"add prompts in {lang}, or remove it from the languages",
                )
            )
        if pivot and not _concern(unread, path, pivot):  # else a prompt's partner may be among them
            problems.extend(_compare_with_english(by_lang[lang], english))
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


def _concern(unread: Iterable[UserError], path: str, lang: str) -> bool:
    """Whether what could not be read may be prompts in a language: its file is not there, or they are in that file."""
    start = f"{Path(path)}/{lang}." if Path(path).is_dir() else path
    absent = (f"no prompts in {lang}", f"more than one file of {lang}:")
    return any(error.where.startswith(start) or error.what.startswith(absent) for error in unread)


def _compare_with_english(rows: Mapping[str, _Row], english: Mapping[str, _Row]) -> Iterator[UserError]:
    """What is wrong with a language's prompts beside their English."""
    bare = {id.lstrip("0"): id for id in english}
    for row in rows.values():
        if row.id not in english:
            do = "add the English prompt with this id, or remove the line"
            if near := bare.get(row.id.lstrip("0")):
                do = f"English has the id {near}: write it the same way in both"
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

    Beyond `load_prompts` it takes tables without a `lang` column as English, and prompts without an id, which get the
    SHA-256 of their text (as tables hold it) as id. Empty prompts and repeated ones (same id, same text) are left out
    and counted: data sets have some, which users cannot fix.

    Args:
        path: a folder with en.jsonl (or any form of `prompts.tables`), such a file, or a data set on the hub.
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
        id = read_id(value, where) or hashlib.sha256(dump_conversation(messages).encode()).hexdigest()
    except UserError as error:
        problems.append(error)
        return
    if is_blank(messages):
        left_out["empty"] += 1
    elif id not in prompts:
        prompts[id] = messages
    elif prompts[id] == messages:
        left_out["repeated"] += 1
    else:
        problems.append(UserError(f"id {id} has two texts", where=where, do="give every prompt its own id"))


def _english_values(path: str, key: str, problems: list[UserError]) -> Rows:
    if not Path(path).is_dir():
        return read_source(path, key, problems)
    file = find_file(Path(path), "en")
    if file is None:
        raise UserError("the folder has no en.jsonl", where=f"{key}: {path}", do="name a folder of English prompts")
    return read_file(file, problems)


def load_heldout(path: str, languages: list[str], limit: int | None = None) -> list[Prompt]:
    """Prompts that a model is judged on. Where English is not among the languages, they need no English partner.

    Raises:
        ConfigError: as `load_prompts`.
    """
    return load_prompts(path, languages, limit=limit, key="judge.prompts", pivot="en" if "en" in languages else "")


def _rows(path: str, languages: list[str], key: str, problems: list[UserError]) -> Iterator[_Row]:
    folder = Path(path)
    if EACH in path:
        for lang in languages:
            for where, value in read_source(path.replace(EACH, lang), key, problems):
                yield from _row(value, lang, where, problems)
        return
    if folder.is_dir():
        for lang in languages:
            if file := _file_of(folder, lang, key, problems):
                for where, value in read_file(file, problems):
                    yield from _row(value, lang, where, problems)
        return
    for where, value in read_source(path, key, problems):
        code = value.get("lang") if isinstance(value, dict) else None
        if not isinstance(code, str) or not code:
            problems.append(UserError("a prompt without `lang`", where=where, do="add its ISO 639-1 code"))
        elif code in languages:
            yield from _row(value, code, where, problems)


def _file_of(folder: Path, lang: str, key: str, problems: list[UserError]) -> Path | None:
    """A language's file; that there is none, or more than one, goes to `problems`."""
    try:
        file = find_file(folder, lang)
    except UserError as error:
        problems.append(error)
        return None
    if file is None:
        what, do = f"no prompts in {lang}: {lang}.jsonl not found", f"add the file, or remove {lang} from the languages"
        names = [f.name for f in sorted(folder.iterdir()) if suffix_of(f) in READERS]
        if alike := [name for name in names if name.lower().startswith(f"{lang}.")]:
            do = f"rename {alike[0]} to {alike[0].lower()}"
        elif names:
            what += f"; the folder has {some(names)}"
        problems.append(UserError(what, where=f"{key}: {folder}", do=do))
    return file


def read_source(path: str, key: str, problems: list[UserError]) -> Rows:
    """The rows of one file, or of a data set on the hub. What cannot be read of a file goes to `problems`.

    Args:
        key: the config key, for messages.

    Raises:
        UserError: there is no such file; the data set cannot be had.
    """
    if is_hub_name(path):
        return read_hub(path, key)
    source = Path(path)
    if source.is_dir():
        raise UserError(f"file not found: {path} is a folder", where=key, do="name a file in it")
    if not source.is_file():
        what = f"file {path} not found" if suffix_of(source) in READERS else f"folder {path} not found"
        raise UserError(what, where=key, do="check the path; a data set on the hub is written hf:org/name")
    return read_file(source, problems)


def _row(value: object, lang: str, where: str, problems: list[UserError]) -> Iterator[_Row]:
    if not isinstance(value, dict):
        problems.append(UserError("not a JSON object", where=where, do='write {"id": …, "instruction": …}'))
        return
    try:
        id = read_id(value, where)
        if id is None:
            raise UserError("a prompt without id", where=where, do="add `id` (or `instruction_id`)")
        messages = check_filled(read_prompt(value, where), f"id {id}", where)
    except UserError as error:
        problems.append(error)
    else:
        yield _Row(id, lang, messages, where)
