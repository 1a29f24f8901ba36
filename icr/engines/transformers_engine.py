"""Sampling with transformers' generate: for machines without vLLM, slower, with the same contract; and for a model in
the middle of its training."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import torch
from transformers import (
    GenerationConfig,
    LogitsProcessor,
    LogitsProcessorList,
    StoppingCriteria,
    StoppingCriteriaList,
    TemperatureLogitsWarper,
    TopPLogitsWarper,
)

from icr.base.progress import SILENT, Reporter
from icr.engines.base import Completion, Decoding, Request, Stops
from icr.engines.models import free, load_model, read_tokenizer
from icr.engines.precision import Precision
from icr.engines.stops import ends_with, find_stops
from icr.engines.tokens import unknown_ids

if TYPE_CHECKING:
    from transformers import PreTrainedModel, PreTrainedTokenizerBase


ROWS = 32
"""Requests in one generate call."""


class OwnNoise(LogitsProcessor):
    """Gumbel noise from one generator per row: the argmax of noisy logits is a sample from their softmax.

    generate() draws from one global generator, which would make a response depend on what else is in its batch.
    """

    def __init__(self, seeds: Sequence[int]) -> None:
        self._generators = [torch.Generator().manual_seed(seed) for seed in seeds]

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        uniform = torch.stack(
            [torch.rand(scores.shape[-1], generator=g, dtype=torch.float64) for g in self._generators]
        )
        noise = -torch.log(-torch.log(uniform.clamp_min(1e-300)))
        return torch.add(scores.double(), noise.to(scores.device))  # type: ignore[return-value]


class WithoutIds(LogitsProcessor):
    """Some ids are never sampled."""

    def __init__(self, ids: Sequence[int]) -> None:
        self._ids = torch.tensor(ids)

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor) -> torch.FloatTensor:
        return scores.index_fill(-1, self._ids.to(scores.device), -torch.inf)  # type: ignore[return-value]


class TextEnds(StoppingCriteria):
    """A row ends where its last token completes one of some texts."""

    def __init__(self, tokenizer: PreTrainedTokenizerBase, texts: Sequence[str], start: int) -> None:
        self._tokenizer, self._texts, self._start = tokenizer, texts, start

    def __call__(self, input_ids: torch.LongTensor, scores: torch.FloatTensor, **_: object) -> torch.BoolTensor:
        rows = input_ids[:, self._start :].tolist()
        ended = [ends_with(self._tokenizer, row, self._texts) for row in rows]
        return torch.tensor(ended, device=input_ids.device)  # type: ignore[return-value]


def group_rows(lengths: Sequence[int], most: int, window: int) -> Iterator[tuple[list[int], int]]:
    """Batches of rows, and the tokens that each may write, at most `most`.

    Where prompt and completion may fill the window, a batch has prompts of one length: rows of a batch are written in
    step, and beyond the window a model with learned positions has none.

    Args:
        lengths: of the prompts, in tokens; all shorter than `window`.
    """
    groups: dict[int, list[int]] = {}
    for row, length in enumerate(lengths):
        groups.setdefault(min(most, window - length), []).append(row)
    for room in sorted(groups, reverse=True):
        rows = groups[room]
        yield from ((rows[start : start + ROWS], room) for start in range(0, len(rows), ROWS))


class BatchGenerator:
    """transformers' generate over requests, in batches."""

    def __init__(self, model: PreTrainedModel, tokenizer: PreTrainedTokenizerBase, stops: Stops, window: int) -> None:
        """
        Args:
            model: with whole weights; its generation settings are replaced.
            stops: the model's own ends.
            window: tokens of prompt and completion together.
        """
        self._model, self._tokenizer, self._stops, self._window = model, tokenizer, stops, window
        # generate() would take from here whatever it is not given: penalties, top_k, a time limit, forced tokens
        model.generation_config = GenerationConfig()  # type: ignore[no-untyped-call]
        head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
        self._unknown = unknown_ids(tokenizer, head.weight.shape[0])

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, reporter: Reporter = SILENT
    ) -> list[Completion]:
        found: dict[int, Completion] = {}
        for rows, most in group_rows([len(r.prompt_ids) for r in requests], decoding.max_tokens, self._window):
            made = self._batch([requests[row] for row in rows], replace(decoding, max_tokens=most))
            found.update(zip(rows, made, strict=True))
            reporter.progress(len(found), len(requests), sum(len(c.token_ids) for c in found.values()))
        return [found[row] for row in range(len(requests))]

    def _batch(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        stops = decoding.stops or self._stops
        width = max(len(r.prompt_ids) for r in requests)
        pad = stops.ids[0] if stops.ids else 0  # no row looks at it
        ids = torch.full((len(requests), width), pad)
        mask = torch.zeros_like(ids)
        for row, request in enumerate(requests):
            ids[row, width - len(request.prompt_ids) :] = torch.tensor(request.prompt_ids)
            mask[row, width - len(request.prompt_ids) :] = 1
        settings = GenerationConfig(  # type: ignore[no-untyped-call]
            do_sample=False,
            max_new_tokens=decoding.max_tokens,
            eos_token_id=list(stops.ids) or None,
            pad_token_id=pad,
        )
        with torch.no_grad():  # inference tensors that a layer keeps would be in a training's way
            out = self._model.generate(  # type: ignore[operator]
                ids.to(self._model.device),
                attention_mask=mask.to(self._model.device),
                logits_processor=self._processors(requests, decoding),
                stopping_criteria=StoppingCriteriaList(
                    [TextEnds(self._tokenizer, stops.texts, width)] if stops.texts else []
                ),
                generation_config=settings,
            )
        return [self._completion(row, stops) for row in out[:, width:].tolist()]

    def _processors(self, requests: Sequence[Request], decoding: Decoding) -> LogitsProcessorList:
        processors = LogitsProcessorList()
        if self._unknown:
            processors.append(WithoutIds(self._unknown))
        if decoding.temperature > 0:
            processors.append(TemperatureLogitsWarper(decoding.temperature))
            if decoding.top_p < 1:
                processors.append(TopPLogitsWarper(decoding.top_p))
            processors.append(OwnNoise([r.seed for r in requests]))
        return processors

    def _completion(self, row: list[int], stops: Stops) -> Completion:
        """What a row of a batch has up to its end; what follows is padding."""
        for place, token in enumerate(row):
            if token in stops.ids or (stops.texts and ends_with(self._tokenizer, row[: place + 1], stops.texts)):
                return Completion(row[: place + 1], "stop")
        return Completion(row, "length")


class TransformersEngine:
    name = "transformers"

    def __init__(self, model: str, precision: Precision, window: int) -> None:
        """
        Args:
            window: tokens of prompt and completion together, as in vLLM's engine.
        """
        self._precision: Precision = precision
        self._tokenizer = read_tokenizer(model)
        self._window = window
        self._load(model)

    def _load(self, model: str) -> None:
        dtype = torch.float32 if self._precision == "fp32" else torch.bfloat16
        self._model: PreTrainedModel = load_model(model, dtype, "cuda" if torch.cuda.is_available() else "cpu")
        stops = find_stops(self._tokenizer, model)
        self._generator = BatchGenerator(self._model, self._tokenizer, stops, self._window)

    def score(self, token_ids: Sequence[int]) -> float:
        ids = torch.tensor([list(token_ids)], device=self._wake())
        with torch.inference_mode():
            logits = self._model(input_ids=ids).logits[0, :-1].float()
        return float(logits.log_softmax(-1).gather(1, ids[0, 1:, None]).double().sum())

    def reload(self, model: str) -> None:
        self.close()
        self._load(model)

    def rest(self) -> None:
        """On a GPU the weights go to the host's memory."""
        self._model.to(torch.device("cpu"))  # type: ignore[arg-type]
        torch.cuda.empty_cache()

    def close(self) -> None:
        free(self._model)

    def _wake(self) -> torch.device:
        device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model.to(device)  # type: ignore[arg-type]
        return device

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, reporter: Reporter = SILENT
    ) -> list[Completion]:
        self._wake()
        return self._generator.generate(requests, decoding, reporter)
