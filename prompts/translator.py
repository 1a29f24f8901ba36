"""Who translates: an endpoint, or a model on this machine. `python -m prompts.translator JOB EVENTS` is the worker.

Endpoints, too, are asked in a worker process: asyncio may swallow what a signal's handler raises, so the process that
has to hear Ctrl-C must not run an event loop.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol, TypeVar

from pydantic import BaseModel

from icr.base.conversation import wrap_text
from icr.base.process import die_with_parent
from icr.base.progress import EventFile, Reporter, Silent, Sum
from icr.config.schema import Endpoint as Settings
from icr.config.schema import Sampling
from icr.config.transfer import TransferTranslator
from icr.endpoint.address import Address
from icr.endpoint.cache import Cache, question_key
from icr.endpoint.endpoint import Ask, Endpoint, NoAnswer
from icr.endpoint.prices import Estimate
from icr.endpoint.reply import Choice, Message, Reply
from icr.engines.folders import locate
from prompts.translate import WORK, Task

if TYPE_CHECKING:
    from icr.engines.base import Completion


Backend = Literal["auto", "vllm", "transformers"]

SHARD = {"vllm": 256, "transformers": 32}
"""Prompts that are sampled at a time, and that a kill loses at most. vLLM needs many for its speed."""
TOO_LONG = "too long"


class Translator(Protocol):
    """An endpoint, or a model on this machine."""

    def ask(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[Reply | NoAnswer]:
        """One reply per question, in order; `done(k)` is called when k more of them are there."""

    def estimate(self, asks: Sequence[Ask]) -> Estimate:
        """The estimated requests and cost of these; nothing is sent."""

    def find(self, ask: Ask) -> Reply | None:
        """The answer that is in the cache."""


class TranslatorJob(BaseModel):
    """Who translates, and where the answers are kept."""

    out: str
    kind: Literal["openai", "local"]
    model: str
    settings: Settings
    """openai: the endpoint's."""
    backend: Backend = "auto"
    """local: what samples."""
    keys: Literal["options", "translator"] = "options"
    """How the user sets the endpoint's keys: by options, or in a file's section `translator`."""

    @property
    def name(self) -> str:
        return f"{self.kind}: {self.model}"

    @property
    def work(self) -> Path:
        """Where answers, job and log are."""
        return Path(self.out) / WORK

    def translator(self, reporter: Reporter, *, dry: bool = False) -> Endpoint | LocalTranslator:
        """`dry`: for `estimate` and `find` alone. No file is made."""
        cache = self.work / "answers.sqlite"
        if self.kind == "local":
            key = "--translator" if self.keys == "options" else "translator.model"
            return LocalTranslator(self.model, cache, self.backend, reporter, dry=dry, key=key)
        return Endpoint(self.model, cache, self._settings, reporter, dry=dry)

    @property
    def _settings(self) -> Settings:
        """Under the names that the user knows."""
        if self.keys == "options":
            return self.settings
        return TransferTranslator(kind=self.kind, model=self.model, **self.settings.model_dump())

    def check(self, *, dry: bool = False) -> None:
        """Raises UserError: the model is not found, the endpoint's address, prices or key are wrong or missing.

        Args:
            dry: nothing will be asked, and no key is needed.
        """
        if self.kind == "openai":
            Address.find(self._settings, key_needed=not dry)
        self.translator(Silent(), dry=True)


class TranslateJob(TranslatorJob):
    """A whole `icr prompts translate`."""

    source: str
    targets: list[str]
    limit: int | None

    def task(self) -> Task:
        return Task(self.source, self.targets, Path(self.out), self.limit)


class LocalTranslator:
    """Samples greedily, a shard at a time, and keeps answers as an endpoint's are kept."""

    def __init__(self, model: str, cache: Path, backend: Backend, reporter: Reporter, *, dry: bool = False,
                 key: str = "--translator") -> None:  # fmt: skip
        """Raises UserError if the model is not found; `key`: what names it."""
        self._model = locate(model, key)
        self._backend, self._reporter = backend, reporter
        self._cache = Cache(cache if cache.exists() or not dry else Path(":memory:"))

    def ask(self, asks: Sequence[Ask], done: Callable[[int], None]) -> list[Reply | NoAnswer]:
        """One reply per question, in order; questions have one message. What is in the cache is not sampled again.

        Raises:
            UserError: the model cannot be loaded, or has no chat template.
        """
        keys = [self._key(ask) for ask in asks]
        todo = {key: ask for key, ask in zip(keys, asks, strict=True) if self._cache.get(key) is None}
        if todo:
            self._sample(todo)
        done(len(asks))
        return [self._reply(key) for key in keys]

    def estimate(self, asks: Sequence[Ask]) -> Estimate:
        """The estimated work for these; nothing is loaded."""
        unlike = list(dict.fromkeys(asks))
        guesses = [ask.guess for ask in unlike if self._cache.get(self._key(ask)) is None]
        prompt, completion = sum(g.prompt for g in guesses), sum(g.completion for g in guesses)
        return Estimate(len(guesses), len(unlike) - len(guesses), prompt, completion, None)

    def find(self, ask: Ask) -> Reply | None:
        """The answer that is in the cache."""
        found = None if self._cache.get(key := self._key(ask)) is None else self._reply(key)
        return None if isinstance(found, NoAnswer) else found

    def _key(self, ask: Ask) -> str:
        return question_key(f"local: {self._model} {_stamp(self._model)}", ask.params, ask.json())

    def _reply(self, key: str) -> Reply | NoAnswer:
        kept = self._cache.get(key)
        assert kept is not None
        answer = json.loads(kept)
        if answer["finish_reason"] == TOO_LONG:
            return NoAnswer("longer than the translator's context", answer["text"])
        return Reply(choices=[Choice(message=Message(content=answer["text"]), finish_reason=answer["finish_reason"])])

    def _sample(self, todo: dict[str, Ask]) -> None:
        import torch

        from icr.engines.base import Decoding, Request
        from icr.engines.context import context_length
        from icr.engines.folders import materialise
        from icr.engines.models import load_tokenizer
        from icr.engines.open import EngineSettings, choose_backend, open_engine
        from icr.engines.stops import find_stops, read_answer
        from icr.engines.templates import NO_THINKING, Template, find_thinking, prompt_token_ids

        folder = materialise(self._model)
        tokenizer, context = load_tokenizer(folder, Template(arguments=NO_THINKING)), context_length(folder)
        if problem := find_thinking(tokenizer):
            raise problem
        stops = find_stops(tokenizer, folder)
        prompts = []
        for key, ask in todo.items():
            ids = prompt_token_ids(tokenizer, wrap_text(ask.messages[0][1]))
            if 2 * len(ids) > context:
                self._cache.put(key, _dump(f"{len(ids)} tokens, context {context}", TOO_LONG))
            else:
                # with half of the context for each, what one prompt gets does not depend on its neighbours
                prompts.append((key, ids, min(ask.max_tokens, context // 2)))
        if not prompts:
            return
        prompts.sort(key=lambda prompt: len(prompt[1]))  # neighbours of one length need no padding
        backend = choose_backend(self._backend)
        longest = max(len(ids) + max_tokens for _, ids, max_tokens in prompts)
        window = min(context, longest)
        settings = EngineSettings.of(Sampling(backend=self._backend), window, gpu=torch.cuda.is_available())
        engine, progress = open_engine(folder, settings), Sum(self._reporter, len(prompts))
        try:
            for start in range(0, len(prompts), SHARD[backend]):
                shard = prompts[start : start + SHARD[backend]]
                decoding = Decoding(0.0, 1.0, max(max_tokens for _, _, max_tokens in shard), stops)
                sampled = engine.generate([Request(ids, seed=0) for _, ids, _ in shard], decoding, progress)
                completions = [_cut(c, max_tokens) for c, (_, _, max_tokens) in zip(sampled, shard, strict=True)]
                texts = [read_answer(tokenizer, completion, stops) for completion in completions]
                # all or none: what is sampled together after a kill is what would have been without it
                answers = map(_dump, texts, (completion.finish_reason for completion in completions))
                self._cache.put_all(list(zip([key for key, _, _ in shard], answers, strict=True)))
        finally:
            engine.close()  # on the way back there is another one, and a GPU has no room for two


def _dump(text: str, finish_reason: str) -> str:
    """An answer as the cache holds it."""
    return json.dumps({"text": text, "finish_reason": finish_reason})


def _stamp(model: str) -> int:
    """A folder may get other weights under the same name: their time tells them apart."""
    path = Path(model)
    return max((f.stat().st_mtime_ns for f in [path, *path.glob("*.safetensors")]), default=0) if path.exists() else 0


def _cut(completion: Completion, max_tokens: int) -> Completion:
    """An engine has one limit for all requests of a call: the largest of theirs."""
    if len(completion.token_ids) <= max_tokens:
        return completion
    return replace(completion, token_ids=completion.token_ids[:max_tokens], finish_reason="length")


def run(job: TranslateJob, reporter: Reporter) -> None:
    """The worker's task: ask, check, and write the folder."""
    task, translator = job.task(), job.translator(reporter)
    asks, came = task.asks, 0

    def done(more: int) -> None:
        nonlocal came
        came += more
        reporter.progress(came, len(asks))

    answers = translator.ask(asks, done)
    cost = translator.cost_of(asks) if isinstance(translator, Endpoint) else None
    task.write(answers, job.name, cost)


Job = TypeVar("Job", bound=TranslatorJob)


def serve(kind: type[Job], work: Callable[[Job, Reporter], None]) -> int:
    """A worker process: `work` on the job of the command line."""
    from icr.base.process import reported

    die_with_parent()
    job_path, events_path = sys.argv[1:]
    events = EventFile(Path(events_path))

    def do() -> dict[str, object]:
        work(kind.model_validate_json(Path(job_path).read_text(encoding="utf-8")), events)
        return {}

    return reported(do, events)


if __name__ == "__main__":
    sys.exit(serve(TranslateJob, run))
