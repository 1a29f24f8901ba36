"""Several judges of different kinds on one evaluation: an endpoint, a local model and a class, each with its prompt."""

from __future__ import annotations

import io
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.estimate import estimate
from eval.evaluate import evaluate, evaluation_config
from eval.judges.open import identify_judge, locate_judges
from eval.judges.prompts import check_prompts, identify_prompts
from eval.terms import check_terms
from icr.base.errors import ConfigError, UserError
from icr.base.files import read_json, read_rows
from icr.config.evaluation import EvaluationConfig
from icr.config.load import resolve_paths
from icr.config.schema import Judge
from icr.report.evaluation_tables import TABLES
from icr.work.machine import Machine
from icr.work.settings import values_of
from tests.commands.test_judge_cli import write_public
from tests.eval.test_prompts import GRADES, OWN
from tests.helpers.judging import Inline
from tests.helpers.stub_server import Stub, says

N = 6
CLASS = """
class Longer:
    def preferences(self, rows):
        return [float(len(row["first"]) > len(row["second"])) for row in rows]
"""


@pytest.fixture
def mixed(tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> EvaluationConfig:
    """`ours` against the shorter `theirs`; the endpoint is asked with OWN, the model with icr's own prompt."""
    inline = Inline()
    monkeypatch.setattr(Machine, "fill", lambda self, *args, **options: inline.fill(*args, **options))
    monkeypatch.syspath_prepend(str(tmp_path))
    (tmp_path / "longer_judge.py").write_text(CLASS, encoding="utf-8")
    (tmp_path / "own.yaml").write_text(OWN, encoding="utf-8")
    write_public(tmp_path / "ours", "ours", "de", {n: f"unsere lange Antwort {n}" for n in range(N)})
    write_public(tmp_path / "theirs", "theirs", "de", {n: f"kurz {n}" for n in range(N)})
    judges = [
        {"kind": "local", "model": str(tiny), "name": "small"},
        {"model": "m", "name": "hosted", "template": str(tmp_path / "own.yaml")},
        {"kind": "longer_judge:Longer"},
    ]
    data = {"languages": ["de"], "judge": {"baseline": str(tmp_path / "theirs"), "judges": judges, "attempts": 1}}
    return evaluation_config("xalpaca", str(tmp_path / "ours"), "openai:unused", data, [])


def with_address(config: EvaluationConfig, url: str) -> EvaluationConfig:
    return config.model_copy(update={"judge": config.judge.model_copy(update={"base_url": url})})


def test_one_after_another_each_with_its_prompt(mixed: EvaluationConfig, tiny: Path, tmp_path: Path) -> None:
    out, said = tmp_path / "out", io.StringIO()
    with Stub(lambda request, before: says("1")) as stub:
        config = with_address(mixed, stub.url)
        summary = evaluate(config, out, Console(file=io.StringIO()))
        assert len(stub.sent) == 2 * N
        assert all(body["messages"][-1]["content"].endswith("Preferred Summary=") for _, body, _ in stub.sent)
        assert evaluate(config, out, Console(file=io.StringIO())) == summary and len(stub.sent) == 2 * N
    assert summary["judge"] == "3 judges: small, hosted, longer_judge:Longer" and summary["cost"]["calls"] == 2 * N
    judges = summary["panel"]["judges"]
    assert [of["template_source"] for of in judges.values()] == ["icr's own", "own.yaml", "icr's own"]
    assert [bool(of["address"]) for of in judges.values()] == [False, True, False]
    assert judges["small"]["judge"] == f"local: {tiny.name}"
    assert judges["hosted"]["languages"]["de"]["value"] == 50.0  # it always says 1
    assert judges["longer_judge:Longer"]["languages"]["de"]["value"] == 100.0
    each = [of["languages"]["de"]["value"] for of in judges.values()]
    assert summary["languages"]["de"]["win_rate"] == pytest.approx(sum(each) / 3) and each[0] not in (50.0, 100.0)
    assert summary["template_source"] == "small: icr's own; hosted: own.yaml; longer_judge:Longer: icr's own"
    rows = read_rows(out / "judges" / "small" / "verdicts" / "de.parquet")
    assert all(row["raw"].startswith("log-probs ") for row in rows)
    Console(file=said, width=200).print(TABLES["xalpaca"](summary))
    assert "prompt: small: icr's own; hosted: own.yaml" in said.getvalue()
    record = read_json(out / "steps.json")["xalpaca"]
    assert {"judge model of small", "judge class of longer_judge:Longer"} <= record["inputs"].keys()
    assert "judge template of xalpaca for hosted" in record["inputs"]
    assert str(tiny) not in str(record["settings"])  # a model is an input, by its content


def test_a_change_of_one_judges_files_is_noticed(mixed: EvaluationConfig, tmp_path: Path) -> None:
    with Stub(lambda request, before: says("1")) as stub:
        config = with_address(mixed, stub.url)
        evaluate(config, tmp_path / "out", Console(file=io.StringIO()))
        (tmp_path / "own.yaml").write_text(OWN.replace("Text -", "Text:"), encoding="utf-8")
        with pytest.raises(UserError, match="judge template of xalpaca for hosted"):
            evaluate(config, tmp_path / "out", Console(file=io.StringIO()))
        evaluate(config, tmp_path / "other", Console(file=io.StringIO()))
        with pytest.raises(UserError, match="differ in more than the model:\n    judge's template"):
            check_terms(tmp_path / "out", tmp_path / "other", "xalpaca")


def test_a_dry_run_has_a_line_for_each_kind(mixed: EvaluationConfig, tmp_path: Path) -> None:
    expected = estimate(with_address(mixed, "http://127.0.0.1:9/v1"), tmp_path / "out")
    lines, numbers = expected.lines, expected.numbers()
    assert lines[0] == f"{2 * N} questions to small on this machine, at no cost"
    assert lines[1].startswith(f"{2 * N} calls to m") and lines[2].startswith(
        f"{2 * N} questions to longer_judge:Longer"
    )
    rows = [(row["judge"], row["by"], row["questions"], row["calls"], row["usd"]) for row in numbers["asked"]]
    assert rows[0] == ("small", "local", 2 * N, 0, 0.0) and rows[1] == ("hosted", "openai", 2 * N, 2 * N, None)
    total = numbers["total"]
    assert (total["questions"], total["calls"], total["usd"]) == (6 * N, 2 * N, None), "the price of m is unknown"
    assert numbers["notes"] == lines[3:]


def test_what_a_panel_is_made_of(tiny: Path, tmp_path: Path) -> None:
    judges: list[dict[str, object]] = [{"model": str(tiny)}, {"kind": "openai", "model": "org/m"}]
    config = Judge(kind="local", judges=judges)
    assert list(config.members) == [tiny.name, "org/m"] and config.asks_endpoint
    assert locate_judges(config) == {str(tiny): str(tiny)}
    assert identify_judge(config, locate_judges(config)).keys() == {f"judge model of {tiny.name}"}
    assert next(values_of(config, "judges")) == [{"name": tiny.name}, judges[1]]
    with pytest.raises(ConfigError, match="nowhere"):
        locate_judges(Judge(kind="local", judges=[{"model": str(tmp_path / "nowhere")}]))
    data: dict[str, Any] = {"judge": {"kind": "local", "judges": [{"model": "./m", "template": "a.jsonl#b"},
                                                                   {"kind": "openai", "model": "org/m"}]}}  # fmt: skip
    resolve_paths(data, tmp_path)
    assert data["judge"]["judges"][0] == {"model": str(tmp_path / "m"), "template": str(tmp_path / "a.jsonl#b")}
    assert data["judge"]["judges"][1] == {"kind": "openai", "model": "org/m"}


def test_judges_with_different_scales_give_no_common_grade(tmp_path: Path) -> None:
    (tmp_path / "grades.yaml").write_text(GRADES, encoding="utf-8")
    judges: list[dict[str, object]] = [{"model": "a"}, {"model": "b", "template": str(tmp_path / "grades.yaml")}]
    config = Judge(kind="openai", judges=judges, benchmarks=["mtbench"])
    with pytest.raises(UserError, match="different scales: a 1 to 10, b 1 to 5"):
        check_prompts(config)
    assert identify_prompts(config, ["mtbench"]).keys() == {"judge template of mtbench for b"}
