"""What is shown of work under way."""

from __future__ import annotations

import io
from contextlib import ExitStack
from threading import Event

import pytest
from rich.console import Console
from rich.text import Text

from icr.work import display
from icr.work.display import Bars, Ended, NamedConsole, StageDisplay


def test_rate_and_time_left_count_what_was_done_since_the_first_report(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = [0.0], io.StringIO()
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    shown = StageDisplay(Console(file=out), "rewards")
    for clock[0], done, tokens in ((20.0, 60, 6000), (40.0, 70, 7000), (60.0, 80, 8000)):
        shown.progress(done, 100, tokens)
    assert out.getvalue().splitlines() == [
        "  rewards: 60/100",  # what the 60 took is not known: a model was loaded before
        "  rewards: 70/100 50 tok/s, 60 s left",
        "  rewards: 80/100 50 tok/s, 40 s left",
    ]


def test_nothing_is_shown_before_there_is_a_total(monkeypatch: pytest.MonkeyPatch) -> None:
    clock, out = [0.0], io.StringIO()
    monkeypatch.setattr(display.time, "monotonic", lambda: clock[0])
    shown = StageDisplay(Console(file=out), "rewards")
    clock[0] = 100.0
    shown.progress(0, 0)
    assert out.getvalue() == ""


def test_a_note_is_said_once_a_run_and_not_once_a_stage() -> None:
    out, noted = io.StringIO(), set[str]()
    for label in ("responses", "answers"):
        shown = StageDisplay(Console(file=out), label, noted)
        shown.note("answers are long")
        shown.note(f"{label} are short")
    assert out.getvalue().split("note: ")[1:] == [
        "answers are long\n  ",
        "responses are short\n  ",
        "answers are short\n",
    ]
    StageDisplay(Console(file=out), "another run").note("answers are long")
    assert out.getvalue().count("answers are long") == 2


def test_two_pieces_of_work_have_a_bar_each_whichever_ends_first() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    bars = Bars(console)
    with ExitStack() as verdicts, ExitStack() as responses:
        for stack, label in ((verdicts, "verdicts"), (responses, "responses")):
            stack.enter_context(StageDisplay(console, label, bars=bars)).progress(3, 9)
        console.print("a line")
        verdicts.close()
        assert len(console._live_stack) == 1
        responses.close()
        assert not console._live_stack
    shown = out.getvalue()
    both = shown[: shown.index("a line")]
    assert "verdicts" in both and "responses" in both and "3/9" in both
    assert "responses" in shown[shown.index("a line") :]
    with StageDisplay(console, "translations", bars=bars):
        assert len(console._live_stack) == 1
    assert not console._live_stack


def test_lines_and_bars_of_runs_side_by_side_begin_with_their_names() -> None:
    out = io.StringIO()
    console = Console(file=out, force_terminal=True, width=100)
    bars = Bars(console)
    one, two = (NamedConsole(console, name, bars) for name in ("beta=0.1", "beta=0.2"))
    with StageDisplay(one, "train", bars=one.bars) as shown, StageDisplay(two, "train", bars=two.bars):
        two.print("[bold]round 1 · train[/bold]")
        shown.note("it is [slow]")
        assert len(console._live_stack) == 1
    lines = [Text.from_ansi(line).plain.rstrip() for line in out.getvalue().replace("\r", "\n").splitlines()]
    assert "beta=0.2: round 1 · train" in lines and "beta=0.1:   note: it is [slow]" in lines
    assert any("beta=0.1: train" in line for line in lines) and any("beta=0.2: train" in line for line in lines)


def test_a_run_of_a_quiet_command_is_quiet() -> None:
    out = io.StringIO()
    quiet = Console(file=out, quiet=True)
    NamedConsole(quiet, "beta=0.1", Bars(quiet)).print("round 1 · train")
    assert out.getvalue() == ""


def test_whoever_waits_for_workers_ends_once_the_work_is_to_end() -> None:
    ended = Event()
    shown = StageDisplay(Console(file=io.StringIO()), "responses", ended=ended)
    shown.progress(0, 0)
    ended.set()
    with pytest.raises(Ended):
        shown.progress(0, 0)
