"""Custom classes at work: whatever one does, the user is told which class, which row and what."""

from __future__ import annotations

from collections.abc import Callable
from itertools import count
from pathlib import Path
from typing import Any

import pytest

from icr.base.errors import UserError
from icr.base.plugins import Own

OWN = Own("reward.kind", "rewards", "docs/reward.md")
ROWS = ["a", "b", "c"]


class Given:
    def __init__(self, answer: Callable[[list[str]], Any]) -> None:
        self.rewards = answer


def leave(rows: list[str]) -> None:
    raise SystemExit(0)


@pytest.mark.parametrize(
    ("answer", "what"),
    [
        (lambda rows: None, "rewards() failed: TypeError"),
        (lambda rows: 3, "rewards() failed: TypeError"),
        (lambda rows: "good", "rewards() failed: ValueError"),
        (lambda rows: [[1], [2], [3]], "rewards() failed: TypeError"),
        (lambda rows: [None] * 3, "rewards() failed: TypeError"),
        (lambda rows: dict.fromkeys(rows, 1.0), "rewards() failed: ValueError"),
        (lambda rows: [1.0], "returned 1 numbers for 3 rows"),
        (lambda rows: [1.0] * 4, "returned more than 3 numbers for 3 rows"),
        (lambda rows: count(), "returned more than 3 numbers for 3 rows"),
        (lambda rows: [1.0, float("nan"), 1.0], "returned nan"),
        (lambda rows: [1.0, 2.0, float("inf")], "returned inf"),
        (lambda rows: {}[0], "rewards() failed: KeyError: 0"),
        (leave, "rewards() failed: SystemExit: 0"),
    ],
)
def test_nonsense_is_refused(answer: Callable[[list[str]], Any], what: str) -> None:
    with pytest.raises(UserError) as caught:
        OWN.call(Given(answer), "own:Given", ROWS, lambda row: f"row {row}")
    assert what in caught.value.what and "reward.kind: own:Given" in caught.value.where


def test_the_row_of_a_faulty_number_is_named() -> None:
    with pytest.raises(UserError, match=r"returned 2\.0") as caught:
        OWN.call(Given(lambda rows: [0, 2, 1]), "own:Given", ROWS, lambda row: f"row {row}", 0, 1)
    assert caught.value.where.endswith("row b") and "from 0 to 1" in caught.value.do


@pytest.mark.parametrize(("body", "what"), [("raise SystemExit(3)", "SystemExit: 3"), ("{}['x']", "KeyError: 'x'")])
def test_a_class_that_cannot_be_made(tmp_path: Path, body: str, what: str) -> None:
    method = "    def rewards(self, rows):\n        return rows\n"
    (tmp_path / "own.py").write_text(f"class Odd:\n    def __init__(self):\n        {body}\n{method}")
    with pytest.raises(UserError, match=f"Odd cannot be created: {what}"):
        OWN.make(f"{tmp_path / 'own.py'}:Odd")
