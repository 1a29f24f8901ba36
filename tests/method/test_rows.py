"""The tables of the run folder: their columns are a contract, and their rows' types are those columns."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, TypedDict

import pyarrow as pa
import pytest

from icr.base.files import write_rows
from icr.rows import (
    PAIRS,
    RESPONSES,
    REWARDS,
    TRANSLATIONS,
    Pair,
    Response,
    Reward,
    Translation,
    is_empty,
    make_schema,
    read_pairs,
    read_responses,
    read_rewards,
    read_translations,
)

IDS = "list<item: int32>"
TABLES: dict[str, tuple[type, pa.Schema, str]] = {
    "responses": (
        Response,
        RESPONSES,
        f"prompt_id string; lang string; sample int32; prompt string; response string; token_ids {IDS}; "
        f"finish_reason string; prompt_ids {IDS}",
    ),
    "rewards": (
        Reward,
        REWARDS,
        "prompt_id string; sample int32; policy_logp double?; reference_logp double?; length int64; reward double?; "
        "truncated bool; detected_lang string?; dropped string?",
    ),
    "translations": (
        Translation,
        TRANSLATIONS,
        f"prompt_id string; lang string; target string; sample int32; response_ids {IDS}; translation string; "
        f"token_ids {IDS}; finish_reason string?; failed string?",
    ),
    "pairs": (
        Pair,
        PAIRS,
        "prompt_id string; lang string; prompt string; chosen string; rejected string; chosen_reward double?; "
        "rejected_reward double?; chosen_sample int32?; rejected_sample int32?; "
        f"prompt_ids {IDS}; chosen_ids {IDS}; rejected_ids {IDS}",
    ),
}


@pytest.mark.parametrize("name", TABLES)
def test_keys_types_and_nulls_of_a_row_are_its_columns(name: str) -> None:
    """Column by column, `?` for one that may be null."""
    row, schema, columns = TABLES[name]
    assert "; ".join(f"{f.name} {f.type}{'?' * f.nullable}" for f in schema) == columns
    assert list(row.__annotations__) == schema.names
    for field in schema:
        hint = row.__annotations__[field.name].__forward_arg__
        assert hint.endswith(" | None") == field.nullable, field.name


def test_an_annotated_key_has_the_arrow_type_that_it_names() -> None:
    schema = make_schema(TypedDict("Row", {"plain": int, "wide": Annotated[int, pa.int64()] | None}))
    assert [(f.type, f.nullable) for f in schema] == [(pa.int32(), False), (pa.int64(), True)]


def test_a_type_without_a_column_is_a_mistake_in_the_code() -> None:
    with pytest.raises(KeyError):
        make_schema(TypedDict("Row", {"a": bytes}))


RESPONSE = {
    "prompt_id": "p", "lang": "es", "sample": 3, "prompt": "¿?", "response": "Sí.", "token_ids": [7, 2],
    "finish_reason": "stop", "prompt_ids": [5],
}  # fmt: skip
REWARD = {
    "prompt_id": "p", "sample": 3, "policy_logp": None, "reference_logp": None, "length": 2**40, "reward": None,
    "truncated": False, "detected_lang": None, "dropped": "too_long",
}  # fmt: skip
TRANSLATION = {
    "prompt_id": "p", "lang": "es", "target": "en", "sample": 3, "response_ids": [7, 2], "translation": "Yes.",
    "token_ids": [8, 2], "finish_reason": None, "failed": "too_long",
}  # fmt: skip
PAIR = {
    "prompt_id": "p", "lang": "es", "prompt": "¿?", "chosen": "Sí.", "rejected": "No.", "chosen_reward": 0.1,
    "rejected_reward": None, "chosen_sample": 3, "rejected_sample": None, "prompt_ids": [5], "chosen_ids": [7, 2],
    "rejected_ids": [9],
}  # fmt: skip


@pytest.mark.parametrize(
    ("row", "schema", "read"),
    [
        (RESPONSE, RESPONSES, read_responses),
        (REWARD, REWARDS, read_rewards),
        (TRANSLATION, TRANSLATIONS, read_translations),
        (PAIR, PAIRS, read_pairs),
    ],
)
def test_what_is_written_is_read(tmp_path: Path, row: dict[str, Any], schema: pa.Schema, read: Any) -> None:
    write_rows(tmp_path / "t.parquet", [row, row], schema)
    assert read(tmp_path / "t.parquet") == [row, row]


@pytest.mark.parametrize("key", ["prompt_id", "sample", "length", "truncated"])
def test_a_row_that_lacks_what_it_must_have_is_not_written(tmp_path: Path, key: str) -> None:
    with pytest.raises(pa.ArrowInvalid, match=f"'{key}' is declared non-nullable"):
        write_rows(tmp_path / "t.parquet", [REWARD | {key: None}], REWARDS)
    assert not list(tmp_path.iterdir())


@pytest.mark.parametrize(("text", "empty"), [("", True), (" \n\t", True), (" a ", False)])
def test_white_space_alone_is_an_empty_response(text: str, empty: bool) -> None:
    assert is_empty(RESPONSE | {"response": text}) is empty
