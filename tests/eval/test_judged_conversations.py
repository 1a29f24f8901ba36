"""Answers to conversations: what judges are asked, and what classes of the user's see."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from eval.accuracy import run_agreement
from eval.judges.own import OwnJudge
from eval.judges.prompts import built_in
from eval.judges.question import Question
from eval.xalpaca.answers import read_answers
from eval.xalpaca.pairwise import Comparison, run_verdicts
from icr.base.conversation import dump_conversation, wrap_text
from icr.base.files import write_rows
from icr.config.schema import Endpoint as Settings
from icr.rows import RESPONSES
from tests.helpers.endpoints import Endpoint
from tests.helpers.judging import judged_by

TALK: Any = [
    {"role": "system", "content": "Antworte knapp."},
    {"role": "user", "content": "Nenne einen Fluss. {first}"},
    {"role": "assistant", "content": "Der Rhein."},
    {"role": "user", "content": "Und einen zweiten?"},
]
SHOWN = (
    "### System:\nAntworte knapp.\n\n### User:\nNenne einen Fluss. {first}\n\n### Assistant:\nDer Rhein.\n\n"
    "### User:\nUnd einen zweiten?"
)
SEEN = (
    "import json, pathlib\n"
    "class Seen:\n"
    "    def preferences(self, rows):\n"
    "        with open(pathlib.Path(__file__).with_suffix('.jsonl'), 'a') as file:\n"
    "            file.writelines(json.dumps(row) + '\\n' for row in rows)\n"
    "        return [0.25 for row in rows]\n"
)


def test_the_judge_reads_all_turns_where_an_instruction_would_be() -> None:
    text = Comparison("1", "de", TALK, "Die Elbe.", "Weser").question().prompt()
    fence = text.split("\n[")[1].split()[0]
    assert f"[{fence} INSTRUCTION]\n{SHOWN}\n[{fence} ANSWER A]\nDie Elbe.\n[{fence} ANSWER B]\nWeser\n" in text
    assert "Antworte knapp" not in text.replace(SHOWN, "")


def test_one_message_is_asked_about_as_a_text_always_was() -> None:
    question = Comparison("1", "de", wrap_text("Wer?"), "Ich.", "Du.").question()
    assert question == Question(
        id="1",
        template=built_in()["xalpaca"].one.text,
        labels=("A", "B"),
        texts=(("instruction", "Wer?"), ("first", "Ich."), ("second", "Du.")),
        values=(("language", "German"), ("lang", "de")),
        cut=("first", "second"),
    )
    talk = Comparison("1", "de", TALK, "Ich.", "Du.").question()
    assert Question.load(talk.dump()) == talk and dict(talk.values)["messages"] == dump_conversation(TALK)


def test_an_endpoint_is_sent_all_turns(tmp_path: Path) -> None:
    from eval.judges.endpoint import EndpointJudge

    question = Comparison("1", "de", TALK, "Die Elbe.", "Weser").question()
    endpoint = Endpoint("m", tmp_path / "cache.sqlite", Settings(base_url="http://127.0.0.1:9/v1"), dry=True)
    ((role, text),) = EndpointJudge(endpoint).ask_of(question).messages
    assert role == "user" and SHOWN in text


def own(tmp_path: Path) -> OwnJudge:
    (tmp_path / "my_judge.py").write_text(SEEN)
    return OwnJudge(f"{tmp_path / 'my_judge.py'}:Seen")


def seen(tmp_path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (tmp_path / "my_judge.jsonl").read_text().splitlines()]


def test_a_custom_judge_gets_the_messages(tmp_path: Path) -> None:
    prompts = {"p1": TALK, "p2": wrap_text("Wer?")}
    rows = [
        {"prompt_id": id, "lang": "de", "sample": 0, "prompt": dump_conversation(prompt), "response": f"Antwort {id}",
         "token_ids": [1], "finish_reason": "stop", "prompt_ids": [1]}
        for id, prompt in prompts.items()
    ]  # fmt: skip
    write_rows(tmp_path / "answers" / "de.parquet", rows, RESPONSES)
    assert [a.prompt for a in read_answers(tmp_path / "answers")["de"]] == list(prompts.values())
    run_verdicts(
        judged_by(own(tmp_path)), tmp_path / "answers", {"de": {"p1": "x", "p2": "y"}}, tmp_path / "out", "seeded"
    )
    of = {row["prompt_id"]: row for row in seen(tmp_path)}
    assert (of["p1"]["instruction"], of["p1"]["messages"]) == (SHOWN, TALK)
    assert (of["p2"]["instruction"], of["p2"]["messages"]) == ("Wer?", prompts["p2"])


def test_reward_accuracy_on_pairs_of_conversations(tmp_path: Path) -> None:
    pair = {"prompt_id": "p1", "lang": "de", "prompt": dump_conversation(TALK), "chosen": "Elbe", "rejected": "Weser"}
    run_agreement(judged_by(own(tmp_path)), {"de": [pair]}, tmp_path / "out")
    (row,) = seen(tmp_path)
    assert (row["instruction"], row["messages"]) == (SHOWN, TALK) and {row["first"], row["second"]} == {"Elbe", "Weser"}


@pytest.mark.parametrize("text", [SHOWN, dump_conversation(TALK)])
def test_given_answers_keep_their_instruction_whatever_it_looks_like(tmp_path: Path, text: str) -> None:
    from eval.xalpaca.answers import given_answers, write_answers

    (tmp_path / "public").mkdir()
    (tmp_path / "public" / "de.json").write_text(json.dumps([{"id": 1, "instruction": text, "output": "Ja."}]))
    write_answers(given_answers(tmp_path / "public", ["de"], None), tmp_path / "answers")
    (answer,) = read_answers(tmp_path / "answers")["de"]
    assert answer.instruction == text and answer.prompt == wrap_text(text)
