"""Judge prompts of FastChat's and AlpacaEval's forms, in words of our own: read by name, sent, and answered."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.evaluate import evaluation_config
from eval.judges.labels import find_label
from eval.judges.prompts import check_prompts, find_prompts, identify_prompts, read_template
from eval.judges.question import Question
from eval.mtbench.grade import template_question
from eval.mtbench.questions import load_questions
from eval.xalpaca.answers import load_baseline, read_answers
from eval.xalpaca.pairwise import Comparison, run_verdicts
from eval.xalpaca.summary import summarise
from icr.base.conversation import wrap_text
from icr.base.errors import ConfigError, UserError
from icr.base.files import read_rows
from icr.config.schema import Judge, MtBench
from tests.eval.test_judge_stops import make_round
from tests.eval.test_prompts import with_prompts
from tests.helpers.endpoints import judge, verdicts_on
from tests.helpers.judging import judged_by, load_local
from tests.helpers.mtbench import write_questions
from tests.helpers.stub_server import Answer, Stub, says
from tests.helpers.tiny_models import make_tiny_model

TWO = "<User>{question_1}<A>{answer_1}<User>{question_2}<A>{answer_2}"
ROWS = [
    ("duel-v2", "pairwise", "Say [[A]], [[B]] or [[C]].", 'Q {question} {{"a": 1}} {{it}}\nA {answer_a}\nB {answer_b}'),
    ("duel-math-v2", "pairwise", "", "Q {question} R {ref_answer_1} A {answer_a} B {answer_b}"),
    ("solo-v1", "single", "Be kind.", 'Rate as "[[rating]]". Q {question} A {answer}'),
    ("solo-math-v1", "single", "Be kind.", "Rate. Q {question} R {ref_answer_1} A {answer}"),
    ("solo-v1-multi-turn", "single", "Be fair.", TWO),
    ("solo-math-v1-multi-turn", "single", "Be fair.", f"R {{ref_answer_1}} {{ref_answer_2}} {TWO}"),
    ("brief-v1", "single", "", "Q {question} A {answer}"),
    (
        "duel-v2-multi-turn",
        "pairwise",
        "",
        "{question_1} {answer_a_1} {answer_b_1} {question_2} {answer_a_2} {answer_b_2}",
    ),
    ("odd-v1", "pairwise", "", "Q {question!r} A {answer_a} B {answer_b}"),
    ("poor-v1", "pairwise", "", "Q {question} A {answer_a}"),
    ("strange-v1", "pairwise", "", "Q {question} A {answer_a} B {answer_b} {mood}"),
]
CHATML = """\
<|im_start|>system
You pick.
<|im_end|>
<|im_start|>user
{"instruction": "{instruction}", "m": "{output_1}", "M": "{output_2}"} {other}
m or M?
<|im_end|>
"""
ANNOTATORS = """\
pick:
  prompt_template: "texts/pick.txt"
  fn_completion_parser: "logprob_parser"
  completion_parser_kwargs: {numerator_token: "m", denominator_tokens: ["m", "M"], is_binarize: false}
think:
  prompt_template: "texts/pick.txt"
  fn_completion_parser: "logprob_parser"
  completion_parser_kwargs: {numerator_token: "m", denominator_tokens: ["m", "M"], log_prob_index: -1}
words:
  prompt_template: "texts/words.txt"
  completion_parser_kwargs:
    outputs_to_match:
      1: '(?:^|\\n) ?Output \\(a\\)'
      2: '(?:^|\\n) ?Output \\(b\\)'
rank:
  prompt_template: "texts/pick.txt"
  fn_completion_parser: "ranking_parser"
gone:
  prompt_template: "texts/gone.txt"
  completion_parser_kwargs: {outputs_to_match: {1: "A", 2: "B"}}
"""


@pytest.fixture(scope="module")
def files(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """rows.jsonl, and AlpacaEval's folders with mine/configs.yaml and texts/."""
    folder = tmp_path_factory.mktemp("published")
    rows = [
        {"name": name, "type": kind, "system_prompt": system, "prompt_template": text, "description": "",
         "output_format": "[[A]]" if kind == "pairwise" else "[[rating]]"}
        for name, kind, system, text in ROWS
    ]  # fmt: skip
    (folder / "rows.jsonl").write_text("\n".join(map(json.dumps, rows)) + "\n", encoding="utf-8")
    for name in ("mine", "texts"):
        (folder / name).mkdir()
    (folder / "mine" / "configs.yaml").write_text(ANNOTATORS, encoding="utf-8")
    (folder / "texts" / "pick.txt").write_text(CHATML, encoding="utf-8")
    words = CHATML.replace("m or M?", "Output (a) or Output (b)?").replace('"m"', "a").replace('"M"', "b")
    (folder / "texts" / "words.txt").write_text(words, encoding="utf-8")
    return folder


def comparison(template: str) -> Question:
    return Comparison("1", "de", wrap_text("Wer {answer_a}?"), "Ich {first}", "Du").question(
        read_template(template)["xalpaca"].one
    )


def test_a_comparison_in_fastchats_form(files: Path) -> None:
    question = comparison(f"{files}/rows.jsonl#duel-v2")
    assert question.messages() == (
        ("system", "Say [[A]], [[B]] or [[C]]."),
        ("user", 'Q Wer {answer_a}? {"a": 1} {it}\nA Ich {first}\nB Du'),
    )
    assert question.labels == ("A", "B", "C") and question.explained
    assert Question.load(question.dump()) == question
    found = read_template(f"{files}/rows.jsonl#duel-v2")
    assert found.keys() == {"xalpaca", "accuracy"} and found["accuracy"].source == "rows.jsonl#duel-v2"


def test_grades_in_fastchats_form(files: Path, tmp_path: Path) -> None:
    template = f"{files}/rows.jsonl#solo-v1"
    prompts = find_prompts(Judge(kind="openai", model="m", template=template), "mtbench")
    assert [wording.name for wording in prompts.wordings.values()] == [
        "solo-v1", "solo-math-v1", "solo-v1-multi-turn", "solo-math-v1-multi-turn",
    ]  # fmt: skip
    questions = load_questions(MtBench(questions=str(write_questions(tmp_path / "q", reference="['12', '6']"))), ["fr"])
    one, two = (template_question(questions["fr"][-1], turn, "x", prompts) for turn in (1, 2))
    first, second = questions["fr"][-1].turns
    assert one.messages()[0] == ("system", "Be kind.")
    assert one.prompt() == f"Rate. Q {first} R 12 A x"
    assert two.prompt() == f"R 12 6 <User>{first}<A>x<User>{second}<A>x" and two.messages()[0][1] == "Be fair."
    with Stub(lambda request, before: says("Good. Rating: [[7.5]]")) as stub:
        (verdict,) = verdicts_on(judge(tmp_path, stub.url), one)
        assert [message["role"] for message in stub.sent[0][1]["messages"]] == ["system", "user"]
    assert verdict.expect(range(1, 11)) == 7.5


@pytest.mark.parametrize("name", ["solo-math-v1", "solo-v1-multi-turn", "solo-math-v1-multi-turn"])
def test_any_prompt_for_two_turns_or_with_a_reference_names_its_set(files: Path, name: str) -> None:
    found, whole = (read_template(f"{files}/rows.jsonl#{of}") for of in (name, "solo-v1"))
    assert found == whole and found["mtbench"].source == "rows.jsonl#solo-v1"


def test_the_two_letters_of_alpacaeval_differ_in_case_alone(files: Path, tmp_path: Path) -> None:
    answers, baseline = make_round(tmp_path, 4)
    prompts = read_template(f"{files}/mine/configs.yaml#pick")["xalpaca"]
    sent: list[Any] = []

    def prefers_good(request: dict[str, Any], before: int) -> Answer:
        sent.append(request["messages"])
        good = '"m": "good' in request["messages"][-1]["content"]
        return says("m" if good else "M", top={"m": -0.1 if good else -2.0, "M": -2.0 if good else -0.1})

    with Stub(prefers_good) as stub:
        judging = with_prompts(judged_by(judge(tmp_path / "out", stub.url, name="cache"), "openai: m"), prompts)
        of = load_baseline(baseline, read_answers(answers))
        run_verdicts(judging, answers, of, tmp_path / "out")
    share = 1 / (1 + 2.718281828459045 ** (-1.9))
    rows = read_rows(tmp_path / "out" / "verdicts" / "en.parquet")
    assert [row["preference"] for row in rows] == pytest.approx([share] * 8)
    assert sent[0][0] == {"role": "system", "content": "You pick."} and sent[0][1]["content"].endswith(
        "} {other}\nm or M?"
    )
    summary = summarise(answers, of, tmp_path / "out", "m", "b", prompts=prompts)
    assert (summary["template"], summary["template_source"]) == (prompts.identity, "configs.yaml#pick")
    labels = ("m", "M")
    assert [find_label(text, labels) for text in ("m", "**M**", "Model: M.", "m is better", "N")] == [
        "m", "M", "M", "m", None,
    ]  # fmt: skip


def test_other_ways_to_answer_in_alpacaevals_form(files: Path) -> None:
    think, words, alone = (
        read_template(f"{files}/{name}")["accuracy"].one
        for name in ("mine/configs.yaml#think", "mine/configs.yaml#words", "texts/pick.txt")
    )
    assert think.explained and words.labels == ("Output (a)", "Output (b)") and not words.explained
    assert alone.labels == ("m", "M") and alone.name == "pick"
    assert find_label("Output (b)", words.labels) == "Output (b)" and find_label("(a)", words.labels) == "Output (a)"
    assert find_label("### Which is best?\nM", think.labels) == "M"


CASES = [
    ("rows.jsonl", ["has several prompts, and none is named", "rows.jsonl#NAME with one of duel-v2, solo-v1"]),
    ("rows.jsonl#duel", ["has no prompt called duel", "duel-v2, solo-v1"]),
    ("rows.jsonl#duel-math-v2", ["compares by a reference answer", "rows.jsonl:2", "solo-v1 grades MT-Bench"]),
    ("rows.jsonl#duel-v2-multi-turn", ["compares two models over both turns of MT-Bench", "choose one of duel-v2"]),
    ("rows.jsonl#brief-v1", ["brief-math-v1, brief-v1-multi-turn, brief-math-v1-multi-turn", "complete judge_prompts"]),
    ("rows.jsonl#odd-v1", ["odd-v1 cannot be filled in: {question} has a format", "rows.jsonl:9"]),
    ("rows.jsonl#poor-v1", ["poor-v1 has no {answer_b}", "rows.jsonl:10"]),
    ("rows.jsonl#strange-v1", ["{mood} is unknown", "rows.jsonl:11"]),
    ("nowhere.jsonl#duel-v2", ["nowhere.jsonl"]),
    ("nowhere.txt", ["cannot be read", "nowhere.txt"]),
    ("mine/configs.yaml#rank", ["the answers that this prompt asks for (ranking_parser", "configs.yaml: rank"]),
    ("mine/configs.yaml#gone", ["file texts/gone.txt of the prompt gone not found"]),
    ("mine/configs.yaml#other", ["no prompt called other", "pick, think, words, rank, gone"]),
    ("texts/pick.txt#other", ["has none called other"]),
    ("texts/words.txt", ["does not name the answer m and M", "configs.yaml#NAME"]),
]  # fmt: skip


@pytest.mark.parametrize(("template", "said"), CASES)
def test_what_cannot_be_asked_with(files: Path, template: str, said: list[str]) -> None:
    with pytest.raises(UserError) as caught:
        check_prompts(
            Judge(kind="openai", model="m", benchmarks=["xalpaca", "mtbench"], template=f"{files}/{template}")
        )
    for part in said:
        assert part in str(caught.value)


def test_a_file_of_another_form_is_refused(tmp_path: Path) -> None:
    rows, own, text = tmp_path / "rows.jsonl", tmp_path / "own.yaml", tmp_path / "a.txt"
    rows.write_text('{"name": "x"}\n[1]\n', encoding="utf-8")
    with pytest.raises(ConfigError, match="not a judge prompt with name, type"):
        read_template(f"{rows}#x")
    own.write_text("xalpaca:\n  labels: [1, 2]\n  prompt: '{instruction} {first} {second}'\n", encoding="utf-8")
    with pytest.raises(UserError, match="leave out #x if it is a file of icr's own form"):
        read_template(f"{own}#x")
    text.write_text("m or M: {instruction} {output_1} {output_2}", encoding="utf-8")
    with pytest.raises(UserError, match="one user message in ChatML"):
        read_template(str(text))


def test_a_prompt_has_to_fit_the_judge_and_the_benchmark(files: Path) -> None:
    pick, duel = f"{files}/mine/configs.yaml#pick", f"{files}/rows.jsonl#duel-v2"
    with pytest.raises(UserError, match=r"judge\.system sets another"):
        check_prompts(Judge(kind="openai", model="m", template=pick, system="Hello."))
    with pytest.raises(UserError, match="this prompt is for xalpaca, accuracy, but the benchmark is mtbench"):
        check_prompts(Judge(kind="openai", model="m", template=pick, benchmarks=["mtbench"]))
    with pytest.raises(UserError, match="asks for reasoning first"):
        check_prompts(Judge(kind="local", model="m", template=duel))
    check_prompts(Judge(kind="local", model="m", template=pick))


def test_results_depend_on_what_the_name_stands_for(files: Path, tmp_path: Path) -> None:
    data = {"languages": ["en"], "judge": {"baseline": str(make_round(tmp_path, 1)[1])}}
    config = evaluation_config(
        "xalpaca", str(tmp_path), "openai:m", data, [f"judge.template={files}/rows.jsonl#duel-v2"]
    )
    assert config.judge.template == f"{(files / 'rows.jsonl').resolve()}#duel-v2"
    first = identify_prompts(config.judge, ["xalpaca"])
    text = (files / "rows.jsonl").read_text(encoding="utf-8")
    changed = tmp_path / "rows.jsonl"
    for old, new, same in (("Say [[A]]", "Write [[A]]", False), ("Be kind", "Be strict", True)):
        changed.write_text(text.replace(old, new), encoding="utf-8")
        other = config.judge.model_copy(update={"template": f"{changed}#duel-v2"})
        assert (identify_prompts(other, ["xalpaca"]) == first) is same


def test_a_local_judge_is_given_the_system_message(files: Path, tmp_path: Path) -> None:
    local = load_local(make_tiny_model(tmp_path / "model", context=4096))
    (verdict,) = local.ask([comparison(f"{files}/mine/configs.yaml#pick")], lambda more: None)
    assert verdict.shares is not None and sum(verdict.shares) == pytest.approx(1)
    assert verdict.raw.startswith("log-probs m ") and ", M " in verdict.raw
