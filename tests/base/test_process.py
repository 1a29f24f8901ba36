"""What every worker's environment holds, whatever the user's is."""

from __future__ import annotations

from pathlib import Path

import pytest
from rich.console import Console

from icr.base.process import make_environment
from icr.work.display import StageDisplay
from icr.work.launch import Worker, run_workers
from icr.work.local_pool import Lane, LocalPool


def test_openmps_threads_sleep_where_they_wait_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert make_environment()["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert make_environment()["GOMP_SPINCOUNT"] == "7"


def test_no_telemetry_is_sent_whatever_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    made = make_environment({"ADDED": "yes"})
    assert (made["DO_NOT_TRACK"], made["HF_HUB_DISABLE_TELEMETRY"], made["ADDED"]) == ("1", "1", "yes")


def test_an_engine_starts_its_processes_anew_on_cuda(monkeypatch: pytest.MonkeyPatch) -> None:
    """A look for GPUs sets PyTorch's guard against forks, and vLLM forks unless it is asked not to."""
    monkeypatch.setenv("VLLM_WORKER_MULTIPROC_METHOD", "fork")
    made = make_environment()
    assert (made["VLLM_WORKER_MULTIPROC_METHOD"], made["PYTORCH_NVML_BASED_CUDA_CHECK"]) == ("spawn", "1")


def test_every_worker_has_that_environment(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """Those of the pool, lm-eval's among them, and those of trainings and translations."""
    monkeypatch.delenv("CUDA_VISIBLE_DEVICES", raising=False)
    started: list[dict[str, str]] = []

    class Refused(Exception):
        pass

    def popen(*args: object, env: dict[str, str], **kwargs: object) -> None:
        started.append(env)
        raise Refused

    monkeypatch.setattr("subprocess.Popen", popen)
    pool = LocalPool(tmp_path, {"engine": Lane(1, 2), "nlp": Lane(1, 2), "scorer": Lane(1)})
    for lane in ("engine", "nlp", "scorer"):
        with pytest.raises(Refused):
            pool.workers(lane)
    with pytest.raises(Refused):
        run_workers([Worker([], tmp_path / "events", tmp_path / "log")], StageDisplay(Console(quiet=True), ""))
    assert len(started) == 4 and all(env["VLLM_WORKER_MULTIPROC_METHOD"] == "spawn" for env in started)
    assert [env.get("CUDA_VISIBLE_DEVICES") for env in started[:2]] == ["0,1", "0,1"]
