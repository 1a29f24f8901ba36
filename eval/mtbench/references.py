"""References for MT-Bench that the judge writes itself, where the files have none. They are written once."""

from __future__ import annotations

import hashlib
import json
from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

from eval.mtbench.answers import answer_line, write_lines
from eval.mtbench.questions import BY_JUDGE, MtQuestion, Questions, Reference
from icr.base.progress import Reporter
from icr.engines.base import Decoding, Engine, Request
from prompts.load import json_objects

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr.endpoint.endpoint import Endpoint


Conversation = Sequence[tuple[str, str]]
"""(role, text) up to the turn that is to be answered."""
Written = tuple[str, str | None]
"""A text, or "" and why there is none."""


class Writer(Protocol):
    name: str
    """References by another name are written anew."""
    batch: int
    """Questions at a time: what a kill loses at most."""

    def write(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Written]:
        """The next turn of each, at temperature 0."""


class EndpointWriter:
    """Writes through chat completions. A kill loses nothing: the endpoint's cache has every answer."""

    batch = 256

    def __init__(self, endpoint: Endpoint) -> None:
        self.name = endpoint.model
        self._endpoint = endpoint

    def write(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Written]:
        """Raises UserError when the endpoint cannot be used at all."""
        from icr.endpoint.endpoint import Ask, NoAnswer

        written: list[Written] = []
        for reply in self._endpoint.ask([Ask(tuple(c), max_tokens) for c in conversations], lambda more: None):
            if isinstance(reply, NoAnswer):
                written.append(("", reply.reason))
                continue
            message = reply.choices[0].message
            text = (message.content or "").strip()
            written.append(("", "refused") if message.refusal else (text, None if text else "empty answer"))
        return written


class LocalWriter:
    """Writes greedily with transformers. The model is loaded when it is first needed."""

    batch = 16

    def __init__(self, folder: str, name: str) -> None:
        self.name = name
        self._folder = folder
        self._loaded: tuple[Engine, PreTrainedTokenizerBase, int] | None = None

    def write(self, conversations: Sequence[Conversation], max_tokens: int) -> list[Written]:
        """Raises UserError when the model cannot be loaded."""
        from icr.engines.models import conversation_token_ids

        engine, tokenizer, context = self._load()
        ids = [conversation_token_ids(tokenizer, c) for c in conversations]
        fitting = [n for n, own in enumerate(ids) if len(own) + max_tokens <= context]
        requests = [Request(ids[n], 0) for n in fitting]
        completions = engine.generate(requests, Decoding(0.0, 1.0, max_tokens)) if requests else []
        written: list[Written] = [("", "longer than the judge's context")] * len(ids)
        for n, completion in zip(fitting, completions, strict=True):
            text = str(tokenizer.decode(completion.token_ids, skip_special_tokens=True)).strip()
            written[n] = (text, None if text else "empty answer")
        return written

    def _load(self) -> tuple[Engine, PreTrainedTokenizerBase, int]:
        if self._loaded is None:
            import torch

            from icr.engines.models import context_length, load_tokenizer, locate, materialise
            from icr.engines.precision import resolve_precision
            from icr.engines.transformers_engine import TransformersEngine

            folder = materialise(locate(self._folder, "judge.model"))
            self._loaded = (
                TransformersEngine(folder, resolve_precision("auto", gpu=torch.cuda.is_available())),
                load_tokenizer(folder),
                context_length(folder),
            )
        return self._loaded


def complete_references(
    questions: Questions, writer: Writer, folder: Path, max_tokens: int, reporter: Reporter
) -> Questions:
    """The questions with what `writer` has written where a turn had no reference.

    What is written goes to `folder`/LANG.jsonl in FastChat's reference format, with the turns that were given. Turn 2
    follows the reference of turn 1. A question for which none could be written keeps what it had, is told of, and is
    tried again by the next run.
    """
    return {
        lang: _complete(of_lang, writer, folder / f"{lang}.jsonl", max_tokens, reporter)
        for lang, of_lang in questions.items()
    }


def incomplete(questions: Questions) -> bool:
    """Whether some question that is graded against a reference lacks one for a turn."""
    return any(q.referenced and q.reference.missing for of_lang in questions.values() for q in of_lang)


def _complete(
    questions: Sequence[MtQuestion], writer: Writer, file: Path, max_tokens: int, reporter: Reporter
) -> list[MtQuestion]:
    ids = {q.key: _id(q, writer, max_tokens) for q in questions if q.referenced and q.reference.missing}
    lines = {line["answer_id"]: line for line in _lines(file)}
    todo = [q for q in questions if q.key in ids and ids[q.key] not in lines]
    failed: Counter[str] = Counter()
    for start in range(0, len(todo), writer.batch):
        part = todo[start : start + writer.batch]
        for q, (turns, why) in zip(part, _write(part, writer, max_tokens), strict=True):
            if why is None:
                lines[ids[q.key]] = answer_line(q, turns, writer.name, ids[q.key])
            else:
                failed[why] += 1
        own = [lines[ids[q.key]] for q in questions if q.key in ids and ids[q.key] in lines]
        write_lines(file, own)
    if failed:
        reasons = ", ".join(f"{why} {count}" for why, count in failed.most_common())
        reporter.note(f"{file.stem}: the judge wrote no reference for {failed.total()} questions ({reasons})")
    return [_filled(q, lines[ids[q.key]]) if q.key in ids and ids[q.key] in lines else q for q in questions]


def _write(questions: Sequence[MtQuestion], writer: Writer, max_tokens: int) -> list[tuple[list[str], str | None]]:
    """Both turns of each question's reference, or why one of them is not there."""
    turns = [list(q.reference.turns) for q in questions]
    why: list[str | None] = [None] * len(questions)
    for turn in (0, 1):
        todo = [n for n, own in enumerate(turns) if not own[turn] and why[n] is None]
        asked = [questions[n].conversation(*turns[n][:turn]) for n in todo]
        for n, (text, reason) in zip(todo, writer.write(asked, max_tokens) if asked else [], strict=True):
            turns[n][turn], why[n] = text, reason
    return list(zip(turns, why, strict=True))


def _filled(question: MtQuestion, line: dict[str, Any]) -> MtQuestion:
    first, second = line["choices"][0]["turns"]
    sources = [source or BY_JUDGE for source in question.reference.sources]
    return replace(question, reference=Reference((first, second), (sources[0], sources[1])))


def _id(question: MtQuestion, writer: Writer, max_tokens: int) -> str:
    """Tells by whom and to what a reference was written."""
    parts = [writer.name, max_tokens, question.turns, question.reference.turns]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()[:22]


def _lines(file: Path) -> list[dict[str, Any]]:
    """Ours are whole files; one that a user has broken is written anew."""
    values = [value for _, value in json_objects(file, [])] if file.is_file() else []
    return [v for v in values if isinstance(v, dict) and "answer_id" in v and "choices" in v]
