"""A judge stage that is done but for a few questions: the same command asks those again."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icr.base.files import read_json, read_rows
from tests.conftest import Config
from tests.helpers.inline import run_inline
from tests.helpers.stub_server import Answer, Stub, fault, says
from tests.rounds.test_benchmarks import iterate


@pytest.fixture
def tasks(monkeypatch: pytest.MonkeyPatch) -> Iterator[list[str]]:
    yield run_inline(monkeypatch)


def test_what_the_endpoint_did_not_answer_is_asked_again_and_nothing_else(
    tiny_config: Config, tmp_path: Path, tasks: list[str]
) -> None:
    assert os.environ["ICR_JUDGE_CACHE"] == "none"
    down = True

    def script(request: dict[str, Any], before: int) -> Answer:
        failed = down and len(stub.asked) == 2  # the second question, however often it is tried
        return fault(503) if failed and stub.asked[request["messages"][-1]["content"]] else says("A")

    with Stub(script) as stub:
        judge = {"kind": "openai", "model": "m", "base_url": stub.url, "limit": 3, "max_unscored": 1.0, "attempts": 1,
                 "concurrency": 1}  # fmt: skip
        config = tiny_config(tmp_path, rounds=1, judge=judge)
        run = iterate(config, tmp_path / "run")
        summary = read_json(run.round(1).summary)
        assert summary["address"] == stub.url and summary["judge"] == "openai: m"
        missing = [row for file in sorted((run.round(1).judge / "verdicts").glob("*.parquet"))
                   for row in read_rows(file) if row["preference"] is None]  # fmt: skip
        assert [row["reason"] for row in missing] == ["no answer: HTTP 503"]
        assert run.round(1).done("judge")
        down, asked, before = False, len(stub.sent), len(tasks)
        iterate(config, tmp_path / "run")
        assert len(stub.sent) == asked + 1 and set(tasks[before:]) == {"ask"}
        after = read_json(run.round(1).summary)
        assert sum(row["unscored_verdicts"] for row in after["languages"].values()) == 0
        assert run.round(1).done("judge") and run.round(1).record.stages["judge"].parts["xalpaca"]
        before = len(tasks)
        iterate(config, tmp_path / "run")
        assert len(stub.sent) == asked + 1 and not tasks[before:]
