"""Several judges on one evaluation, each at its own address and in its own cache."""

from __future__ import annotations

import io
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from rich.console import Console

from eval.estimate import estimate
from eval.evaluate import evaluate, evaluation_config
from eval.judges.asking import TooManyUnscored
from eval.judges.panel import majority
from eval.krippendorff import nominal_alpha
from icr.base.errors import ConfigError
from icr.base.files import read_rows
from icr.config.evaluation import EvaluationConfig
from icr.config.schema import Judge
from icr.report.evaluation_tables import TABLES
from icr.work.machine import Machine
from tests.commands.test_judge_cli import write_public
from tests.helpers.judging import Inline
from tests.helpers.stub_server import Answer, Stub, fault, says

N = 8
Prefers = Callable[[int], float]
"""Item → how much the policy's answer is preferred: 1, 0, or 0.5 for a judge that always says A."""


def opinion(prefers: Prefers) -> Callable[[dict[str, Any], int], Answer]:
    def script(request: dict[str, Any], before: int) -> Answer:
        text = request["messages"][-1]["content"]
        number = int(text.split("ours ")[1].split("\n")[0])
        first = text.index("ours ") < text.index("theirs ")
        value = prefers(number)
        return says("A" if value == 0.5 or (value == 1.0) == first else "B")

    return script


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(Machine, "fill", lambda self, *args, **options: Inline().fill(*args, **options))


def config(folder: Path, members: list[dict[str, Any]], *overrides: str) -> EvaluationConfig:
    for name in ("ours", "theirs"):
        for lang in ("de", "es"):
            write_public(folder / name, name, lang, {n: f"{name} {n}" for n in range(1, N + 1)})
    section = {"baseline": str(folder / "theirs"), "judges": members, "attempts": 1}
    data = {"languages": ["de", "es"], "judge": section}
    return evaluation_config("xalpaca", str(folder / "ours"), "openai:unused", data, overrides)


def judged(folder: Path, *args: Any) -> dict[str, Any]:
    return evaluate(config(folder, *args), folder / "out", Console(file=io.StringIO()))


def test_mean_majority_and_agreement(tmp_path: Path) -> None:
    opinions: dict[str, Prefers] = {
        "one": lambda n: 1.0, "two": lambda n: float(n <= 4), "three": lambda n: 0.5 if n == 8 else float(n <= 2),
    }  # fmt: skip
    with (
        Stub(opinion(opinions["one"])) as one,
        Stub(opinion(opinions["two"])) as two,
        Stub(opinion(opinions["three"])) as three,
    ):
        stubs = {"one": one, "two": two, "three": three}
        members = [{"model": "m", "name": name, "base_url": stub.url} for name, stub in stubs.items()]
        summary = judged(tmp_path, members)
        asked = [len(stub.sent) for stub in stubs.values()]
        judged(tmp_path, members)
        assert [len(stub.sent) for stub in stubs.values()] == asked == [4 * N] * 3
        urls = [stub.url for stub in stubs.values()]
    assert summary["judge"] == "3 judges: one, two, three" and summary["cost"]["calls"] == 12 * N
    items = range(1, N + 1)
    mean = 100 * sum(opinions[name](n) for name in opinions for n in items) / (3 * N)
    assert summary["languages"]["de"]["win_rate"] == pytest.approx(mean) == summary["average"]["win_rate"]
    panel = summary["panel"]
    assert [of["address"] for of in panel["judges"].values()] == urls
    assert panel["judges"]["two"]["languages"]["es"]["value"] == 50.0
    assert panel["judges"]["one"]["average"] == {"value": 100.0, "se": 0.0}
    # 1–4: two of three say won; 5–7: two say lost; 8: all three differ
    assert panel["majority"]["languages"]["de"]["value"] == pytest.approx(100 * 4.5 / 8)
    units = [[of(n) for of in opinions.values()] for n in items]
    assert panel["alpha"]["de"] == pytest.approx(nominal_alpha(units) or 0)
    assert panel["alpha"]["all"] == pytest.approx(nominal_alpha(units * 2) or 0)
    rows = read_rows(tmp_path / "out" / "verdicts" / "de.parquet")
    assert rows[0]["raw"] == "one: 1\ntwo: 1\nthree: 1" and len(rows) == 2 * N
    assert (tmp_path / "out" / "judges" / "two" / "cache.sqlite").is_file()
    said = io.StringIO()
    Console(file=said, width=120).print(TABLES["xalpaca"](summary))
    assert "what most judges say: 56.25" in said.getvalue() and "Krippendorff's α: de " in said.getvalue()


def test_a_question_that_one_judge_does_not_answer_counts_for_none_and_is_asked_again(tmp_path: Path) -> None:
    def failing(request: dict[str, Any], before: int) -> Answer:
        return fault(503) if "ours 3\n" in request["messages"][-1]["content"] else opinion(lambda n: 1.0)(request, 0)

    with Stub(opinion(lambda n: 1.0)) as good, Stub(failing) as bad:
        members = [{"model": "good", "base_url": good.url}, {"model": "bad", "base_url": bad.url}]
        with pytest.raises(TooManyUnscored):
            judged(tmp_path, members)
        summary = judged(tmp_path, members, "judge.max_unscored=0.2")
        assert summary["languages"]["de"]["n"] == N - 1
        assert summary["languages"]["de"]["reasons"] == {"no answer: HTTP 503": 2}
        bad.script, asked = good.script, len(bad.sent)
        assert judged(tmp_path, members)["languages"]["de"]["n"] == N
        assert len(bad.sent) == asked + 4 and len(good.sent) == 4 * N


def test_a_dry_run_has_a_line_for_each(tmp_path: Path) -> None:
    members = [{"model": "one", "base_url": "http://127.0.0.1:9/v1"}, {"model": "two"}]
    lines = estimate(config(tmp_path, members), tmp_path / "out").lines
    assert lines[0].startswith("32 calls to one") and lines[1].startswith("32 calls to two")


@pytest.mark.parametrize(
    ("judge", "said"),
    [
        ({"kind": "openai", "judges": [{"model": "a", "modle": "b"}]}, "judge 1 has the unknown key modle"),
        ({"kind": "openai", "judges": [{"model": "a"}, {"base_url": "x"}]}, "judge 2 has no model"),
        ({"kind": "openai", "judges": [{"model": "a"}, {"model": "a"}]}, "two judges are called a"),
        ({"kind": "openai", "judges": [{"model": "a", "verdict_tokens": "many"}]}, "judges: verdict_tokens"),
        ({"kind": "m:Judge", "judges": [{"model": "a"}]}, "kind to openai or local"),
        ({"kind": "local", "judges": [{"kind": "none", "model": "a"}]}, "judge 1 has the kind none"),
        ({"kind": "local", "judges": [{"model": "/x/a"}, {"model": "/y/a"}]}, "two judges are called a"),
    ],
)
def test_what_cannot_be_several_judges(judge: dict[str, Any], said: str) -> None:
    from icr.config.load import make_section

    with pytest.raises(ConfigError) as caught:
        make_section(EvaluationConfig, {"benchmark": "xalpaca", "languages": ["de"], "judge": judge})
    assert said in str(caught.value)


def test_each_has_the_keys_of_all_and_its_own(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "x")
    members = [{"model": "a", "base_url": "https://user:secret@example.org/v1"}, {"model": "b", "verdict_tokens": 9}]
    judge = Judge.model_validate({"kind": "openai", "budget": 5, "verdict_tokens": 64, "judges": members})
    found = [(name, one.verdict_tokens, one.budget) for name, one in judge.members.items()]
    assert found == [("a", 64, 5), ("b", 9, 5)]
    assert "secret" not in judge.model_dump_json()


def test_a_majority_is_more_than_any_other() -> None:
    assert majority([1, 1, 0]) == 1 and majority([0, 0, 0.5]) == 0 and majority([1, 0]) == 0.5
    assert majority([1, 0, 0.5]) == 0.5 and majority([1, 1, 0, 0, 0.5]) == 0.5 and majority([0.5, 0.5, 1]) == 0.5


def test_mtbench_and_accuracy_take_the_mean_of_their_rows(tmp_path: Path) -> None:
    from eval.judges.panel import describe_panel, join_verdicts, member_folder
    from eval.mtbench.grade import VERDICTS
    from icr.base.files import write_rows

    judge = Judge(kind="openai", judges=[{"model": "a"}, {"model": "b"}])
    for name, grades in (("a", (8.0, 6.0)), ("b", (8.0, 4.0))):
        rows = [{"question_id": "1", "key": "1", "category": "math", "turn": turn, "grade": grade, "reason": None,
                 "raw": "", "shortened": False, "reference": None, "judge": name}
                for turn, grade in enumerate(grades, 1)]  # fmt: skip
        write_rows(member_folder(tmp_path, name) / "mtbench" / "verdicts" / "de.parquet", rows, VERDICTS)
    join_verdicts(judge, tmp_path, "mtbench")
    assert [row["grade"] for row in read_rows(tmp_path / "mtbench" / "verdicts" / "de.parquet")] == [8.0, 5.0]
    panel = describe_panel(judge, tmp_path, "mtbench")
    assert panel["judges"]["b"]["average"]["value"] == 6.0 and "majority" not in panel
    assert panel["alpha"]["all"] == pytest.approx(nominal_alpha([(8, 8), (6, 4)]) or 0)


def test_mtbench_by_two_judges_on_a_scale_of_five(tmp_path: Path) -> None:
    """Grades, the judges' own files for FastChat, and a summary with the scale of the prompt."""
    from eval.mtbench.questions import load_questions
    from icr.config.schema import MtBench
    from tests.eval.test_mtbench_whole import run_mtbench
    from tests.eval.test_prompts import GRADES
    from tests.helpers.mtbench import answered, make_config, read_lines, write_questions

    folder = write_questions(tmp_path / "q", reference="['12', '6']")
    out, template = tmp_path / "evaluation", tmp_path / "t.yaml"
    template.write_text(GRADES, encoding="utf-8")
    questions = load_questions(MtBench(questions=str(folder)), ["en", "de"])
    out.mkdir(parents=True)
    answered(tmp_path, questions).rename(out / "mtbench")
    with Stub(lambda request, before: says("[[4.5]]")) as one, Stub(lambda request, before: says("[[2]]")) as two:
        judges = [{"model": "a", "base_url": one.url}, {"model": "b", "base_url": two.url}]
        config = make_config(
            tmp_path, folder, kind="openai", judges=judges, template=str(template), languages=["en", "de"]
        )
        _, summary = run_mtbench(config, None, out)
        assert len(one.sent) == len(two.sent) == 8
    assert summary["judge"] == "2 judges: a, b" and summary["scale"] == [1.0, 5.0]
    assert summary["average"]["average"] == 3.25 and summary["template_source"] == "t.yaml"
    assert summary["panel"]["judges"]["a"]["average"]["value"] == 4.5
    judgments = read_lines(out / "judges" / "b" / "mtbench" / "model_judgment" / "de" / "b_single.jsonl")
    assert [row["score"] for row in judgments] == [2.0] * 4 and judgments[3]["judge"] == [
        "b",
        "mtbench-turn_2_reference",
    ]
    said = io.StringIO()
    Console(file=said, width=120).print(TABLES["mtbench"](summary))
    assert "Grades from 1 to 5" in said.getvalue()
