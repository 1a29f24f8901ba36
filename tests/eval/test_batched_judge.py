"""A whole evaluation through the Batch API."""

from __future__ import annotations

import io
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.estimate import estimate
from eval.evaluate import evaluate, evaluation_config
from icr.base.files import read_rows
from icr.config.evaluation import EvaluationConfig
from icr.work.machine import Machine
from tests.commands.test_judge_cli import write_public
from tests.helpers.batch_stub import BatchApi
from tests.helpers.judging import Inline
from tests.helpers.stub_server import Answer, Stub, says

N = 12


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "fill", lambda self, *args, **options: Inline().fill(*args, **options))


def longer_in_german(body: dict[str, Any]) -> Answer:
    """Prefers ours in German and theirs in Spanish."""
    text = body["messages"][-1]["content"]
    first = text.index("ours ") < text.index("theirs ")
    return says("A" if first == ("German" in text) else "B")


def config(folder: Path, url: str, *overrides: str) -> EvaluationConfig:
    for name in ("ours", "theirs"):
        for lang in ("de", "es"):
            write_public(folder / name, name, lang, {n: f"{name} {lang} {n}" for n in range(1, N + 1)})
    prices = folder / "prices.yaml"
    prices.write_text("m: {input: 1.0, output: 10.0}\n")
    section = {"baseline": str(folder / "theirs"), "base_url": url, "batch": True, "prices": str(prices)}
    data = {"languages": ["de", "es"], "judge": section}
    return evaluation_config("xalpaca", str(folder / "ours"), "openai:m", data, overrides)


def test_all_languages_are_one_batch_and_the_verdicts_are_theirs(tmp_path: Path) -> None:
    api = BatchApi(longer_in_german, looks=1)
    with Stub(lambda request, before: longer_in_german(request)) as stub:
        stub.other = api
        asked = config(tmp_path, stub.url)
        cost, _ = estimate(asked, tmp_path / "out").lines
        whole, _ = estimate(config(tmp_path, stub.url, "judge.batch=false"), tmp_path / "out").lines
        assert _usd(cost) == pytest.approx(_usd(whole) / 2, abs=0.01)
        summary = evaluate(asked, tmp_path / "out", Console(file=io.StringIO()))
        rates = {lang: row["win_rate"] for lang, row in summary["languages"].items()}
        assert rates == {"de": 100.0, "es": 0.0}
        assert len(api.batches) == 1 and sum(api.billed.values()) == 4 * N - 1 and len(stub.sent) == 1
        assert summary["cost"]["calls"] == 4 * N
        assert summary["cost"]["usd"] == pytest.approx((1 + (4 * N - 1) / 2) * 17 / 1e6)
        rows = read_rows(tmp_path / "out" / "verdicts" / "es.parquet")
        assert len(rows) == 2 * N and {row["preference"] for row in rows} == {0.0}
        # batches are how the work is done: the same evaluation without them has its result already
        again = config(tmp_path, stub.url, "judge.batch=false")
        assert evaluate(again, tmp_path / "out", Console(file=io.StringIO()))["languages"] == summary["languages"]
        assert len(api.batches) == 1 and len(stub.sent) == 1


@pytest.mark.parametrize(("most", "together"), [(4 * N, True), (4 * N - 1, False)])
def test_without_batches_too_all_languages_are_asked_together(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, most: int, together: bool
) -> None:
    monkeypatch.setattr("eval.judges.asking.AT_ONCE", most)
    with Stub(lambda request, before: replace(longer_in_german(request), delay=0.2)) as stub:
        asked = config(tmp_path, stub.url, "judge.batch=false", "judge.concurrency=64")
        summary = evaluate(asked, tmp_path / "out", Console(file=io.StringIO()))
    assert {lang: row["win_rate"] for lang, row in summary["languages"].items()} == {"de": 100.0, "es": 0.0}
    assert len(stub.sent) == 4 * N
    assert (stub.most_busy > 2 * N) == together  # more than a language has


def _usd(line: str) -> float:
    return float(line.split("at most ")[1].split(" dollars")[0])
