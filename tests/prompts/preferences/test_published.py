"""The published data sets give the counts that were published."""

from __future__ import annotations

import json
import time
from pathlib import Path

import pytest

from icr.base.conversation import load_conversation
from icr.base.errors import UserError
from prompts.preferences.forms import Options, read_preferences
from prompts.preferences.make import load_data, longer_wins, make_data
from tests.helpers.published import RM, SEAHORSE, needs_rm


@needs_rm
def test_oasst_has_the_pairs_of_the_paper(tmp_path: Path) -> None:
    """Table 4 of arXiv 2404.12318: 1,026; its length baseline is 66.1 (Table 19)."""
    sources = [str(RM / "oasst1" / f"{lang}.validation.messages.jsonl.gz") for lang in ("en", "fi")]
    report = make_data(sources, tmp_path / "out", Options(), validation=0.1)
    english = report.languages["en"]
    assert english.rows == 2022 and english.train + english.validation == 1026 and english.prompts == 418
    assert 100 * (english.longer_wins or 0) == pytest.approx(66.2, abs=0.05)
    assert "pairs of equal rank" not in english.left_out
    assert english.left_out == {"no rank": 55, "failed review": 46, "deleted": 37, "no sibling": 1}
    assert english.identical == pytest.approx(1 / 1026)
    data = load_data(tmp_path / "out", "data.path")
    ids = {lang: {row["id"] for row in [*data.train, *data.validation] if row["lang"] == lang} for lang in ("en", "fi")}
    assert ids["en"] == ids["fi"] and len(ids["en"]) == 1026
    groups = [{row["group"] for row in part} for part in (data.train, data.validation)]
    assert not groups[0] & groups[1] and 180 <= len(data.validation) <= 260
    deep = next(row for row in data.train if len(load_conversation(row["prompt"])) == 5)
    assert [m["role"] for m in load_conversation(deep["prompt"])] == ["user", "assistant"] * 2 + ["user"]


@needs_rm
def test_nested_trees_are_the_same_as_flat_messages(tmp_path: Path) -> None:
    """The nested form of the trees, against the same messages written flat."""
    nested = RM / "oasst1" / "en.trees50.jsonl"
    flat = []
    for tree in map(json.loads, nested.read_text(encoding="utf-8").splitlines()):
        todo = [(tree["prompt"], None)]
        while todo:
            node, parent = todo.pop(0)
            todo += [(reply, node["message_id"]) for reply in node.get("replies", [])]
            flat.append({k: v for k, v in node.items() if k != "replies"} | {"parent_id": parent})
    (tmp_path / "flat.jsonl").write_text("\n".join(map(json.dumps, flat)), encoding="utf-8")
    one, other = (read_preferences(str(f), Options()) for f in (nested, tmp_path / "flat.jsonl"))
    drop = [{key: value for key, value in row.items() if key != "source"} for row in one.pairs]
    assert sorted(drop, key=str) == sorted(
        ({key: value for key, value in row.items() if key != "source"} for row in other.pairs), key=str
    )
    assert len(one.pairs) == 361 and not one.problems


@needs_rm
def test_seahorse_has_the_ratings_of_the_paper() -> None:
    counts = {}
    for lang, name in SEAHORSE.items():
        reading = read_preferences(str(RM / "seahorse" / f"validation.{name}.tsv"), Options())
        assert {row["lang"] for row in reading.ratings} == {lang} and not reading.problems
        counts[lang] = len(reading.ratings)
        assert reading.rows[lang] == len(reading.ratings) + reading.left_out[lang].total()
    assert counts == {"de": 1254, "en": 2076, "es": 1315, "ru": 1155, "tr": 1096, "vi": 1168}


@needs_rm
def test_llama_factory_and_what_is_a_benchmark() -> None:
    source = str(RM / "llamafactory" / "dpo_en_demo.first120.json")
    found = read_preferences(source, Options(lang="en"))
    assert len(found.pairs) + found.left_out["en"].total() == 120 and not found.problems
    assert longer_wins(found.pairs) == pytest.approx(0.3833, abs=1e-4)
    assert read_preferences(source, Options()).left_out["?"] == {"language unknown": 120}
    with pytest.raises(UserError, match="rows of a benchmark") as refused:
        read_preferences(str(RM / "rewardbench" / "chat_hard_llmbar.jsonl"), Options(lang="en"))
    assert "icr rm bench" in refused.value.do and refused.value.where.endswith("llmbar.jsonl:1")


def test_85000_messages_are_pairs_in_five_seconds(tmp_path: Path) -> None:
    """In the form of OASST1: threads of three answers, each with two below its question."""
    lines = []

    def add(id: str, parent: str | None, rank: int | None) -> str:
        role = "prompter" if rank is None else "assistant"
        lines.append(
            f'{{"message_id": "{id}", "parent_id": {json.dumps(parent)}, "role": "{role}", "lang": "en", "rank": '
            f'{json.dumps(rank)}, "text": "{"Some words of a message. " * 20}{id}", "deleted": false, '
            f'"review_result": true, "tree_state": "ready_for_export"}}'
        )
        return id

    for tree in range(6540):
        root = add(f"t{tree}", None, None)
        for n in range(3):
            answer = add(f"{root}.{n}", root, n)
            again = add(f"{answer}.q", answer, None)
            for m in range(2):
                add(f"{again}.{m}", again, m)
    assert len(lines) >= 85_000
    file = tmp_path / "big.jsonl"
    file.write_text("\n".join(lines), encoding="utf-8")
    start = time.process_time()
    found = read_preferences(str(file), Options())
    seconds = time.process_time() - start
    assert len(found.pairs) == 6540 * (3 + 3) and not found.problems
    assert seconds < 5
