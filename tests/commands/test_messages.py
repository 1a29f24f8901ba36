"""docs/messages.md has every message, and docs/troubleshooting.md quotes only messages that exist."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from docs.make_messages import PAGE, ROOMS, ROOT, messages, render, sources
from docs.read_messages import GAP, Message, Source

PASSED_ON = {
    "icr/base/problems.py",
    "icr/base/process.py",
    "icr/config/plain.py",
    "icr/engines/check.py",
    "icr/engines/templates.py",
    "icr/experiments/cells.py",
    "icr/experiments/reward_inputs.py",
    "icr/languages.py",
    "icr/planning/plan.py",
    "icr/rounds/public_data.py",
    "icr/rounds/templates.py",
    "icr/work/launch.py",
    "icr/work/pool.py",
    "loops/rl.py",
    "loops/train.py",
}
"""Files with a call that passes on a message made elsewhere, or one of transformers."""


def test_the_page_is_current() -> None:
    assert PAGE.read_text(encoding="utf-8") == render(), "python -m docs.make_messages"


def test_every_message_is_read() -> None:
    unread, without = set(), []
    for room in ROOMS:
        for source in sources(room):
            for line, found in source.messages():
                place = f"{source.path.relative_to(ROOT)}:{line}"
                if not found:
                    unread.add(place.partition(":")[0])
                without += [place for message in found if not message.do]
    assert unread == PASSED_ON
    assert [place.partition(":")[0] for place in without] == [
        "prompts/tables.py",
        "icr/reward_table.py",
        "eval/standing.py",
    ]


def test_every_folder_with_messages_has_a_heading() -> None:
    of_rooms = {source.path for room in ROOMS for source in sources(room)}
    every = [path for name in ("icr", "loops", "prompts", "eval") for path in (ROOT / name).rglob("*.py")]
    assert not [path for path in every if path not in of_rooms and "UserError(" in path.read_text(encoding="utf-8")]


@pytest.mark.parametrize(
    ("body", "messages"),
    [
        ("raise UserError(f'no {x} in {y!r}', do='add one')", [("no … in …", "add one")]),
        ("what, do = 'a', 'b'\n    if x:\n        what, do = 'c', 'd'\n    raise UserError(what, do=do)",
         [("a", "b"), ("c", "d")]),
        ("what = 'old'\n    what = 'new'\n    raise UserError(what, do='b')", [("new", "b")]),
        ("if x:\n        raise UserError(y)\n    raise UserError('a' + (' b' if x else ''), do='c')", [("a b", "c")]),
        ("found.add('a', where='w', do='b' if x else 'c')", [("a", "b; or c")]),
        ("found.add('a', where='w', do=f'did you mean {x}?' if x else 'c')", [("a", "did you mean …? Or: c")]),
        ("raise UserError('a', do=f'choose one of {x}{y}')", [("a", "choose one of …")]),
    ],
)  # fmt: skip
def test_readings(body: str, messages: list[tuple[str, str]], tmp_path: Path) -> None:
    (file := tmp_path / "a.py").write_text(f"def f(x, y):\n    {body}\n", encoding="utf-8")
    found = [message for _, each in Source(file).messages() for message in each]
    assert sorted(found, key=str) == sorted((Message(*both) for both in messages), key=str)


def test_a_message_made_for_several_calls_is_read_call_by_call(tmp_path: Path) -> None:
    (file := tmp_path / "a.py").write_text(
        "def bad(what, do):\n    return UserError(f'cell {what}', do=do)\n"
        "def f():\n    raise bad('is empty', 'fill it')\n"
        "def g(x):\n    raise bad(f'is {x}', 'write a number')\n",
        encoding="utf-8",
    )
    ((_, found),) = Source(file).messages()
    assert found == [Message("cell is empty", "fill it"), Message("cell is …", "write a number")]


def test_a_default_is_a_whole_text_or_a_gap(tmp_path: Path) -> None:
    (file := tmp_path / "a.py").write_text(
        "def f(split='all', do='write test'):\n    raise UserError(f'unknown split {split}', do=do)\n", encoding="utf-8"
    )
    ((_, found),) = Source(file).messages()
    assert found == [Message("unknown split …", "write test")]


def quotes() -> list[str]:
    """The first cell of every row of the tables in docs/troubleshooting.md."""
    text = (ROOT / "docs" / "troubleshooting.md").read_text(encoding="utf-8")
    return re.findall(r"^\| `(.+?)` \|", text, re.MULTILINE)


def test_what_troubleshooting_quotes_exists() -> None:
    known = [message.what for room in ROOMS for message in messages(room)]
    constants = [
        node.value
        for room in ROOMS
        for source in sources(room)
        for node in ast.walk(source.tree)
        if isinstance(node, ast.Constant) and isinstance(node.value, str)
    ]  # of notes and failures, which are no UserError
    missing = []
    for quote in quotes():
        pieces = [piece.strip() for piece in quote.split(GAP) if piece.strip()]
        if not any(quote in what for what in known) and not all(any(p in c for c in constants) for p in pieces):
            missing.append(quote)
    assert not missing
    assert len(quotes()) >= 45 and len(set(quotes())) == len(quotes())
