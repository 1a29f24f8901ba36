"""`icr prompts check`: a folder of parallel prompts, every prompt compared with its English."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from icr.base.errors import ConfigError, UserError
from icr.languages import detect, english_name
from prompts.checks import EMPTY, LANGUAGE, Finding, check_translation, in_english
from prompts.load import capped, json_objects, language_file

REPEATED_ID = "repeated id"
NO_PARTNER = "no English partner"
REPEATED_TEXT = "repeated text"


@dataclass
class Tally:
    """Prompts of one language: how many are fine, and why the others are not, each under its first finding."""

    prompts: int = 0
    fine: int = 0
    undetermined: int = 0
    """Of the fine ones, those whose language could not be told."""
    reasons: Counter[str] = field(default_factory=Counter)

    def add(self, findings: list[Finding], language_told: bool) -> None:
        self.prompts += 1
        if findings:
            self.reasons[findings[0].reason] += 1
        else:
            self.fine += 1
            self.undetermined += not language_told

    def as_json(self, fine: str) -> dict[str, Any]:
        """`fine` names what becomes of prompts without a finding."""
        return {
            "prompts": self.prompts,
            fine: self.fine,
            "undetermined": self.undetermined,
            "reasons": dict(self.reasons),
        }

    @classmethod
    def of_json(cls, raw: dict[str, Any], fine: str) -> Tally:
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
    """Per language: English prompts that it has no translation of. Its other prompts can be used all the same."""
    found: list[Found]
    passed_over: list[str]
    """Files whose name is no language's code."""

    def as_json(self, folder: Path) -> dict[str, Any]:
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
    text: str
    where: str


def audit(folder: Path) -> Audit:
    """Check every LANG.jsonl (or LANG.json) of a folder against its en.jsonl.

    Raises:
        UserError: no folder, or no English prompts in it.
        ConfigError: files that are not UTF-8 or not JSON, and prompts without id or text, all at once.
    """
    if not folder.is_dir():
        raise UserError(f"there is no folder {folder}", do="name a folder of LANG.jsonl files")
    if language_file(folder, "en") is None:
        raise UserError("the folder has no en.jsonl", where=str(folder), do="prompts are checked against their English")
    languages, passed_over = _languages(folder)
    problems: list[UserError] = []
    rows = {lang: list(_rows(folder, lang, problems)) for lang in languages}
    if problems:
        raise ConfigError(capped(problems))
    english: dict[str, str] = {}
    for row in rows["en"]:
        english.setdefault(row.id, row.text)
    tallies, found = {}, []
    for lang in languages:
        tallies[lang], of_language = _audit_language(lang, rows[lang], english)
        found += of_language
    missing = {lang: len(english.keys() - {row.id for row in rows[lang]}) for lang in languages}
    return Audit(tallies, missing, found, passed_over)


def _languages(folder: Path) -> tuple[list[str], list[str]]:
    """Codes of the files, English first, and the names of other files."""
    languages, passed_over = ["en"], []
    for file in sorted(folder.iterdir()):
        if not file.is_file() or file.suffix not in (".jsonl", ".json") or file.stem == "en":
            continue
        try:
            english_name(file.stem)
        except UserError:
            passed_over.append(file.name)
        else:
            languages += [file.stem] if file.stem not in languages else []
    return languages, passed_over


def _rows(folder: Path, lang: str, problems: list[UserError]) -> Iterator[_Row]:
    """The prompts of a language. Unlike `load_prompts`, empty texts pass: they are for the checks to find."""
    file = language_file(folder, lang)
    assert file is not None
    for where, value in json_objects(file, problems):
        fields: dict[str, Any] = value if isinstance(value, dict) else {}
        id, text = fields.get("instruction_id", fields.get("id")), fields.get("instruction")
        if id in (None, "") or not isinstance(text, str):
            problems.append(UserError("no prompt", where=where, do='write {"id": …, "instruction": …}'))
        else:
            yield _Row(str(id), text, where)


def _audit_language(lang: str, rows: list[_Row], english: Mapping[str, str]) -> tuple[Tally, list[Found]]:
    tally, found = Tally(), []
    by_id: dict[str, str] = {}
    by_text: dict[str, str] = {}
    for row in rows:
        findings, told = _findings(lang, row, english.get(row.id))
        if row.id in by_id:
            findings.insert(0, Finding(REPEATED_ID, f"{row.where} and {by_id[row.id]}"))
        elif row.text.strip() and row.text in by_text:
            findings.append(Finding(REPEATED_TEXT, f"the same as {by_text[row.text]}"))
        by_id.setdefault(row.id, row.where)
        by_text.setdefault(row.text, row.id)
        tally.add(findings, told)
        if findings:
            found.append(Found(lang, row.id, findings))
    return tally, found


def _findings(lang: str, row: _Row, english: str | None) -> tuple[list[Finding], bool]:
    if english is None:
        return [Finding(NO_PARTNER, row.where)], False
    if lang != "en":
        checked = check_translation(english, row.text, lang)
        return checked.findings, checked.language_told
    if not row.text.strip():
        return [Finding(EMPTY, row.where)], False
    if in_english(row.text):
        return [], True
    return [Finding(LANGUAGE, f"mostly in {detect(row.text)!r}")], True
