"""A model's answers to MT-Bench's questions: two turns each, sampled in shards, or read from FastChat's files."""

from __future__ import annotations

import hashlib
import json
import re
import shutil
import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pyarrow as pa
import pyarrow.parquet as pq

from eval.mtbench.questions import TEMPERATURES, MtQuestion, Questions, load_questions, read_choices
from icr.base.errors import ConfigError, UserError, some
from icr.base.files import read_rows, write_rows, write_text
from icr.base.progress import Reporter, Silent, Sum
from icr.config.schema import Config
from icr.engines.base import Completion, Decoding, Engine, Request, request_seed
from icr.engines.open import open_engine
from icr.work.shards import Shards

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase


Row = dict[str, Any]
ANSWERS = pa.schema(
    [
        ("question_id", pa.string()),
        ("key", pa.string()),  # what joins a question with its translations
        ("lang", pa.string()),
        ("category", pa.string()),
        ("turn", pa.int32()),  # 1 or 2
        ("prompt", pa.string()),  # of this turn
        ("response", pa.string()),
        ("tokens", pa.int32()),  # null when the answers were given
        ("finish_reason", pa.string()),  # stop, length, NO_ROOM; null when the answers were given
        ("model", pa.string()),
    ]
)
NO_ROOM = "no room"
"""The finish reason of a second answer that the model's context had no room for. It is empty."""
FINGERPRINT = b"icr.fingerprint"
QUESTIONS_A_SHARD = 80
"""At most: one language, so that workers have something to share."""


@dataclass(frozen=True)
class AnswerJob:
    """Everything that decides what is answered."""

    questions: Questions
    folder: Path
    """Takes LANG.parquet, and shards until they are whole."""
    model: str
    chat_template: str | None
    max_tokens: int
    seed: int
    shard_size: int

    @cached_property
    def fingerprint(self) -> str:
        """Answers under another fingerprint are made anew."""
        asked = [[q.id, q.lang, q.category, q.turns] for of_lang in self.questions.values() for q in of_lang]
        parts = [self.model, self.chat_template, self.max_tokens, self.seed, self.shard_size, asked]
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()

    @property
    def shards(self) -> Shards[MtQuestion]:
        every = [q for of_lang in self.questions.values() for q in of_lang]
        size = min(self.shard_size, QUESTIONS_A_SHARD)
        return Shards(self.folder / "shards" / self.fingerprint[:16], every, size)

    @property
    def collected(self) -> bool:
        """Whether all languages' LANG.parquet are there, of these questions and this model."""
        return all(_fingerprint_of(self.folder / f"{lang}.parquet") == self.fingerprint for lang in self.questions)


def answer_job(config: Config, model: str, out: Path) -> AnswerJob:
    """The answers of `model` (a folder or hub id) that `config.judge.mtbench` asks for, in `out`/answers.

    Raises:
        UserError: as `eval.mtbench.questions.load_questions`.
    """
    settings, sampling = config.judge.mtbench, config.sampling
    assert settings is not None
    questions = load_questions(settings, config.prompts.languages)
    template = config.models.chat_template
    return AnswerJob(
        questions, out / "answers", model, template, settings.max_tokens, sampling.seed, sampling.shard_size
    )


def answer(config: Config, model: str, out: Path, reporter: Reporter, index: int = 0, of: int = 1) -> None:
    """Answer the unfinished shards of worker `index` of `of`; `collect_answers` puts them together.

    Raises:
        UserError: a question that is longer than the model's context.
    """
    job = answer_job(config, model, out)
    todo = [] if job.collected else job.shards.of_worker(index, of)
    if not todo:
        return
    from icr.engines.models import context_length, conversation_token_ids, load_tokenizer

    tokenizer = load_tokenizer(model, job.chat_template)
    context = context_length(model)
    longest = 0
    for q in job.shards.items:
        _refuse_too_long(q, len(conversation_token_ids(tokenizer, q.conversation())), context)
        longest = max(longest, len(conversation_token_ids(tokenizer, q.conversation("…"))))
    window = min(context, longest + 2 * job.max_tokens)
    settings = config.sampling
    engine = open_engine(model, settings, max_model_len=window)
    answer_shards(job, todo, engine, tokenizer, window, reporter)


def _refuse_too_long(question: MtQuestion, tokens: int, context: int) -> None:
    if tokens >= context:
        raise UserError(
            f"a question has {tokens} tokens and the model's context is {context}",
            where=f"question {question.id}, language {question.lang}",
            do="judge a model with a longer context, or remove the question",
        )


def answer_shards(
    job: AnswerJob,
    todo: Sequence[int],
    engine: Engine,
    tokenizer: PreTrainedTokenizerBase,
    window: int,
    reporter: Reporter,
) -> None:
    """Answer the shards `todo`, the first turns and then the second, and write each as soon as it is whole.

    Args:
        window: tokens of question and answer together.
    """
    from icr.engines.models import conversation_token_ids

    progress = Sum(reporter, 2 * sum(len(job.shards.part(s)) for s in todo))
    for shard in todo:
        part = job.shards.part(shard)
        rows: list[Row] = []
        said: list[tuple[str, ...]] = [() for _ in part]
        for turn in (1, 2):
            ids = [conversation_token_ids(tokenizer, q.conversation(*s)) for q, s in zip(part, said, strict=True)]
            completions = _complete(job, engine, part, ids, turn, window, progress)
            texts = tokenizer.batch_decode([c.token_ids for c in completions], skip_special_tokens=True)
            for q, completion, text in zip(part, completions, texts, strict=True):
                rows.append(_row(q, turn, text.strip(), completion.finish_reason, "", len(completion.token_ids)))
            said = [(text.strip(),) for text in texts]
        write_rows(job.shards.path(shard), rows, ANSWERS)


def _complete(
    job: AnswerJob,
    engine: Engine,
    part: Sequence[MtQuestion],
    ids: Sequence[list[int]],
    turn: int,
    window: int,
    progress: Sum,
) -> list[Completion]:
    """One turn of a shard: one call for each temperature, and for each shorter room that the window leaves."""
    groups: defaultdict[Decoding, list[int]] = defaultdict(list)
    completions = [Completion([], NO_ROOM) for _ in part]
    for n, question in enumerate(part):
        room = min(job.max_tokens, window - len(ids[n]))
        if room > 0:
            groups[Decoding(TEMPERATURES[question.category], 1.0, room)].append(n)
    for decoding, members in groups.items():
        # the same noise for every model, so that rounds differ by the policy alone
        seeds = [request_seed(job.seed, 0, part[n].lang, part[n].key, turn) for n in members]
        requests = [Request(ids[n], seed) for n, seed in zip(members, seeds, strict=True)]
        for n, completion in zip(members, engine.generate(requests, decoding), strict=True):
            completions[n] = completion
        progress.add(len(members), sum(len(completions[n].token_ids) for n in members))
    progress.add(len(part) - sum(map(len, groups.values())), 0)
    return completions


def _row(q: MtQuestion, turn: int, text: str, finish: str | None, model: str, tokens: int | None = None) -> Row:
    return {"question_id": str(q.id), "key": q.key, "lang": q.lang, "category": q.category, "turn": turn,
            "prompt": q.turns[turn - 1], "response": text, "tokens": tokens, "finish_reason": finish,
            "model": model}  # fmt: skip


def collect_answers(job: AnswerJob, name: str) -> dict[str, int]:
    """Put finished shards together: LANG.parquet (rows of `ANSWERS`), and FastChat's model_answer/LANG/`name`.jsonl.

    Returns how many answers there are, how many were cut off, and for how many there was no room.
    """
    if not job.collected:
        rows = list(job.shards.rows())
        for lang, questions in job.questions.items():
            of_lang = [row | {"model": name} for row in rows if row["lang"] == lang]
            _write_language(job.folder, lang, questions, of_lang, name, job.fingerprint)
    shutil.rmtree(job.folder / "shards", ignore_errors=True)
    every = [row for lang in job.questions for row in read_rows(job.folder / f"{lang}.parquet")]
    finished = [row["finish_reason"] for row in every]
    return {"answers": len(every), "truncated": finished.count("length"), "no_room": finished.count(NO_ROOM)}


def import_answers(questions: Questions, source: Path, out: Path, reporter: Reporter | None = None) -> None:
    """Take answers in FastChat's format in place of sampled ones, into `out`/answers.

    Args:
        source: a folder of LANG.jsonl, or of LANG/MODEL.jsonl with one model.

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
            (reporter or Silent()).note(f"{lang}: {others} answers to questions that are not judged are passed over")
        name = file.stem if file.parent != source else source.resolve().name
        rows = [_row(q, n, given[q.key][n - 1].strip(), None, name) for q in of_lang for n in (1, 2)]
        _write_language(out / "answers", lang, of_lang, rows, name, "given")


def _answer_file(source: Path, lang: str) -> Path:
    found = [f for f in (source / f"{lang}.jsonl",) if f.is_file()] or sorted((source / lang).glob("*.jsonl"))
    if len(found) == 1:
        return found[0]
    what = f"{source / lang} holds the answers of {len(found)} models" if found else f"there are no answers in {lang}"
    raise UserError(what, where=str(source), do=f"put one model's answers in {lang}.jsonl, in FastChat's format")


def _write_language(
    folder: Path, lang: str, questions: Sequence[MtQuestion], rows: list[Row], name: str, fingerprint: str
) -> None:
    """FastChat's file first: LANG.parquet says that both are there."""
    texts = {(row["key"], row["turn"]): row["response"] for row in rows}
    lines = [answer_line(q, (texts[q.key, 1], texts[q.key, 2]), name) for q in questions]
    write_lines(folder.parent / "model_answer" / lang / f"{file_name(name)}.jsonl", lines)
    write_rows(folder / f"{lang}.parquet", rows, ANSWERS.with_metadata({FINGERPRINT: fingerprint.encode()}))


def answer_line(question: MtQuestion, turns: Sequence[str], model: str, id: str = "") -> Row:
    """A line of FastChat's answer and reference files."""
    own = hashlib.sha256(json.dumps([model, question.lang, question.id, list(turns)]).encode()).hexdigest()[:22]
    return {"question_id": question.id, "answer_id": id or own, "model_id": file_name(model),
            "choices": [{"index": 0, "turns": list(turns)}], "tstamp": time.time()}  # fmt: skip


def write_lines(path: Path, lines: Sequence[Row]) -> None:
    write_text(path, "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines))


def file_name(name: str) -> str:
    """A model's name as part of a file's. FastChat takes the file's stem for the model's name, so both are this."""
    return re.sub(r"[^\w.+-]+", "_", name).strip("_.") or "model"


def _fingerprint_of(path: Path) -> str:
    return ((pq.read_schema(path).metadata or {}).get(FINGERPRINT, b"") if path.is_file() else b"").decode()
