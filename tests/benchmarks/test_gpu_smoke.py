"""The script that tries everything on a GPU: what it does where there is none, and how it tells what went wrong."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import psutil
import pytest
import yaml

from benchmarks import gpu_smoke
from benchmarks.gpu_smoke import CHECKS, Skipped, Smoke, format_row, main, run_checks
from icr.config.load import load_config
from icr.work.devices import Gpu, find_gpus

MODELS = {"policy": "org/policy", "reference": "org/reference"}
CARD = Gpu(0, "Card", 24 * 2**30, 20 * 2**30)


@pytest.mark.skipif(not find_gpus(), reason="needs a CUDA GPU")
def test_everything_on_this_machines_gpus(monkeypatch: pytest.MonkeyPatch) -> None:
    """Minutes."""
    monkeypatch.setattr(sys, "argv", ["gpu_smoke"])
    assert main() == 0


def test_without_a_gpu_every_check_is_skipped_with_the_reason(tmp_path: Path) -> None:
    rows = run_checks(Smoke(tmp_path, [], on_cpu=False), list(CHECKS))
    assert [(name, result) for name, result, _, _ in rows] == [(name, "skipped") for name in CHECKS]
    assert rows[0][3] == "needs 1 CUDA GPU; this machine has 0 to use"
    assert "needs 2 CUDA GPUs" in {name: detail for name, _, _, detail in rows}["tensor-parallel"]


def test_the_configs_are_valid_and_have_the_default_settings(tmp_path: Path) -> None:
    smoke = Smoke(tmp_path, [CARD], on_cpu=False, models=MODELS)
    config = load_config(smoke.write_config(train={"deepspeed": "zero3"}))
    assert (config.sampling.backend, config.sampling.precision) == ("auto", "auto")
    assert (config.train.deepspeed, config.train.batch_size, config.rounds) == ("zero3", 4, 2)
    eight = load_config(Smoke(tmp_path, [CARD] * 8, on_cpu=False, models=MODELS).write_config())
    assert eight.train.batch_size % 8 == 0  # a training process for each


def test_a_failure_is_a_row_of_the_table(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fails(smoke: Smoke) -> str:
        raise AssertionError("exit code 1, not 0")

    def skips(smoke: Smoke) -> str:
        raise Skipped("needs something else")

    monkeypatch.setattr(gpu_smoke, "CHECKS", {"a": fails, "b": skips, "c": lambda smoke: "fine"})
    rows = run_checks(Smoke(tmp_path, [], on_cpu=True), ["a", "b", "c"])
    assert [row[1] for row in rows] == ["failed", "skipped", "passed"]
    assert "AssertionError: exit code 1, not 0" in format_row(rows[0])


def test_memory_and_processes_that_are_left_are_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    clock = iter(range(0, 1000, 15))
    monkeypatch.setattr("benchmarks.gpu_smoke.time.monotonic", lambda: next(clock))
    now = [Gpu(0, "Card", CARD.total, CARD.free - 2**30, ("python (pid 7)",))]
    monkeypatch.setattr(gpu_smoke, "find_gpus", lambda: now)
    smoke = Smoke(tmp_path, [CARD], on_cpu=False)
    with pytest.raises(AssertionError, match=r"left over: processes \[\], on GPUs \[0\] \['python \(pid 7\)'\]"):
        smoke.check_clean([])
    now[0] = CARD
    sleeper = subprocess.Popen([sys.executable, "-c", "import time; time.sleep(60)"])
    try:
        with pytest.raises(AssertionError, match=rf"left over: processes \[{sleeper.pid}\]"):
            smoke.check_clean([psutil.Process(sleeper.pid)])
    finally:
        sleeper.kill()
        sleeper.wait()
    smoke.check_clean([])


def test_a_run_that_is_refused_is_a_failure_with_its_message(tmp_path: Path) -> None:
    smoke = Smoke(tmp_path, [], on_cpu=True, models=MODELS)
    file = smoke.write_config()
    file.write_text(yaml.safe_dump({**yaml.safe_load(file.read_text()), "rounds": 0}))
    with pytest.raises(AssertionError, match=r"exit code 2, not 0: .*rounds"):
        smoke.iterate(file)
