"""`icr prompts check`: compares every prompt of a folder with its English original."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from icr.base.conversation import Conversation, dump_conversation, is_plain
from icr.base.errors import ConfigError, UserError
from icr.base.fields import Fields
from icr.languages import detect, english_name
from prompts.checks import EMPTY, LANGUAGE, Checked, Finding, check_translation, in_english, join_checks
from prompts.ids import read_id
from prompts.messages import name_roles, read_prompt
from prompts.tables import READERS, capped, find_file, read_file, stem_of, suffix_of

REPEATED_ID = "repeated id"
NO_PARTNER = "no English partner"
OTHER_MESSAGES = "other messages"
REPEATED_TEXT = "repeated text"


@dataclass
class Tally:
    """Prompts of one language: how many are fine, and why the others are not, each under its first finding."""

    prompts: int = 0
    fine: int = 0
    undetermined: int = 0
    """Of the fine ones, those whose language is unknown."""
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, findings: list[Finding], language_known: bool) -> None:
        self.prompts += 1
        if findings:
            self.reasons[findings[0].reason] += 1
        else:
            self.fine += 1
            self.undetermined += not language_known

    def as_json(self, fine: str) -> dict[str, object]:
        """`fine` is the name of the prompts without a finding."""
        return {
            "prompts": self.prompts,
            fine: self.fine,
            "undetermined": self.undetermined,
            "reasons": dict(self.reasons),
        }

    @classmethod
    def of_json(cls, raw: Fields, fine: str) -> Tally:
        return cls(raw["prompts"], raw[fine], raw["undetermined"], Counter(raw["reasons"]))


@dataclass(frozen=True)
class Found:
    """A prompt with everything that is wrong with it."""

    lang: str
    id: str
    findings: list[Finding]


@dataclass(frozen=True)
class Audit:
    tallies: dict[str, Tally]
    missing: dict[str, int]
    """Per language: English prompts without a translation. Its other prompts can still be used."""
    found: list[Found]
    passed_over: list[str]
    """Files whose name is not a language code."""

    def as_json(self, folder: Path) -> dict[str, object]:
        return {
            "folder": str(folder),
            "languages": {
                lang: {**tally.as_json("fine"), "missing": self.missing[lang]} for lang, tally in self.tallies.items()
            },
            "findings": [
                {"lang": row.lang, "instruction_id": row.id, "reason": finding.reason, "detail": finding.detail}
                for row in self.found
                for finding in row.findings
            ],
            "passed_over": self.passed_over,
        }


@dataclass(frozen=True)
class _Row:
    id: str
    prompt: Conversation
    where: str


def audit(folder: Path) -> Audit:
    """Check every LANG.jsonl (or any form of `prompts.tables`) of a folder against its en.jsonl.

    Raises:
        UserError: no folder, or no English prompts in it.
        ConfigError: files that are not UTF-8 or not JSON, and prompts without id, or without a text or messages that
            are a conversation, all at once.
    """
    if not folder.is_dir():
        raise UserError(f"folder {folder} not found", do="name a folder of LANG.jsonl files")
    if find_file(folder, "en") is None:
        raise UserError(
            "the folder has no en.jsonl", where=str(folder), do="add it: prompts are checked against the English ones"
        )
    languages, passed_over = find_languages(folder)
    problems: list[UserError] = []
    rows = {lang: list(_rows(folder, lang, problems)) for lang in languages}
    if problems:
        raise ConfigError(capped(problems))
    english: dict[str, Conversation] = {}
    for row in rows["en"]:
        english.setdefault(row.id, row.prompt)
    tallies, found = {}, []
    for lang in languages:
        tallies[lang], of_language = _audit_language(lang, rows[lang], english)
        found += of_language
    missing = {lang: len(english.keys() - {row.id for row in rows[lang]}) for lang in languages}
    return Audit(tallies, missing, found, passed_over)


def find_languages(folder: Path) -> tuple[list[str], list[str]]:
    """Codes of the files, English first, and the names of other files."""
    languages, passed_over = ["en"], []
    for file in sorted(folder.iterdir()):
        stem = stem_of(file)
        if not file.is_file() or suffix_of(file) not in READERS or stem == "en":
            continue
        try:
            english_name(stem)
        except UserError:
            passed_over.append(file.name)
        else:
            languages += [stem] if stem not in languages else []
    return languages, passed_over


def _rows(folder: Path, lang: str, problems: list[UserError]) -> Iterator[_Row]:
    """The prompts of a language. Unlike `load_prompts`, empty texts pass: they are for the checks to find."""
    file = find_file(folder, lang)
    assert file is not None
    for where, value in read_file(file, problems):
        fields = value if isinstance(value, dict) else {}
        try:
            id = read_id(fields, where)
            if id is None:
                raise UserError("the row has no id", where=where, do='write {"id": …, "instruction": …}')
            yield _Row(id, read_prompt(fields, where), where)
        except UserError as error:
            problems.append(error)


def _audit_language(lang: str, rows: list[_Row], english: Mapping[str, Conversation]) -> tuple[Tally, list[Found]]:
    tally, found = Tally(), []
    by_id: dict[str, str] = {}
    by_text: dict[str, str] = {}
    for row in rows:
        findings, known = _findings(lang, row, english.get(row.id))
        if row.id in by_id:
            findings.insert(0, Finding(REPEATED_ID, f"{row.where} and {by_id[row.id]}"))
        elif (text := dump_conversation(row.prompt)).strip() and text in by_text:
            findings.append(Finding(REPEATED_TEXT, f"the same text as {by_text[text]}"))
        by_id.setdefault(row.id, row.where)
        by_text.setdefault(dump_conversation(row.prompt), row.id)
        tally.add(findings, known)
        if findings:
            found.append(Found(lang, row.id, findings))
    return tally, found


def _findings(lang: str, row: _Row, english: Conversation | None) -> tuple[list[Finding], bool]:
    if english is None:
        return [Finding(NO_PARTNER, row.where)], False
    if (here := name_roles(row.prompt)) != (there := name_roles(english)):
        return [Finding(OTHER_MESSAGES, f"{here} for {there} in English")], False
    turn = not is_plain(english)
    parts = [
        _check_english(message["content"], row.where)
        if lang == "en"
        else check_translation(original["content"], message["content"], lang, turn=turn)
        for message, original in zip(row.prompt, english, strict=True)
    ]
    checked = join_checks(parts, row.prompt)
    return checked.findings, checked.language_known


def _check_english(text: str, where: str) -> Checked:
    if not text.strip():
        return Checked([Finding(EMPTY, where)], language_known=False)
    if in_english(text):
        return Checked([], language_known=True)
    return Checked([Finding(LANGUAGE, f"mostly in {detect(text)!r}")], language_known=True)
