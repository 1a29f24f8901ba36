"""Sums of log-probs: which tokens count, what does not matter, how rows share passes and memory, bad input."""

from __future__ import annotations

import copy
import inspect
import math
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import PreTrainedModel

from icr import scoring
from icr.base.errors import UserError
from icr.engines import head
from icr.scoring import sequence_logprobs
from tests.helpers.scoring import (
    TOLERANCE,
    VOCABULARY,
    Notes,
    Rows,
    make_model,
    make_rows,
    per_token,
    token_logps,
    watched,
)


@pytest.fixture(scope="module")
def llama() -> PreTrainedModel:
    return make_model("llama")


def skip_checks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Without the short pieces that go through a model before its rows do."""
    monkeypatch.setattr(head.OutputHead, "check", lambda *_: None)
    monkeypatch.setattr(scoring, "_can_share", lambda *_: True)


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
    assert 1 <= len(heard.notes) <= 3 and "(1x): continuing with 200 tokens" in heard.notes[0]
    done = [done for done, _, _ in heard.events]
    assert done == sorted(set(done)) and done[-1] == len(responses)  # no response is scored twice
    assert heard.events[-1][2] == sum(map(len, prompts)) + sum(map(len, responses))


def test_one_sequence_too_long_for_the_memory_is_an_error(llama: PreTrainedModel) -> None:
    with pytest.raises(UserError, match="a sequence of 90 tokens does not fit"):
        sequence_logprobs(short_of_memory(llama, 64), [[5] * 60, [6]], [[7] * 30, [8]])
