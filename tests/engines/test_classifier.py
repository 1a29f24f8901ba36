"""Classifiers: equal logits whatever runs together, and a prompt that several responses share is computed once."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import transformers as hf

from icr.base.conversation import Conversation, wrap_text
from icr.engines.classifier import Classifier
from icr.engines.prefixes import common_beginning
from tests.helpers.reward_models import make_encoder
from tests.helpers.scoring import CANNOT_SHARE, MODELS
from tests.helpers.tiny_models import make_tokenizer
from tests.rounds.test_reward_model import make_classifier

SIZES = ("llama", "mistral-window", "qwen2-window", "gemma2", "gpt2-learned-positions", "bloom-no-position-ids")
Talks = list[tuple[Conversation, str]]


def talks() -> Talks:
    """Three prompts of several lengths, with five responses, two and one."""
    long = "Name three animals that live in the sea, and tell a story of each. " * 4
    counts = {long: 5, "Nenne drei Tiere": 2, "?": 1}
    return [
        (wrap_text(prompt), "the whale and " * (3 * n) + f"end {n}")
        for prompt, count in counts.items() for n in range(count)
    ]  # fmt: skip


def watched(classifier: Classifier) -> list[int]:
    """The tokens of every forward pass of the body, from now on."""
    seen: list[int] = []

    def note(module: Any, args: Any, kwargs: Any) -> None:
        seen.append(int((kwargs.get("input_ids") if "input_ids" in kwargs else args[0]).numel()))

    classifier.model.base_model.register_forward_pre_hook(note, with_kwargs=True)
    return seen


def alone(classifier: Classifier, rows: Talks) -> list[float | None]:
    return [classifier.logits([row])[0] for row in rows]


@pytest.mark.parametrize("pad", ["own", "eos", "none"])
@pytest.mark.parametrize("batch_tokens", [16384, 200])
def test_a_shared_prompt_is_computed_once_and_logits_are_equal(tmp_path: Path, pad: str, batch_tokens: int) -> None:
    classifier = Classifier(str(make_classifier(tmp_path / "rm", pad)), "fp32", batch_tokens)
    rows = talks()
    wanted = alone(classifier, rows)
    together = classifier.logits(rows)
    np.testing.assert_allclose(together, wanted, atol=1e-4)  # type: ignore[arg-type]
    order = np.random.default_rng(1).permutation(len(rows))
    np.testing.assert_allclose(classifier.logits([rows[n] for n in order]), [wanted[n] for n in order], atol=1e-4)  # type: ignore[arg-type]
    seen = watched(classifier)
    classifier.logits(rows[:5])
    whole = sum(len(classifier.token_ids(*row)) for row in rows[:5])
    prompt = len(common_beginning([[token for token, _ in classifier.token_ids(*row)] for row in rows[:5]]))
    if batch_tokens > 1000:
        assert prompt > 60 and seen.count(prompt - 1) == 1 and sum(seen) < whole - 2 * prompt  # the rest is padded
    assert len(set(map(str, wanted))) == len(rows)


@pytest.mark.parametrize("name", SIZES)
def test_architectures_share_or_fall_back(name: str, tmp_path: Path) -> None:
    """Windows, learned positions, soft caps: equal logits, by sharing where the model's cache allows it."""
    tokenizer = make_tokenizer(97)
    config = MODELS[name]()
    config.vocab_size, config.num_labels, config.pad_token_id = len(tokenizer), 1, 0
    with torch.random.fork_rng():
        torch.manual_seed(2)
        model = hf.AutoModelForSequenceClassification.from_config(config)
    model.save_pretrained(tmp_path)
    tokenizer.save_pretrained(tmp_path)
    classifier = Classifier(str(tmp_path), "fp32", 16384)
    rows = [(wrap_text("Name three animals"), f"the whale {'x' * n}") for n in range(4)]
    wanted = alone(classifier, rows)
    np.testing.assert_allclose(classifier.logits(rows), wanted, atol=1e-4)  # type: ignore[arg-type]
    assert classifier._can_share is (name not in CANNOT_SHARE)


def test_encoders_read_whole_rows(tmp_path: Path) -> None:
    base = make_encoder(tmp_path / "base")
    model = hf.AutoModelForSequenceClassification.from_pretrained(base, num_labels=1)
    model.save_pretrained(tmp_path / "rm")
    hf.AutoTokenizer.from_pretrained(base).save_pretrained(tmp_path / "rm")
    classifier = Classifier(str(tmp_path / "rm"), "fp32", 16384)
    rows = [(wrap_text("Name three animals " * 4), f"the whale {n}") for n in range(6)]
    wanted = alone(classifier, rows)
    np.testing.assert_allclose(classifier.logits(rows), wanted, atol=1e-4)  # type: ignore[arg-type]
    assert classifier._can_share is False


def test_common_beginnings() -> None:
    assert common_beginning([[1, 2, 3], [1, 2, 9, 4], [1, 2]]) == (1, 2)
    assert common_beginning([[5], [6]]) == () and common_beginning([[7, 8], [7, 8]]) == (7, 8)
