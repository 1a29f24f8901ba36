"""Implicit rewards and judges as rows of `icr rm eval` and `icr rm bench`, against independent forwards."""

from __future__ import annotations

import json
import math
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from eval.reward_models.asked import expect_bench_questions
from eval.reward_models.bench_rows import read_bench
from eval.reward_models.benching import bench_models
from eval.reward_models.evaluate import Asking, evaluate_models
from eval.reward_models.judged import JudgeRow
from eval.reward_models.rated import list_ties
from icr.base.errors import ConfigError, UserError
from icr.base.files import read_json, read_rows
from icr.commands.main import app
from icr.experiments.implicit_rows import find_rows
from prompts.preferences.make import load_data
from tests.eval.test_accuracy import Rater
from tests.helpers.inline import run_inline, silent
from tests.helpers.judging import judged_by
from tests.helpers.reward_models import make_folder, pair_rows, rating_rows
from tests.helpers.stub_server import Answer, Stub, says
from tests.rounds.test_reward_model import make_classifier

pytestmark = pytest.mark.timeout(600)
JUDGES = """
class Yes:
    def preferences(self, rows):
        return [0.5 + 0.5 * (r["first"].startswith("yes") - r["second"].startswith("yes")) for r in rows]

class First:
    def preferences(self, rows):
        return [1.0 for row in rows]
"""
Made = dict[str, Path]


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


@pytest.fixture(scope="module")
def made(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Made:
    root = tmp_path_factory.mktemp("made")
    (root / "judges.py").write_text(JUDGES)
    return {
        "policy": tiny_pair[0],
        "reference": tiny_pair[1],
        "rm": make_classifier(root / "rm-a", "own"),
        "judges": root / "judges.py",
        "pairs": make_folder(root / "pairs", pair_rows()),
        "ratings": make_folder(root / "ratings", rating_rows()),
    }


def logp(folder: Path, prompt: str, response: str) -> float:
    """log π(response, end of turn | prompt) in fp64, one row alone."""
    tokenizer = AutoTokenizer.from_pretrained(folder)
    model = AutoModelForCausalLM.from_pretrained(folder).double().eval()
    opened = tokenizer.apply_chat_template(
        [{"role": "user", "content": prompt}], tokenize=False, add_generation_prompt=True
    )
    given, said = (tokenizer(text, add_special_tokens=False)["input_ids"] for text in (opened, response))
    said = [*said, tokenizer.eos_token_id]
    with torch.no_grad():
        logps = torch.log_softmax(model(input_ids=torch.tensor([given + said])).logits[0, len(given) - 1 : -1], -1)
    return float(logps[range(len(said)), said].sum())


def asked(made: Made, *names: str, most: int | None = None) -> tuple[list[Any], Asking]:
    rows, judges = find_rows(
        [str(made["rm"])], [f"{made['policy']},{made['reference']}"], 0.5, [f"{made['judges']}:{n}" for n in names], []
    )
    return rows, Asking(judges, most)


def test_implicit_reward_and_judge_beside_a_reward_model(made: Made, tmp_path: Path, inline: list[str]) -> None:
    rows, asking = asked(made, "Yes", "First")
    out = tmp_path / "out"
    found = evaluate_models(rows, made["pairs"], "validation", None, out, silent(), "fp32", asking)
    name = f"implicit-{made['policy'].name}"
    assert found["kinds"] == {"rm-a": "reward model", name: "implicit reward", "Yes": "judge", "First": "judge"}
    data = load_data(made["pairs"], "x").validation
    english: list[Any] = [row for row in data if row["lang"] == "en"]
    gaps = [
        0.5 * sum(
            sign * (logp(made["policy"], row["prompt"], row[side]) - logp(made["reference"], row["prompt"], row[side]))
            for sign, side in ((1, "chosen"), (-1, "rejected"))
        )
        for row in english
    ]  # fmt: skip
    figures = found["models"][name]["en"]
    assert figures["accuracy"] == pytest.approx(100 * np.mean(np.array(gaps) > 0))
    assert figures["mean_gap"] == pytest.approx(np.mean(gaps), abs=1e-4)
    assert found["judges"]["Yes"]["languages"]["en"]["accuracy"] == 100
    first = found["judges"]["First"]["languages"]["es"]
    assert (first["accuracy"], first["ties"], first["position_bias"], first["unscored"]) == (50, 100, 100, 0)
    agreed = {(*row["rows"], row["language"]): row for row in found["agreement"]}
    assert len(agreed) == 6 * 2
    assert agreed[name, "Yes", "en"]["agreement"] == pytest.approx(figures["accuracy"])  # who is right, agrees
    assert agreed["rm-a", "First", "en"]["agreement"] == 50
    assert found["differences"]["Yes"]["en"]["n"] == len(english)
    verdicts = read_rows(out / "judges" / "Yes" / "verdicts" / "en.parquet")
    assert [row["chosen_first"] for row in verdicts] == [True, False] * len(english)
    lines = (out / "accuracy.csv").read_text().splitlines()
    assert len(lines) == 1 + 4 * 2 and found == read_json(out / "accuracy.json")
    before = len(inline)
    assert evaluate_models(rows, made["pairs"], "validation", None, out, silent(), "fp32", asking) == found
    assert len(inline) == before  # neither scored nor asked again


def test_ratings_ask_judges_about_good_against_bad(made: Made, tmp_path: Path, inline: list[str]) -> None:
    rows, asking = asked(made, "Yes", most=3)
    found = evaluate_models(rows, made["ratings"], "validation", ["en"], tmp_path / "out", silent(), "fp32", asking)
    ratings = load_data(made["ratings"], "x").validation
    of_english = sum(row["lang"] == "en" for row in ratings)
    assert found["models"]["rm-a"]["en"]["kind"] == "ratings" and found["models"]["rm-a"]["en"]["n"] == of_english
    on_pairs = found["pairs"]["rm-a"]["en"]
    assert on_pairs["kind"] == "pairs" and on_pairs["n"] == of_english // 2
    judged = found["judges"]["Yes"]["languages"]["en"]
    assert (judged["n"], judged["accuracy"]) == (3, 100)
    row = next(row for row in found["agreement"] if row["rows"] == ["rm-a", "Yes"])
    assert row["n"] == 3  # of all pairs, those that both have


def test_what_a_judge_leaves_open_is_counted(
    made: Made, tmp_path: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A judge that refuses where it reads of one animal first: half of these pairs have one verdict, which is none."""

    def label(first: str, second: str) -> str | None:
        return None if first.startswith("yes Wal") else "answer1" if first.startswith("yes") else "answer2"

    monkeypatch.setattr(JudgeRow, "judging", lambda self, at: replace(judged_by(Rater(label)), max_unscored=1))
    _, asking = asked(made, "Yes")
    found = evaluate_models([], made["pairs"], "all", ["en"], tmp_path / "out", silent(), "auto", asking)
    figures = found["judges"]["Yes"]["languages"]["en"]
    assert (figures["n"], figures["unscored"], figures["accuracy"]) == (21, 3, 100)
    assert figures["reasons"] == {"refused": 3}


def test_a_benchmark_with_all_kinds_of_rows(made: Made, tmp_path: Path, inline: list[str]) -> None:
    items = [
        {"id": n, "prompt": f"Q{n}", "chosen": "yes Wal", "rejected": "no Wal", "subset": "alpacaeval-easy"}
        for n in range(4)
    ]
    file = tmp_path / "bench.jsonl"
    file.write_text("\n".join(map(json.dumps, items)))
    rows, asking = asked(made, "Yes", "First", most=3)
    found = bench_models(rows, str(file), "en", tmp_path / "out", silent(), "fp32", asking)
    name = f"implicit-{made['policy'].name}"
    gaps = [
        logp(made[model], f"Q{n}", text) * sign * side
        for n in range(4) for model, sign in (("policy", 1), ("reference", -1))
        for text, side in (("yes Wal", 1), ("no Wal", -1))
    ]  # fmt: skip
    rights = np.array(gaps).reshape(4, 4).sum(axis=1) > 0
    assert found["models"][name]["en"]["overall"] == pytest.approx(100 * rights.mean())
    assert found["models"]["Yes"]["en"]["overall"] == 100 and found["models"]["Yes"]["en"]["n"] == 3
    assert found["models"]["First"]["en"]["overall"] == 0  # a tie is not strictly greater
    assert found["judges"]["Yes"]["languages"] == {"en": {"asked": 3, "unscored": 0}}
    scores = [json.loads(line) for line in (tmp_path / "out" / "scores-Yes.jsonl").read_text().splitlines()]
    assert [row["scores_rejected"] for row in scores].count([0.0]) == 3
    best = {"id": 1, "prompt": "Q", "chosen": ["yes"], "rejected": ["no", "nay", "yes too"], "subset": "Factuality"}
    file.write_text(json.dumps(best))
    _, asking = asked(made, "Yes")
    found = bench_models([], str(file), "en", tmp_path / "four", silent(), "fp32", asking)
    assert found["models"]["Yes"]["en"]["overall"] == 50  # with one of the wrong answers it is a tie


def test_a_judge_rates_every_answer_of_ties(made: Made, tmp_path: Path, inline: list[str]) -> None:
    def row(id: str, chosen: list[int], rejected: list[int], subset: str = "Ties") -> dict[str, Any]:
        answers = {"chosen": [f"worth {n}" for n in chosen], "rejected": [f"worth {n}" for n in rejected]}
        return {"id": id, "prompt": f"Q{id}", "subset": subset, **answers}

    items = [row("ref:7", [9], [3, 4]), row("tied:7", [9, 8], [4]), row("ref:8", [5], [6]), row("tied:8", [7, 7], [7]),
             row("1", [5], [1], "Math")]  # fmt: skip
    file = tmp_path / "bench.jsonl"
    file.write_text("\n".join(map(json.dumps, items)))

    def judge(request: dict[str, Any], before: int) -> Answer:
        text = request["messages"][-1]["content"]
        if "Grade an assistant's answer" not in text:
            return says("[[answer1]]" if text.index("worth 5") < text.index("worth 1") else "[[answer2]]")
        return says(f"Rating: [[{text.rpartition('worth ')[2].split()[0]}]]")

    with Stub(judge) as stub:
        settings = [f"judge.base_url={stub.url}", "judge.cache=none"]
        _, judges = find_rows([], [], 0.1, ["openai:m"], settings)
        expected = expect_bench_questions(Asking(judges, None), str(file), "en", tmp_path / "out")
        lines = expected.lines
        assert lines[0].startswith("m: 2 calls") and lines[1].startswith("m, ratings of Ties: 9 calls")
        rows = expected.numbers()["asked"]
        assert [(row["judge"], row["kind"], row["calls"]) for row in rows] == [
            ("m", "comparisons", 2),
            ("m", "ratings", 9),
        ]
        found = bench_models([], str(file), "en", tmp_path / "out", silent(), "fp32", Asking(judges, None))
        figures = found["models"]["m"]["en"]
        ties = 0.3 * 0.5 + 0.3 * 0.5 + 0.2 * 0.5 + 0.2 * 0.5 + 0.01 * (math.tanh(4 / 1 - 1) - 1) / 2
        assert figures["sections"] == {"Math": 100, "Ties": pytest.approx(100 * ties)} and figures["dropped"] == 0
        assert found["judges"]["m"]["languages"] == {"en": {"asked": 5, "unscored": 0}}
        assert found["judges"]["m"]["cost"]["calls"] == 2 and found["judges"]["m"]["ratings"]["cost"]["calls"] == 9
        asked_before = sum(stub.asked.values())
        again = bench_models([], str(file), "en", tmp_path / "out", silent(), "fp32", Asking(judges, None))
        assert again["models"] == found["models"] and sum(stub.asked.values()) == asked_before
    rows = read_bench(str(file))
    assert list_ties(rows, 3) == [0, 1] and list_ties(rows, None) == [0, 1, 2, 3] and list_ties(rows, 1) == []
    _, custom = asked(made, "Yes")
    items[4] |= {"chosen": ["yes"], "rejected": ["no"]}
    file.write_text("\n".join(map(json.dumps, items)))
    found = bench_models([], str(file), "en", tmp_path / "custom", silent(), "fp32", custom)
    assert found["models"]["Yes"]["en"]["sections"] == {"Math": 100} and "ratings" not in found["judges"]["Yes"]


def test_commands_as_typed(made: Made, tmp_path: Path, inline: list[str]) -> None:
    def run(*arguments: object) -> str:
        done = CliRunner().invoke(app, list(map(str, arguments)))
        assert done.exit_code == 0, done.output
        return done.stdout

    judge, implicit = f"{made['judges']}:Yes", f"{made['policy']},{made['reference']}"
    options = ["--data", made["ratings"], "--judge", judge, "--implicit", implicit, "--out", tmp_path / "out"]
    dry = run("rm", "eval", *options, "--dry-run")
    assert "Yes: 24 questions to a judge on this machine" in dry and not (tmp_path / "out").exists()
    shown = run("rm", "eval", made["rm"], *options, "--quiet")
    assert "good against bad answers to one document; chance is 50 %" in shown and "how often two say the same" in shown
    assert next(line.split()[:3] for line in shown.splitlines() if "Yes" in line) == ["Yes", "en", "6"]
    two = ["--judge", judge, "--judge", judge.replace("Yes", "First"), "--data", made["pairs"]]
    shown = run("rm", "eval", *two, "--out", tmp_path / "two", "--quiet")
    assert "accuracy minus that of Yes" in shown and ["First", "en", "6", "−50.0"] in [
        line.split()[:4] for line in shown.replace("-50.0", "−50.0").splitlines()
    ]
    (tmp_path / "b.jsonl").write_text(json.dumps({"prompt": "Q", "chosen": "yes", "rejected": "no", "subset": "x"}))
    shown = run("rm", "bench", "--on", tmp_path / "b.jsonl", "--judge", judge, "--out", tmp_path / "bench", "--quiet")
    assert ["Yes", "en", "1", "100.0", "100.0"] in [line.split() for line in shown.splitlines()]


def test_everything_wrong_with_rows_is_said_at_once(made: Made, tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as raised:
        find_rows(["./nowhere"], ["one", "./a,./b", f"{made['policy']},{made['policy']}"], 0.1, ["local:./none"], [])
    text = str(raised.value)
    for part in ("nowhere", "a log-ratio needs two models", "--implicit one", "every reward is 0", "none not found"):
        assert part in text, part
    judge = f"{made['judges']}:Yes"
    with pytest.raises(ConfigError, match="two models are called Yes"):
        find_rows([], [], 0.1, [judge, judge], [])
    for arguments, what in (
        ([], "nothing to measure"),
        (["--set", "judge.budget=1"], "this option is for judges, and no judge is named"),
        ([str(made["rm"]), "--precision", "fp8"], "unknown precision fp8"),
        ([str(made["rm"]), "--beta", "0"], "β is 0"),
    ):
        command = ["rm", "eval", *arguments, "--data", str(made["pairs"]), "--out", str(tmp_path / "out")]
        with pytest.raises(UserError, match=what):
            app(command, standalone_mode=False)
