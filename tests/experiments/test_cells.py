"""Cells that only ask an endpoint are done beside others; what needs them waits."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Event
from typing import Any, cast

import pytest

from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.experiments.cells import Outcome, Recorded, Start, read_record, run_cells
from icr.work.beside import Asking
from icr.work.local_pool import Lane, LocalPool
from icr.work.machine import Machine
from icr.work.steps import Step

SOON = 60.0


@pytest.fixture
def ask() -> Iterator[Start]:
    with ThreadPoolExecutor(1) as thread:
        yield lambda title, work: thread.submit(work, cast(Machine, None))


def make(folder: Path, name: str, work: Callable[[], None], *needs: str, asks: bool = False) -> Recorded:
    def do(step: Step, machine: Any) -> Fields:
        work()
        (folder / name / "made").touch()
        return {}

    return Recorded(name, folder / name, needs, cast(Machine, None), lambda: Step(name), do, ("made",), name, asks=asks)


def run(cells: list[Recorded], ask: Start | None, only: str = "*") -> tuple[Outcome, list[str], list[str]]:
    begun, said = list[str](), list[str]()
    return run_cells(cells, only, begun.append, said.append, ask), begun, said


def test_a_cell_that_asks_goes_on_beside_the_next_ones_and_what_needs_it_waits(tmp_path: Path, ask: Start) -> None:
    trained, asked = Event(), Event()

    def question() -> None:
        assert trained.wait(SOON)
        asked.set()

    def train() -> None:
        assert not asked.is_set()
        trained.set()

    def conclude() -> None:
        assert asked.is_set()

    cells = [
        make(tmp_path, "ask", question, asks=True),
        make(tmp_path, "train", train),
        make(tmp_path, "conclude", conclude, "ask"),
    ]
    found, begun, _ = run(cells, ask)
    assert found.done == ["ask", "train", "conclude"] and not found.failed
    assert begun == ["ask (while the next steps are done)", "train", "conclude"]
    again, begun, _ = run(cells, ask)
    assert again == found and begun == []  # nothing is done twice


def test_the_outcome_is_the_same_where_cells_fail_or_are_not_asked_for(tmp_path: Path, ask: Start) -> None:
    failed = Event()

    def refuse() -> None:
        failed.set()
        raise UserError("this key is not known")

    def train() -> None:
        assert failed.wait(SOON)
        raise UserError("out of memory")

    def cells(folder: Path) -> list[Recorded]:
        return [
            make(folder, "ask", refuse, asks=True),
            make(folder, "ask-more", refuse, asks=True),
            make(folder, "train", train),
            make(folder, "ask-well", lambda: None, asks=True),
            make(folder, "conclude", lambda: None, "ask"),
            make(folder, "other", lambda: None),
        ]

    found, _, said = run(cells(tmp_path / "beside"), ask, "[!o]*")
    assert list(found.failed) == ["ask", "ask-more", "train"]  # in the order of the cells
    assert found.waiting == {"conclude": "ask"} and found.left == ["other"] and found.done == ["ask-well"]
    assert sorted(said) == [
        "ask failed: this key is not known",
        "ask-more failed: this key is not known",
        "train failed: out of memory",
    ]
    serial, _, notes = run(cells(tmp_path / "serial"), None, "[!o]*")
    assert sorted(notes) == sorted(said)
    names = [{key: list(value) for key, value in vars(outcome).items()} for outcome in (found, serial)]
    assert names[0] == names[1]


def test_what_no_cell_should_end_with_ends_the_command(tmp_path: Path, ask: Start) -> None:
    def break_down() -> None:
        raise ZeroDivisionError

    cells = [make(tmp_path, "ask", break_down, asks=True), make(tmp_path, "train", lambda: None)]
    with pytest.raises(ZeroDivisionError):
        run(cells, ask)
    record = read_record(tmp_path / "ask")
    assert record is not None and record.state == "failed"


def test_who_asks_beside_has_a_log_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    logs = list[Path]()

    def start(id: Any, module: Any, depth: Any, log: Path, *more: Any) -> Any:
        logs.append(log)
        raise OSError

    class Own:
        """The machine's own asker, and the one that works beside."""

        folder = tmp_path

        def beside(self, pool: LocalPool, title: str, ended: Event) -> LocalPool:
            return pool

    monkeypatch.setattr("icr.work.local_pool.WorkerProcess", start)
    with Asking() as asking:
        asked = asking.start(cast("Machine", Own()), "", lambda pool: cast("LocalPool", pool).workers("asker"))
        with pytest.raises(OSError):
            asked.result()
    with pytest.raises(OSError):
        LocalPool(tmp_path, {"asker": Lane(1)}).workers("asker")
    assert [log.name for log in logs] == ["beside-asker-0.log", "asker-0.log"]
