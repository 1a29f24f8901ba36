"""However the driver ends, nothing that it started is left."""

from __future__ import annotations

import importlib.util
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import psutil
import pytest

from tests.conftest import Config
from tests.helpers.command import ICR
from tests.work.conftest import ROOT

GONE_SECONDS, STARTED = 10.0, 120.0


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def start_driver(folder: Path, mode: str) -> tuple[subprocess.Popen[bytes], list[psutil.Process]]:
    """A driver whose two workers have each started two processes, and all that is below it."""
    env = {**os.environ, "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "tests.helpers.dummy_driver", str(folder), mode]
    # tests that a shell runs in the background ignore Ctrl-C, and so would their children
    listening = partial(signal.signal, signal.SIGINT, signal.SIG_DFL)
    driver = subprocess.Popen(command, env=env, stderr=subprocess.PIPE, start_new_session=True, preexec_fn=listening)
    wait_for(lambda: len(list(folder.glob("child-*"))) == 4, STARTED)
    if mode != "busy":
        wait_for((folder / "idle").exists, STARTED)
    if mode == "forked":
        wait_for(lambda: bool(list(folder.glob("fork-*"))), STARTED)
    below = psutil.Process(driver.pid).children(recursive=True)
    workers = [process for process in below if not (folder / f"fork-{process.pid}").exists()]
    assert len(workers) == 8  # two guards, two workers, four children
    return driver, workers


def wait_until_gone(processes: list[psutil.Process]) -> float:
    started = time.monotonic()
    _, alive = psutil.wait_procs(processes, timeout=GONE_SECONDS)
    assert alive == []
    return time.monotonic() - started


@pytest.mark.parametrize("mode", ["busy", "idle"])
def test_nothing_outlives_a_driver_that_is_killed(tmp_path: Path, mode: str) -> None:
    driver, below = start_driver(tmp_path, mode)
    driver.kill()
    driver.communicate()
    wait_until_gone(below)


def test_nothing_outlives_a_driver_whose_own_child_keeps_its_files_open(tmp_path: Path) -> None:
    driver, below = start_driver(tmp_path, "forked")
    (fork,) = [psutil.Process(int(path.name.partition("-")[2])) for path in tmp_path.glob("fork-*")]
    driver.kill()
    driver.wait()
    wait_until_gone(below)
    assert fork.is_running()
    fork.kill()


def test_nothing_outlives_a_driver_that_is_interrupted(tmp_path: Path) -> None:
    """Ctrl-C goes to the terminal's process group, in which the driver is and its workers are not."""
    driver, below = start_driver(tmp_path, "busy")
    assert {os.getpgid(process.pid) for process in below}.isdisjoint({os.getpgid(driver.pid)})
    os.killpg(driver.pid, signal.SIGINT)
    _, messages = driver.communicate(timeout=STARTED)
    assert b"KeyboardInterrupt" in messages
    wait_until_gone(below)


@pytest.mark.timeout(600)
def test_nothing_outlives_a_killed_run_with_vllms_engine_in_a_process_of_its_own(
    tiny_config: Config, tmp_path: Path
) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    config = tiny_config(tmp_path, sampling={"backend": "vllm"})
    driver = subprocess.Popen(
        [*ICR, "iterate", "--config", str(config)],
        env={**os.environ, "VLLM_ENABLE_V1_MULTIPROCESSING": "1"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    log = tmp_path / "run" / "logs" / "engine-0.log"
    wait_for(lambda: log.exists() and " built: vllm" in log.read_text(), 500)
    below = psutil.Process(driver.pid).children(recursive=True)
    assert any("EngineCore" in " ".join([process.name(), *process.cmdline()]) for process in below)
    driver.kill()
    driver.wait()
    wait_until_gone(below)
