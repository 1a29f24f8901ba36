"""`icr compare` with an endpoint judge: one variant's last verdicts come while the next variant goes on."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from icr.base.files import read_json
from icr.base.rundir import RoundDir, RunDir
from icr.experiments.compare import Variant, compare, make_variants
from icr.experiments.variants import run_variants
from icr.rounds.context import Context
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from icr.rounds.stages.pair import pair
from icr.work.runner import Counts
from tests.conftest import Config
from tests.helpers.independent import rows
from tests.helpers.inline import ask_inline, run_inline, silent
from tests.helpers.stub_server import Answer, Stub, fault, says

ENDS = pytest.mark.timeout(900)
LANGUAGES = ["en", "es"]


@pytest.fixture(autouse=True)
def workers(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Tasks, as they come."""
    monkeypatch.setenv("ICR_JUDGE_CACHE", "none")
    return run_inline(monkeypatch)


@pytest.fixture
def inline_asker(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_inline(monkeypatch)


def vary(tiny_config: Config, folder: Path, stub: Stub, setting: str, **asked: Any) -> list[Variant]:
    judge = {"kind": "openai", "model": "m", "base_url": stub.url, "limit": 2, **asked}
    config = tiny_config(folder, rounds=1, prompts={"limit": 2, "languages": LANGUAGES}, judge=judge)
    return make_variants(config, [setting], folder / "out", [], {})


def wait_until(holds: Callable[[], bool]) -> bool:
    deadline = time.monotonic() + 120
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)
    return holds()


def check_same(one: RoundDir, other: RoundDir) -> None:
    assert rows(one.pairs) == rows(other.pairs) != []
    assert (one.model / "model.safetensors").read_bytes() == (other.model / "model.safetensors").read_bytes()
    assert read_json(one.summary) == read_json(other.summary)
    for lang in LANGUAGES:
        assert rows(one.judge / "verdicts" / f"{lang}.parquet") == rows(other.judge / "verdicts" / f"{lang}.parquet")


@ENDS
def test_the_last_verdicts_come_beside_the_next_variant_and_each_is_the_run_alone(
    tiny_config: Config, tmp_path: Path, inline_asker: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    met, second = list[bool](), list[RunDir]()

    def script(request: dict[str, Any], before: int) -> Answer:
        """Nothing about the first variant before the second one has made its pairs."""
        if second and not second[0].round(1).done("train"):
            met.append(wait_until(lambda: second[0].round(1).done("pair")))
        return says("A" if len(request["messages"][-1]["content"]) % 2 else "B")

    def pair_late(context: Context) -> Counts:
        """The second one's pairs come once the endpoint is asked about the first one."""
        if second and context.run.path == second[0].path:
            assert wait_until(lambda: len(stub.sent) > 0)
        return pair(context)

    monkeypatch.setattr("icr.rounds.stages.pair.pair", pair_late)
    with Stub(script) as stub:
        variants, said = vary(tiny_config, tmp_path, stub, "reward.length_penalty=fit,none"), io.StringIO()
        second.append(variants[1].run)
        assert not run_variants(variants, tmp_path / "out", Console(file=said, width=200))
        assert met and all(met)
        first, last = (v.run.round(1).record.stages for v in variants)
        assert first["judge"].finished and last["pair"].finished and last["judge"].finished
        assert last["pair"].finished < first["judge"].finished < last["judge"].finished
        lines = said.getvalue().splitlines()
        assert lines.count("  the judge is asked while the next variant goes on") == 1  # nothing follows the last one
        assert any(line.startswith("  length_penalty=fit · judge done in ") for line in lines)
        found = compare(variants, tmp_path / "out")
        assert set(found["differences"]) == {"length_penalty=none"} and not found["not_compared"]
        second.clear()
        for variant in variants:
            alone = RunDir(tmp_path / f"alone-{variant.config.reward.length_penalty}")
            settings = {"run": str(alone.path), "reward.length_penalty": variant.config.reward.length_penalty}
            controller = Controller(alone, *load_checked(tmp_path / "config.yaml", [], settings), silent())
            controller.iterate()
            controller.close()
            check_same(variant.run.round(1), alone.round(1))


@ENDS
def test_verdicts_that_still_come_are_taken_over_and_not_paid_again(
    tiny_config: Config, tmp_path: Path, workers: list[str], inline_asker: None
) -> None:
    """The variants differ in nothing that a result depends on."""
    with Stub(lambda request, before: says("A")) as stub:
        variants = vary(tiny_config, tmp_path, stub, "train.save_steps=1,2,3")
        assert not run_variants(variants, tmp_path / "out", silent())
        assert set(stub.asked.values()) == {1} and workers.count("train") == 1
        for variant in variants[1:]:
            assert variant.run.round(1).record.stages["judge"].counts["shared_with"] == variants[0].name
        before = len(stub.sent)
        assert not run_variants(variants, tmp_path / "out", silent())
        assert len(stub.sent) == before


@ENDS
def test_a_variant_whose_verdicts_fail_is_named_and_the_others_go_on(
    tiny_config: Config, tmp_path: Path, inline_asker: None
) -> None:
    broken = [True]

    def script(request: dict[str, Any], before: int) -> Answer:
        return fault(401, "this key is not known") if broken and not second.round(1).done("train") else says("A")

    with Stub(script) as stub:
        variants, said = vary(tiny_config, tmp_path, stub, "reward.length_penalty=fit,none"), io.StringIO()
        second = variants[1].run
        failed = run_variants(variants, tmp_path / "out", Console(file=said, width=200))
        assert list(failed) == ["length_penalty=fit"] and "this key is not known" in str(failed["length_penalty=fit"])
        assert "variant length_penalty=fit stopped: " in said.getvalue()
        assert variants[0].run.round(1).record.stages["judge"].state == "failed" and second.round(1).done("judge")
        broken.clear()
        assert not run_variants(variants, tmp_path / "out", silent())
        assert variants[0].run.round(1).done("judge")


@ENDS
def test_what_ends_the_command_ends_the_asking_about_a_variant_before(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a process asks, which is killed in the middle."""

    def script(request: dict[str, Any], before: int) -> Answer:
        return replace(says("A"), delay=0.5)

    with Stub(script) as stub:
        variants = vary(tiny_config, tmp_path, stub, "reward.length_penalty=fit,none", concurrency=1)

        def interrupted(context: Context) -> Counts:
            if context.run.path == variants[1].run.path:
                assert wait_until(lambda: stub.answered > 0)
                raise KeyboardInterrupt
            return pair(context)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("icr.rounds.stages.pair.pair", interrupted)
            run_variants(variants, tmp_path / "out", silent())
        assert variants[0].run.round(1).record.stages["judge"].state == "running"
        stub.script = lambda request, before: says("A")
        assert not run_variants(variants, tmp_path / "out", silent())  # either lock was given back
    assert all(variant.run.round(1).done("judge") for variant in variants)
