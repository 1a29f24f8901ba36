"""`icr prompts translate`: English prompts into other languages, every translation checked, none dropped unseen."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.conversation import Conversation, is_plain
from icr.base.errors import UserError
from icr.base.files import read_json, write_json, write_text
from icr.endpoint.endpoint import Ask, NoAnswer
from icr.endpoint.prices import Cost
from icr.endpoint.reply import Reply
from icr.languages import english_name
from prompts.asking import make_ask, read_translation
from prompts.audit import Tally
from prompts.checks import Checked, join_checks
from prompts.load import EnglishPrompts, load_english, load_prompts
from prompts.tables import find_file

REPORT, DROPPED, WORK = "translation_report.json", "translation_dropped.jsonl", "translator"


@dataclass(frozen=True)
class Translation:
    """What the translator made of a prompt, and what is wrong with it."""

    lang: str
    id: str
    english: Conversation
    messages: Conversation
    checked: Checked


class Task:
    """English prompts to be translated into `targets`, in one folder."""

    def __init__(self, source: str, targets: Sequence[str], out: Path, limit: int | None = None) -> None:
        """Reads the source.

        Raises: UserError, ConfigError: an unknown language, a source that is missing or broken, or files in `out` that
            would be overwritten and were not written by this command.
        """
        self.source, self.targets, self.out = source, _targets(targets), out
        self.english: EnglishPrompts = load_english(source, limit=limit)
        self.work = out / WORK
        _refuse_overwriting(self)

    @property
    def asks(self) -> list[Ask]:
        """Every message of every prompt in every language, language by language."""
        return [make_ask(m["content"], "en", lang) for lang, _, prompt in self._keys for m in prompt]

    @property
    def _keys(self) -> list[tuple[str, str, Conversation]]:
        """(language, id, English) of every translation."""
        return [(lang, id, prompt) for lang in self.targets for id, prompt in self.english.prompts.items()]

    def write(self, answers: Sequence[Reply | NoAnswer], translator: str, cost: Cost | None) -> Report:
        """Check the answers to `asks` and write the folder: en.jsonl, LANG.jsonl, what was dropped, and the report.

        `cost`: of all these answers, including those of earlier commands; None for a local model.

        A prompt that is dropped in one language stays in the others and in English: prompts are joined with English,
        not with one another.
        """
        given = iter(answers)
        translations = [_check(lang, id, prompt, [next(given) for _ in prompt]) for lang, id, prompt in self._keys]
        ours = {*claimed(self.out), *self.targets}
        write_english = _english_of(self.out) != self.english.prompts
        if write_english:
            ours.add("en")  # where it is the user's own and already right, it stays theirs
        write_json(self.work / "languages.json", sorted(ours))
        if write_english:
            write_prompts(self.out / "en.jsonl", self.english.prompts)
        tallies: dict[str, Tally] = {lang: Tally() for lang in self.targets}
        for t in translations:
            tallies[t.lang].add(t.checked.findings, t.checked.language_known)
        for lang in self.targets:
            kept = {t.id: t.messages for t in translations if t.lang == lang and not t.checked.findings}
            write_prompts(self.out / f"{lang}.jsonl", kept)
        self._write_dropped([t for t in translations if t.checked.findings])
        report = Report(self, translator, tallies, cost)
        write_json(self.out / REPORT, report.as_json())
        return report

    def _write_dropped(self, dropped: Sequence[Translation]) -> None:
        """Those of languages that are not translated now stay as they were."""
        path = self.out / DROPPED
        lines = path.read_text(encoding="utf-8").split("\n") if path.is_file() else []
        rows = [row for row in map(json.loads, filter(None, lines)) if row["lang"] not in self.targets]
        rows += [
            {
                "lang": t.lang,
                "instruction_id": t.id,
                "reasons": [finding.reason for finding in t.checked.findings],
                "details": [finding.detail for finding in t.checked.findings],
                "english": _write_plainly(t.english),
                "translation": _write_plainly(t.messages),
            }
            for t in dropped
        ]
        write_lines(path, rows)


@dataclass(frozen=True)
class Report:
    task: Task
    translator: str
    tallies: dict[str, Tally]
    cost: Cost | None
    """Of these translations. None for a local model."""

    def as_json(self) -> dict[str, object]:
        path = self.task.out / REPORT
        earlier = read_json(path)["languages"] if path.is_file() else {}
        now = {
            lang: {"name": english_name(lang), "translator": self.translator, **tally.as_json("kept")}
            for lang, tally in self.tallies.items()
        }
        english = self.task.english
        return {
            "source": self.task.source,
            "english": {"prompts": len(english.prompts), "left_out": dict(english.left_out)},
            "languages": {**earlier, **now},
            "cost": self._cost(),
        }

    def _cost(self) -> dict[str, object] | None:
        names = ("calls", "prompt_tokens", "completion_tokens", "usd")
        return None if self.cost is None else {name: getattr(self.cost, name) for name in names}


def claimed(out: Path) -> list[str]:
    """The languages whose files in `out` were written by this command."""
    path = out / WORK / "languages.json"
    return list(read_json(path)) if path.is_file() else []


def _targets(codes: Sequence[str]) -> list[str]:
    targets = list(dict.fromkeys(codes))
    for code in targets:
        english_name(code)
    if not targets or "en" in targets:
        raise UserError("the prompts are already in English" if targets else "no language to translate into",
                        where="--to", do="name other languages, such as --to es,th,sw")  # fmt: skip
    return targets


def _refuse_overwriting(task: Task) -> None:
    """Raise UserError if the user's files, or earlier translations, would be lost."""
    ours = claimed(task.out)
    others = "choose another folder with --out"
    for lang in task.targets:
        file = find_file(task.out, lang)
        if file and lang not in ours:
            raise UserError(f"{file.name} already exists and was not written by this command",
                            where=f"--out: {task.out}", do=f"{others}, or remove {lang} from --to")  # fmt: skip
    before, after = _english_of(task.out), task.english.prompts
    if before is None:
        return
    if before == after:
        _refuse_other_ids(task, others)
        return
    if "en" not in ours:
        raise UserError("the folder already has other English prompts", where=f"--out: {task.out}",
                        do=f"{others}, or use its prompts: --source {task.out}, without --limit")  # fmt: skip
    kept = [lang for lang in ours if lang != "en" and lang not in task.targets and find_file(task.out, lang)]
    if kept and not before.items() <= after.items():
        raise UserError(f"the folder has translations of other English prompts: {', '.join(kept)}",
                        where=f"--out: {task.out}", do=f"{others}, or add these languages to --to")  # fmt: skip


def _refuse_other_ids(task: Task, others: str) -> None:
    """Raise UserError if translations could not be joined with the folder's own English prompts, which stay as they
    are."""
    try:
        ids = {prompt.id for prompt in load_prompts(str(task.out), ["en"], key="--out")}
    except UserError:  # without ids, or under other names than a run reads
        ids = set()
    if not task.english.prompts.keys() <= ids:
        raise UserError("the folder's English prompts need `id` and `instruction` to be joined with translations",
                        where=f"--out: {task.out}", do=others)  # fmt: skip


def _english_of(folder: Path) -> dict[str, Conversation] | None:
    return load_english(str(folder), key="--out").prompts if find_file(folder, "en") else None


def _check(lang: str, id: str, english: Conversation, answers: Sequence[Reply | NoAnswer]) -> Translation:
    """Read the answers to one prompt's messages."""
    turn = not is_plain(english)
    read = [
        read_translation(m["content"], "en", lang, answer, turn=turn)
        for m, answer in zip(english, answers, strict=True)
    ]
    messages: Conversation = [{"role": m["role"], "content": text} for m, (text, _) in zip(english, read, strict=True)]
    return Translation(lang, id, english, messages, join_checks([checked for _, checked in read], english))


def write_prompts(path: Path, prompts: Mapping[str, Conversation]) -> None:
    """A LANG.jsonl."""
    lines = [
        {"instruction" if is_plain(prompt) else "messages": _write_plainly(prompt), "instruction_id": id}
        for id, prompt in prompts.items()
    ]
    write_lines(path, lines)


def _write_plainly(prompt: Conversation) -> str | Conversation:
    """As a line has it: a plain text as text, else the messages."""
    return prompt[0]["content"] if is_plain(prompt) else prompt


def write_lines(path: Path, rows: Sequence[Mapping[str, object]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
