"""Trainings that are killed and go on to the same weights, and the checkpoints that they go on from."""

from __future__ import annotations

import os
import signal
import time
from pathlib import Path
from typing import Any

import psutil
import pytest
import torch

from icr.base.errors import UserError
from loops.checkpoints import MARKER, Checkpoints
from tests.helpers.training_runs import events, finish, make_spec, metrics, random_pairs, run_here, start, weights


def test_killed_and_resumed_gives_the_same_weights(base: Path, tmp_path: Path) -> None:
    """Two ranks, gloo, ZeRO-2. The launcher is killed; the ranks have to end by themselves, leaving no writer."""
    settings = {"deepspeed": "zero2", "batch_size": 4, "micro_batch_size": 1, "epochs": 12, "save_steps": 3}
    unbroken = make_spec(tmp_path / "unbroken", base, random_pairs(7), **settings)
    finish(start(unbroken, 2), unbroken)
    assert events(unbroken)[-1]["event"] == "done"
    assert events(unbroken)[-1]["counts"]["processes"] == 2

    killed = make_spec(tmp_path / "killed", base, random_pairs(7), **settings)
    process = start(killed, 2)
    checkpoints = killed.work / "checkpoints"
    while not list(checkpoints.glob(f"*/{MARKER}")):
        assert process.poll() is None, (tmp_path / "killed" / "log").read_text()[-4000:]
        time.sleep(0.005)
    ranks = psutil.Process(process.pid).children(recursive=True)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    _, alive = psutil.wait_procs(ranks, timeout=10)
    assert len(ranks) >= 2 and not alive
    assert not killed.output.exists()
    steps = len(metrics(unbroken))
    assert steps == 21
    resumed_at = int(Checkpoints(checkpoints, 2).newest().name.removeprefix("checkpoint-"))  # type: ignore[union-attr]
    assert 0 < resumed_at < steps
    (checkpoints / "checkpoint-99").mkdir()  # killed while it was written: no marker

    with pytest.raises(UserError, match=r"begun with 2 process\(es\) and cannot go on with 1"):
        run_here(killed)

    killed.events.unlink()
    finish(start(killed, 2), killed)
    assert events(killed)[0] == {"event": "progress", "done": resumed_at, "total": steps, "tokens": 0}
    assert [row["step"] for row in metrics(killed)] == list(range(1, steps + 1))
    assert metrics(killed) == metrics(unbroken)
    a, b = weights(unbroken.output), weights(killed.output)
    assert a.keys() == b.keys() == weights(base).keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not checkpoints.exists()


def test_resumes_without_deepspeed_to_the_same_weights(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A LoRA with dropout: the state of the random numbers comes back, too."""
    settings = {"epochs": 3, "save_steps": 2, "lora": {"rank": 4, "dropout": 0.2}}
    unbroken = make_spec(tmp_path / "unbroken", base, random_pairs(8), "kto", **settings)
    run_here(unbroken)
    broken = make_spec(tmp_path / "broken", base, random_pairs(8), "kto", **settings)
    complete = Checkpoints.complete

    def die(self: Checkpoints, step: int) -> None:
        complete(self, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "complete", die)
        run_here(broken)
    assert [row["step"] for row in metrics(broken)] == [1, 2]
    run_here(broken)
    assert metrics(broken) == metrics(unbroken)
    a, b = weights(unbroken.output), weights(broken.output)
    assert all(torch.equal(a[name], b[name]) for name in a)


def test_a_finished_training_is_not_done_again(base: Path, tmp_path: Path) -> None:
    spec = make_spec(tmp_path / "run", base, random_pairs(4))
    counts = run_here(spec)
    written = (spec.output / "model.safetensors").stat().st_mtime_ns
    (spec.work / "checkpoints" / "checkpoint-1").mkdir(parents=True)  # killed before these were removed
    assert run_here(spec) == counts
    assert (spec.output / "model.safetensors").stat().st_mtime_ns == written
    assert not (spec.work / "checkpoints").exists()


def test_checkpoints(tmp_path: Path) -> None:
    """Only a marked one counts; older ones go when a newer one is marked."""
    checkpoints = Checkpoints(tmp_path, 2)
    assert checkpoints.newest() is None
    for step in (9, 10):
        (tmp_path / f"checkpoint-{step}").mkdir()
        (tmp_path / f"checkpoint-{step}" / "state").write_text("x")
    assert checkpoints.newest() is None
    checkpoints.complete(9)
    assert checkpoints.newest() == tmp_path / "checkpoint-9"
    checkpoints.delete_incomplete()
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-9"]
    (tmp_path / "checkpoint-10").mkdir()
    checkpoints.complete(10)
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint-10"]
    with pytest.raises(UserError, match="begun with 2"):
        Checkpoints(tmp_path, 4).newest()
