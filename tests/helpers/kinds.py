"""One round of responses written by hand, and its stages run in this process: what tests of the reward kinds share."""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from itertools import groupby
from pathlib import Path
from typing import Any

from transformers import AutoTokenizer, PreTrainedTokenizerFast

from icr.base.files import write_rows, write_text
from icr.base.rundir import RunDir
from icr.config.load import dump_config, load_config
from icr.engines.base import Completion, Decoding, Request
from icr.engines.open import EngineSettings
from icr.engines.templates import Template
from icr.rounds.context import Context
from icr.rounds.preflight import preflight
from icr.rows import RESPONSES
from icr.work.steps import Step
from tests.helpers.independent import rows as read
from tests.helpers.judging import Inline

OWN = """
class Vowels:
    def rewards(self, rows):
        return [
            sum(row["response"].count(v) for v in "aeiou") + (7 * int(row["prompt_id"][1:]) + 3 * row["sample"]) % 5.3
            for row in rows
        ]

class Nan(Vowels):
    def rewards(self, rows):
        return [float("nan") if row["sample"] == 1 else 0.0 for row in rows]

class Short(Vowels):
    def rewards(self, rows):
        return [0.0]

class Fails(Vowels):
    def rewards(self, rows):
        raise KeyError("missing")

class Arguments(Vowels):
    def __init__(self, name):
        pass

class Nothing:
    pass
"""
"""A user's file of rewards, one of them sound."""
WORDS = {
    "en": "The sea holds many animals such as the whale and the octopus, and number {k} is the shark of prompt {n}.",
    "es": "En el mar viven muchos animales como la ballena y el pulpo, y el número {k} es el tiburón de {n}.",
    "ru": "В море живёт много животных, например кит и осьминог, а номер {k} это акула из запроса {n}.",
}
"""Long enough for their language to be sure, and told apart by sample (k) and prompt (n)."""
MAX_TOKENS = 300
ALPHA = 0.003
"""The length penalty of `make_round`, unless a test asks for another."""


class Here(Inline):
    """A machine whose workers are this process; nothing is trained on it."""

    @property
    def done(self) -> list[str]:
        """The tasks that were run, shards of one side by side counting once."""
        return [name for name, _ in groupby(self.pool.tasks)]

    def note(self, text: str) -> None:
        raise AssertionError(text)

    def precision(self, asked: str) -> str:
        return asked

    def train(self, spec: Any, label: str) -> dict[str, Any]:
        raise AssertionError("nothing is trained here")


def response_text(lang: str, n: int, k: int) -> str:
    """Longer with k, so that a length penalty has something to do."""
    return " ".join(WORDS[lang].format(n=n, k=f"{k}{m}") for m in range(1 + k % 2))


def make_context(
    folder: Path,
    tiny_config: Callable[..., Path],
    tiny_pair: tuple[Path, Path],
    samples: int = 3,
    previous: Path | None = None,
    text: Callable[[str, int, int], str] = response_text,
    **changes: Any,
) -> Context:
    """Round 1 of a run on the tiny models, its responses on disk. Every third response was cut off."""
    changes = {"judge": {"kind": "none"}, "rounds": 1, "sampling": {"max_tokens": MAX_TOKENS}, **changes}
    config = load_config(tiny_config(folder, **changes))
    policy, reference = map(str, tiny_pair)
    run = RunDir(folder / "run")
    write_text(run.config, dump_config(config))
    context = Context(
        run=run,
        round=run.round(1),
        config=config,
        inputs=preflight(config),
        policy=policy,
        trained=str(run.round(1).model),
        reference=reference,
        previous=str(previous or reference),
        judge_models={},
        machine=Here(),  # type: ignore[arg-type]
        step=Step("round-1/score"),
        template=Template(),
        engine=EngineSettings(backend="transformers", precision="fp32", window=2048),
    )
    tokenizer = AutoTokenizer.from_pretrained(policy)
    for lang in context.languages:
        rows = []
        for prompt in (p for p in context.inputs.prompts if p.lang == lang):
            for k in range(samples):
                ended = k % 3 != 2
                answer = text(lang, int(prompt.id[1:]), k)
                ids = tokenizer(" " + answer, add_special_tokens=False)["input_ids"]  # sampled with a blank before it
                rows.append(
                    {
                        "prompt_id": prompt.id,
                        "lang": lang,
                        "sample": k,
                        "prompt": prompt.text,
                        "response": answer,
                        "token_ids": [*ids, tokenizer.eos_token_id] if ended else ids,
                        "finish_reason": "stop" if ended else "length",
                        "prompt_ids": tokenizer(prompt.text, add_special_tokens=False)["input_ids"],
                    }
                )
        write_rows(context.round.responses / f"{lang}.parquet", rows, RESPONSES)
    return context


@dataclass
class Translator:
    """An engine that translates what stands in the request by the tables of WORDS, and fails where it has to."""

    tokenizer: PreTrainedTokenizerFast
    failing: dict[str, tuple[str, str]] = field(default_factory=dict)
    """Source text → (what is answered in its place, finish reason)."""
    name: str = "scripted"
    asked: list[str] = field(default_factory=list)
    """The source texts, in order."""
    decodings: list[Decoding] = field(default_factory=list)

    def close(self) -> None:
        pass

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        self.decodings.append(decoding)
        return [self._one(self.tokenizer.decode(r.prompt_ids)) for r in requests]

    def _one(self, request: str) -> Completion:
        pattern = r"into (\w+)\..*?\n<sentence>\n(.*)\n</sentence>.*assistant\n<translated>\n$"
        found = re.search(pattern, request, re.DOTALL)
        assert found is not None, request
        language, source = found.groups()
        self.asked.append(source)
        answer, reason = self.failing.get(source, (f"{translated(source, language)}\n</translated>", "stop"))
        ids = self.tokenizer(answer, add_special_tokens=False)["input_ids"]
        return Completion([*ids, self.tokenizer.eos_token_id] if reason == "stop" else ids, reason)


def translated(source: str, language: str) -> str:
    """The "translation": the English (or other) sentence with the digits of the source."""
    lang = {"English": "en", "Spanish": "es", "Russian": "ru"}[language]
    return WORDS[lang].format(k="-".join(re.findall(r"\d+", source)), n="that")


def use_translator(monkeypatch: Any, tiny_pair: tuple[Path, Path], **failing: Any) -> Translator:
    """Put a `Translator` in the engine's place."""
    translator = Translator(AutoTokenizer.from_pretrained(tiny_pair[0]), **failing)
    monkeypatch.setattr("icr.work.resident.open_engine", lambda *_, **__: translator)
    return translator


def reward_rows(context: Any, lang: str) -> list[tuple[dict[str, Any], dict[str, Any]]]:
    """(response, reward row) of one language."""
    responses = {(r["prompt_id"], r["sample"]): r for r in read(context.round.responses / f"{lang}.parquet")}
    table = read(context.round.rewards / f"{lang}.parquet")
    assert [(r["prompt_id"], r["sample"]) for r in table] == list(responses)
    return [(responses[r["prompt_id"], r["sample"]], r) for r in table]
