"""What the tests of the scorer share: small models of many architectures, ragged rows, a full softmax in fp64."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch
import transformers as hf
from numpy.typing import NDArray
from transformers import PreTrainedModel

VOCABULARY = 97
TOLERANCE = 1e-4  # nats a token, the promise for fp32
Rows = list[list[int]]
SMALL: dict[str, Any] = {
    "vocab_size": VOCABULARY,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 4,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 256,
    "initializer_range": 0.3,  # wide, so that log-probs range over many nats
    "tie_word_embeddings": False,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
ALTERNATING = ["sliding_attention", "full_attention"] * 2
MODELS: dict[str, Callable[[], hf.PreTrainedConfig]] = {
    "llama": lambda: hf.LlamaConfig(**SMALL),
    "llama-tied": lambda: hf.LlamaConfig(**{**SMALL, "tie_word_embeddings": True}),
    "mistral-window": lambda: hf.MistralConfig(**SMALL, sliding_window=6),
    "qwen2-window": lambda: hf.Qwen2Config(**SMALL, use_sliding_window=True, sliding_window=5, layer_types=ALTERNATING),
    "qwen3": lambda: hf.Qwen3Config(**SMALL),
    "gemma2": lambda: hf.Gemma2Config(**SMALL, sliding_window=6, final_logit_softcapping=4.0, query_pre_attn_scalar=8),
    "gemma3": lambda: hf.Gemma3TextConfig(
        **{**SMALL, "tie_word_embeddings": True}, sliding_window=6, layer_types=ALTERNATING, query_pre_attn_scalar=8
    ),
    "cohere-scaled": lambda: hf.CohereConfig(**SMALL, logit_scale=2.0),
    "granite-scaled": lambda: hf.GraniteConfig(**SMALL, logits_scaling=3.0),
    "mixtral-experts": lambda: hf.MixtralConfig(**SMALL, num_local_experts=3, num_experts_per_tok=2),
    "gpt2-learned-positions": lambda: hf.GPT2Config(
        vocab_size=VOCABULARY, n_embd=32, n_layer=2, n_head=4, n_positions=256, initializer_range=0.3
    ),
    "bloom-no-position-ids": lambda: hf.BloomConfig(
        vocab_size=VOCABULARY, hidden_size=32, n_layer=2, n_head=4, initializer_range=0.3
    ),
    "mamba-recurrent": lambda: hf.MambaConfig(
        vocab_size=VOCABULARY, hidden_size=32, num_hidden_layers=2, state_size=4, initializer_range=0.3
    ),
    "bamba-hybrid": lambda: hf.BambaConfig(
        **SMALL, attn_layer_indices=[1, 3], mamba_n_heads=4, mamba_d_head=16, mamba_d_state=4, mamba_chunk_size=8
    ),
}
EAGER = {
    "gemma2": {"attn_implementation": "eager"},  # the others leave the attention scores uncapped
    "mixtral-experts": {"experts_implementation": "eager"},  # the others have no fp64
}
CANNOT_SHARE = {"bloom-no-position-ids", "mamba-recurrent", "bamba-hybrid"}


def make_model(name: str, dtype: torch.dtype = torch.float32) -> PreTrainedModel:
    with torch.random.fork_rng():
        torch.manual_seed(5)
        model: PreTrainedModel = hf.AutoModelForCausalLM.from_config(MODELS[name](), **EAGER.get(name, {}))
    return model.to(dtype).eval()


def make_rows(seed: int, prompts: int = 5, responses: int = 4, longest: int = 24) -> tuple[Rows, Rows]:
    """Ragged rows, several responses a prompt, among them a one-token prompt and a one-token response."""
    rng = np.random.default_rng(seed)

    def ids(length: int) -> list[int]:
        return [int(t) for t in rng.integers(0, VOCABULARY, length)]

    heads = [ids(1), *(ids(int(rng.integers(2, longest))) for _ in range(prompts - 1))]
    pairs = [(head, ids(int(rng.integers(1, longest)))) for head in heads for _ in range(responses)]
    pairs[responses + 1] = (pairs[responses + 1][0], ids(1))
    return [p for p, _ in pairs], [r for _, r in pairs]


def token_logps(exact: PreTrainedModel, prompt: list[int], response: list[int]) -> NDArray[np.float64]:
    """log p of each response token by a model in fp64: the sequence alone, a softmax over all of the vocabulary."""
    with torch.no_grad():
        logits = exact(input_ids=torch.tensor([[*prompt, *response]]), use_cache=False).logits[0].double().numpy()
    logits -= logits.max(axis=1, keepdims=True)
    logps = logits - np.log(np.exp(logits).sum(axis=1, keepdims=True))
    first = len(prompt)
    return np.array([logps[first + k - 1, token] for k, token in enumerate(response)])


def reference(model: PreTrainedModel, prompts: Rows, responses: Rows) -> NDArray[np.float64]:
    exact = copy.deepcopy(model).double()
    return np.array([token_logps(exact, p, r).sum() for p, r in zip(prompts, responses, strict=True)])


def per_token(difference: NDArray[np.float64], responses: Rows) -> float:
    return float((np.abs(difference) / np.array([max(1, len(r)) for r in responses])).max())


@contextmanager
def watched(module: torch.nn.Module) -> Iterator[list[torch.Size]]:
    """The shapes of what goes into a module."""
    shapes: list[torch.Size] = []

    def look(_: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        shapes.append((args[0] if args else kwargs["input_ids"]).shape)

    handle = module.register_forward_pre_hook(look, with_kwargs=True)
    try:
        yield shapes
    finally:
        handle.remove()


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.events: list[tuple[int, int, int]] = []

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        self.events.append((done, total, tokens))

    def note(self, text: str) -> None:
        self.notes.append(text)
