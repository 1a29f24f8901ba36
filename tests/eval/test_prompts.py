"""The prompts that a judge is asked with: icr's own, and those of a user's file."""

from __future__ import annotations

import re
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from eval.accuracy import run_agreement, summarise
from eval.evaluate import evaluation_config
from eval.judges.asking import Judging
from eval.judges.prompts import built_in, check_prompts, find_prompts, identify_prompts, read_prompts
from eval.judges.question import Question
from eval.judges.wording import BUILT_IN, Prompts
from eval.mtbench.grade import points_of
from eval.standing import describe_evaluation
from eval.xalpaca.answers import load_baseline, read_answers
from eval.xalpaca.pairwise import Comparison, run_verdicts
from eval.xalpaca.summary import summarise as summarise_verdicts
from icr.base.conversation import wrap_text
from icr.base.errors import ConfigError, UserError
from icr.base.files import read_rows
from icr.config.schema import Judge
from tests.eval.test_judge_stops import make_round
from tests.helpers.endpoints import judge
from tests.helpers.judging import Inline, judged_by, load_local
from tests.helpers.stub_server import Answer, Stub, says
from tests.helpers.tiny_models import make_tiny_model

RMT = Path(__file__).resolve().parents[3] / "shared" / "data" / "rm" / "paper" / "rmt_prompts.md"
OWN = """\
xalpaca:
  labels: [1, 2]
  prompt: |-
    You know {language}. {{"not": a placeholder}} and {{this}} neither.
    Text - {instruction}
    Summary 1 - {first}
    Summary 2 - {second}
    Preferred Summary=
"""
GRADES = """\
mtbench:
  labels: [1, 2, 3, 4, 5]
  reasoning: first
  turn_1: &one "{question_1} {answer_1} {reply}"
  turn_1_reference: "{question_1} {reference_1} {answer_1} {reply}"
  turn_2: "{question_1} {answer_1} {question_2} {answer_2} {reply}"
  turn_2_reference: "{question_2} {reference_2} {answer_2} {reply}"
"""


def with_prompts(judging: Judging, prompts: Prompts) -> Judging:
    """The same judge, asked with these in every benchmark."""
    return replace(judging, prompts=dict.fromkeys(judging.prompts, prompts))


def write(folder: Path, text: str) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "own.yaml"
    path.write_text(text, encoding="utf-8")
    return path


def test_icrs_own_prompts_are_as_they_were() -> None:
    """Their identities are in the summaries of earlier versions, which `judge diff` compares."""
    own = built_in()
    assert (own["xalpaca"].identity, own["mtbench"].identity) == ("3feb6a101c0c26c4", "dc6a4ff99a1188c4")
    assert own["xalpaca"].one.text.startswith("Compare two") and own["xalpaca"].one.labels == ("A", "B")
    assert own["accuracy"].one.explained and own["accuracy"].source == BUILT_IN
    assert not own["xalpaca"].one.explained


def test_a_prompt_of_the_users_is_sent_as_it_is_written(tmp_path: Path) -> None:
    wording = read_prompts(write(tmp_path, OWN))["xalpaca"].one
    question = Comparison("1", "de", wrap_text("Wer? {first}"), "Ich {second}", "Du").question(wording)
    assert question.prompt() == (
        'You know German. {{"not": a placeholder}} and {this} neither.\nText - Wer? {first}\n'
        "Summary 1 - Ich {second}\nSummary 2 - Du\nPreferred Summary="
    )
    assert question.labels == ("1", "2") and Question.load(question.dump()) == question


@pytest.mark.skipif(not RMT.is_file(), reason="needs ../shared/data/rm/paper/rmt_prompts.md")
def test_the_prompts_of_reuse_your_rewards_can_be_written(tmp_path: Path) -> None:
    quoted = RMT.read_text(encoding="utf-8")
    names = {"[LANGUAGE]": "{language}", "[INPUT]": "{instruction}", "[GENERATION1]": "{first}",
             "[GENERATION2]": "{second}"}  # fmt: skip
    for heading in ("Judge, summarization", "Judge, dialog"):
        text = quoted.split(f"## {heading}")[1].split("\n", 1)[1].split("\n## ")[0].split("\n(The judge compares")[0]
        for theirs, ours in names.items():
            text = text.replace(theirs, ours)
        block = "\n".join(f"    {line}" for line in text.strip().splitlines())
        path = write(tmp_path, f"xalpaca:\n  labels: [1, 2]\n  prompt: |-\n{block}\n")
        asked = Comparison("1", "de", wrap_text("ein Text"), "links", "rechts").question(
            read_prompts(path)["xalpaca"].one
        )
        expected = text.strip()
        for ours, value in zip(names.values(), ("German", "ein Text", "links", "rechts"), strict=True):
            expected = expected.replace(ours, value)
        assert asked.prompt() == expected and asked.prompt().endswith("=")


CASES = [
    (OWN.replace("{first}", "{frist}"), ["`xalpaca.prompt` has no {first}", "own.yaml:3", "unknown placeholder {frist}",
                                         "own.yaml:6", "{{frist}}"]),
    (OWN.replace("[1, 2]", "[A, a.]"), ["`xalpaca.labels`: A and a. are the same in an answer", "own.yaml:2"]),
    (OWN.replace("[1, 2]", "['+', '-']"), ["+, - cannot be read in an answer", "own.yaml:2"]),
    (OWN.replace("[1, 2]", "[A]"), ["`xalpaca.labels`", "own.yaml:2"]),
    (OWN.replace("labels:", "lables:"), ["unknown key `xalpaca.lables`", "`xalpaca.labels`", "own.yaml:2"]),
    (OWN.replace("  labels: [1, 2]\n", "  labels: [1, 2]\n  reasoning: last\n"), ["`xalpaca.reasoning`", "own.yaml:3"]),
    (OWN + "mtbehch: {}\n", ["unknown key `mtbehch`", "`mtbench`", "own.yaml:9"]),
    (GRADES.replace("[1, 2, 3, 4, 5]", "[1, 3, 5]"), ["`mtbench.labels` are not grades", "own.yaml:2"]),
    (GRADES.replace("{answer_2} {reply}", "{reply}"), ["`mtbench.turn_2` has no {answer_2}", "own.yaml:6",
                                                       "`mtbench.turn_2_reference`", "own.yaml:7"]),
    (GRADES.replace("turn_1: &one \"{question_1}", "turn_1: \"{question_1} {reference_1}"),
     ["`mtbench.turn_1`: unknown placeholder {reference_1}", "own.yaml:4"]),
    (GRADES.replace("  turn_2: ", "  other: "), ["`mtbench.turn_2` is missing", "unknown key `mtbench.other`"]),
    ("", ["the judge's template has no prompt"]),
    ("xalpaca: [", ["not valid YAML"]),
]  # fmt: skip


@pytest.mark.parametrize(("text", "said"), CASES)
def test_what_is_wrong_with_a_file_is_told_with_its_line(tmp_path: Path, text: str, said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_prompts(Judge(kind="openai", model="m", template=str(write(tmp_path, text))))
    for part in said:
        assert part in str(caught.value)


def test_icr_validate_tells_it_beside_everything_else(tmp_path: Path, tiny_config: Any) -> None:
    from icr.rounds.preflight import load_checked

    path = tiny_config(tmp_path / "c")
    changes = ["judge.kind=openai", "judge.model=m", "judge.base_url=http://127.0.0.1:9/v1", "sampling.n=1"]
    template = write(tmp_path, OWN.replace("{second}", ""))
    with pytest.raises(ConfigError) as caught:
        load_checked(path, [*changes, f"judge.template={template}"])
    assert f"{template}:3" in str(caught.value) and "has no {second}" in str(caught.value)
    assert "`sampling.n` is 1" in str(caught.value)
    with pytest.raises(ConfigError, match="nowhere"):
        load_checked(path, [*changes, "judge.template=nowhere.yaml"])


def test_who_cannot_be_asked_with_a_file(tmp_path: Path) -> None:
    reasons = OWN.replace("  prompt", "  reasoning: first\n  prompt")
    template = str(write(tmp_path, reasons))
    check_prompts(Judge(kind="openai", model="m", template=template))
    with pytest.raises(UserError, match="a local judge answers with a label alone, and the prompt of xalpaca"):
        check_prompts(Judge(kind="local", model="m", template=template))
    with pytest.raises(UserError, match="a custom judge does not use a prompt"):
        check_prompts(Judge(kind="eval.layout:OneParagraph", template=template))
    write(tmp_path, reasons.replace("Preferred Summary=", "{reply}"))
    check_prompts(Judge(kind="local", model="m", template=template))


def test_results_depend_on_the_prompts_content_and_not_on_other_benchmarks(tmp_path: Path) -> None:
    judge = Judge(kind="openai", model="m", template=str(write(tmp_path, OWN)))
    first = identify_prompts(judge, ["xalpaca", "accuracy"])
    assert first.keys() == {"judge template of xalpaca"} and find_prompts(judge, "accuracy").source == BUILT_IN
    write(tmp_path, "# a comment\n" + OWN + GRADES)
    assert identify_prompts(judge, ["xalpaca"]) == first
    for changed in (OWN.replace("Text -", "Text:"), OWN.replace("[1, 2]", "[2, 1]"),
                    OWN.replace("  prompt", "  reasoning: first\n  prompt")):  # fmt: skip
        write(tmp_path, changed)
        assert identify_prompts(judge, ["xalpaca"]) != first


def test_a_judge_of_a_config_is_asked_with_its_file(tmp_path: Path) -> None:
    config = Judge(kind="openai", model="m", template=str(write(tmp_path, OWN)))
    judging = Judging.of(config, None, Inline(), "key", tmp_path / "c.sqlite")  # type: ignore[arg-type]
    assert judging.prompts["xalpaca"].source == "own.yaml" and judging.prompts["mtbench"].source == BUILT_IN


def test_an_evaluation_knows_its_template(tmp_path: Path) -> None:
    _, baseline = make_round(tmp_path, 2)
    config = evaluation_config("xalpaca", str(baseline), "openai:m", {"languages": ["en"], "judge": {
        "baseline": str(baseline)}}, [f"judge.template={write(tmp_path, OWN)}"])  # fmt: skip
    step = describe_evaluation(config, None, {}, str)
    assert "judge template of xalpaca" in step.inputs and "judge.template" not in step.settings


def test_an_endpoint_judges_with_labels_1_and_2(tmp_path: Path) -> None:
    """Verdicts, points and the summary, with the label that the prompt gives to the first answer."""
    answers, baseline = make_round(tmp_path, 6)
    prompts = read_prompts(write(tmp_path, OWN))["xalpaca"]
    sent: list[str] = []

    def prefers_good(request: dict[str, Any], before: int) -> Answer:
        sent.append(request["messages"][-1]["content"])
        first = re.search(r"Summary 1 - (\w+)", sent[-1])
        assert first
        good = first[1].startswith("good")
        return says("1" if good else "2", top={"1": -0.1 if good else -2.0, "2": -2.0 if good else -0.1})

    with Stub(prefers_good) as stub:
        judging = judged_by(judge(tmp_path / "out", stub.url, name="cache"), "openai: m")
        of = load_baseline(baseline, read_answers(answers))
        run_verdicts(with_prompts(judging, prompts), answers, of, tmp_path / "out")
    share = 1 / (1 + 2.718281828459045 ** (-1.9))
    rows = read_rows(tmp_path / "out" / "verdicts" / "en.parquet")
    assert [row["preference"] for row in rows] == pytest.approx([share] * 12)
    assert all(text.endswith("Preferred Summary=") for text in sent)
    summary = summarise_verdicts(answers, of, tmp_path / "out", "m", "b", prompts=prompts)
    assert (summary["template"], summary["template_source"]) == (prompts.identity, "own.yaml")


def test_a_third_label_is_a_tie_and_identical_answers_are_draws(tmp_path: Path) -> None:
    text = OWN.replace("[1, 2]", "[1, 2, tie]")
    prompts = read_prompts(write(tmp_path, text))["xalpaca"]
    answers, baseline = make_round(tmp_path, 3)
    of = load_baseline(baseline, read_answers(answers))
    of["en"] = of["en"] | {a.id: a.text for a in read_answers(answers)["en"][:1]}
    with Stub(lambda request, before: says("tie")) as stub:
        judging = with_prompts(judged_by(judge(tmp_path / "out", stub.url)), prompts)
        run_verdicts(judging, answers, of, tmp_path / "out")
        assert len(stub.sent) == 4
    rows = read_rows(tmp_path / "out" / "verdicts" / "en.parquet")
    assert [row["preference"] for row in rows] == [0.5] * 6


def test_accuracy_without_a_tie(tmp_path: Path) -> None:
    prompts = read_prompts(write(tmp_path, OWN.replace("xalpaca", "accuracy")))["accuracy"]
    pairs: list[Any] = [
        {"prompt_id": str(n), "lang": "de", "prompt": "?", "chosen": "good", "rejected": "bad"} for n in range(8)
    ]
    with Stub(lambda request, before: says("1" if "1 - good" in request["messages"][-1]["content"] else "2")) as stub:
        judging = with_prompts(judged_by(judge(tmp_path / "x", stub.url)), prompts)
        run_agreement(judging, {"de": pairs}, tmp_path / "out")
    summary = summarise(tmp_path / "out", "m", prompts)
    assert summary["languages"]["de"]["accuracy"] == 100.0 and summary["languages"]["de"]["ties"] == 0
    assert summary["template_source"] == "own.yaml"


def test_grades_on_another_scale(tmp_path: Path) -> None:
    from eval.mtbench.grade import template_question
    from eval.mtbench.questions import load_questions
    from icr.config.schema import MtBench
    from tests.helpers.endpoints import verdicts_on
    from tests.helpers.mtbench import write_questions

    prompts = read_prompts(write(tmp_path, GRADES))["mtbench"]
    assert points_of(prompts) == (1.0, 2.0, 3.0, 4.0, 5.0)
    questions = load_questions(MtBench(questions=str(write_questions(tmp_path / "q", reference="['12', '6']"))), ["fr"])
    asked = [template_question(q, turn, "x", prompts) for q in questions["fr"] for turn in (1, 2)]
    texts = iter(["so [[4.5]]", "so [[7]]", "[[7]]", "[[7]]"])
    with Stub(lambda request, before: says(next(texts))) as stub:
        found = verdicts_on(judge(tmp_path, stub.url), *asked[:2])
    assert found[0].expect(points_of(prompts)) == 4.5 and found[1].reason == "verdict outside the labels"


def test_a_local_judge_reads_the_labels_of_the_prompt(tmp_path: Path) -> None:
    local = load_local(make_tiny_model(tmp_path / "model", context=4096))
    wording = read_prompts(write(tmp_path, OWN))["xalpaca"].one
    question = Comparison("1", "de", wrap_text("Wer?"), "Ich", "Du").question(wording)
    assert not question.names_labels
    (verdict,) = local.ask([question], lambda more: None)
    assert verdict.shares is not None and sum(verdict.shares) == pytest.approx(1)
    assert verdict.raw.startswith("log-probs 1 ")
