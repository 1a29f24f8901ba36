from __future__ import annotations

import time
from contextlib import suppress
from pathlib import Path

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st

from icr.base.errors import UserError
from icr.base.yaml_text import dump_yaml, parse_yaml, read_yaml


def value(text: str) -> object:
    return parse_yaml(f"a: {text}\n", "c.yaml").data["a"]  # type: ignore[index]


@pytest.mark.parametrize(
    ("text", "meant"),
    [
        ("no", "no"), ("on", "on"), ("yes", "yes"), ("off", "off"), ("y", "y"), ("True", True), ("false", False),
        ("1e-6", 1e-6), ("1E5", 1e5), ("5.0e-7", 5e-7), ("+3", 3), ("-.5", -0.5), ("1.", 1.0), ("0", 0), ("-0", 0),
        ("0o10", 8), ("0x1F", 31), ("010", "010"), ("00.5", "00.5"), ("1_000", "1_000"), ("1:30", "1:30"),
        ("2026-11-25", "2026-11-25"), ("~", None), ("", None), ("null", None), ("'no'", "no"), ('"1"', "1"),
        ("=", "="), ("!!str 12", "12"), ("!!int '12'", 12), ("-", [None]), ("- no", ["no"]),
    ],
)  # fmt: skip
def test_a_scalar_is_what_yaml_1_2_says(text: str, meant: object) -> None:
    found = value(text if text[:1] != "-" or (not text[1:2].isspace() and text != "-") else f"\n  {text}")
    assert found == meant and type(found) is type(meant)


TEXTS = st.text("abnoé~.:-_#*&!%@'\"[]{}<=?|>, \n\t0127eExα\u2028", max_size=12)
PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | TEXTS
    | st.sampled_from(["no", "1e-6", "0o7", "010", "1_000", "~", ".inf", "<<", "2026-11-25", "1:30", "0x1", "- a"]),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(TEXTS, inner, max_size=3),
    max_leaves=5,
)  # fmt: skip


@given(PLAIN)
def test_what_is_written_reads_back_as_the_same(data: object) -> None:
    text = dump_yaml({"data": data})
    assert parse_yaml(text, "c.yaml").data == {"data": data}


def test_what_is_written_means_the_same_to_readers_of_yaml_1_1() -> None:
    data = {"languages": ["en", "no"], "rate": 1e-6, "name": "1e-6", "run": "010", "on": "off", "when": "2026-11-25"}
    assert yaml.safe_load(dump_yaml(data)) == data


def test_places_and_texts_are_known() -> None:
    document = parse_yaml("a:\n  b: [no,\n      1e-6]\nc: &x {d: 'x'}\ne:\n  <<: *x\n  f: 2\n", "c.yaml")
    assert document.data == {"a": {"b": ["no", 1e-6]}, "c": {"d": "x"}, "e": {"d": "x", "f": 2}}
    assert document.lines["a", "b"] == 2 and document.lines["a", "b", "1"] == 3 and document.lines["e", "f"] == 7
    assert document.written["a", "b", "1"] == "1e-6" and document.written["c", "d"] == "x"


def test_keys_that_are_given_win_over_merged_ones() -> None:
    text = "a: &a {x: 1, y: 1}\nb: &b {y: 2, z: 2}\nc: {z: 3, <<: [*a, *b]}\n"
    assert parse_yaml(text, "c").data["c"] == {"z": 3, "x": 1, "y": 1}  # type: ignore[index]


@pytest.mark.parametrize(
    "text",
    [
        "[" * 60_000,
        "{" * 60_000,
        "- " * 30_000,
        "? " * 30_000,
        "a: &a [x, x, x, x, x, x]\n" + "".join(f"b{n}: &b [*a, *a, *a]\na{n}: &a [*b, *b]\n" for n in range(20)),
        "k: [" + "1, " * 20_000 + "]",
        "'" + "''" * 30_000,
        "#" * 10_000_000,
    ],
    ids=["brackets", "braces", "dashes", "keys", "aliases", "a long list", "quotes", "a long comment"],
)  # fmt: skip
def test_bombs_end_within_two_seconds_of_computing(text: str) -> None:
    began = time.process_time()
    with suppress(UserError):
        parse_yaml(text, "bomb.yaml")
    assert time.process_time() - began < 2


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("[" * 3000, "more than 50 levels"),
        ("a: &a [x, *a]", "refers to itself"),
        ("k: [" + "1, " * 10_001 + "]", "more than 10,000 values"),
        ("#" * 70_000, "too many for a settings file"),
    ],
)
def test_what_no_settings_reach_is_refused(text: str, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        parse_yaml(text, "bomb.yaml")
    assert caught.value.where.startswith("bomb.yaml")


def test_a_file_of_settings_is_small_text(tmp_path: Path) -> None:
    (tmp_path / "a").write_bytes(b"\0" * 1_000_000)
    (tmp_path / "b").write_bytes("Grüße".encode("latin-1"))
    for name, what in (("a", "1,000,000 bytes"), ("b", "not UTF-8"), ("c", "no such file"), (".", "is a directory")):
        with pytest.raises(UserError, match=what) as caught:
            read_yaml(tmp_path / name, "the file")
        assert caught.value.where == str(tmp_path / name)
