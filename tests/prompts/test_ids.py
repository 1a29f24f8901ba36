"""One rule for ids: what joins, and what is refused."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from icr.base.errors import UserError
from prompts.ids import normalise_id, read_id
from prompts.load import load_prompts
from tests.prompts.test_prompts import problems, put


@pytest.mark.parametrize("value", [1, 1.0, "1", "1.0", "1.00", " 1 ", "1\n"])
def test_the_same_number_is_the_same_id(value: object) -> None:
    assert normalise_id(value, "") == "1"


def test_ids_that_stay_as_they_are() -> None:
    for value in ("01", "1.5", "1.10", "p1", "v1.0", "1e3", "-1", "0"):
        assert normalise_id(value, "") == value
    assert [normalise_id(value, "") for value in (0, 0.0, 1.5, -1.0, 2**53, 1e20)] == [
        "0", "0", "1.5", "-1", "9007199254740992", "100000000000000000000",
    ]  # fmt: skip
    assert normalise_id("cafe\u0301", "") == normalise_id("caf\u00e9", "") == "caf\u00e9"


def test_what_is_no_id_and_what_cannot_be_one() -> None:
    assert [normalise_id(value, "") for value in (None, "", "  ", math.nan)] == [None] * 4
    for value in (True, False, [1], {"a": 1}, math.inf, -math.inf):
        with pytest.raises(UserError, match="not a number or a text") as caught:
            normalise_id(value, "en.jsonl:3")
        assert caught.value.where == "en.jsonl:3"


def test_the_first_field_with_a_value_is_the_id() -> None:
    assert read_id({"instruction_id": None, "id": 0}, "") == "0"
    assert read_id({"instruction_id": 7, "id": 0}, "") == "7"
    assert read_id({"id": "", "prompt_id": "abc"}, "") == "abc"
    assert read_id({"index": 3}, "") is None


def test_ids_of_unlike_types_join(tmp_path: Path) -> None:
    """As pandas and hand-made files have them: integers in one language, floats or texts in another."""
    texts = [json.dumps({"id": n, "instruction_id": None, "instruction": f"Name {n} rivers."}) for n in range(3)]
    put(tmp_path, "en", *texts)
    put(tmp_path, "es", *(json.dumps({"instruction_id": float(n), "instruction": "Río."}) for n in range(3)))
    put(tmp_path, "de", *(json.dumps({"id": f"{n} ", "instruction": "Fluss."}) for n in range(3)))
    (tmp_path / "fr.csv").write_text("id,instruction\n0.0,Un\n1.0,Deux\n2.0,Trois\n")
    found = load_prompts(str(tmp_path), ["en", "es", "de", "fr"])
    assert [(p.id, p.lang) for p in found] == [(str(n), lang) for n in range(3) for lang in ("en", "es", "de", "fr")]


def test_ids_that_differ_are_shown_with_what_was_meant(tmp_path: Path) -> None:
    put(tmp_path, "en", '{"id": 0, "instruction": "a"}', '{"id": 1, "instruction": "b"}')
    put(tmp_path, "es", '{"id": "000", "instruction": "a"}', '{"id": true, "instruction": "b"}')
    text = problems(tmp_path, "en", "es")
    assert "id 000 has no English partner" in text and "English has the id 0: write it the same way" in text
    assert "the id True is not a number or a text" in text and "es.jsonl:2" in text
    put(tmp_path, "es", '{"id": 1, "instruction": "a"}', '{"id": "1.0", "instruction": "b"}')
    assert "id 1 appears twice" in problems(tmp_path, "en", "es")
