"""GPUs as their driver lists them, and what a config asks of them. No GPU is needed: the driver's answers are given."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from rich.console import Console

from icr.base.errors import ConfigError, UserError
from icr.commands.inspect import validate
from icr.config.load import load_config
from icr.config.schema import Sampling
from icr.engines.open import EngineSettings
from icr.rounds import room
from icr.rounds.preflight import preflight
from icr.work.devices import Gpu, check_count, check_heads, check_memory, find_gpus
from icr.work.machine import Machine
from tests.conftest import Config
from tests.helpers.tiny_models import make_tiny_model

CARDS = """0, GPU-aa11, NVIDIA GeForce RTX 4090, 24564, 9533
1, GPU-bb22, NVIDIA GeForce RTX 4090, 24564, 24100
"""
USERS = """GPU-aa11, 4711, /usr/bin/python3.11, 14200
GPU-aa11, 4712, Xorg, [N/A]
"""
GIB = 2**30


def smi(cards: str = CARDS, users: str = USERS) -> object:
    def ask(arguments: Sequence[str]) -> str:
        assert arguments[-1] == "--format=csv,noheader,nounits"
        return cards if arguments[0].startswith("--query-gpu=index,uuid,name") else users

    return ask


@pytest.fixture(autouse=True)
def _visible(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)


def test_cards_their_memory_and_who_is_on_them() -> None:
    first, second = find_gpus(smi())  # type: ignore[arg-type]
    assert (first.number, first.name) == (0, "NVIDIA GeForce RTX 4090")
    assert (first.total, first.free) == (24564 * 2**20, 9533 * 2**20)
    assert first.users == ("python3.11 (pid 4711), 13.9 GiB", "Xorg (pid 4712)") and second.users == ()


@pytest.mark.parametrize(
    ("visible", "numbers"),
    [("1", [1]), ("1,0", [1, 0]), ("GPU-bb", [1]), ("", []), ("-1", []), ("0,7,1", [0]), ("MIG-1234", [])],
)
def test_only_those_that_cuda_shows(monkeypatch: pytest.MonkeyPatch, visible: str, numbers: list[int]) -> None:
    monkeypatch.setenv("CUDA_VISIBLE_DEVICES", visible)
    assert [gpu.number for gpu in find_gpus(smi())] == numbers  # type: ignore[arg-type]


@pytest.mark.parametrize("error", [FileNotFoundError("nvidia-smi"), subprocess.CalledProcessError(9, "nvidia-smi")])
def test_no_driver_no_cards(error: Exception) -> None:
    def ask(arguments: Sequence[str]) -> str:
        raise error

    assert find_gpus(ask) == []


def test_more_gpus_than_there_are() -> None:
    check_count(2, 2)
    check_count(8, 0)  # a machine without any: engines run on the processor
    with pytest.raises(UserError, match="an engine needs 4 GPUs, but only 2 are visible") as error:
        check_count(4, 2)
    assert error.value.where == "sampling.tensor_parallel: 4" and "set it to 2 or less" in error.value.do


def test_heads_that_cannot_be_shared_out(tmp_path: Path) -> None:
    """Qwen2.5-0.5B has 14 heads and 2 of keys and values: 4 GPUs fail in vLLM, 14 are right for both."""
    (tmp_path / "config.json").write_text(json.dumps({"num_attention_heads": 14, "num_key_value_heads": 2}))
    for fitting in (1, 2, 14):
        check_heads(fitting, str(tmp_path), "models.policy")
    for wrong in (4, 7):  # 7 divides 14, but does not fit 2 heads of keys and values
        with pytest.raises(UserError, match="14 attention heads") as error:
            check_heads(wrong, str(tmp_path), "models.policy")
        assert error.value.do == "set it to one of 1, 2, 14"
    check_heads(5, "org/not-here", "models.policy")


def test_memory_that_others_use() -> None:
    gpus = find_gpus(smi())  # type: ignore[arg-type]
    with pytest.raises(ConfigError) as error:
        check_memory(Sampling(backend="vllm"), gpus)
    [problem] = error.value.problems
    assert "GPU 0 (NVIDIA GeForce RTX 4090) has 9.3 of 24.0 GiB free" in problem.what
    assert "asks for 21.6 GiB; other processes use it: python3.11 (pid 4711), 13.9 GiB; Xorg" in problem.what
    assert "set sampling.gpu_memory to 0.37 or less" in problem.do
    check_memory(Sampling(backend="vllm", gpu_memory=0.37), gpus)  # what was proposed is not refused
    check_memory(Sampling(backend="vllm"), gpus[1:])
    check_memory(Sampling(backend="transformers"), gpus)
    check_memory(Sampling(backend="vllm", tensor_parallel=2), gpus[:1])  # no engine: another message's


def test_no_share_is_proposed_where_almost_nothing_is_free() -> None:
    with pytest.raises(ConfigError) as error:
        check_memory(Sampling(backend="vllm"), [Gpu(0, "A", 24 * GIB, GIB)])
    assert "sampling.gpu_memory to" not in error.value.problems[0].do


def test_validate_says_all_of_it_before_anything_is_loaded(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(room, "find_gpus", lambda: [Gpu(0, "A", 24 * GIB, 23 * GIB)] * 2)
    model = make_tiny_model(tmp_path / "model", hidden_size=96)  # three heads
    config = load_config(
        tiny_config(tmp_path, models={"policy": str(model)}, sampling={"backend": "vllm", "tensor_parallel": 4})
    )
    with pytest.raises(ConfigError) as error:
        preflight(config)
    where = [problem.where for problem in error.value.problems]
    assert where == ["sampling.tensor_parallel: 4", f"sampling.tensor_parallel: 4, models.policy: {model}"]


def test_validate_shows_gpus_and_estimates(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(room, "find_gpus", lambda: [Gpu(0, "Card", 24 * GIB, 2 * GIB)])
    monkeypatch.setattr("icr.work.devices.choose_backend", lambda backend: "vllm")
    validate(str(tiny_config(tmp_path)))
    shown = capsys.readouterr().out
    assert "GPU 0: Card, 2.0 of 24.0 GiB free" in shown and "note: GPU 0 (Card) has 2.0 of 24.0 GiB free" in shown
    assert "disk (estimate): a training writes checkpoints of about" in shown and "GiB are free" in shown
    monkeypatch.setattr(room, "find_gpus", list)
    validate(str(tiny_config(tmp_path)))
    assert "GPUs: none found on this machine" in capsys.readouterr().out


def test_a_disk_that_is_too_small_for_a_training(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = load_config(tiny_config(tmp_path))
    monkeypatch.setattr("loops.disk.free_disk", lambda folder: 2**27)
    with pytest.raises(ConfigError, match=r"the disk has 0\.1 GiB free, but a training needs about") as error:
        preflight(config)
    assert error.value.problems[0].where == str(tmp_path / "run")


def test_without_a_gpu_an_engine_has_none(tmp_path: Path) -> None:
    """A config for eight GPUs can be tried on a laptop."""
    sampling = Sampling(backend="transformers", tensor_parallel=8)
    assert EngineSettings.of(sampling, 64, gpu=False).tensor_parallel == 1
    assert EngineSettings.of(sampling, 64, gpu=True).tensor_parallel == 8
    machine = Machine(tmp_path, Console(quiet=True), tensor_parallel=8)
    machine.__dict__["gpus"] = 16
    lanes = machine.pool._lanes  # type: ignore[attr-defined]
    assert (lanes["engine"].count, lanes["engine"].gpus_each) == (2, 8)
