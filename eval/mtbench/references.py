"""References for MT-Bench that the judge writes itself, where the files have none. They are written once."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, TypeGuard

import pyarrow as pa

from eval.judges.asking import PATIENT
from eval.judges.open import Examiner
from eval.mtbench.answers import AnswerLine, answer_line, write_lines
from eval.mtbench.questions import BY_JUDGE, MtQuestion, Questions, Reference
from eval.mtbench.writing import WANTED, WriteLocalTask, WriteTask, WrittenRow, next_turn
from icr.base.content import hash_value
from icr.base.conversation import Conversation
from icr.config.schema import Judge as JudgeConfig
from icr.engines.templates import NO_THINKING, Template
from icr.work.pool import Shard
from prompts.tables import read_file

if TYPE_CHECKING:
    from icr.work.machine import Machine

BATCHES = {"local": 16, "openai": 256}
"""Questions a shard: what a kill loses at most. Of an endpoint's answers it loses none, as its cache has them."""


@dataclass(frozen=True)
class Writer:
    """Who writes references, and by which machine."""

    name: str
    """References with another name are written again."""
    task: WriteTask | WriteLocalTask
    batch: int
    machine: Machine

    @classmethod
    def of(
        cls, config: JudgeConfig, models: Mapping[str, str], machine: Machine, cache: Path, date: str | None = None
    ) -> Writer:
        """The judge that a config names, which has MT-Bench's settings.

        Args:
            models: local judges': as the config names them → as a folder or hub id.
            cache: where an endpoint's answers are kept.
            date: YYYY-MM-DD, what a local judge's chat template takes for today.
        """
        config = next(iter(config.each.values()))  # the first of several judges writes
        assert config.mtbench is not None and config.model is not None
        model = models.get(config.local_model or "")
        task: WriteTask | WriteLocalTask
        if model is None:
            task = WriteTask(max_tokens=config.mtbench.max_tokens, examiner=Examiner.of(config, cache))
        else:
            precision = machine.precision("auto")
            template = Template(arguments=NO_THINKING, date=date)
            task = WriteLocalTask(
                max_tokens=config.mtbench.max_tokens, model=model, template=template, precision=precision
            )
        return cls(config.model, task, BATCHES[config.kind], machine)


def complete_references(questions: Questions, writer: Writer, folder: Path) -> Questions:
    """The questions with what `writer` has written where a turn had no reference.

    What is written goes to `folder`/LANG.jsonl in FastChat's reference format, with the turns that were given. Turn 2
    follows the reference of turn 1. A question for which none could be written keeps what it had, a note says so, and
    the next command tries it again.

    Raises:
        UserError: a model that cannot be loaded, or an endpoint that cannot be used.
    """
    kept = {lang: {line["answer_id"]: line for line in _lines(folder / f"{lang}.jsonl")} for lang in questions}
    todo = {lang: [q for q in _needing(of_lang) if _id(q, writer) not in kept[lang]]
            for lang, of_lang in questions.items()}  # fmt: skip
    written = _write(todo, writer, folder / "shards")
    for lang, of_lang in questions.items():
        failed: Counter[str] = Counter()
        for q in todo[lang]:
            row = written[_id(q, writer)]
            if row["why"] is None:
                turns = (row["reference_1"], row["reference_2"])
                kept[lang][row["id"]] = answer_line(q, turns, writer.name, row["id"])
            else:
                failed[row["why"]] += 1
        if todo[lang]:
            every = [_id(q, writer) for q in _needing(of_lang)]
            write_lines(folder / f"{lang}.jsonl", [kept[lang][id] for id in every if id in kept[lang]])
        if failed:
            reasons = ", ".join(f"{why} {count}" for why, count in failed.most_common())
            writer.machine.note(f"{lang}: the judge wrote no reference for {failed.total()} questions ({reasons})")
    shutil.rmtree(folder / "shards", ignore_errors=True)
    return {lang: list(_fill(of_lang, kept[lang], writer)) for lang, of_lang in questions.items()}


def _write(todo: Questions, writer: Writer, folder: Path) -> dict[str, WrittenRow]:
    """By id."""
    shards = [
        shard
        for of_lang in todo.values()
        for start in range(0, len(of_lang), writer.batch)
        for shard in [_shard(of_lang[start : start + writer.batch], writer)]
    ]
    tables, _ = writer.machine.fill(folder, writer.task, shards, "MT-Bench references", PATIENT)
    if shards and writer.task.lane == "scorer":
        writer.machine.pool.stop("scorer")  # the writer's copy of the model goes before the judge's is loaded
    return {row["id"]: row for table in tables for row in table.to_pylist()}


def _shard(questions: Sequence[MtQuestion], writer: Writer) -> Shard:
    """Named by what is in it."""
    rows = [
        {
            "id": _id(q, writer),
            "lang": q.lang,
            **{f"turn_{n}": text for n, text in enumerate(q.turns, 1)},
            **{f"reference_{n}": text for n, text in enumerate(q.reference.turns, 1)},
        }
        for q in questions
    ]
    name = f"{questions[0].lang}-{hash_value([row['id'] for row in rows])[:16]}"
    return Shard(name, pa.Table.from_pylist(rows, schema=WANTED))


def _needing(questions: Sequence[MtQuestion]) -> list[MtQuestion]:
    return [q for q in questions if q.referenced and q.reference.missing]


def incomplete(questions: Questions) -> bool:
    """Whether some question that is graded against a reference lacks one for a turn."""
    return any(q.referenced and q.reference.missing for of_lang in questions.values() for q in of_lang)


def conversations(question: MtQuestion, text: str) -> list[Conversation]:
    """What the judge is asked to write for a question, with `text` in the place of a reference that it writes first."""
    if not (question.referenced and question.reference.missing):
        return []
    first = question.reference.turns[0] or text
    return [next_turn(question.turns, turn, first) for turn in (1, 2) if not question.reference.turns[turn - 1]]


def with_written(question: MtQuestion, text: str) -> MtQuestion:
    """The question as if `text` had been written where a reference is missing."""
    if not (question.referenced and question.reference.missing):
        return question
    first, second = question.reference.turns
    return replace(question, reference=Reference((first or text, second or text), (BY_JUDGE, BY_JUDGE)))


def _fill(questions: Sequence[MtQuestion], lines: Mapping[str, AnswerLine], writer: Writer) -> Iterator[MtQuestion]:
    needing = {q.key for q in _needing(questions)}
    for q in questions:
        line = lines.get(_id(q, writer)) if q.key in needing else None
        yield q if line is None else _filled(q, line)


def _filled(question: MtQuestion, line: AnswerLine) -> MtQuestion:
    first, second = line["choices"][0]["turns"]
    sources = [source or BY_JUDGE for source in question.reference.sources]
    return replace(question, reference=Reference((first, second), (sources[0], sources[1])))


def _id(question: MtQuestion, writer: Writer) -> str:
    """Tells by whom and to what a reference was written."""
    parts = [writer.name, writer.task.max_tokens, question.turns, question.reference.turns]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:22]


def _lines(file: Path) -> list[AnswerLine]:
    """Our files are whole; a damaged one is written again."""
    values = [value for _, value in read_file(file, [])] if file.is_file() else []
    return [value for value in values if _is_line(value)]


def _is_line(value: object) -> TypeGuard[AnswerLine]:
    return isinstance(value, dict) and "answer_id" in value and "choices" in value
