"""Talk to the models of a run side by side."""

from __future__ import annotations

import shlex
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from icr.base.conversation import Conversation
from icr.base.errors import UserError
from icr.base.rundir import RunDir, start_date
from icr.config.load import load_config
from icr.config.schema import Config
from icr.engines.base import Decoding, Request, request_seed
from icr.engines.precision import resolve_precision
from icr.engines.templates import Template, prompt_token_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

    from icr.engines.base import Engine, Stops

WINDOW = 4096
"""Tokens that a conversation may have at most; a model's context where that is shorter."""


@dataclass
class Speaker:
    """One model and its own side of the conversation."""

    name: str
    engine: Engine
    tokenizer: PreTrainedTokenizerBase
    stops: Stops
    decoding: Decoding
    window: int
    """Tokens of a conversation with its next answer."""
    messages: Conversation = field(default_factory=list)

    def answer(self, text: str, seed: int) -> str:
        """The answer to the next message of the user's.

        Raises:
            UserError: the conversation leaves no room for an answer.
        """
        from icr.engines.stops import read_answer

        asked: Conversation = [*self.messages, {"role": "user", "content": text}]
        ids = prompt_token_ids(self.tokenizer, asked)
        if len(ids) >= self.window:
            raise UserError(
                f"the conversation has {len(ids)} tokens, more than {self.window}", do="start it over: /new"
            )
        [completion] = self.engine.generate([Request(ids, request_seed(seed, 0, "", self.name, 0))], self.decoding)
        said = read_answer(self.tokenizer, completion, self.stops)
        self.messages = [*asked, {"role": "assistant", "content": said}]
        return said


def open_speakers(run: RunDir, number: int | None, max_tokens: int) -> list[Speaker]:
    """π_θ⁰ and the model of a round, ready to answer with the run's template, temperature and stop tokens.

    Args:
        number: the round; None is the last one that has a model.

    Raises:
        UserError: no such model.
    """
    trained = [at.number for at in run.rounds() if at.number and at.model.is_dir()]
    if not trained:
        do = f"finish a round first: icr iterate --run {shlex.quote(str(run.path))}"
        raise UserError("this run has no trained model yet", where=str(run.path), do=do)
    number = trained[-1] if number is None else number
    if number and number not in trained:
        known = ", ".join(map(str, trained))
        raise UserError(f"round {number} has no model", where=str(run.path), do=f"choose one of {known}, or 0")
    config = load_config(run.config)
    return [_open(run, config, at, max_tokens) for at in dict.fromkeys((0, number))]


def _open(run: RunDir, config: Config, number: int, max_tokens: int) -> Speaker:
    import torch

    from icr.engines.context import context_length
    from icr.engines.folders import materialise
    from icr.engines.models import load_tokenizer
    from icr.engines.stops import find_stops
    from icr.engines.transformers_engine import TransformersEngine

    models, sampling = config.models, config.sampling
    folder = str(run.round(number).model)
    if not run.round(number).model.is_dir():
        folder = materialise(run.first_models()["policy"], models.chat_template)
    template = Template(file=models.chat_template, arguments=models.template_arguments, date=start_date(run.path))
    tokenizer = load_tokenizer(folder, template)
    stops = find_stops(tokenizer, folder, sampling.stop)
    precision = resolve_precision(sampling.precision, gpu=torch.cuda.is_available())
    window = min(WINDOW, context_length(folder))
    engine = TransformersEngine(folder, precision, window)
    decoding = Decoding(sampling.temperature, sampling.top_p, max_tokens, stops)
    return Speaker(f"round {number}", engine, tokenizer, stops, decoding, window)
