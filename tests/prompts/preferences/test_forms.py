"""Every public form, with rows written here, and what is wrong with rows."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from icr.base.errors import ConfigError, UserError
from icr.languages import language_code
from prompts.preferences.forms import Options, read_documents, read_preferences
from prompts.preferences.make import OVERLAP, load_data, make_data
from prompts.preferences.reading import Reading

USER, BETTER, WORSE = ({"role": r, "content": c} for r, c in (("user", "Q?"), ("assistant", "A"), ("assistant", "B")))


def read(folder: Path, rows: list[dict[str, Any]], lang: str | None = "en", **options: Any) -> Reading:
    file = folder / "source.jsonl"
    file.write_text("\n".join(json.dumps(row) for row in rows), encoding="utf-8")
    return read_preferences(str(file), Options(lang=lang, **options))


HH = "\n\nHuman: Q?\n\nAssistant: "
FORMS: dict[str, dict[str, Any]] = {
    "texts": {"prompt": "Q?", "chosen": "A", "rejected": "B"},
    "TRL's explicit prompt": {"prompt": [USER], "chosen": [BETTER], "rejected": [WORSE]},
    "TRL's implicit prompt": {"chosen": [USER, BETTER], "rejected": [USER, WORSE]},
    "UltraFeedback": {
        "prompt": "Q?", "prompt_id": "7", "chosen": [USER, BETTER], "rejected": [USER, WORSE],
        "score_chosen": 8.5, "score_rejected": 6.0,
    },
    "HH": {"chosen": HH + "A", "rejected": HH + "B"},
    "LLaMA-Factory": {
        "conversations": [{"from": "human", "value": "Q?"}],
        "chosen": {"from": "gpt", "value": "A"}, "rejected": {"from": "gpt", "value": "B"},
    },
    "HelpSteer3": {
        "context": [USER], "response1": "B", "response2": "A", "overall_preference": 2, "language": "german",
    },
}  # fmt: skip


@pytest.mark.parametrize("name", FORMS)
def test_forms_of_pairs(tmp_path: Path, name: str) -> None:
    reading = read(tmp_path, [FORMS[name]])
    assert not reading.problems
    (row,) = reading.pairs
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("Q?", "A", "B")
    assert row["margin"] == {"UltraFeedback": 2.5, "HelpSteer3": 2.0}.get(name)
    assert row["lang"] == ("de" if name == "HelpSteer3" else "en")
    assert (row["group"] == "7") == (name == "UltraFeedback")


def test_what_is_left_out_is_counted(tmp_path: Path) -> None:
    hs = FORMS["HelpSteer3"]
    other = {"overall_preference": -3, "language": "German", "response1": "C"}
    reading = read(
        tmp_path, [hs, hs, {**hs, "overall_preference": 0}, {**hs, "language": "python"}, {**hs, **other}], lang=None
    )
    assert reading.left_out == {"de": {"tie": 1, "repeated": 1}, "?": {"language unknown": 1}}
    assert [(row["chosen"], row["margin"]) for row in reading.pairs] == [("A", 2.0), ("C", 3.0)]
    uf = FORMS["UltraFeedback"]
    scores = [{"score_rejected": 8.5}, {"score_rejected": 9.0}]
    assert read(tmp_path, [uf | change for change in scores]).left_out["en"] == {
        "tie": 1, "the rejected one has the higher score": 1,
    }  # fmt: skip
    hh = {"chosen": HH + "A", "rejected": "\n\nHuman: R?\n\nAssistant: B"}
    assert read(tmp_path, [hh, {"chosen": HH + "A", "rejected": HH + "A"}]).left_out["en"] == {
        "answers to different prompts": 1, "same response twice": 1,
    }  # fmt: skip


def test_a_language_that_a_row_names_is_not_overridden(tmp_path: Path) -> None:
    """`--lang` is for rows that name none: of HelpSteer3, those about code have `python` there."""
    named = [None, "", " ", "german", "python", "xx", 7]
    rows = [{**FORMS["texts"], "id": n, "language": name} for n, name in enumerate(named)]
    rows.append({**FORMS["texts"], "id": 9, "lang": "", "language": "es-ES"})
    for lang, expected, unknown in (("en", "en", 2), (None, None, 6)):
        found = read(tmp_path, rows, lang=lang)
        unnamed = [] if expected is None else [(str(n), expected) for n in (0, 1, 2, 6)]
        assert {(row["id"], row["lang"]) for row in found.pairs} == {*unnamed, ("3", "de"), ("9", "es")}
        assert found.left_out["?"] == {"language unknown": unknown} and found.rows["?"] == unknown
    said = read(tmp_path, [{**row, "lang": "klingonish"} for row in messages()])
    assert not said.pairs and said.left_out["?"] == {"language unknown": 4}
    assert [row["lang"] for row in read(tmp_path, [{**row, "lang": ""} for row in messages()]).pairs] == ["en"] * 3


def messages(*changes: dict[str, Any]) -> list[dict[str, Any]]:
    """A question with three ranked answers, and changes to the answers."""
    ready = {"lang": "en", "deleted": False, "review_result": True, "tree_state": "ready_for_export"}
    rows = [{"message_id": "q", "parent_id": None, "role": "prompter", "text": "Q?", "rank": None, **ready}]
    for n in range(3):
        row = {"message_id": f"a{n}", "parent_id": "q", "role": "assistant", "text": f"A{n}", "rank": n, **ready}
        rows.append(row | (changes[n] if n < len(changes) else {}))
    return rows


def test_oasst_rules(tmp_path: Path) -> None:
    assert [row["id"] for row in read(tmp_path, messages()).pairs] == ["a0>a1", "a0>a2", "a1>a2"]
    out = read(tmp_path, messages({"tree_state": "growing"}, {"review_result": False}, {"deleted": True, "rank": None}))
    assert not out.pairs and out.left_out["en"] == {
        "tree not ready_for_export": 1, "failed review": 1, "deleted": 1,
    }  # fmt: skip
    ties = read(tmp_path, messages({"rank": 1}, {}, {"rank": None}))
    assert not ties.pairs and ties.left_out["en"] == {"pairs of equal rank": 1, "no rank": 1}
    kept = read(tmp_path, messages({"deleted": True}))
    assert len(kept.pairs) == 3 and "1 messages were deleted after" in kept.notes[0]
    below = messages()
    below[0]["deleted"] = True
    assert read(tmp_path, below).left_out["en"] == {"deleted": 1, "below a message that is left out": 3}


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ([{"rank": "best"}], "`rank` is 'best', which is not a number"),
        ([{"parent_id": "gone"}], "message a0 answers gone, which is not in the source"),
        ([{"parent_id": "a1", "role": "prompter"}, {"parent_id": "a0"}], "the parent_ids make a circle"),
        ([{"message_id": "a2"}], "message_id a2 appears twice"),
        ([{"role": "bot"}], "message a0 has the role 'bot'"),
        ([{"text": ""}], "`text` is empty"),
        ([{"parent_id": "a1"}], "answers a message of the assistant, not of the user"),
        ([{"parent_id": None}], "does not answer a message"),
    ],
)
def test_bad_messages(tmp_path: Path, changes: list[dict[str, Any]], what: str) -> None:
    (problem,) = read(tmp_path, messages(*changes)).problems
    assert what in problem.what and "source.jsonl:" in problem.where and problem.do


SEAHORSE = ["gem_id", "worker_lang", "summary", "model", *(f"question{n}" for n in range(1, 7))]


def seahorse(folder: Path, *rows: str) -> Path:
    lines = ["\t".join(SEAHORSE), *rows]
    (folder / "t.tsv").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder / "t.tsv"


def test_seahorse_rules(tmp_path: Path) -> None:
    rest = "\tYes" * 5
    file = seahorse(
        tmp_path,
        f'd1\tde\tEin "Satz" \\u00fcber\tt5{rest}\tYes',
        f"d1\tde\tEin Satz\tt5{rest}\tNo",
        f"d2\tes-ES\tUna\tt5{rest}\tUnsure",
        f"d2\tes-ES\tUna\tt5{rest}\t",
        f"\tde\tOhne\tt5{rest}\tYes",
    )
    found = read_preferences(str(file), Options())
    assert [(row["label"], row["group"], row["prompt"]) for row in found.ratings] == [(1, "d1", ""), (0, "d1", "")]
    assert found.ratings[1]["response"] == "Ein Satz" and found.ratings[0]["id"] != found.ratings[1]["id"]
    assert found.left_out == {
        "es": {"question6 Unsure": 1, "question6 empty": 1}, "de": {"no gem_id": 1}
    }  # fmt: skip
    assert "JSON-escaped" in found.notes[0]
    escaped = read_preferences(str(seahorse(tmp_path, f"d1\tde\t\\u00fcber\tt5{rest}\tYes")), Options())
    assert escaped.ratings[0]["response"] == "über"
    (tmp_path / "docs.jsonl").write_text('{"gem_id": "d1", "document": "Der Artikel."}', encoding="utf-8")
    given = read_preferences(str(file), Options(documents=read_documents(str(tmp_path / "docs.jsonl"))))
    assert {row["prompt"] for row in given.ratings} == {"Der Artikel."}
    file = seahorse(tmp_path, f"d1\tde\tText\tt5{rest}\tNo")
    assert read_preferences(str(file), Options(question="question1")).ratings[0]["label"] == 1
    bad = seahorse(tmp_path, f"d1\tde\tText\tt5{rest}\tPerhaps", f"d1\tde\tText\tt5{rest}\tYes\tmore")
    first, second = sorted(read_preferences(str(bad), Options()).problems, key=lambda p: p.where)
    assert first.what == "`question6` is 'Perhaps'" and first.where.endswith("t.tsv:2")
    assert second.what == "the row has 11 cells, but there are 10 columns" and second.where.endswith("t.tsv:3")


def test_two_texts_without_a_prompt_are_responses_alone(tmp_path: Path) -> None:
    """TRL's implicit prompt: of texts it stays where it is, of conversations it is what both begin with."""
    texts = [{"lang": "en", "chosen": f"The sky is blue {n}.", "rejected": "The sky is green."} for n in range(4)]
    found = read(tmp_path, [*texts, {**texts[0], "id": "x", "prompt": ""}])
    assert not found.problems and [row["prompt"] for row in found.pairs] == [""] * 5
    assert (found.pairs[1]["chosen"], found.pairs[1]["rejected"]) == ("The sky is blue 1.", "The sky is green.")
    assert len({row["group"] for row in found.pairs}) == 4
    said = [{"role": "user", "content": "Which colour?"}]
    both = {name: [*said, {"role": "assistant", "content": name}] for name in ("chosen", "rejected")}
    (row,) = read(tmp_path, [{"lang": "en", **both}]).pairs
    assert (row["prompt"], row["chosen"], row["rejected"]) == ("Which colour?", "chosen", "rejected")
    made = make_data([write(tmp_path, "t.jsonl", texts)], tmp_path / "out", Options(), validation=0.25)
    assert made.notes == ["the responses have no prompts or documents: a reward model sees them alone"]
    again = read_preferences(str(tmp_path / "out/train.parquet"), Options())
    assert not again.problems and {row["prompt"] for row in again.pairs} == {""} and len(again.pairs) == 3
    some = make_data([write(tmp_path, "s.jsonl", [*texts, pair(1)])], tmp_path / "some", Options(), validation=0.25)
    assert some.notes == ["4 of 5 rows have no prompt: a reward model sees their responses alone"]


@pytest.mark.parametrize(
    ("row", "what"),
    [
        ({"prompt": "Q?", "chosen": "A"}, "no known form"),
        ({"chosen": "A", "rejected": "A"}, "the same text"),
        ({"question": "Q?", "chosen": "A", "rejected": "B"}, "a pair without `prompt` that has question"),
        ({"prompt": "Q?", "chosen": "A", "rejected": ""}, "a pair without a text in `rejected`"),
        ({"prompt": "Q?", "chosen": " ", "rejected": 3}, "without a text in `chosen` and `rejected`"),
        ({"prompt": "Q?", "chosen": "A", "rejected": "A"}, "the same text"),
        ({"prompt": "Q?", "chosen": "A", "rejected": "B", "margin": "much"}, "`margin` is 'much'"),
        ({"prompt": "Q?", "response": "A", "label": 2}, "the label 2 is neither 0 nor 1"),
        ({"prompt": 7, "response": "A", "label": 1}, "`prompt` is not a text"),
        ({**FORMS["HelpSteer3"], "overall_preference": 4}, "`overall_preference` is 4, outside"),
        ({"chosen": HH + "A", "rejected": "\n\nHuman: Q?"}, "`rejected` is not a transcript"),
        ({**FORMS["UltraFeedback"], "score_chosen": None}, "`score_chosen` is missing"),
    ],
)
def test_bad_rows(tmp_path: Path, row: dict[str, Any], what: str) -> None:
    try:
        problems = read(tmp_path, [row]).problems
    except UserError as error:
        problems = [error]
    assert what in problems[0].what and "source.jsonl:1" in problems[0].where and problems[0].do


def write(folder: Path, name: str, rows: list[dict[str, Any]]) -> str:
    (folder / name).write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    return str(folder / name)


def pair(n: int, **more: Any) -> dict[str, Any]:
    return {"id": n, "lang": "en", "prompt": f"Q{n}?", "chosen": "long", "rejected": "s", "group": f"g{n}", **more}


def test_data_are_split_by_group_and_read_again(tmp_path: Path) -> None:
    rows = [pair(n, group=f"g{n // 2}", lang=lang) for n in range(20) for lang in ("en", "es")]
    source = write(tmp_path, "a.jsonl", rows)
    report = make_data([source], tmp_path / "out", Options(), validation=0.2)
    data = load_data(tmp_path / "out", "x")
    held, kept = ({row["group"] for row in part} for part in (data.validation, data.train))
    assert len(held) == 2 and not held & kept
    assert report.languages["es"].validation == report.languages["en"].validation == 4
    make_data([str(tmp_path / "out" / "train.parquet")], tmp_path / "again", Options(), validation=0)
    again = load_data(tmp_path / "again", "x")
    assert again.train == data.train and again.validation == []
    make_data([source], tmp_path / "other", Options(), validation=0.2, seed=7)
    assert {row["group"] for row in load_data(tmp_path / "other", "x").validation} != held


def test_given_splits(tmp_path: Path) -> None:
    train = write(tmp_path, "train.jsonl", [pair(n) for n in range(4)])
    held = write(tmp_path, "held.jsonl", [pair(9, group="g1"), pair(8, prompt="q2?")])
    with pytest.raises(UserError, match=r"in the training and in the validation: g1 \(rows 1 and 9\)"):
        make_data([train], tmp_path / "out", Options(), given=[held])
    report = make_data([train], tmp_path / "out", Options(), given=[held], drop_overlap=True)
    tally = report.languages["en"]
    assert (tally.train, tally.validation, tally.left_out, tally.overlap) == (3, 2, {OVERLAP: 1}, 1)
    with pytest.raises(UserError, match="the folder is not empty"):
        make_data([train], tmp_path / "out", Options())


def test_every_problem_of_every_source_at_once(tmp_path: Path) -> None:
    one = write(tmp_path, "one.jsonl", [pair(1), pair(1), pair(2, rejected="")])
    other = write(tmp_path, "other.jsonl", [pair(1), {"lang": "en", "prompt": "Q", "chosen": "A", "rejected": "A"}])
    with pytest.raises(ConfigError) as raised:
        make_data([one, other], tmp_path / "out", Options())
    whats = [problem.what for problem in raised.value.problems]
    assert whats == [
        "id 1 appears twice", "a pair without a text in `rejected`",
        "chosen and rejected are the same text", "id 1 appears twice in en",
    ]  # fmt: skip
    ratings = write(tmp_path, "r.jsonl", [{"lang": "en", "prompt": "Q", "response": "A", "label": 1}])
    with pytest.raises(UserError, match=r"has pairs, and .* has ratings"):
        make_data([write(tmp_path, "p.jsonl", [pair(1)]), ratings], tmp_path / "out", Options())
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(
    ("name", "code"),
    [("en-US", "en"), ("spa_Latn", "es"), ("zho_Hant", "zh"), ("arb_Arab", "ar"), ("English", "en"), ("korean", "ko"),
     ("python", None), ("javascript", None), ("c++", None), ("de", "de"), ("go", None)],
)  # fmt: skip
def test_codes_of_languages(name: str, code: str | None) -> None:
    assert language_code(name) == code
