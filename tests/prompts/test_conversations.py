"""Rows whose prompt is a list of messages: the names it goes by, what is wrong with it, and translation."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr.base.conversation import dump_conversation, wrap_text
from icr.base.errors import ConfigError
from prompts.audit import audit
from prompts.load import load_english, load_prompts
from prompts.preferences.english import read_alignment
from tests.helpers.stub_server import Answer, Stub, fault, says
from tests.helpers.translating import language_of, report, rows, text_of, translate
from tests.prompts.test_prompts import problems, put, row


def talk(*texts: str, system: str = "") -> Any:
    """Messages of the user's and the assistant's in turn."""
    turns = [{"role": ("user", "assistant")[n % 2], "content": text} for n, text in enumerate(texts)]
    return [*([{"role": "system", "content": system}] if system else []), *turns]


def line(id: str, messages: Any, name: str = "messages") -> str:
    return json.dumps({"id": id, name: messages})


FISH = talk("Name a fish.", "A shark.", "And a bird?", system="Answer in two words.")
PEZ = talk("Nombra un pez.", "Un tiburón.", "¿Y un ave?", system="Responde con dos palabras.")
SHARED_GPT = [{"from": "system", "value": FISH[0]["content"]}, *(
    {"from": {"user": "human", "assistant": "gpt"}[m["role"]], "value": m["content"]} for m in FISH[1:]
)]  # fmt: skip


@pytest.mark.parametrize(
    ("name", "messages"),
    [("messages", FISH), ("prompt", FISH), ("conversations", SHARED_GPT), ("messages", SHARED_GPT)],
)
def test_conversations_by_their_usual_names(tmp_path: Path, name: str, messages: Any) -> None:
    put(tmp_path, "en", line("a", messages, name), row("b", "one"), line("c", talk("two")))
    put(tmp_path, "es", line("a", PEZ), json.dumps({"id": "b", "prompt": "uno"}), line("c", talk("dos")))
    found = {(p.id, p.lang): p for p in load_prompts(str(tmp_path), ["en", "es"])}
    assert (found["a", "es"].messages, found["a", "es"].english) == (PEZ, FISH)
    assert found["a", "es"].text == dump_conversation(PEZ) and json.loads(found["a", "es"].text) == PEZ
    assert found["b", "es"].messages == wrap_text("uno") and found["b", "es"].text == "uno"
    assert found["c", "es"].messages == wrap_text("dos") and found["c", "es"].text == "dos"  # a list of one is a text
    pq.write_table(pa.Table.from_pylist([{"id": "a", "lang": "en", name: messages}]), tmp_path / "t.parquet")
    assert [p.messages for p in load_prompts(str(tmp_path / "t.parquet"), ["en"])] == [FISH]


def test_where_a_row_has_a_text_its_messages_are_not_read(tmp_path: Path) -> None:
    put(tmp_path, "en", json.dumps({"id": "a", "prompt": "Hi", "messages": talk("Hi", "Hello!")}))
    assert [p.text for p in load_prompts(str(tmp_path), ["en"])] == ["Hi"]


def test_every_defect_of_messages_is_named_by_file_and_line(tmp_path: Path) -> None:
    faults = [
        ([], "a conversation without messages"),
        (["Hi"], "message 1 has no text"),
        ([{"role": "user"}], "message 1 has no text"),
        ([{"role": "user", "content": [{"type": "text", "text": "Hi"}]}], "message 1 has no text"),
        ([*talk("Hi"), {"role": "tool", "content": "4"}], "message 2 has the role 'tool'"),
        ([{"content": "Hi"}], "message 1 has the role None"),
        (talk("Hi", "Hello!"), "the last message is the assistant's"),
        (talk(system="Be brief."), "the last message is the system's"),
        ([*talk("Hi"), *talk("Hello?")], "message 2 is the user's and should be the assistant's"),
        (talk("Hi", "Hello!")[1:], "message 1 is the assistant's and should be the user's"),
        (
            [*talk("Hi", "Hello!", system="x"), *talk("No", system="y")],
            "message 4 is the system's and should be the us",
        ),
        (talk("Hi", " ", "Hello?"), "a message of id 12 is empty"),
    ]
    put(tmp_path, "en", *(line(str(n), messages) for n, (messages, _) in enumerate(faults, 1)))
    with pytest.raises(ConfigError) as caught:
        load_prompts(str(tmp_path), ["en"])
    assert len(caught.value.problems) == len(faults)
    for n, (problem, (_, what)) in enumerate(zip(caught.value.problems, faults, strict=True), 1):
        assert what in problem.what and f"en.jsonl:{n}" in problem.where and problem.do, problem


def test_parallel_prompts_have_the_same_messages(tmp_path: Path) -> None:
    put(tmp_path, "en", line("a", FISH), line("b", FISH), row("c", "one"))
    put(tmp_path, "es", line("a", PEZ[1:]), line("b", PEZ), line("c", PEZ))
    text = problems(tmp_path, "en", "es")
    assert text.startswith("2 problems") and "es.jsonl:1" in text and "en.jsonl:1" in text and "es.jsonl:3" in text
    assert "has the messages user, assistant, user, and its English partner system, user, assistant, user" in text


def test_english_conversations_to_translate(tmp_path: Path) -> None:
    lines = [line("", FISH), line("", FISH), line("", talk("Hi", "Hello!", "")), json.dumps({"prompt": "Hi"})]
    put(tmp_path, "en", *lines)
    found = load_english(str(tmp_path))
    assert list(found.prompts.values()) == [FISH, wrap_text("Hi")]
    assert found.left_out == {"repeated": 1, "empty": 1} and len(next(iter(found.prompts))) == 64
    put(tmp_path, "en", line("a", talk("Hi", "Hello!")), line("b", FISH), line("b", FISH[1:]))
    with pytest.raises(ConfigError) as caught:
        load_english(str(tmp_path))
    assert "`messages`" in str(caught.value) and "en.jsonl:1" in str(caught.value)
    assert "id b has two texts" in str(caught.value)


# Preference pairs.

GOOD = {"prompt": dump_conversation(FISH), "chosen": "An owl.", "rejected": "A whale."}
OWL, WHALE = ([{"role": "assistant", "content": GOOD[key]}] for key in ("chosen", "rejected"))


@pytest.mark.parametrize(
    "pair",
    [
        {"prompt": FISH, "chosen": OWL, "rejected": WHALE},
        {"prompt": FISH, "chosen": "An owl.", "rejected": WHALE},
        {"prompt": FISH, "chosen": [*FISH, *OWL], "rejected": [*FISH, *WHALE]},
        {"prompt": FISH[:2], "chosen": [*FISH[2:], *OWL], "rejected": [*FISH[2:], *WHALE]},
        {"chosen": [*FISH, *OWL], "rejected": [*FISH, *WHALE]},
        {"chosen": [*SHARED_GPT, *OWL], "rejected": [*FISH, *WHALE], "prompt": None},
    ],
)
def test_pairs_of_messages(tmp_path: Path, pair: Any) -> None:
    plain = {"prompt": "Hi", "chosen": talk("Hi", "Hello!"), "rejected": talk("Hi", "No.")}
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, (pair, plain))))
    assert read_alignment(str(tmp_path / "pairs.jsonl")).pairs == [
        GOOD, {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}
    ]  # fmt: skip


def test_pairs_of_messages_that_cannot_be_used(tmp_path: Path) -> None:
    faults = [
        ({"prompt": FISH, "chosen": OWL}, "a pair without a text in `rejected`"),
        ({"prompt": FISH, "chosen": OWL, "rejected": []}, "a pair without a text in `rejected`"),
        ({"prompt": FISH, "chosen": OWL, "rejected": OWL}, "the same text"),
        ({"prompt": FISH, "chosen": OWL, "rejected": talk("No.")}, "`rejected` ends with a message of the user"),
        ({"prompt": FISH, "chosen": [*FISH, *OWL], "rejected": [*FISH[2:], *WHALE]}, "answer different conversations"),
        ({"chosen": OWL, "rejected": WHALE}, "a conversation without messages"),
        ({"prompt": FISH[:3], "chosen": OWL, "rejected": WHALE}, "the last message is the assistant's"),
        ({"prompt": FISH, "chosen": OWL, "rejected": talk("", "")[1:]}, "a message of `rejected` is empty"),
        ({"prompt": talk(" ", "x", "y"), "chosen": OWL, "rejected": WHALE}, "a message of the pair is empty"),
        ({"prompt": FISH, "chosen": [{"role": "assistant"}], "rejected": WHALE}, "message 1 has no text"),
    ]
    file = tmp_path / "pairs.jsonl"
    for pair, what in faults:
        file.write_text("\n" + json.dumps(pair))
        with pytest.raises(ConfigError) as caught:
            read_alignment(str(file))
        text = str(caught.value)
        assert text.startswith("1 problem") and what in text and f"{file}:2" in text and "do:" in text, text


# Translation and its checks.

SPANISH = {m["content"]: p["content"] for m, p in zip(FISH, PEZ, strict=True)} | {
    "OK": "OK",
    "Thanks!": "¡Gracias!",
    "Name 3 animals that live in the sea.": "Nombra 3 animales que viven en el mar.",
    "Name some animals that live on land.": "Name some animals that live on land.",
}


def test_each_message_is_translated(tmp_path: Path) -> None:
    """A message that two conversations share is asked for once; one that fails takes its conversation along."""
    said = talk("Name some animals that live on land.", "OK", "Thanks!")
    short = talk("Name 3 animals that live in the sea.", "OK", "Thanks!", system=FISH[0]["content"])
    gone = talk("Name a fish.", "Broken.", "Thanks!")
    put(tmp_path / "in", "en", line("fish", FISH), line("short", short), line("copy", said), line("gone", gone),
        row("plain", "Thanks!"))  # fmt: skip
    asked = list[str]()

    def script(request: dict[str, Any], before: int) -> Answer:
        assert language_of(request) == "es"
        asked.append(text_of(request))
        return fault(400, "no") if asked[-1] == "Broken." else says(SPANISH[asked[-1]])

    out = tmp_path / "out"
    with Stub(script) as stub:
        done = translate(tmp_path / "in", out, stub.url, "--to", "es")
    assert done.returncode == 0, done.stderr
    assert sorted(asked) == sorted(set(asked)) and len(asked) == 9
    assert rows(out / "en.jsonl")[0] == {"messages": FISH, "instruction_id": "fish"}
    assert rows(out / "es.jsonl") == [
        {"messages": PEZ, "instruction_id": "fish"},
        {
            "messages": talk(
                "Nombra 3 animales que viven en el mar.", "OK", "¡Gracias!", system="Responde con dos palabras."
            ),
            "instruction_id": "short",
        },
        {"instruction": "¡Gracias!", "instruction_id": "plain"},
    ]
    dropped = {r["instruction_id"]: r for r in rows(out / "translation_dropped.jsonl")}
    assert dropped["copy"]["reasons"] == ["untranslated", "wrong language"] and dropped["copy"]["english"] == said
    assert dropped["copy"]["details"][0] == "message 1 (user): the same as the English"
    assert dropped["gone"]["reasons"] == ["no answer"] and "message 2 (assistant)" in dropped["gone"]["details"][0]
    assert dropped["gone"]["translation"][1] == {"role": "assistant", "content": ""}
    assert report(out)["languages"]["es"]["reasons"] == {"untranslated": 1, "no answer": 1}
    found = {p.id: p for p in load_prompts(str(out), ["en", "es"]) if p.lang == "es"}
    assert (found["fish"].messages, found["fish"].english) == (PEZ, FISH)
    with Stub(script) as stub:  # what is there is not asked for again
        translate(tmp_path / "in", out, stub.url, "--to", "es")
    assert asked[9:] == ["Broken."]


def test_the_check_of_a_folder_goes_message_by_message(tmp_path: Path) -> None:
    put(tmp_path, "en", line("a", FISH), line("b", FISH), line("c", FISH), row("d", "Thanks!"))
    empty = [*PEZ[:3], {"role": "user", "content": " "}]
    put(tmp_path, "es", line("a", PEZ), line("b", PEZ[1:]), line("c", empty), row("d", "¡Gracias!"))
    found = audit(tmp_path)
    assert (found.tallies["en"].fine, found.tallies["es"].fine) == (2, 2)
    assert found.tallies["en"].reasons == {"repeated text": 2}
    of = {row.id: row.findings[0] for row in found.found if row.lang == "es"}
    assert of["b"].reason == "other messages" and "user, assistant, user for system, user" in of["b"].detail
    assert (of["c"].reason, of["c"].detail) == ("empty", "message 4 (user): no text") and len(of) == 2
    put(tmp_path, "es", line("a", PEZ[:3]))
    with pytest.raises(ConfigError, match="the last message is the assistant's"):
        audit(tmp_path)
