"""`icr rm data` and `icr rm bench` as typed: what is printed, and what is written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from icr.commands.main import app
from tests.helpers.reward_models import make_folder, rating_rows


def run(*arguments: str) -> None:
    app(list(arguments), standalone_mode=False)


def test_data_prints_what_became_of_every_row(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    rows = [
        {"context": [{"role": "user", "content": f"Q{n}?"}], "response1": "short", "response2": "a longer one",
         "overall_preference": n - 1, "language": "german"}
        for n in range(4)
    ]  # fmt: skip
    source = tmp_path / "helpsteer.jsonl"
    source.write_text("\n".join(map(json.dumps, rows)))
    run("rm", "data", str(source), "--out", str(tmp_path / "out"), "--validation", "1")
    printed = capsys.readouterr().out
    cells = next(line for line in printed.splitlines() if line.strip().startswith("de ")).split()
    assert cells == ["de", "4", "1", "3", "2", "1", "3", "66.7", "%", "0.0", "%", "0"]
    assert "de left out: 1 tie" in printed and f"pairs: {tmp_path / 'out'}" in printed
    run("rm", "data", str(source), "--out", str(tmp_path / "again"), "--validation", "0", "--json")
    report = json.loads(capsys.readouterr().out)
    assert report["sources"] == ["helpsteer.jsonl"] and report["languages"]["de"]["train"] == 3
    assert json.loads((tmp_path / "again" / "report.json").read_text()) == report


def test_ratings_have_other_columns(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    made = make_folder(tmp_path / "made", rating_rows(8), validation=0)
    run("rm", "data", str(made / "train.parquet"), "--out", str(tmp_path / "out"))
    printed = capsys.readouterr().out
    assert "50.0 %" in printed and "label" in printed and "longer" not in printed and "ratings: " in printed


def test_a_benchmark_without_models_is_length_alone(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    pairs = [("long one", "short"), ("s", "long"), ("same", "size")]
    rows = [{"id": n, "prompt": "Q", "chosen": c, "rejected": r, "subset": "mine"} for n, (c, r) in enumerate(pairs)]
    (tmp_path / "b.jsonl").write_text("\n".join(map(json.dumps, rows)))
    run("rm", "bench", "--on", str(tmp_path / "b.jsonl"), "--out", str(tmp_path / "out"), "--lang", "es")
    assert ["es", "mine", "50.0"] in [line.split() for line in capsys.readouterr().out.splitlines()]
    assert json.loads((tmp_path / "out" / "bench.json").read_text())["longer"] == {"es": {"mine": 50.0}}
