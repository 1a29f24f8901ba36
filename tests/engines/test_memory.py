"""Batches that shrink where memory runs out, models that do not fit, and the size of a checkpoint."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import LoraConfig, get_peft_model
from transformers import AutoModelForCausalLM

from icr.base.conversation import wrap_text
from icr.engines import memory
from icr.engines.classifier import Classifier
from icr.engines.memory import DoesNotFit, has_room, work_in_batches
from icr.engines.models import free, load_model
from icr.engines.sizes import measure_checkpoint, read_model_config
from icr.work.resident import Resident
from tests.rounds.test_reward_model import make_classifier


class Notes:
    """A reporter that keeps what it hears."""

    def __init__(self) -> None:
        self.texts: list[str] = []
        self.done: list[int] = []

    def progress(self, done: int, total: int, tokens: int = 0) -> None:
        self.done.append(done)

    def note(self, text: str) -> None:
        self.texts.append(text)

    def status(self, text: str) -> None: ...


def test_what_is_left_goes_on_in_smaller_batches(base: Path) -> None:
    model, notes, batches = load_model(str(base), torch.float32, "cpu"), Notes(), []

    def run(left: list[int], budget: int) -> Iterator[list[int]]:
        size = budget // 10
        for start in range(0, len(left), size):
            batch = left[start : start + size]
            if len(batch) > 2 and batch[0] > 0:
                raise torch.OutOfMemoryError
            batches.append(batch)
            yield batch

    work_in_batches(range(10), 40, run, lambda row: 10, model, notes)
    assert batches == [[0, 1, 2, 3], [4, 5], [6, 7], [8, 9]]
    assert notes.texts == ["scoring ran out of device memory (1x): continuing with 20 tokens per batch"]


def test_a_row_that_does_not_fit_alone(base: Path) -> None:
    def run(left: list[int], budget: int) -> Iterator[list[int]]:
        raise torch.OutOfMemoryError
        yield left

    for dtype, advised in ((torch.float32, True), (torch.bfloat16, False)):
        model = load_model(str(base), dtype, "cpu")
        with pytest.raises(DoesNotFit, match="a sequence of 10 tokens does not fit into the memory of cpu") as error:
            work_in_batches([0, 1], 25, run, lambda row: 10, model, Notes())
        assert ("bf16" in error.value.do) is advised  # bf16 is no advice for who has it


def test_the_classifier_goes_on_in_smaller_batches(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = str(make_classifier(tmp_path / "rm", "own"))
    pairs = [(wrap_text(f"Name {n} animals."), "The whale and the shark live in the sea. " * (1 + n)) for n in range(6)]
    expected = Classifier(folder, "fp32", 4096).logits(pairs)
    small, notes, whole = Classifier(folder, "fp32", 4096), Notes(), Classifier._forward

    def forward(self: Classifier, rows: Any) -> list[float]:
        if len(rows) > 2:
            raise torch.OutOfMemoryError
        return whole(self, rows)

    monkeypatch.setattr(Classifier, "_forward", forward)
    assert small.logits(pairs, notes) == pytest.approx(expected, abs=1e-5)
    assert notes.texts and "continuing with" in notes.texts[-1] and notes.done[-1] == 6
    monkeypatch.setattr(Classifier, "_forward", lambda self, rows: (_ for _ in ()).throw(torch.OutOfMemoryError()))
    with pytest.raises(DoesNotFit):
        small.logits(pairs)


def test_models_are_read_straight_to_their_device(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever device that is: nothing is moved there from the host's memory."""
    moved: list[object] = []
    monkeypatch.setattr(torch.nn.Module, "to", lambda self, *args, **kwargs: moved.append(args) or self)
    model = load_model(str(base), torch.float32, "meta")
    assert not moved and {p.device.type for p in model.parameters()} == {"meta"}


def test_a_loaded_model_can_be_given_back(base: Path) -> None:
    model = load_model(str(base), torch.bfloat16, "cpu")
    assert {p.dtype for p in model.parameters()} == {torch.bfloat16} and not model.training
    free(model)
    assert {p.device.type for p in model.parameters()} == {"meta"}


def test_a_model_that_does_not_fit(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(*args: object, **kwargs: object) -> None:
        raise torch.OutOfMemoryError

    monkeypatch.setattr(AutoModelForCausalLM, "from_pretrained", full)
    monkeypatch.setattr(memory, "free_memory", lambda: 3 * 2**30)
    with pytest.raises(DoesNotFit, match=r"weights of about 0\.0 GiB in fp32 do not fit .*\(3\.0 GiB are free\)"):
        load_model(str(base), torch.float32, "cpu")


def test_a_scorer_that_only_checks_is_refused_before_it_is_loaded(base: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A processor's memory that is full ends the process without a word."""
    monkeypatch.setattr(memory, "free_memory", lambda: 100_000)
    state = Resident()
    assert not has_room(str(base), "bf16")
    with pytest.raises(DoesNotFit):
        state.scorer(str(base), "fp32", surely=True)
    assert state.scorer(str(base), "fp32") is state.scorer(str(base), "fp32", surely=True)  # there already


def test_the_size_of_a_checkpoint(base: Path, tmp_path: Path) -> None:
    """Tied weights are stored once; LoRA's numbers are peft's on all linear layers."""
    size = measure_checkpoint(str(base))
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    assert size is not None and size.parameters == sum(p.numel() for p in model.parameters())
    assert size.stored == 4 * size.parameters
    adapted = get_peft_model(model, LoraConfig(r=8, target_modules="all-linear"))
    assert size.adapter_parameters(8) == adapted.num_parameters(only_trainable=True)
    assert measure_checkpoint("org/not-here") is None and measure_checkpoint(str(tmp_path)) is None
    (tmp_path / "model.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1")
    assert measure_checkpoint(str(tmp_path)) is None


def test_a_models_config(base: Path, tmp_path: Path) -> None:
    config = read_model_config(str(base))
    assert config is not None and config["num_key_value_heads"] == 1
    (tmp_path / "config.json").write_text('{"text_config": {"num_attention_heads": 4}}')
    assert read_model_config(str(tmp_path)) == {"num_attention_heads": 4}
    (tmp_path / "config.json").write_text("[")
    assert read_model_config(str(tmp_path)) is None and read_model_config("not a model") is None
