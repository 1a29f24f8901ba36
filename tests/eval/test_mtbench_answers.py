"""MT-Bench: two turns of answers, sampled or given."""

from __future__ import annotations

import shutil
from collections import Counter
from pathlib import Path
from typing import Any

import pytest

from eval.mtbench.answers import import_answers
from eval.mtbench.grade import grade
from eval.mtbench.questions import read_questions
from eval.mtbench.summary import summarise
from icr.base.conversation import wrap_text
from icr.base.errors import UserError
from icr.base.files import read_rows
from icr.engines.models import load_tokenizer
from icr.engines.templates import prompt_token_ids
from tests.helpers.judging import Steps
from tests.helpers.mtbench import (
    Recorder,
    Scripted,
    answer_questions,
    graded_by,
    line,
    make_config,
    read_lines,
    write_lines,
    write_questions,
)
from tests.helpers.tiny_models import make_tiny_model


@pytest.fixture
def recorder(tiny: Path) -> Recorder:
    return Recorder(load_tokenizer(str(tiny)))


def test_turns_are_sampled_by_category_and_the_second_sees_the_first(
    tiny: Path, tmp_path: Path, recorder: Recorder
) -> None:
    categories = ["writing", "roleplay", "reasoning", "math", "coding", "extraction", "stem", "humanities"]
    lines = [line(n, c, (f"Ask {c}.", f"More {c}."), reference=["1", "2"]) for n, c in enumerate(categories, 81)]
    folder = write_lines(tmp_path / "q" / "en.jsonl", lines)
    config = make_config(tiny, folder, languages=["en"], shard_size=80)
    counts = answer_questions(config, str(tiny), tmp_path / "out", recorder)
    assert [(d.temperature, d.top_p, d.max_tokens, len(p)) for d, p in recorder.calls] == [
        (0.7, 1.0, 12, 2), (0.0, 1.0, 12, 4), (0.1, 1.0, 12, 2), (0.7, 1.0, 12, 2), (0.0, 1.0, 12, 4), (0.1, 1.0, 12, 2)
    ]  # fmt: skip
    template = "<|im_start|>user\n{}<|im_end|>\n<|im_start|>assistant\n"
    assert recorder.calls[0][1][0] == template.format("Ask writing.")
    said = "first<|im_end|>\n"
    assert recorder.calls[3][1][0] == template.format("Ask writing.") + said + template.format("More writing.")
    assert len(set(recorder.seeds)) == 16, "every turn has noise of its own"
    assert counts == {"answers": 16, "truncated": 0, "no_room": 0}
    rows = read_rows(tmp_path / "out" / "answers" / "en.parquet")
    assert [(r["key"], r["turn"], r["response"]) for r in rows[:9:8]] == [("81", 1, "first"), ("81", 2, "second")]
    public = read_lines(tmp_path / "out" / "model_answer" / "en" / "org_a_model.jsonl")
    assert [p["question_id"] for p in public] == list(range(81, 89))
    assert public[0]["choices"] == [{"index": 0, "turns": ["first", "second"]}]
    assert {"answer_id", "model_id", "tstamp"} < public[0].keys() and public[0]["model_id"] == "org_a_model"


def test_answers_go_on_after_a_kill_and_are_made_anew_for_another_model(
    tiny: Path, tmp_path: Path, recorder: Recorder
) -> None:
    config, out = make_config(tiny, write_questions(tmp_path / "q", reference=["12", "6"])), tmp_path / "out"
    recorder.limit = 6  # a shard of 4 questions: two temperatures in two turns
    with pytest.raises(KeyboardInterrupt):
        answer_questions(config, str(tiny), out, recorder)
    assert len(list((out / "answers" / "shards").rglob("*.parquet"))) == 1
    recorder.limit, killed = 10**9, 6
    answer_questions(config, str(tiny), out, recorder)
    assert len(recorder.calls) == killed + 8, "the first of three shards is not answered again"
    assert not (out / "answers" / "shards").exists()
    answer_questions(config, str(tiny), out, recorder)
    assert len(recorder.calls) == killed + 8
    copy = shutil.copytree(tiny, tmp_path / "copy")
    answer_questions(config, str(copy), out, recorder)
    assert len(recorder.calls) == killed + 8 + 12


def test_a_full_context_leaves_no_second_answer_and_a_long_question_is_refused(
    tmp_path: Path, recorder: Recorder
) -> None:
    small = make_tiny_model(tmp_path / "small", context=50)
    tokenizer = load_tokenizer(str(small))
    long = "Name three animals that live in the sea. " * 3
    folder = write_lines(tmp_path / "q" / "en.jsonl", [line(81, turns=("Say A.", long)), line(82, turns=(long, "B"))])
    config = make_config(small, folder, languages=["en"])
    sizes = [len(prompt_token_ids(tokenizer, wrap_text(text))) for text in ("Say A.", long)]
    assert sizes[0] + 12 < 50 and 50 - 12 < sizes[1] < 50
    counts = answer_questions(config, str(small), tmp_path / "out", recorder)
    assert Counter(d.max_tokens for d, _ in recorder.calls) == {12: 1, 50 - sizes[1]: 1}, "never past the context"
    assert counts["no_room"] == 2
    judge = Scripted(lambda q: 7)
    questions = read_questions(folder, ["en"])
    grade(graded_by(judge), questions, tmp_path / "out")
    row = summarise(tmp_path / "out", ["en"])["languages"]["en"]
    assert (row["n"], row["unscored"], row["unscored_turns"], row["no_room"]) == (2, 0, 2, 2)
    assert row["reasons"] == {"no answer: the model's context had no room for one": 2}
    assert [q.id for q in judge.seen] == ["81-1", "82-1"], "no judge is asked for them"
    write_lines(folder / "en.jsonl", [line(83, turns=(long * 2, "B"))])
    with pytest.raises(UserError, match="the model's context is 50"):
        answer_questions(config, str(small), tmp_path / "other", recorder)


def test_given_answers_take_the_place_of_sampled_ones(tmp_path: Path) -> None:
    questions = read_questions(write_questions(tmp_path / "q"), ["de"])
    rows = [{"question_id": id, "choices": [{"index": 0, "turns": ["Ja.", f"Nein {id}."]}]} for id in (81, 111, 112)]
    notes = Steps()
    import_answers(questions, write_lines(tmp_path / "flat" / "de.jsonl", rows), tmp_path / "a", notes)
    assert notes.notes == ["de: 1 answers to questions that are not judged are skipped"]
    write_lines(tmp_path / "deep" / "de" / "gpt.jsonl", rows[:2])
    import_answers(questions, tmp_path / "deep", tmp_path / "b")
    for out, name in ((tmp_path / "a", "flat"), (tmp_path / "b", "gpt")):
        found = read_rows(out / "answers" / "de.parquet")
        assert [(r["question_id"], r["turn"], r["response"]) for r in found] == [
            ("81_DE", 1, "Ja."), ("81_DE", 2, "Nein 81."), ("111_DE", 1, "Ja."), ("111_DE", 2, "Nein 111.")
        ]  # fmt: skip
        assert {r["model"] for r in found} == {name}
        assert read_lines(out / "model_answer" / "de" / f"{name}.jsonl")[0]["question_id"] == "81_DE"


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([81], "no answers to 1 of 2 questions in de: 111_DE"),
        ([81, "81_DE", 111], "appear twice: 81"),
        (["broken"], "not an answer with two turns"),
        (None, "no answers in de found"),
    ],
)
def test_given_answers_have_to_cover_the_questions_once(tmp_path: Path, rows: list[Any] | None, what: str) -> None:
    questions = read_questions(write_questions(tmp_path / "q"), ["de"])
    lines = [{"question_id": id, "choices": [{"turns": ["a", "b"][: 1 if id == "broken" else 2]}]} for id in rows or []]
    source = write_lines(tmp_path / "given" / ("xx.jsonl" if rows is None else "de.jsonl"), lines)
    with pytest.raises(UserError) as error:
        import_answers(questions, source, tmp_path / "out")
    assert what in str(error.value)
