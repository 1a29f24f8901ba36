"""Cells side by side: what needs a cell waits for it, one that fails or a node that is lost stops no other."""

from __future__ import annotations

import io
import os
import signal
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from threading import Barrier, Event, Lock
from typing import Any, cast

import pytest
from rich.console import Console

from icr.base.errors import StageFailed, UserError
from icr.experiments.cell_lanes import Lanes
from icr.experiments.cells import Outcome, Recorded, Start, run_cells, run_side_by_side
from icr.experiments.transfer_cluster import count_side_by_side
from icr.work.beside import Asking
from icr.work.display import Bars, Ended
from icr.work.machine import Machine
from icr.work.ray_cluster import Nodes
from icr.work.shares import Share
from icr.work.steps import Step
from tests.helpers.inline import ask_inline

SOON = 60.0


@dataclass
class Side:
    """A machine that belongs to a share, and a place for what it says."""

    number: int
    console: Console
    ended: Event | None = None
    stopped: bool = False
    folder: Path = Path()

    def confine(self, share: Share, ended: Event) -> None:
        self.ended = ended

    def note(self, text: str) -> None:
        self.console.print(text)

    def stop(self) -> None:
        self.stopped = True

    def beside(self, pool: Any, title: str, ended: Event) -> Side:
        return Side(0, self.console, ended)


@dataclass
class Sides:
    """Shares whose nodes the test may take away."""

    folder: Path
    said: io.StringIO = field(default_factory=io.StringIO)
    machines: list[Side] = field(default_factory=list)
    lost: set[int] = field(default_factory=set)
    begun: list[str] = field(default_factory=list)

    def open(self, number: int, console: Console) -> Machine:
        self.machines.append(Side(number, console))
        return cast(Machine, self.machines[-1])

    def run(self, cells: list[Recorded], only: str = "*", before: Outcome | None = None) -> Outcome:
        """By two lanes, and one that asks."""
        console, shares = Console(file=self.said, width=200), [Numbered(self, number) for number in (1, 2)]
        self.machines, self.begun = [], []
        with Asking() as asking:
            ask: Start = lambda title, work: asking.start(cast(Machine, Side(0, console)), title, work)  # noqa: E731
            with Lanes(shares, console, Bars(console), self.open) as lanes:
                return run_side_by_side(cells, only, self.begun.append, console.print, ask, lanes.start, 2, before)


class Numbered(Share):
    """A share without Ray."""

    def __init__(self, sides: Sides, number: int) -> None:
        super().__init__(None, Nodes([0], [1]))
        object.__setattr__(self, "sides", sides)
        object.__setattr__(self, "number", number)

    def find_alive(self) -> list[int]:
        return [] if self.number in self.sides.lost else [0]  # type: ignore[attr-defined]


@pytest.fixture
def sides(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Sides:
    ask_inline(monkeypatch)
    return Sides(tmp_path)


Does = Callable[[Side], None]


def make(
    folder: Path,
    name: str,
    *needs: str,
    does: Does = lambda machine: None,
    asks: bool = False,
    here: bool = False,
) -> Recorded:
    def work(step: Step, machine: Machine) -> dict[str, Any]:
        does(cast(Side, machine))
        (folder / name / "made").touch()
        return {}

    own, describe = cast(Machine, Side(0, Console(file=io.StringIO()))), lambda: Step(name)
    return Recorded(name, folder / name, needs, own, describe, work, ("made",), name, asks=asks, here=here)


def test_cells_meet_on_two_shares_and_what_needs_them_waits(sides: Sides) -> None:
    met, lock, now = Barrier(2), Lock(), list[str]()
    most, places = list[int](), dict[str, int]()

    def seen(name: str, wait: bool = False) -> Does:
        def does(machine: Side) -> None:
            with lock:
                now.append(name)
                most.append(len(now))
                places[name] = machine.number
            if wait:
                met.wait(SOON)
            with lock:
                now.remove(name)

        return does

    cells = [
        make(sides.folder, "a", does=seen("a", wait=True)),
        make(sides.folder, "b", does=seen("b", wait=True)),
        make(sides.folder, "c", "a", "b", does=seen("c")),
        make(sides.folder, "ask", "a", does=lambda machine: places.update(ask=machine.number), asks=True),
        make(sides.folder, "d", "c", does=seen("d", wait=True)),
        make(sides.folder, "e", "c", does=seen("e", wait=True)),
        make(sides.folder, "f", "ask", "d", "e", does=seen("f")),
    ]
    assert count_side_by_side(cells) == 2 and count_side_by_side(cells, "[acd]") == 1
    found = sides.run(cells)
    assert found.done == [cell.name for cell in cells] and not found.failed
    assert max(most) == 2 and {places["a"], places["b"]} == {places["d"], places["e"]} == {1, 2}
    assert places["ask"] == 0  # by a process that has no share
    assert sides.begun.index("c") > sides.begun.index("b") and sides.begun[-1] == "f"
    assert all(machine.stopped for machine in sides.machines)
    assert sides.run(cells) == found and sides.begun == []  # nothing is done twice
    assert count_side_by_side(cells) == 0


def test_the_outcome_is_that_of_one_cell_after_the_other(sides: Sides) -> None:
    def fail(machine: Side) -> None:
        raise UserError("out of memory")

    def cells(folder: Path) -> list[Recorded]:
        return [
            make(folder, "a", does=fail),
            make(folder, "b"),
            make(folder, "of-a", "a", "b"),
            make(folder, "of-b", "b"),
            make(folder, "ask", "b", does=fail, asks=True),
            make(folder, "of-both", "of-a", "ask"),
            make(folder, "other"),
            make(folder, "of-other", "other"),
            make(folder, "last", "of-b"),
        ]

    found = sides.run(cells(sides.folder / "sides"), "[!o]*")
    said = list[str]()
    serial = run_cells(cells(sides.folder / "serial"), "[!o]*", said.append, said.append)
    for name in ("done", "failed", "waiting", "left"):
        assert list(getattr(found, name)) == list(getattr(serial, name)), name
    assert found.waiting == serial.waiting == {"of-a": "a", "of-both": "of-a", "of-other": "other", "last": "of-b"}
    assert found.done == ["b"] and found.left == ["of-b", "other"]
    assert sides.said.getvalue().count("a failed: out of memory") == 1


def test_what_became_of_cells_before_is_not_tried_again(sides: Sides) -> None:
    """Translations by a local model come before nodes are reserved."""
    tried = list[int]()

    def fail(machine: Side) -> None:
        tried.append(machine.number)
        raise UserError("out of memory")

    cells = [
        make(sides.folder, "a", does=fail, here=True),
        make(sides.folder, "b", here=True),
        make(sides.folder, "of-a", "a"),
        make(sides.folder, "of-b", "b"),
    ]
    assert count_side_by_side(cells) == 2
    said = list[str]()
    before = run_cells([cell for cell in cells if cell.here], "*", said.append, said.append)
    found = sides.run(cells, before=before)
    assert tried == [0] and list(found.failed) == ["a"] and found.waiting == {"of-a": "a"}
    assert found.done == ["b", "of-b"] and sides.begun == ["of-b"]


def test_a_cell_whose_nodes_are_lost_is_done_on_others(sides: Sides) -> None:
    tried, other_began = list[int](), Event()

    def lose(machine: Side) -> None:
        tried.append(machine.number)
        if len(tried) == 1:
            assert other_began.wait(SOON)
            sides.lost.add(machine.number)
            raise StageFailed("no node")

    more = list[int]()
    cells = [
        make(sides.folder, "a", does=lose),
        make(sides.folder, "b", does=lambda machine: other_began.set()),
        *(make(sides.folder, f"c{n}", "a", does=lambda machine: more.append(machine.number)) for n in range(3)),
    ]
    assert not sides.run(cells).failed
    assert len(tried) == 2 and tried[0] != tried[1] and set(more) == {tried[1]}
    assert "a: begun again on other nodes, because its own are lost: no node" in sides.said.getvalue()

    def fail(machine: Side) -> None:
        sides.lost.add(machine.number)
        raise StageFailed("no node")

    sides.lost.clear()
    found = sides.run([make(sides.folder, name, does=fail) for name in ("x", "y")])
    assert sorted(found.failed) == ["x", "y"]  # there are no others any more


def test_what_ends_the_command_ends_all_cells_and_the_same_command_goes_on(sides: Sides) -> None:
    met = Barrier(2)

    def interrupt(machine: Side) -> None:
        met.wait(SOON)
        os.kill(os.getpid(), signal.SIGINT)

    def wait_for_the_end(machine: Side) -> None:
        assert machine.ended is not None and machine.ended.wait(SOON)
        raise Ended

    def work_on(machine: Side) -> None:
        met.wait(SOON)
        wait_for_the_end(machine)

    def cells(first: Does, second: Does) -> list[Recorded]:
        return [make(sides.folder, name, does=does) for name, does in (("a", first), ("b", second), ("c", second))]

    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a command in the background ignores it
    try:
        with pytest.raises(KeyboardInterrupt):
            sides.run(cells(interrupt, work_on))
    finally:
        signal.signal(signal.SIGINT, before)
    assert all(machine.stopped for machine in sides.machines) and "c" not in sides.begun
    nothing: Does = lambda machine: None  # noqa: E731
    assert sides.run(cells(nothing, nothing)).done == ["a", "b", "c"]

    def break_down(machine: Side) -> None:
        raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        sides.run([make(sides.folder, "z", does=break_down), make(sides.folder, "y", does=wait_for_the_end)])


def test_lines_begin_with_the_name_of_the_cell(sides: Sides) -> None:
    cells = [make(sides.folder, name, does=lambda machine: machine.note("half way")) for name in ("a", "b")]
    sides.run(cells)
    assert sorted(sides.said.getvalue().splitlines()) == ["a: half way", "b: half way"]
