"""Keys of steps: one for the same inputs and settings, another for any others."""

from __future__ import annotations

import random
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from icr.work.steps import Step

VALUE = st.recursive(
    st.none() | st.booleans() | st.integers(-3, 3) | st.floats(-3, 3) | st.text("ab", max_size=2),
    lambda inner: st.lists(inner, max_size=2) | st.dictionaries(st.text("ab", max_size=1), inner, max_size=2),
    max_leaves=4,
)
MADE = st.tuples(st.dictionaries(st.text("xy", max_size=1), st.text("01", max_size=1), max_size=2),
                 st.dictionaries(st.text("st", max_size=1), VALUE, max_size=2))  # fmt: skip


def plain(value: Any) -> Any:
    """A value in a form whose equality is that of JSON: a boolean is not a number, the order of keys is nothing."""
    if isinstance(value, bool) or value is None:
        return str(value)
    if isinstance(value, dict):
        return frozenset((key, plain(inner)) for key, inner in value.items())
    if isinstance(value, list):
        return tuple(map(plain, value))
    return ("text", value) if isinstance(value, str) else value


def shuffled(value: Any, seed: int) -> Any:
    """The same with the keys in another order and whole floats as integers."""
    if isinstance(value, dict):
        items = [(key, shuffled(inner, seed)) for key, inner in value.items()]
        random.Random(seed).shuffle(items)
        return dict(items)
    if isinstance(value, list):
        return [shuffled(inner, seed) for inner in value]
    return int(value) if isinstance(value, float) and value.is_integer() else value


@given(MADE, MADE)
def test_a_key_changes_exactly_when_inputs_or_settings_do(one: Any, two: Any) -> None:
    keys = {Step("round-1/sample", *made).key for made in (one, two)}
    assert (len(keys) == 1) == (plain(list(one)) == plain(list(two)))


@given(MADE, st.integers(0, 99))
def test_order_and_kind_of_number_do_not_matter(made: Any, seed: int) -> None:
    assert Step("round-1/sample", *made).key == Step("round-1/sample", *shuffled(list(made), seed)).key


def test_a_key_is_of_the_kind_and_not_of_the_owner_or_the_order() -> None:
    key = Step("round-1/judge/nlp", {"policy": "p"}, {"a": 1}).key
    assert len(key) == 64 and int(key, 16)
    assert key == Step("round-2/judge/nlp", {"policy": "p"}, {"a": 1.0}, after=("x",)).key
    assert key == Step("variants-b/judge/nlp", {"policy": "p"}, {"a": 1}).key
    assert key != Step("round-1/judge/mtbench", {"policy": "p"}, {"a": 1}).key
    assert key != Step("round-1/judge/nlp", {"a": "p"}, {"policy": 1}).key
    assert Step("nlp").kind == "nlp" and Step("round-1/judge/nlp").title == "round 1 judge nlp"
