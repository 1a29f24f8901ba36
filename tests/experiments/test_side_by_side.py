"""`icr compare` on a cluster: what variants share is done once, and then they go on side by side as if alone."""

from __future__ import annotations

import io
import os
import signal
from pathlib import Path
from threading import Barrier
from typing import Any

import pytest
from rich.console import Console

from icr.base.errors import UserError
from icr.base.files import read_json
from icr.base.lock import RunLock
from icr.base.rundir import RunDir
from icr.experiments.compare import Variant, make_variants
from icr.experiments.variants import count_shared, run_variants
from icr.rounds.context import Context
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from icr.rounds.stages.pair import pair
from icr.work.runner import Counts
from tests.conftest import Config
from tests.helpers.independent import rows
from tests.helpers.inline import run_inline, share_inline, silent

pytestmark = pytest.mark.timeout(900)
SOON = 120.0


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Two nodes. What the workers of the first part do."""
    tasks = run_inline(monkeypatch)
    share_inline(monkeypatch, 2)
    return tasks


def vary(tiny_config: Config, folder: Path, setting: str) -> list[Variant]:
    prompts = {"limit": 2, "languages": ["en", "es"]}
    config = tiny_config(folder, rounds=1, prompts=prompts, judge={"limit": 2})
    return make_variants(config, [setting], folder / "out", [], {})


def do_alone(folder: Path, name: str, **settings: Any) -> RunDir:
    alone = RunDir(folder / name)
    changes = {"run": str(alone.path), **{key.replace("_", ".", 1): value for key, value in settings.items()}}
    controller = Controller(alone, *load_checked(folder / "config.yaml", [], changes), silent())
    controller.iterate()
    controller.close()
    return alone


def test_variants_go_on_side_by_side_and_each_is_the_run_alone(
    tiny_config: Config, tmp_path: Path, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variants, met, said = vary(tiny_config, tmp_path, "reward.length_penalty=fit,none,0.1"), Barrier(2), io.StringIO()

    def meet(context: Context) -> Counts:
        """The first two variants make their pairs at the same time; the third one has no node yet."""
        if context.run.path in (variants[0].run.path, variants[1].run.path):
            met.wait(SOON)
            assert "pair" not in variants[2].run.round(1).record.stages
        return pair(context)

    monkeypatch.setattr("icr.rounds.stages.pair.pair", meet)
    assert not run_variants(variants, tmp_path / "out", Console(file=said, width=200))
    records = [variant.run.round(1).record.stages for variant in variants]
    assert all(record["sample"].counts["shared_with"] == variants[0].name for record in records[1:])
    # the same responses were measured before, by all nodes
    assert max(record["score"].finished or 0 for record in records) < min(r["pair"].started for r in records)
    lines = said.getvalue().splitlines()
    assert "2 variants go on side by side; nodes of each: 1, 1" in lines
    assert "length_penalty=none: round 1 · train" in lines
    monkeypatch.undo()
    run_inline(monkeypatch)
    for variant, value in zip(variants[1:], ("none", 0.1), strict=True):
        one, other = variant.run.round(1), do_alone(tmp_path, f"alone-{value}", reward_length_penalty=value).round(1)
        assert rows(one.pairs) == rows(other.pairs) != []
        assert (one.model / "model.safetensors").read_bytes() == (other.model / "model.safetensors").read_bytes()
        assert read_json(one.summary)["languages"] == read_json(other.summary)["languages"]
    assert not (tmp_path / "out" / "measured").exists()


def test_a_variant_that_fails_stops_no_other_and_the_same_command_goes_on(
    tiny_config: Config, tmp_path: Path, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variants = vary(tiny_config, tmp_path, "reward.length_penalty=fit,none")

    def break_first(context: Context) -> Counts:
        if context.run.path == variants[0].run.path:
            raise UserError("no room")
        return pair(context)

    with monkeypatch.context() as patch:
        patch.setattr("icr.rounds.stages.pair.pair", break_first)
        failed = run_variants(variants, tmp_path / "out", silent())
    assert list(failed) == [variants[0].name] and variants[1].run.round(1).done("judge")
    finished = variants[1].run.round(1).record
    assert not run_variants(variants, tmp_path / "out", silent())
    assert variants[0].run.round(1).done("judge") and variants[1].run.round(1).record == finished


def test_what_ends_the_command_ends_all_variants_and_a_second_command_is_refused(
    tiny_config: Config, tmp_path: Path, tasks: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    variants, met = vary(tiny_config, tmp_path, "reward.length_penalty=fit,none"), Barrier(2)

    def interrupt(context: Context) -> Counts:
        met.wait(SOON)
        if context.run.path == variants[0].run.path:
            with monkeypatch.context() as patch, pytest.raises(UserError, match="another command is using"):
                patch.setattr("icr.base.lock.PATIENCE", 0.0)
                RunLock(tmp_path / "out" / ".lock")
            os.kill(os.getpid(), signal.SIGINT)
        context.machine._ended.wait(SOON)  # type: ignore[union-attr]
        return pair(context)

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a command in the background ignores it
    try:
        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("icr.rounds.stages.pair.pair", interrupt)
            run_variants(variants, tmp_path / "out", silent())
    finally:
        signal.signal(signal.SIGINT, before)
    assert not any(variant.run.round(1).done("train") for variant in variants)
    assert not run_variants(variants, tmp_path / "out", silent())
    assert all(variant.run.round(1).done("judge") for variant in variants)


@pytest.mark.parametrize(
    ("setting", "shared"),
    [
        ("train.beta=0.1,0.2", ["judge", "sample", "score", "pair"]),
        ("reward.kind=cross-lingual,random", ["judge", "sample", "score"]),  # measured together, rewarded apart
        ("sampling.n=2,4", ["judge"]),
        ("train.save_steps=1,2", ["judge", "sample", "score", "pair", "train", "judge"]),
    ],
)
def test_what_variants_share(
    tiny_config: Config, tmp_path: Path, setting: str, shared: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    controllers = [Controller(v.run, v.config, v.inputs, silent()) for v in vary(tiny_config, tmp_path, setting)]
    plans = [controller.plan for controller in controllers]
    for controller in controllers:
        controller.close()
    assert [step.kind for step in plans[0].steps()][: count_shared(plans[0], plans[1:])] == shared
    assert count_shared(plans[0], []) == 0
