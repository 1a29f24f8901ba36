"""Folders and files in the current folder that are called like our packages are not taken for them."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest

from icr.base.process import make_environment
from tests.helpers.training_runs import make_spec, random_pairs

TRAP = "raise SystemExit('a file of the user was imported: ' + __file__)\n"
ICR = Path(sys.executable).with_name("icr")


@pytest.fixture
def here(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A current folder with eval/, prompts/, configs/ and loops.py, and a reward in it."""
    for name in ("eval", "prompts", "configs"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "__init__.py").write_text(TRAP)
    (tmp_path / "loops.py").write_text(TRAP)
    (tmp_path / "mine.py").write_text("class Mine:\n    def rewards(self, rows):\n        return [0.0 for _ in rows]\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    return tmp_path


@pytest.mark.parametrize("start", ["-m icr", "-m icr.commands.main", str(ICR)])
def test_the_command_line(here: Path, start: str) -> None:
    if not start.startswith("-") and not ICR.is_file():
        pytest.skip("the package is not installed in this environment")
    argv = [sys.executable, *start.split(), "validate", "quickstart", "--set", "reward.kind=mine:Mine"]
    done = subprocess.run(argv, capture_output=True, text=True)
    assert done.returncode == 0 and "quickstart is fine" in done.stdout, done.stderr


def test_a_worker(here: Path) -> None:
    ours, theirs = socket.socketpair()
    argv = [sys.executable, "-m", "icr.commands.worker", str(theirs.fileno()), "1"]
    worker = subprocess.Popen(
        argv, env=make_environment(), pass_fds=[theirs.fileno()], stderr=subprocess.PIPE, stdout=subprocess.PIPE
    )
    theirs.close()
    ours.close()  # a worker ends with its channel
    said = worker.communicate(timeout=120)
    assert worker.returncode == 0, said


def test_a_training_and_its_ranks(here: Path, tiny_pair: tuple[Path, Path]) -> None:
    """As `Machine.train` starts it, but as if a launcher had brought no environment along."""
    spec = make_spec(here / "training", tiny_pair[0], random_pairs(4))
    torchrun = [sys.executable, "-P", "-m", "icr.work.torchrun", "--standalone", "--nproc-per-node=1"]
    argv = [*torchrun, "-m", "loops.train", str(here / "training" / "spec.json")]
    env = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "HF_HUB_OFFLINE": "1"}
    done = subprocess.run(argv, env=env, capture_output=True, text=True)
    assert done.returncode == 0 and (spec.output / "model.safetensors").is_file(), done.stderr[-3000:]
