"""`icr judge` on models and on folders of answers, without a run."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest

from tests.conftest import TEXTS, write_prompts
from tests.helpers import command
from tests.helpers.inline import run_inline
from tests.helpers.stub_server import Answer, Stub, says

KEY = "sk-very-secret-0123456789"
ROOT = Path(__file__).resolve().parents[2]
SHARED = ROOT.parent / "shared" / "data" / "x_alpacaeval"


def icr(*words: Any, key: str | None = None) -> subprocess.CompletedProcess[str]:
    """The command with this key and no other address, however it ends. Judges and engines are in this process."""
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        return command.icr(*words, code=None, env={"OPENAI_API_KEY": key, "OPENAI_BASE_URL": None})


def write_public(folder: Path, name: str, lang: str, texts: dict[int, str]) -> Path:
    """Answers in the public files' form."""
    folder.mkdir(parents=True, exist_ok=True)
    rows = [{"generator": name, "dataset": "d", "id": id, "instruction": f"Frage {id}", "output": text}
            for id, text in texts.items()]  # fmt: skip
    (folder / f"{lang}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
    return folder


def prefers_longer(request: dict[str, Any], before: int) -> Answer:
    text = request["messages"][-1]["content"]
    first, second = text.split(" ANSWER A]\n")[1].split("\n[")[0], text.split(" ANSWER B]\n")[1].split("\n[")[0]
    return says("A" if len(first) > len(second) else "B")


@pytest.fixture
def answers(tmp_path: Path) -> tuple[Path, Path]:
    ours = {n: f"Antwort {n} " + "und noch mehr davon " * (n % 3) for n in range(1, 9)}
    theirs = dict.fromkeys(ours, "Eine andere Antwort, immer gleich lang.")
    return write_public(tmp_path / "ours", "us", "de", ours), write_public(tmp_path / "theirs", "them", "de", theirs)


def test_a_folder_of_answers_is_judged_by_an_endpoint_and_its_files_are_alpacaevals(
    tmp_path: Path, answers: tuple[Path, Path]
) -> None:
    ours, theirs = answers
    out = tmp_path / "out"
    with Stub(prefers_longer) as stub:
        words = ["judge", "xalpaca", ours, "--judge", "openai:m", "--baseline", theirs, "--languages", "de",
                 "--out", out, "--set", f"judge.base_url={stub.url}"]  # fmt: skip
        done = icr(*words, "--json", key=KEY)
        assert done.returncode == 0, done.stderr
        asked = sum(stub.asked.values())
        again = icr(*words, key=KEY)
        assert again.returncode == 0 and sum(stub.asked.values()) == asked == 16
    summary = json.loads(done.stdout)
    row = summary["languages"]["de"]
    longer = sum(n % 3 > 1 for n in range(1, 9))
    assert row["win_rate"] == row["discrete_win_rate"] == pytest.approx(100 * longer / 8)
    assert (row["n"], row["position_bias"], row["unscored"]) == (8, 0.0, 0)
    assert "win rate" in again.stdout and "openai: m" in again.stdout
    outputs = json.loads((out / "alpaca_eval/de/model_outputs.json").read_text())
    assert outputs[0].keys() == {"dataset", "id", "instruction", "output", "generator"}
    assert (outputs[0]["id"], outputs[0]["generator"], len(outputs)) == (1, "ours", 8)
    annotations = json.loads((out / "alpaca_eval/de/annotations.json").read_text())
    assert [a["id"] for a in annotations] == list(range(1, 9)), "one row an item"
    assert {a["preference"] for a in annotations} == {1.0, 2.0}
    assert all(len(a["icr_orders"]) == 2 for a in annotations)
    for a in annotations:
        assert (a["generator_1"], a["generator_2"]) == ("theirs", "ours")
        assert a["preference"] == (2.0 if len(a["output_2"]) > len(a["output_1"]) else 1.0)
    found = [p for p in out.rglob("*") if p.is_file() and KEY.encode() in p.read_bytes()]
    assert not found and KEY not in done.stdout + done.stderr


def test_difficulties_and_gamed_pairs_make_the_rate_alpacaevals(tmp_path: Path) -> None:
    import numpy as np

    rng = np.random.default_rng(0)
    ids = range(1, 61)
    ours = write_public(tmp_path / "ours", "us", "en", {n: "x" * int(rng.integers(5, 90)) for n in ids})
    theirs = write_public(tmp_path / "theirs", "them", "en", {n: "y" * int(rng.integers(5, 90)) for n in ids})
    difficulty = tmp_path / "difficulty.csv"
    values = rng.normal(size=60)
    difficulty.write_text("index,difficulty\n" + "".join(f"{i},{v}\n" for i, v in enumerate(values)))

    def verdict(request: dict[str, Any], before: int) -> Answer:
        return says("A" if hash_of(request) % 3 else "B")

    with Stub(verdict) as stub:
        words = ["judge", "xalpaca", ours, "--judge", "openai:m", "--baseline", theirs, "--languages", "en",
                 "--set", f"judge.base_url={stub.url}", "--json"]  # fmt: skip
        plain = icr(*words, "--out", tmp_path / "plain")
        fitted = icr(*words, "--out", tmp_path / "fitted", "--set", f"judge.difficulty={difficulty}")
        gamed = icr(*words, "--out", tmp_path / "gamed", "--set", f"judge.gamed={difficulty}")
    assert json.loads(plain.stdout)["languages"]["en"]["lc_variant"] == "length_controlled_minimal"
    row = json.loads(fitted.stdout)["languages"]["en"]
    assert row["lc_variant"] == "length_controlled_noreg"
    table = tmp_path / "table.csv"
    verdicts = pq.read_table(tmp_path / "fitted/verdicts/en.parquet").to_pylist()
    lines = []
    for n in ids:
        mean = np.mean([v["preference"] for v in verdicts if v["prompt_id"] == str(n)])
        lengths = [len(json.loads((f / "en.json").read_text())[n - 1]["output"]) for f in (ours, theirs)]
        lines.append(f"{mean},{lengths[0]},{lengths[1]},{n - 1}")
    table.write_text("preference,len_model,len_baseline,index\n" + "\n".join(lines))
    by_table = json.loads(icr("lc", table, "--difficulty", difficulty, "--json").stdout)
    assert row["lc_win_rate"] == pytest.approx(by_table["lc_win_rate"], abs=1e-9)
    assert gamed.returncode == 2 and "judge.gamed" in gamed.stderr


def hash_of(request: dict[str, Any]) -> int:
    import hashlib

    return hashlib.sha256(request["messages"][-1]["content"].encode()).digest()[0]


def test_a_model_answers_and_a_local_model_judges(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    policy, judge = tiny_pair
    prompts = write_prompts(tmp_path / "prompts", range(1, 4))
    baseline = tmp_path / "baseline"
    baseline.mkdir()
    for lang in TEXTS:
        lines = [json.dumps({"id": f"p{n}", "output": "whale, shark"}) for n in range(1, 4)]
        (baseline / f"{lang}.jsonl").write_text("\n".join(lines))
    words = ["judge", "xalpaca", policy, "--judge", f"local:{judge}", "--baseline", baseline]
    words += ["--prompts", prompts, "--languages", "es,ru"]
    words += ["--set", "judge.max_tokens=8", "--set", "sampling.backend=transformers"]
    done = icr(*words, "--out", tmp_path / "out", "--json")
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout)
    assert summary["languages"].keys() == {"es", "ru"}  # English is not needed for judging
    assert summary["languages"]["ru"]["n"] == 3 and 0 < summary["languages"]["ru"]["win_rate"] < 100
    other = icr(*words, "--out", tmp_path / "out", "--set", "judge.temperature=0.1")
    assert other.returncode == 2 and "judge.temperature: 0.6 → 0.1" in other.stderr
    (baseline / "ru.jsonl").write_text(json.dumps({"id": "p1", "output": "x"}))
    short = icr(*words, "--out", tmp_path / "other")
    assert short.returncode == 2 and "no answer to 2 of 3 prompts in ru: p2, p3" in short.stderr
    assert not (tmp_path / "other" / "answers").exists()  # said before a model was loaded


@pytest.mark.parametrize(
    ("words", "says_what"),
    [
        (["--judge", "gpt-4"], "unknown judge gpt-4"),
        (["--judge", "openai:m"], "the key for the endpoint is missing"),
        (["--judge", "openai:m", "--set", "judge.budget=0"], "`judge.budget`"),
        (["--judge", "openai:m", "--set", "judge.bugdet=3"], "did you mean `judge.budget`"),
        (["--judge", "openai:m"], "name another endpoint with judge.base_url"),
        (["--judge", "local:/nowhere/at/all"], "model folder /nowhere/at/all not found"),
    ],
)
def test_bad_input_exits_2_and_says_what_to_do(
    tmp_path: Path, answers: tuple[Path, Path], words: list[str], says_what: str
) -> None:
    ours, theirs = answers
    done = icr("judge", "xalpaca", ours, "--baseline", theirs, "--languages", "de", "--out", tmp_path / "out", *words)
    assert done.returncode == 2 and says_what in done.stderr and "Traceback" not in done.stderr


def test_what_is_neither_a_model_nor_answers(tmp_path: Path, answers: tuple[Path, Path]) -> None:
    ours, theirs = answers
    for model, what, do in (
        (ours / "de.json", "is a file, and answers are a folder", f"name {ours}"),
        (tmp_path / "our", "our not found", "give a folder of answers (LANG.json or LANG.jsonl), a model's folder"),
    ):
        words = ["--judge", "openai:m", "--baseline", theirs, "--languages", "de", "--out", tmp_path / "out"]
        done = icr("judge", "xalpaca", model, *words, key=KEY)
        assert done.returncode == 2 and what in done.stderr and do in done.stderr


def test_answers_that_do_not_fit_the_baseline_are_refused(tmp_path: Path, answers: tuple[Path, Path]) -> None:
    ours, theirs = answers
    words = ["--judge", "openai:m", "--baseline", theirs, "--out", tmp_path / "out"]
    done = icr("judge", "xalpaca", ours, *words, "--languages", "de,fr", key=KEY)
    assert done.returncode == 2 and "no answers in fr" in done.stderr
    twice = json.loads((ours / "de.json").read_text())
    (ours / "de.json").write_text(json.dumps([*twice, twice[0]]))
    done = icr("judge", "xalpaca", ours, *words, "--languages", "de", key=KEY)
    assert done.returncode == 2 and "answered more than once: 1" in done.stderr


@pytest.mark.skipif(not SHARED.is_dir(), reason="the public X-AlpacaEval files are not beside the project")
def test_the_public_files_are_read_as_they_are_in_five_languages(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    sizes = {}
    for name in ("gpt-4o-mini", "gpt-4-turbo-2024-04-09"):
        for lang in ("en", "es", "ru", "de", "fr"):
            rows = json.loads((SHARED / "outputs" / name / f"{lang}.json").read_text(encoding="utf-8"))[:3]
            rows = [row | {"output": row["output"][:200]} for row in rows]  # the tiny judge is quadratic in bytes
            (tmp_path / name).mkdir(exist_ok=True)
            (tmp_path / name / f"{lang}.json").write_text(json.dumps(rows, ensure_ascii=False), encoding="utf-8")
            sizes[name, lang] = sum(len(row["output"]) for row in rows) / 3
    done = icr("judge", "xalpaca", tmp_path / "gpt-4o-mini", "--judge", f"local:{tiny_pair[1]}", "--json",
               "--baseline", tmp_path / "gpt-4-turbo-2024-04-09", "--languages", "en,es,ru,de,fr",
               "--out", tmp_path / "out")  # fmt: skip
    assert done.returncode == 0, done.stderr
    languages = json.loads(done.stdout)["languages"]
    for lang, row in languages.items():
        assert (row["n"], row["unscored"]) == (3, 0) and row["right_language"] == 1.0
        assert row["mean_length"] == pytest.approx(sizes["gpt-4o-mini", lang], abs=1)  # outer blanks are not counted


def write_questions(folder: Path) -> Path:
    """Two MT-Bench questions in two languages, one of a category that is graded by a reference."""
    folder.mkdir()
    turns = {
        "en": ("Write a line about whales.", "Another one.", "What is 2 + 2?", "And times 3?"),
        "es": ("Escribe una línea sobre ballenas.", "Otra.", "¿Cuánto es 2 + 2?", "¿Y por 3?"),
    }
    for lang, words in turns.items():
        rows = [
            {"question_id": 81, "category": "writing", "turns": words[:2]},
            {"question_id": 111, "category": "math", "turns": words[2:], "reference": ["4", "12"]},
        ]
        text = "\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
        (folder / f"{lang}.jsonl").write_text(text, encoding="utf-8")
    return folder


def test_mtbench_alone_and_the_difference_between_two_models(tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    questions = write_questions(tmp_path / "questions")
    outs = []
    for number, model in enumerate(tiny_pair):
        words = ["judge", "mtbench", model, "--judge", f"local:{tiny_pair[1]}", "--questions", questions]
        words += [
            "--languages",
            "en,es",
            "--set",
            "judge.mtbench.max_tokens=8",
            "--set",
            "sampling.backend=transformers",
        ]
        outs.append(tmp_path / f"out-{number}")
        done = icr(*words, "--out", outs[-1], "--json")
        assert done.returncode == 0, done.stderr
        summary = json.loads(done.stdout)
        assert {lang: row["n"] for lang, row in summary["languages"].items()} == {"en": 2, "es": 2}
        assert 1 <= summary["average"]["average"] <= 10
        assert set(summary["average"]["categories"]) == {"writing", "math"}
        again = icr(*words, "--out", outs[-1])
        assert again.returncode == 0 and "writing" in again.stdout
    difference = json.loads(icr("judge", "diff", *outs, "--benchmark", "mtbench", "--json").stdout)
    assert difference["unit"] == "grade points" and difference["languages"]["es"]["n"] == 2
    assert "95 % interval" in icr("judge", "diff", *outs, "--benchmark", "mtbench").stdout
    other = icr("judge", "diff", *outs, "--benchmark", "nlp")
    assert other.returncode == 2 and "xalpaca or mtbench" in other.stderr


def test_the_stage_and_its_bare_command() -> None:
    done = icr("judge")
    assert done.returncode == 2 and "no round and no benchmark is given" in done.stderr
    done = icr("judge", "--run", "/nowhere", "--round", "1")
    assert done.returncode == 2 and "is not a run folder" in done.stderr


def test_a_dry_run_counts_and_prices_and_sends_nothing(tmp_path: Path, answers: tuple[Path, Path]) -> None:
    ours, theirs = answers
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 2.0, output: 10.0}\n")
    words = ["judge", "xalpaca", ours, "--judge", "openai:m", "--baseline", theirs, "--languages", "de"]
    words += ["--out", tmp_path / "out", "--dry-run"]
    done = icr(*words, "--set", f"judge.prices={prices}")  # no key, no server: nothing is asked
    assert done.returncode == 0, done.stderr
    assert "16 calls to m, at most 0.0" in done.stdout and "0 answers are already there" in done.stdout
    tokens = int(done.stdout.split("about ")[1].split(" prompt")[0].replace(",", ""))
    usd = float(done.stdout.split("at most ")[1].split(" dollars")[0])
    assert usd == pytest.approx(3 * (2 * tokens + 10 * 16 * 16) / 1e6, abs=0.006)  # every answer read three times
    assert not (tmp_path / "out").exists()
    asked = json.loads(icr(*words, "--set", f"judge.prices={prices}", "--json").stdout)
    (row,), total = asked["asked"], asked["total"]
    assert {"judge": "m", "by": "openai", "kind": "comparisons", **total} == row
    assert (total["questions"], total["calls"], total["cached"], total["prompt_tokens"]) == (16, 16, 0, tokens)
    assert f"{total['usd']:.2f}" == f"{usd:.2f}" and len(asked["notes"]) == 1
    assert "price unknown" in icr(*words).stdout
    few = icr(*words, "--set", "judge.orders=seeded")
    assert "8 calls to m" in few.stdout
    grades = icr("judge", "mtbench", ours, "--judge", "openai:m", "--questions", write_questions(tmp_path / "q"),
                 "--languages", "en,es", "--out", tmp_path / "out", "--dry-run")  # fmt: skip
    assert "8 calls to m" in grades.stdout, grades.stderr
