"""The output head in training: log-probs of the response's tokens, and work for those alone."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM
from trl.trainer import utils as trl_utils

from loops.trainers import add_head
from tests.helpers.tiny_models import make_tiny_model


def test_prompts_and_padding_do_not_reach_the_head(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = make_tiny_model(tmp_path / "model")
    model, plain = (AutoModelForCausalLM.from_pretrained(folder) for _ in range(2))
    add_head(model)
    rows: list[int] = []
    head = trl_utils._ChunkedLogProbFunction

    class Counted:
        @staticmethod
        def apply(hidden: torch.Tensor, *rest: object) -> object:
            rows.append(len(hidden))
            return head.apply(hidden, *rest)

    monkeypatch.setattr(trl_utils, "_ChunkedLogProbFunction", Counted)
    ids = torch.arange(5, 21).reshape(2, 8)
    labels = ids.clone()
    labels[0, :5] = labels[1, :3] = labels[1, 6:] = -100  # 3 tokens of one response and 3 of the other
    found = model(input_ids=ids, labels=labels, fused_lm_head=True)
    found.log_probs.sum().backward()
    assert rows == [6]
    logps = plain(input_ids=ids).logits[:, :-1].log_softmax(-1).gather(-1, ids[:, 1:, None]).squeeze(-1)
    expected = logps.masked_fill(labels[:, 1:] == -100, 0.0)
    torch.testing.assert_close(found.log_probs, expected, atol=1e-5, rtol=0)
    expected.sum().backward()
    for one, other in zip(model.parameters(), plain.parameters(), strict=True):
        torch.testing.assert_close(one.grad, other.grad, atol=1e-4, rtol=1e-4)
