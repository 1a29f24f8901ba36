"""MT-Bench end to end: a tiny model answers in five languages, a local judge or an endpoint grades."""

from __future__ import annotations

import math
import shutil
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from eval.benchmarks import mtbench
from eval.folders import summary_path
from eval.mtbench.questions import load_questions
from icr.base.errors import UserError
from icr.base.files import read_json, read_rows
from icr.config.evaluation import EvaluationConfig
from icr.config.schema import MtBench
from tests.helpers.judging import Inline, Steps
from tests.helpers.mtbench import (
    LANGUAGES,
    MATH,
    SHARED,
    answered,
    make_config,
    make_evaluation,
    read_lines,
    write_questions,
)
from tests.helpers.stub_server import Answer, Stub, fault, says
from tests.helpers.tiny_models import make_tiny_model


def run_mtbench(
    config: EvaluationConfig, model: Path | None, out: Path, watcher: Steps | None = None
) -> tuple[list[str], dict[str, Any]]:
    """The benchmark, of a model or (None) of answers that are in `out`: what workers were asked to do, the summary."""
    machine: Any = Inline(None, watcher)
    mtbench(make_evaluation(config, str(model or ""), out, machine))
    return machine.pool.tasks, read_json(summary_path(out, "mtbench"))


def check_public_files(out: Path, judge: str, summary: dict[str, Any]) -> None:
    """What FastChat's show_result does with the judgment file gives our averages; the other files are of its form."""
    for lang in LANGUAGES:
        frame = pd.read_json(out / "model_judgment" / lang / f"{judge}_single.jsonl", lines=True)
        assert {"question_id", "model", "judge", "user_prompt", "judgment", "score", "turn", "tstamp"} == set(frame)
        scored = frame[["model", "score", "turn"]][frame["score"] != -1]
        row = summary["languages"][lang]
        for turn in (1, 2):
            means = scored[scored["turn"] == turn].groupby(["model", "turn"]).mean()["score"]
            assert list(means) == pytest.approx([row["turns"][str(turn)]["average"]])
        assert list(frame["judge"].map(len)) == [2] * len(frame)
        (file,) = (out / "model_answer" / lang).iterdir()
        answers = {row["question_id"]: row for row in read_lines(file)}
        assert set(frame["question_id"]) == set(answers) and set(frame["model"]) == {file.stem}
        assert all(len(row["choices"][0]["turns"]) == 2 for row in answers.values())


def test_five_languages_against_a_local_judge_that_writes_its_references(tiny: Path, tmp_path: Path) -> None:
    config = make_config(tiny, write_questions(tmp_path / "q", reference=["", "6"]), mtbench={"references": "judge"})
    out = tmp_path / "evaluation"
    asked, summary = run_mtbench(config, tiny, out)
    assert (summary["judge"], summary["cost"]) == (f"local: {tiny.name}", None)
    assert set(asked) == {"mtbench-answers", "write-local", "ask-local"}
    for lang in LANGUAGES:
        row = summary["languages"][lang]
        assert (row["n"], row["unscored_turns"], row["references"]) == (2, 0, {"judge": 1, "questions": 1})
        assert 1 < row["average"] < 10 and row["average_se"] is not None
        (reference,) = read_lines(out / "mtbench" / "references" / f"{lang}.jsonl")
        first, second = reference["choices"][0]["turns"]
        assert first and second == "6", "the turn that was given is kept"
    rows = read_rows(out / "mtbench" / "verdicts" / "ru.parquet")
    logps = [[float(part.split()[-1]) for part in row["raw"].removeprefix("log-probs ").split(",")] for row in rows]
    for row, of_row in zip(rows, logps, strict=True):
        shares = [math.exp(logp) / sum(map(math.exp, of_row)) for logp in of_row]
        assert row["grade"] == pytest.approx(sum(n * share for n, share in enumerate(shares, 1)), abs=1e-3)
    check_public_files(out / "mtbench", tiny.name, summary)
    # the same again: no worker is asked for anything
    before = {f: f.read_bytes() for f in (out / "mtbench").rglob("*") if f.is_file()}
    assert run_mtbench(config, tiny, out) == ([], summary)
    assert {f: f.read_bytes() for f in (out / "mtbench").rglob("*") if f.is_file()} == before


@pytest.mark.skipif(not SHARED.is_dir(), reason="the shared MT-Bench files are not here")
def test_the_published_files_in_five_languages_against_a_local_judge(tmp_path: Path) -> None:
    model = make_tiny_model(tmp_path / "model", context=8192)
    config = make_config(model, SHARED, mtbench={"references": "judge", "limit": 1, "max_tokens": 6})
    out = tmp_path / "evaluation"
    _, summary = run_mtbench(config, model, out)
    answers = [row for lang in LANGUAGES for row in read_rows(out / "mtbench" / "answers" / f"{lang}.parquet")]
    assert (len(answers), [r["finish_reason"] for r in answers].count("no room")) == (5 * 8 * 2, 0)
    for lang in LANGUAGES:
        row = summary["languages"][lang]
        assert (row["n"], row["unscored_turns"], len(row["categories"])) == (8, 0, 8)
        assert row["low"] < row["average"] < row["high"]
    check_public_files(out / "mtbench", "model", summary)


def reads_and_writes(request: dict[str, Any], before: int) -> Answer:
    """Writes references; grades turn 1 with 8 and turn 2 with 10; refuses one; never says a grade for Russian maths."""
    text = request["messages"][-1]["content"]
    if "double brackets" not in text:
        return says(f"reference to {text}")
    if "SECOND ANSWER" not in text:
        return says("Fine. [[8]]")
    if "Dilo en una sola frase." in text:
        return says(None, refusal="I won't.")
    return says("Twelve of ten." if MATH["ru"][1] in text else "Not [[3]] but better.\n[[10]]")


def test_five_languages_against_an_endpoint_that_is_cut_off_in_between(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    folder, out = write_questions(tmp_path / "q"), tmp_path / "evaluation"
    questions = load_questions(MtBench(questions=str(folder), references="judge"), LANGUAGES)
    shutil.copytree(answered(tmp_path, questions), out / "mtbench")
    stopping = 12

    def stops(request: dict[str, Any], before: int) -> Answer:
        return fault(401) if len(stub.sent) > stopping else reads_and_writes(request, before)

    with Stub(stops) as stub:
        config = make_config(
            tiny,
            folder,
            kind="openai",
            model="m",
            base_url=stub.url,
            concurrency=1,
            max_unscored=0.1,
            mtbench={"references": "judge"},
        )
        with pytest.raises(UserError, match="rejects the key"):
            run_mtbench(config, None, out)
        stopping = 10**9
        _, summary = run_mtbench(config, None, out)
        assert run_mtbench(config, None, out) == ([], summary)
        conversations = [sent["messages"] for _, sent, _ in stub.sent]
    assert summary["judge"] == "openai: m"
    # 10 references, 20 grades, the unreadable one three times, and the one that was cut off
    assert len(conversations) == 10 + 20 + 2 + 1
    written = next(c for c in conversations if c[-1]["content"] == MATH["de"][1])
    assert [(m["role"], m["content"]) for m in written] == [
        ("user", MATH["de"][0]), ("assistant", f"reference to {MATH['de'][0]}"), ("user", MATH["de"][1])
    ]  # fmt: skip
    assert any(
        f"reference to {MATH['fr'][1]}" in c[-1]["content"] and "fr second" in c[-1]["content"] for c in conversations
    )
    for lang in LANGUAGES:
        row = summary["languages"][lang]
        assert [row["turns"][t]["average"] for t in "12"] == [8.0, 10.0]
        assert (row["n"], row["references"]) == (2, {"judge": 2})
    reasons = {lang: summary["languages"][lang]["reasons"] for lang in LANGUAGES}
    assert reasons == {"en": {}, "es": {"refused": 1}, "ru": {"verdict outside the labels": 1}, "de": {}, "fr": {}}
    check_public_files(out / "mtbench", "m", summary)
    judgments = read_lines(out / "mtbench" / "model_judgment" / "ru" / "m_single.jsonl")
    assert [row["score"] for row in judgments] == [8.0, 10.0, 8.0, -1]
    assert judgments[1]["judge"] == ["m", "mtbench-turn_2"] and judgments[1]["judgment"].endswith("[[10]]")
    assert judgments[1]["user_prompt"] in [c[-1]["content"] for c in conversations], "as it was asked"


def test_a_reference_that_nobody_writes_leaves_its_turns_unscored_until_somebody_does(
    tiny: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    questions = load_questions(MtBench(questions=str(write_questions(tmp_path / "q")), references="judge"), ["en"])
    out, notes = tmp_path / "evaluation", Steps()
    shutil.copytree(answered(tmp_path, questions), out / "mtbench")
    refusing = True

    def script(request: dict[str, Any], before: int) -> Answer:
        text = request["messages"][-1]["content"]
        return says(None, refusal="No.") if refusing and text == MATH["en"][0] else reads_and_writes(request, before)

    with Stub(script) as stub:
        config = make_config(
            tiny, tmp_path / "q", kind="openai", model="m", base_url=stub.url, languages=["en"],
            mtbench={"references": "judge"},
        )  # fmt: skip
        _, summary = run_mtbench(config, None, out, notes)
        row = summary["languages"]["en"]
        assert (row["n"], row["unscored"], row["reasons"]) == (1, 1, {"no reference": 2})
        assert notes.notes == ["en: the judge wrote no reference for 1 questions (refused 1)"]
        refusing = False
        for file in (out / "mtbench").glob("cache.sqlite*"):  # the refusal was paid for, and would be the answer again
            file.unlink()
        _, summary = run_mtbench(config, None, out, notes)
    assert summary["languages"]["en"]["unscored_turns"] == 0
