"""Best of n inside `icr transfer`: sampled once a target, scored once a source, judged once; and what comes of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from eval.xalpaca.answers import read_outputs
from icr.base.errors import ConfigError, StageFailed
from icr.base.files import read_json
from icr.commands.main import app
from icr.config.load import load_section
from icr.config.transfer import TransferConfig
from icr.experiments import transfer_candidates
from icr.experiments.transfer import run_transfer
from icr.experiments.transfer_gains import increase_of
from icr.experiments.transfer_matrix import compare_orders
from icr.report.transfer import transfer_tables, write_transfer_page
from icr.report.transfer_align import conclude_gains
from icr.report.transfer_status import transfer_status
from tests.conftest import write_prompts
from tests.helpers.independent import rows
from tests.helpers.inline import run_inline, silent
from tests.helpers.pages import Page, assert_sound
from tests.helpers.reward_models import make_encoder, make_folder, pair_rows

pytestmark = pytest.mark.timeout(600)
N = 4
JUDGES = """
class Longer:
    def preferences(self, rows):
        return [0.5 + 0.5 * ((len(r["first"]) > len(r["second"])) - (len(r["first"]) < len(r["second"]))) for r in rows]

class First:
    def preferences(self, rows):
        return [1.0 for row in rows]
"""


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


@pytest.fixture(scope="module")
def made(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """The content of an experiment: two sources, two targets, a tiny encoder, a tiny policy, a judge in Python."""
    folder = tmp_path_factory.mktemp("made")
    (folder / "judges.py").write_text(JUDGES)
    data = [*pair_rows(24)]
    data += [{**row, "lang": "ru", "prompt": row["prompt"].replace("en", "ru")} for row in data if row["lang"] == "en"]
    return {
        "base": str(make_encoder(folder / "encoder")),
        "languages": {"sources": ["en", "es"], "targets": ["es", "ru"]},
        "data": {
            "preferences": str(make_folder(folder / "pairs", data)),
            "prompts": str(write_prompts(folder / "prompts", range(1, 9))),
        },
        "reward_model": {
            "train": {
                "learning_rate": 3e-3, "batch_size": 8, "micro_batch_size": 8, "epochs": 1, "precision": "fp32",
                "deepspeed": "none", "gradient_checkpointing": False,
            }
        },
        "align": {
            "policy": str(tiny_pair[0]),
            "best_of_n": {"n": N, "backend": "transformers", "precision": "fp32", "max_tokens": 8, "shard_size": 4},
        },
        "judges": [{"kind": f"{folder / 'judges.py'}:Longer"}],
    }  # fmt: skip


def load(folder: Path, made: dict[str, Any], **changes: Any) -> TransferConfig:
    content = {"run": str(folder / "run"), **made, **changes}
    (folder / "x.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return load_section(TransferConfig, folder / "x.yaml")


def run(config: TransferConfig, only: str = "*") -> tuple[dict[str, Any], dict[str, Any]]:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return run_transfer(config, only, silent())  # type: ignore[return-value]


def states(run: Path) -> dict[str, tuple[str, float]]:
    """Cell → its state, and when it was finished."""
    records = {file.parent.name: read_json(file) for file in run.glob("steps/*/step.json")}
    return {name: (record["state"], record["finished"]) for name, record in records.items()}


def test_every_cell_once_and_a_judge_added_later(made: dict[str, Any], tmp_path: Path, inline: list[str]) -> None:
    config, folder = load(tmp_path, made), tmp_path / "run"
    result, failed = run(config)
    assert not failed and result["waiting"] == {} and result["left"] == []
    assert inline.count("train") == 2 and inline.count("sample") == 2 * 2  # two targets, two shards each

    candidates = rows(folder / "steps/samples-ru/ru.parquet")
    assert len(candidates) == 8 * N
    scores = {s: [row["score"] for row in rows(folder / f"steps/scores-{s}-on-ru/ru.parquet")] for s in ("en", "es")}
    tables = {source: np.array(values).reshape(8, N) for source, values in scores.items()}
    best = tables["en"].argmax(axis=1)
    answers = read_outputs(folder / "steps/best-en-ru", "ru")
    assert [a.text for a in answers] == [candidates[n * N + best[n]]["response"] for n in range(8)]
    for scorer, table in tables.items():
        row = next(r for r in result["increase"] if (r["source"], r["target"], r["scored_by"]) == ("en", "ru", scorer))
        gaps = table[np.arange(8), best] - table[:, 0]
        assert row["increase"] == pytest.approx(gaps.mean(), abs=1e-9) and row["n"] == 8
    assert len(result["increase"]) == 2 * 2 * 2
    last = [r for r in result["best_of_k"] if (r["source"], r["target"], r["k"]) == ("en", "ru", N)]
    assert last[0]["score"] == pytest.approx(tables["en"].max(axis=1).mean())

    first = [candidates[n * N]["response"] for n in range(8)]
    gains = [0.5 + 0.5 * np.sign(len(a.text) - len(one)) for a, one in zip(answers, first, strict=True)]
    cell = next(c for c in result["judges"]["Longer"]["cells"] if (c["source"], c["target"]) == ("en", "ru"))
    assert cell["win_rate"] == pytest.approx(100 * np.mean(gains)) and cell["win_rate_interval"]
    assert result["judges"]["Longer"]["targets"]["ru"]["order"] and len(result["orders"]) == 2
    for name in ("accuracy", "ranks", "score_increase", "best_of_k", "win_rates"):
        assert (folder / "tables" / f"{name}.csv").read_text().count("\n") > 4
    page = Page(write_transfer_page(result, folder).read_text(encoding="utf-8"))
    assert_sound(page)
    assert "Win rate by Longer" in page.text and "Score increase" in page.text and "KL at most" in page.text
    assert any("Longer, ru:" in line for line in conclude_gains(result)) and transfer_tables(result)

    before, finished = len(inline), states(folder)
    again, _ = run(config)
    assert again == result and len(inline) == before and states(folder) == finished
    judges = [*made["judges"], {"kind": made["judges"][0]["kind"].replace("Longer", "First")}]
    languages = {"sources": ["en", "es"], "targets": ["es", "ru", "en"]}
    larger, failed = run(load(tmp_path, made, judges=judges, languages=languages))
    assert not failed and set(inline[before:]) == {"sample", "classify", "ask"}
    now = states(folder)
    assert {name: now[name] for name in finished} == finished
    new = set(now) - set(finished)
    assert {name for name in new if "samples" in name} == {"samples-en"} and "judge-First-en-ru" in new
    assert {c["win_rate"] for c in larger["judges"]["First"]["cells"]} == {50.0}  # in both orders
    assert larger["same_order"][0]["judges"] == ["Longer", "First"]


def test_win_rates_of_every_k_when_judges_see_all_candidates(
    made: dict[str, Any], tmp_path: Path, inline: list[str]
) -> None:
    """One target: the judge is asked about the candidates once, whatever the sources."""
    languages = {"sources": ["en", "es"], "targets": ["ru"]}
    config = load(tmp_path, made, languages=languages, align={**made["align"], "judged": "all"})
    result, failed = run(config)
    assert not failed
    candidates = np.array([len(row["response"]) for row in rows(tmp_path / "run/steps/samples-ru/ru.parquet")])
    lengths = candidates.reshape(8, N)
    wins = 0.5 + 0.5 * np.sign(lengths - lengths[:, :1])
    for source in ("en", "es"):
        scores = [row["score"] for row in rows(tmp_path / f"run/steps/scores-{source}-on-ru/ru.parquet")]
        by_prompt = np.array(scores).reshape(8, N)
        best = by_prompt == by_prompt.max(axis=1, keepdims=True)  # texts of the same tokens have one score
        found = {row["k"]: row for row in result["expected_wins"] if row["source"] == source}
        assert found[1]["win_rate"] == pytest.approx(100 * wins.mean())
        assert found[N]["win_rate"] == pytest.approx(100 * ((wins * best).sum(axis=1) / best.sum(axis=1)).mean())
        cell = next(c for c in result["judges"]["Longer"]["cells"] if c["source"] == source)
        first = best.argmax(axis=1)
        assert cell["win_rate"] == pytest.approx(100 * wins[np.arange(8), first].mean())
    assert (tmp_path / "run/tables/expected_win_rates.csv").read_text().count("\n") == 1 + 2 * 3
    page = Page(write_transfer_page(result, tmp_path / "run").read_text(encoding="utf-8"))
    assert_sound(page)
    assert "en, expected win rate by Longer" in page.text
    asked = len(inline)
    assert run(config)[0] == result and len(inline) == asked
    assert transfer_status(tmp_path / "run", held=False).next is None


def test_a_cell_that_fails_is_shown_and_the_others_go_on(
    made: dict[str, Any], tmp_path: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    score = transfer_candidates.score_candidates

    def fail(folder: Path, *rest: Any) -> Any:
        if folder.name == "scores-en-on-ru":
            raise StageFailed("the worker ended")
        return score(folder, *rest)

    monkeypatch.setattr(transfer_candidates, "score_candidates", fail)
    config, folder = load(tmp_path, made), tmp_path / "run"
    result, failed = run(config)
    assert list(failed) == ["scores-en-on-ru"]
    assert result["waiting"] == {"best-en-ru": "scores-en-on-ru", "judge-Longer-en-ru": "best-en-ru"}
    rates = {(c["source"], c["target"]) for c in result["judges"]["Longer"]["cells"]}
    assert rates == {("en", "es"), ("es", "es"), ("es", "ru")}
    page = Page(write_transfer_page(result, folder).read_text(encoding="utf-8"))
    assert_sound(page)
    assert "failed: the worker ended" in page.text and "waits for scores-en-on-ru" in page.text
    monkeypatch.setattr(transfer_candidates, "score_candidates", score)
    before = len(inline)
    status = transfer_status(folder, held=False)
    of = {cell.cell: cell for cell in status.cells}
    assert (status.done, len(of), status.failed) == (13, 16, ["scores-en-on-ru"]) and status.next == "scores-en-on-ru"
    assert of["scores-en-on-ru"].why == "the worker ended" and of["rm-en"].state == "done" and of["rm-en"].seconds > 0
    assert of["judge-Longer-en-ru"].waits_for == "best-en-ru"
    printed = CliRunner().invoke(app, ["status", str(folder)]).stdout
    assert "13 of 16 steps done" in printed and "scores-en-on-ru: failed: the worker ended" in printed
    assert "next: scores-en-on-ru" in printed and len(inline) == before
    record = folder / "steps/samples-es/step.json"
    whole = record.read_text()
    record.write_text(whole.replace('"done"', '"running"'))
    assert {transfer_status(folder, held=held).cells[2].state for held in (True, False)} == {"running", "interrupted"}
    record.write_text(whole)
    shown = CliRunner().invoke(app, ["transfer", str(tmp_path / "x.yaml"), "--dry-run"])
    lines = {line.split()[0]: line.split(maxsplit=1)[1] for line in shown.stdout.splitlines() if "-" in line.split()[0]}
    assert lines["scores-en-on-ru"] == "to do" and lines["best-en-ru"] == "waits for scores-en-on-ru"
    assert lines["judge-Longer-es-ru"] == "done" and "64 candidates of at most 512 tokens" in shown.stdout
    assert "at most 64 questions" in shown.stdout and len(inline) == before
    result, failed = run(config, "scores-*")
    assert not failed and result["left"] == ["best-en-ru"]
    # other settings: what is finished is refused by name, and nothing is overwritten
    other = {**made["align"], "best_of_n": {**made["align"]["best_of_n"], "n": N - 1}}
    result, failed = run(load(tmp_path, made, align=other))
    assert "samples-es" in failed and "align.best_of_n.n: 4 → 3" in str(failed["samples-es"])
    assert len(rows(folder / "steps/samples-es/es.parquet")) == 8 * N and result["increase"] == []


def test_everything_wrong_is_said_at_once(made: dict[str, Any], tmp_path: Path) -> None:
    align = {**made["align"], "policy": "./nowhere"}
    with pytest.raises(ConfigError) as caught:
        run(load(tmp_path, made, align=align, judges=[{"kind": "local", "model": "./none"}] * 2))
    text = str(caught.value)
    assert "nowhere" in text and "align.policy" in text and "none" in text
    with pytest.raises(ConfigError, match="two judges are called Longer"):
        run(load(tmp_path, made, judges=made["judges"] * 2))
    with pytest.raises(ConfigError, match=r"needs data\.prompts"):
        load(tmp_path, made, data={"preferences": made["data"]["preferences"]})
    with pytest.raises(ConfigError, match="k is 9, but each prompt has only"):
        load(tmp_path, made, align={**made["align"], "best_of_n": {"n": 4, "k": 9}})
    with pytest.raises(ConfigError, match="judges compare what align makes"):
        load(tmp_path, made, align=None)
    with pytest.raises(ConfigError, match="each entry of judges must be one judge"):
        load(tmp_path, made, judges=[{}])


def test_increases_and_orders_by_hand() -> None:
    scores = {"p1": [1.0, 3.0], "p2": [0.5, None], "p3": [2.0, 2.5], "p4": [None, 4.0]}
    found = increase_of(scores, {"p1": 1, "p2": 0, "p3": 1, "p4": 1})
    assert found["n"] == 3 and found["left_out"] == 1 and found["increase"] == pytest.approx(2.5 / 3)
    assert found["increase_interval"] is None  # three prompts are too few
    assert increase_of({"p": [None, 1.0]}, {"p": 1})["increase"] is None
    assert compare_orders([1.0, 2.0, 3.0], [10.0, 30.0, 20.0]) == pytest.approx(1 / 3)
    assert compare_orders([1.0], [1.0]) is None and compare_orders([1.0, 1.0], [1.0, 2.0]) is None
