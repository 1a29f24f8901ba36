"""An endpoint is asked about a round while the next one goes on: nothing else about the run is different."""

from __future__ import annotations

import io
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from rich.console import Console

from icr.base.errors import UserError
from icr.base.rundir import RunDir
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from icr.rounds.stages.sample import sample
from tests.conftest import TEXTS, Config
from tests.helpers.forked import Job, kill_forks
from tests.helpers.independent import rows
from tests.helpers.inline import ask_inline, run_inline
from tests.helpers.stub_server import Answer, Stub, fault, says


@pytest.fixture(autouse=True)
def workers(monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of the run are in this process."""
    run_inline(monkeypatch)


@pytest.fixture
def inline_asker(monkeypatch: pytest.MonkeyPatch) -> None:
    ask_inline(monkeypatch)


class Judged:
    """A run of two rounds, and an endpoint that answers nothing about round 1 before round 2 is under way."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.run, self.out = folder, RunDir(folder / "run"), io.StringIO()
        self.answer: Callable[[], Answer] = lambda: says("A")
        self.met: list[bool] = []
        self.stub = Stub(self.script)

    def script(self, request: dict[str, Any], before: int) -> Answer:
        second = self.run.round(2)
        if self.stop_when == "never" and not second.done("train"):
            wait_until(lambda: bool(second.record.stages))
            self.met.append(bool(second.record.stages))
        return self.answer()

    def iterate(self, tiny_config: Config, stop_when: str = "never", **judge: Any) -> None:
        self.stop_when = stop_when
        asked = {"kind": "openai", "model": "m", "base_url": self.stub.url, "limit": 3, **judge}
        config = tiny_config(self.folder, prompts={"limit": 3}, judge=asked, stop_when=stop_when)
        resolved, inputs = load_checked(config, [], {"run": str(self.run.path)})
        controller = Controller(self.run, resolved, inputs, Console(file=self.out, width=200))
        try:
            controller.iterate()
        finally:
            controller.close()

    def times(self, number: int, stage: Any) -> tuple[float, float]:
        record = self.run.round(number).record.stages[stage]
        assert record.finished
        return record.started, record.finished


def wait_until(holds: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 120
    while not holds() and time.monotonic() < deadline:
        time.sleep(0.01)


def test_verdicts_come_while_the_next_round_goes_on_and_the_run_is_the_same(
    tiny_config: Config, tmp_path: Path, inline_asker: None
) -> None:
    together, apart = Judged(tmp_path / "together"), Judged(tmp_path / "apart")
    with together.stub, apart.stub:
        together.iterate(tiny_config)
        apart.iterate(tiny_config, stop_when="worse")  # which needs the verdicts first
    assert together.met and all(together.met)
    assert together.times(1, "judge")[1] > together.times(2, "sample")[0]
    assert together.times(1, "judge")[1] < together.times(2, "judge")[0]
    assert apart.times(1, "judge")[1] < apart.times(2, "sample")[0]
    for number in (1, 2):
        a, b = together.run.round(number), apart.run.round(number)
        assert rows(a.pairs) == rows(b.pairs) != []
        assert (a.model / "model.safetensors").read_bytes() == (b.model / "model.safetensors").read_bytes()
        assert a.record.stages["judge"].counts == b.record.stages["judge"].counts
        assert a.summary.read_text().replace(together.stub.url, "") == b.summary.read_text().replace(apart.stub.url, "")
        for lang in TEXTS:
            assert rows(a.judge / "verdicts" / f"{lang}.parquet") == rows(b.judge / "verdicts" / f"{lang}.parquet")
    assert together.stub.asked == apart.stub.asked
    lines = together.out.getvalue().splitlines()
    begun = lines.index("  the judge is asked while round 2 goes on")
    assert lines[begun + 1] == "round 2 · sample"
    assert len([line for line in lines if line.startswith("  round 1 · judge done in ")]) == 1


def test_a_judge_that_fails_ends_the_command_after_the_stage_under_way_and_is_asked_again(
    tiny_config: Config, tmp_path: Path, inline_asker: None
) -> None:
    judged = Judged(tmp_path)
    with judged.stub:
        judged.answer = lambda: fault(401, "this key is not known")
        with pytest.raises(UserError, match="this key is not known"):
            judged.iterate(tiny_config)
        run = judged.run
        assert run.round(1).record.stages["judge"].state == "failed" and run.round(2).done("sample")
        assert "judge" not in run.round(2).record.stages
        assert "round 1 · judge failed; this command ends after the stage that it is at" in judged.out.getvalue()
        judged.answer = lambda: says("A")
        judged.iterate(tiny_config)
    assert run.round(1).done("judge") and run.round(2).done("judge")


def test_what_ends_the_command_ends_the_asking_and_no_answer_is_lost(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Here a process asks, which is killed in the middle."""
    judged, others = Judged(tmp_path), set(psutil.Process().children(recursive=True))
    judged.answer = lambda: replace(says("A"), delay=0.5)
    with judged.stub:

        def interrupted(context: Any) -> Any:
            if context.round.number == 2:
                wait_until(lambda: judged.stub.answered > 2)
                raise KeyboardInterrupt
            return sample(context)

        with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
            patch.setattr("icr.rounds.stages.sample.sample", interrupted)
            judged.iterate(tiny_config, concurrency=1)
        assert set(psutil.Process().children(recursive=True)) <= others
        assert judged.run.round(1).record.stages["judge"].state == "running"
        asked = len(judged.stub.sent)
        time.sleep(1)
        assert len(judged.stub.sent) == asked < 18  # of all
        judged.answer = lambda: says("A")
        judged.iterate(tiny_config)
    assert judged.run.round(2).done("judge")
    assert sum(count > 1 for count in judged.stub.asked.values()) <= 1  # the one under way


@pytest.mark.timeout(600)
def test_a_driver_that_is_killed_while_verdicts_come_pays_for_none_of_them_twice(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL, each time later; the process that asks ends with the driver. The same command goes on with both."""
    monkeypatch.setenv("ICR_JUDGE_CACHE", "none")
    monkeypatch.setenv("ICR_RATES", "none")
    asked, kills = tmp_path / "asked", 3

    def script(request: dict[str, Any], before: int) -> Answer:
        with asked.open("a") as file:
            file.write("question\n")
        return replace(says("A" if len(request["messages"][-1]["content"]) % 2 else "B"), delay=0.3)

    with Stub(script) as stub:
        judge = {"kind": "openai", "model": "m", "base_url": stub.url, "limit": 3, "concurrency": 1}
        config = tiny_config(tmp_path, judge=judge, train={"save_steps": 1, "processes": 1})
        job = Job(command=["iterate", "--config", str(config)], calm=str(tmp_path / "calm"), inline=True, kills=kills,
                  killed=str(tmp_path / "killed"), training=1, longest=0, asked=str(asked))  # fmt: skip
        ((*ended, last),) = kill_forks(tmp_path, [job])
        questions, paid = stub.asked, stub.answered
    assert [start["ended"] for start in ended] == [-9] * kills and last["ended"] == 0
    calm, killed = (RunDir(tmp_path / name) for name in ("calm", "killed"))
    # either run asked each question once; a kill loses the one that was under way
    assert len(questions) < paid <= 2 * len(questions) + kills
    assert max(questions.values()) <= 2 + kills and sum(questions.values()) <= 2 * len(questions) + kills
    for number in (1, 2):
        a, b = calm.round(number), killed.round(number)
        assert rows(a.pairs) == rows(b.pairs) != [] and a.summary.read_text() == b.summary.read_text()
        assert (a.model / "model.safetensors").read_bytes() == (b.model / "model.safetensors").read_bytes()
        for lang in TEXTS:
            for name in (f"judge/verdicts/{lang}.parquet", f"responses/{lang}.parquet", f"rewards/{lang}.parquet"):
                assert rows(a.path / name) == rows(b.path / name) != []
