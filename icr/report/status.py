"""How far a run is."""

from __future__ import annotations

import shlex
from dataclasses import asdict, dataclass
from typing import Literal

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from icr.base.fields import Fields
from icr.base.rundir import RunDir, Stage
from icr.config.plain import read_config, section
from icr.planning.words import minutes
from icr.report.numbers import NOTHING
from icr.rounds.plan import STAGES, list_stages

BEAT = 30
"""Seconds between two signs of life that a running command gives: the time of its report.html."""
SILENCE = 180
"""Seconds without one after which a page takes its run for ended."""
State = Literal["done", "running", "interrupted", "failed", "waiting"]


@dataclass(frozen=True)
class StageStatus:
    """One planned stage of one round; `seconds` are those of work, over all interruptions."""

    round: int
    stage: Stage
    state: State
    seconds: float
    started: float | None = None
    finished: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """How far a run is. `next` is the first stage that is not done, None when all are; `running`: whether a command is
    using the run, None where that was not asked."""

    run: str
    rounds: int
    rounds_done: int
    stages: list[StageStatus]
    next: StageStatus | None
    running: bool | None = None


def planned_stages(run: RunDir, config: Fields) -> list[tuple[int, Stage]]:
    """The stages that a plain config asks for, in order, and those that were run although it does not."""
    judge = section(config, "judge")
    judges = judge.get("kind", "none") != "none" or "nlp" in (judge.get("benchmarks") or [])
    aligns = not section(config, "models").get("policy") and bool(config.get("alignment"))
    rounds, every = int(config.get("rounds") or 0), int(judge.get("every") or 1)
    plan = list_stages(rounds, aligns=aligns, judges=judges, every=every) if config else []
    met = [(r.number, stage) for r in run.rounds() for stage in r.record.stages]
    return sorted({*plan, *met}, key=lambda item: (item[0], STAGES.index(item[1])))


def run_status(run: RunDir, held: bool | None = None) -> RunStatus:
    """How far the run is. `held`: whether a process holds the run's lock; if none does, a stage that is marked running
    was interrupted.

    Raises:
        UserError: the config or a round's record cannot be read.
    """
    config = read_config(run)
    stages = []
    for n, stage in planned_stages(run, config):
        record = run.round(n).record.stages.get(stage)
        if record is None:
            stages.append(StageStatus(n, stage, "waiting", 0.0))
            continue
        state: State = "interrupted" if record.state == "running" and held is False else record.state
        stages.append(StageStatus(n, stage, state, record.seconds, record.started, record.finished))
    following = next((s for s in stages if s.state != "done"), None)
    numbers = {s.round for s in stages} - {0}
    done = sum(all(s.state == "done" for s in stages if s.round == n) for n in numbers)
    planned = int(config.get("rounds") or max(numbers, default=0))
    return RunStatus(run.path.resolve().name, planned, done, stages, following, held)


def status_json(run: RunDir, held: bool | None = None) -> dict[str, object]:
    """`run_status` as plain data: {run, rounds, rounds_done, stages: [{round, stage, state, seconds, started,
    finished}], next, running}."""
    return asdict(run_status(run, held))


def status_table(run: RunDir, held: bool | None = None) -> RenderableType:
    """Rounds × stages with state and seconds; the line below says what is next."""
    status = run_status(run, held)
    look = {
        "done": ("✓", "green"),
        "running": ("running", "cyan"),
        "interrupted": ("interrupted", "yellow"),
        "failed": ("failed", "red"),
        "waiting": ("waiting", "dim"),
    }
    shown = [stage for stage in STAGES if any(s.stage == stage for s in status.stages)]
    title = Text(f"{status.run}: {status.rounds_done} of {status.rounds} rounds done")
    table = Table(title=title, box=box.SIMPLE_HEAD, collapse_padding=True, pad_edge=False)
    table.add_column("round", justify="right", no_wrap=True)
    for stage in shown:
        table.add_column(stage, justify="right", no_wrap=True)
    table.add_column("total", justify="right", no_wrap=True)
    for n in sorted({s.round for s in status.stages}):
        cells = {s.stage: s for s in status.stages if s.round == n}
        row = [Text(str(n))]
        for stage in shown:
            if stage not in cells:
                row.append(Text(""))
                continue
            word, style = look[cells[stage].state]
            if cells[stage] == status.next and cells[stage].state == "waiting":
                word, style = "next", "bold"
            # "interrupted" is a long word, and the total has its time
            timed = cells[stage].seconds and cells[stage].state != "interrupted"
            took = f" {minutes(cells[stage].seconds)}" if timed else ""
            row.append(Text(word + took, style=style))
        spent = sum(s.seconds for s in cells.values())
        row.append(Text(minutes(spent) if spent else NOTHING))
        table.add_row(*row)
    coming = status.next
    below = f"next: {coming.stage} of round {coming.round}" if coming else "all rounds are done"
    if coming and status.running is False:
        below += f"\nno command is using this run; to continue:\n  {continue_command(str(run.path))}"
    return Group(table, Text(below))


def continue_command(run: str) -> str:
    """What resumes a run, as it is typed."""
    return f"icr iterate --run {shlex.quote(run)}"
