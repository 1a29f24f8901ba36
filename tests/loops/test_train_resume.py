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

from loops.callbacks import SaveByTime
from loops.checkpoints import MARKER, Checkpoints
from loops.spec import TrainSpec
from tests.helpers.training_runs import (
    events,
    finish,
    fork,
    largest_difference,
    make_spec,
    metrics,
    random_pairs,
    run_here,
    start,
    weights,
)


def test_killed_and_resumed_gives_the_same_weights(base: Path, tmp_path: Path) -> None:
    """Two ranks, gloo, ZeRO-2. The launcher is killed; the ranks have to end by themselves, leaving no writer."""
    settings = {"deepspeed": "zero2", "batch_size": 4, "micro_batch_size": 1, "epochs": 12, "save_steps": 3}
    unbroken = make_spec(tmp_path / "unbroken", base, random_pairs(7), **settings)
    finish(fork(unbroken, 2), unbroken)
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
    resumed_at = Checkpoints(checkpoints, 2).steps_done()
    assert 0 < resumed_at < steps
    (checkpoints / "checkpoint-99").mkdir()  # killed while it was written: no marker

    killed.events.unlink()
    finish(start(killed, 2), killed)
    assert events(killed)[0] == {"event": "progress", "done": resumed_at, "total": steps, "tokens": 0}
    assert [row["step"] for row in metrics(killed)] == list(range(1, steps + 1))
    assert metrics(killed) == metrics(unbroken)
    a, b = weights(unbroken.output), weights(killed.output)
    assert a.keys() == b.keys() == weights(base).keys()
    assert all(torch.equal(a[name], b[name]) for name in a)
    assert not checkpoints.exists()


def run_until_checkpoint(spec: TrainSpec, monkeypatch: Any) -> None:
    """Train in this process, and be killed as soon as there is a checkpoint."""
    complete = Checkpoints.complete

    def die(self: Checkpoints, step: int) -> None:
        complete(self, step)
        raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(Checkpoints, "complete", die)
        run_here(spec)


def change(spec: TrainSpec, **settings: Any) -> TrainSpec:
    """The same training with other settings, in the spec file too."""
    changed = spec.model_copy(update={"train": spec.train.model_copy(update=settings)})
    (spec.work.parent / "spec.json").write_text(changed.model_dump_json())
    return changed


def test_resumes_without_deepspeed_to_the_same_weights(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A LoRA with dropout: the state of the random numbers comes back, too."""
    settings = {"epochs": 3, "save_steps": 2, "lora": {"rank": 4, "dropout": 0.2}}
    unbroken = make_spec(tmp_path / "unbroken", base, random_pairs(8), "kto", **settings)
    run_here(unbroken)
    broken = make_spec(tmp_path / "broken", base, random_pairs(8), "kto", **settings)
    run_until_checkpoint(broken, monkeypatch)
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
    (spec.work / "counts.json").unlink()  # a version that wrote none was killed before its caller noted the counts
    assert run_here(spec) == counts
    assert (spec.output / "model.safetensors").stat().st_mtime_ns == written


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
    assert checkpoints.obstacle() is None
    other = Checkpoints(tmp_path, 4)
    assert other.newest() is None and other.steps_done() == 10
    assert other.obstacle() == "it was started with 2 process(es) and now has 4"


def test_checkpoints_of_other_settings(tmp_path: Path) -> None:
    (tmp_path / "checkpoint-3").mkdir()
    Checkpoints(tmp_path, 1, {"train.seed": 1, "data": "a"}).complete(3)
    assert Checkpoints(tmp_path, 1, {"train.seed": 1, "data": "a"}).newest() == tmp_path / "checkpoint-3"
    other = Checkpoints(tmp_path, 1, {"train.seed": 2, "data": "a", "train.new": 0})
    assert other.newest() is None
    assert other.obstacle() == "these settings have changed since it was started: train.seed, train.new"
    (tmp_path / "checkpoint-3" / MARKER).write_text('{"processes": 1}')  # as older versions wrote it
    assert other.newest() == tmp_path / "checkpoint-3"


def test_another_number_of_processes_starts_over(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Begun by one process and resumed by two: all steps are done again, which is said and counted."""
    settings = {"batch_size": 4, "micro_batch_size": 1, "epochs": 4, "save_steps": 3}
    spec = make_spec(tmp_path / "run", base, random_pairs(7), **settings)
    unbroken = make_spec(tmp_path / "unbroken", base, random_pairs(7), **settings)
    run_until_checkpoint(spec, monkeypatch)
    assert [row["step"] for row in metrics(spec)] == [1, 2, 3]
    spec.events.unlink()
    process = fork(spec, 2)
    run_here(unbroken)
    finish(process, spec)
    why = "it was started with 1 process(es) and now has 2"
    [note] = [event["text"] for event in events(spec) if event["event"] == "note"]
    assert note == f"the training starts over; 3 optimiser steps are lost: {why}"
    counts = events(spec)[-1]["counts"]
    assert counts["restarted"] == {"why": why, "steps_lost": 3} and counts["processes"] == 2
    assert [row["step"] for row in metrics(spec)] == list(range(1, 8))
    assert largest_difference(spec.output, unbroken.output) < 0.05 * 1e-3
    assert not (spec.work / "checkpoints").exists()
    assert run_here(spec) == counts  # asked again, it knows


def test_a_changed_setting_starts_over(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    spec = make_spec(tmp_path / "run", base, random_pairs(8), epochs=3, save_steps=2)
    run_until_checkpoint(spec, monkeypatch)
    changed = change(spec, learning_rate=2e-3)
    counts = run_here(changed)
    assert counts["restarted"] == {
        "why": "these settings have changed since it was started: train.learning_rate",
        "steps_lost": 2,
    }
    assert metrics(changed)[0]["learning_rate"] == 2e-3


def test_the_split_may_change_on_the_way(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """Out of memory? A smaller micro-batch goes on from the checkpoint, and comes to the same weights."""
    settings = {"epochs": 3, "save_steps": 2, "micro_batch_size": 4}
    unbroken = make_spec(tmp_path / "unbroken", base, random_pairs(8), **settings)
    run_here(unbroken)
    spec = make_spec(tmp_path / "run", base, random_pairs(8), **settings)
    run_until_checkpoint(spec, monkeypatch)
    changed = change(spec, micro_batch_size=1, gradient_checkpointing=True, save_steps=None)
    assert "restarted" not in run_here(changed)
    for one, other in zip(metrics(unbroken), metrics(changed), strict=True):
        for name in one:
            assert other[name] == pytest.approx(one[name], rel=1e-4, abs=1e-5), name
    assert largest_difference(unbroken.output, changed.output) < 0.02 * 1e-3


def test_checkpoints_by_the_clock(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    """A step takes 4 minutes by this clock, which is read at the start and after steps and checkpoints: every 10
    minutes means after 3 steps, since the third is the first to end 10 minutes or more after the last checkpoint."""
    saved: list[int] = []
    monkeypatch.setattr(Checkpoints, "complete", lambda self, step: saved.append(step))

    class Slow(SaveByTime):
        def __init__(self, minutes_between: float) -> None:
            self.now = 0.0
            super().__init__(minutes_between, clock=lambda: self.now)

        def on_step_end(self, *args: Any, **kwargs: Any) -> None:
            self.now += 4 * 60
            super().on_step_end(*args, **kwargs)

    monkeypatch.setattr("loops.callbacks.SaveByTime", Slow)
    run_here(make_spec(tmp_path / "run", base, random_pairs(16), epochs=2, save_minutes=10))
    assert saved == [3, 6]  # of 8 steps


def test_no_checkpoint_in_a_short_training(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    saved: list[int] = []
    monkeypatch.setattr(Checkpoints, "complete", lambda self, step: saved.append(step))
    run_here(make_spec(tmp_path / "run", base, random_pairs(8)))
    assert saved == []
