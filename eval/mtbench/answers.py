"""A model's answers to MT-Bench's questions: two turns each, sampled in shards, or read from FastChat's files."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

import pyarrow as pa
import pyarrow.parquet as pq

from eval.mtbench.questions import MtQuestion, Questions, read_choices
from eval.mtbench.sampling import NO_ROOM, QUESTIONS, AnswerTask
from eval.notes import Notes
from icr.base.errors import ConfigError, UserError, some
from icr.base.files import read_rows, write_rows, write_text
from icr.base.progress import Silent
from icr.rows import make_schema
from icr.work.sampling import bound_tokens
from icr.work.shards import cut_table
from prompts.tables import ROWS, find_file, stem_of

if TYPE_CHECKING:
    from icr.work.machine import Machine


class TurnAnswer(TypedDict):
    """A model's answer at one turn: answers/LANG.parquet."""

    question_id: str
    key: str
    """What joins a question with its translations."""
    lang: str
    category: str
    turn: int
    """1 or 2."""
    prompt: str
    """Of this turn."""
    response: str
    tokens: int | None
    """None when the answers were given."""
    finish_reason: str | None
    """stop, length, NO_ROOM; None when the answers were given."""
    model: str


ANSWERS = make_schema(TurnAnswer)
FINGERPRINT = b"icr.fingerprint"
QUESTIONS_A_SHARD = 80
"""At most: one language, so that workers have something to share."""


def answer(
    machine: Machine, task: AnswerTask, questions: Questions, out: Path, *, key: str, name: str, shard_size: int
) -> dict[str, int]:
    """Have a model answer: `out`/answers/LANG.parquet, rows of `ANSWERS`, and FastChat's file of each language.

    Args:
        key: of all that answers depend on. Those of another key are not taken over, neither whole nor in shards.
        name: the model's, as files name it.
        shard_size: questions a shard, which on a CPU decides what is batched together.

    Returns:
        How many answers there are, how many were cut off, and for how many there was no room.

    Raises:
        UserError: a question that is longer than the model's context.
    """
    folder = out / "answers"
    if any(_fingerprint_of(folder / f"{lang}.parquet") != key for lang in questions):
        shards = cut_table(_tabulate(questions), min(shard_size, QUESTIONS_A_SHARD), each=2)
        tables, _ = machine.fill(folder / "shards" / key[:16], task, shards, "MT-Bench answers")
        turns = {(row["lang"], row["key"], row["turn"]): row for table in tables for row in table.to_pylist()}
        for lang, of_lang in questions.items():
            found = [(q, n, turns[lang, q.key, n]) for n in (1, 2) for q in of_lang]
            rows = [_row(q, n, t["response"], t["finish_reason"], name, t["tokens"]) for q, n, t in found]
            _write_language(folder, lang, of_lang, rows, name, key)
    shutil.rmtree(folder / "shards", ignore_errors=True)
    finished = [row["finish_reason"] for lang in questions for row in read_rows(folder / f"{lang}.parquet")]
    return {
        "answers": len(finished),
        "truncated": finished.count("length"),
        "no_room": finished.count(NO_ROOM),
    }


def _tabulate(questions: Questions) -> pa.Table:
    rows = [
        {
            "question_id": str(q.id),
            "key": q.key,
            "lang": q.lang,
            "category": q.category,
            "turn_1": q.turns[0],
            "turn_2": q.turns[1],
        }
        for of_lang in questions.values()
        for q in of_lang
    ]
    return pa.Table.from_pylist(rows, schema=QUESTIONS)


def bound_conversation(questions: Questions, max_tokens: int) -> int:
    """No conversation with two answers has more tokens."""
    texts = ["\n".join(q.turns) for of_lang in questions.values() for q in of_lang]
    return 2 * bound_tokens(texts) + 2 * max_tokens


def _row(q: MtQuestion, turn: int, text: str, finish: str | None, model: str, tokens: int | None = None) -> TurnAnswer:
    return {"question_id": str(q.id), "key": q.key, "lang": q.lang, "category": q.category, "turn": turn,
            "prompt": q.turns[turn - 1], "response": text, "tokens": tokens, "finish_reason": finish,
            "model": model}  # fmt: skip


def import_answers(questions: Questions, source: Path, out: Path, reporter: Notes | None = None) -> None:
    """Take answers in FastChat's format in place of sampled ones, into `out`/answers.

    Args:
        source: a folder of LANG.jsonl (or any form of `prompts.tables`), or of LANG/MODEL.jsonl with one model.

    Raises:
        UserError: a language or question that the answers do not cover, an id twice, lines of another form.
    """
    for lang, of_lang in questions.items():
        file = _answer_file(source, lang)
        problems: list[UserError] = []
        given = read_choices(file, problems)
        missing = [str(q.id) for q in of_lang if q.key not in given]
        if missing and not problems:
            what = f"no answers to {len(missing)} of {len(of_lang)} questions in {lang}: {some(missing)}"
            do = "add them, or judge fewer questions (judge.mtbench.limit)"
            problems.append(UserError(what, where=str(file), do=do))
        if problems:
            raise ConfigError(problems)
        others = len(given) - len(of_lang)
        if others:
            (reporter or Silent()).note(f"{lang}: {others} answers to questions that are not judged are skipped")
        name = stem_of(file) if file.parent != source else source.resolve().name
        rows = [_row(q, n, given[q.key][n - 1].strip(), None, name) for q in of_lang for n in (1, 2)]
        _write_language(out / "answers", lang, of_lang, rows, name, "given")


def _answer_file(source: Path, lang: str) -> Path:
    own = find_file(source, lang, ROWS)
    found = [own] if own else sorted((source / lang).glob("*.jsonl"))
    if len(found) == 1:
        return found[0]
    what = f"{source / lang} has the answers of {len(found)} models" if found else f"no answers in {lang} found"
    raise UserError(what, where=str(source), do=f"put one model's answers in {lang}.jsonl, in FastChat's format")


def _write_language(
    folder: Path, lang: str, questions: Sequence[MtQuestion], rows: list[TurnAnswer], name: str, fingerprint: str
) -> None:
    """FastChat's file first: LANG.parquet says that both are there."""
    texts = {(row["key"], row["turn"]): row["response"] for row in rows}
    lines = [answer_line(q, (texts[q.key, 1], texts[q.key, 2]), name) for q in questions]
    write_lines(folder.parent / "model_answer" / lang / f"{file_name(name)}.jsonl", lines)
    write_rows(folder / f"{lang}.parquet", rows, ANSWERS.with_metadata({FINGERPRINT: fingerprint.encode()}))


class Choice(TypedDict):
    """One of the answers to a question, in FastChat's files; ours have one."""

    index: int
    turns: list[str]


class AnswerLine(TypedDict):
    """A line of FastChat's answer and reference files."""

    question_id: int | str
    answer_id: str
    model_id: str
    choices: list[Choice]
    tstamp: float


def answer_line(question: MtQuestion, turns: Sequence[str], model: str, id: str = "") -> AnswerLine:
    """A line of FastChat's answer and reference files."""
    own = hashlib.sha256(json.dumps([model, question.lang, question.id, list(turns)]).encode()).hexdigest()[:22]
    return {"question_id": question.id, "answer_id": id or own, "model_id": file_name(model),
            "choices": [{"index": 0, "turns": list(turns)}], "tstamp": time.time()}  # fmt: skip


def write_lines(path: Path, lines: Sequence[Mapping[str, object]]) -> None:
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def file_name(name: str) -> str:
    """A model's name as part of a file's. FastChat takes the file's stem for the model's name, so both are this."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_.") or "model"


def _fingerprint_of(path: Path) -> str:
    return ((pq.read_schema(path).metadata or {}).get(FINGERPRINT, b"") if path.is_file() else b"").decode()
