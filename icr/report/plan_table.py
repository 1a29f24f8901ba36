"""`icr plan`: the plan as tables, and as JSON."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict

from rich import box
from rich.table import Table

from icr.base.fields import Fields
from icr.engines.sizes import GIB
from icr.planning.plan import Known, RunCost, StageCost
from icr.planning.sources import list_sources
from icr.planning.words import count, minutes, size
from icr.report.numbers import NOTHING


def plan_table(cost: RunCost) -> Table:
    """One row a stage, and the sums."""
    gpu, asked = cost.setup.gpu, any(of.calls for of in cost.stages)
    paid, done = cost.setup.config.judge.kind == "openai", any(of.took is not None for of in cost.stages)
    device = f"{cost.setup.devices} × {cost.setup.device.name}" if gpu else cost.setup.device.name
    table = Table(
        box=box.SIMPLE_HEAD,
        pad_edge=False,
        collapse_padding=True,
        title=device,
        title_justify="left",
        title_style="bold",
    )
    table.add_column("round", justify="right")
    table.add_column("stage", no_wrap=True)
    names = ["time", "from", "to", *(["took"] if done else []), *(["GPU-h", "GPU GiB"] if gpu else [])]
    names += ["host GiB", "tokens", *(["questions"] if asked else []), *(["their tokens", "US$"] if paid else [])]
    for name in names:
        table.add_column(name, justify="right", no_wrap=True)
    for of in cost.stages:
        table.add_row(str(of.round), of.stage, *_cells(of, cost, gpu=gpu, asked=asked, paid=paid, done=done))
    table.add_section()
    table.add_row("", "all", *_sums(cost, gpu=gpu, asked=asked, paid=paid, done=done))
    return table


def _cells(of: StageCost, cost: RunCost, *, gpu: bool, asked: bool, paid: bool, done: bool) -> Iterator[str]:
    mark = "+" if of.unknown else ""
    yield f"{minutes(of.seconds)}{mark}"
    yield minutes(of.low)
    yield f"{minutes(of.high)}{mark}"
    if done:
        yield NOTHING if of.took is None else minutes(of.took)
    if gpu:
        yield f"{_hours(of.seconds, cost):.2f}"
        yield _gib(of.need.on_device) if of.need.device else NOTHING
    yield _gib(of.need.on_host)
    yield count(of.tokens) if of.tokens else NOTHING
    if asked:
        yield f"{of.calls:,}" if of.calls else NOTHING
    if paid:
        yield count(of.prompt_tokens + of.completion_tokens) if of.calls else NOTHING
        yield _money(of.usd) if of.calls else NOTHING


def _sums(cost: RunCost, *, gpu: bool, asked: bool, paid: bool, done: bool) -> Iterator[str]:
    yield from map(minutes, cost.total())
    if done:
        yield minutes(cost.took)
    if gpu:
        yield f"{_hours(cost.total()[0], cost):.2f}"
        yield _gib(max((of.need.on_device for of in cost.stages), default=0.0))
    yield _gib(max((of.need.on_host for of in cost.stages), default=0.0))
    yield count(sum(of.tokens for of in cost.stages))
    if asked:
        yield f"{sum(of.calls for of in cost.stages):,}"
    if paid:
        yield count(sum(of.prompt_tokens + of.completion_tokens for of in cost.stages))
        yield _money(cost.usd)


def _hours(seconds: float, cost: RunCost) -> float:
    return seconds * cost.setup.devices / 3600


def _gib(value: float) -> str:
    return f"{value / GIB:,.1f}"


def _money(usd: float | None) -> str:
    return "unknown" if usd is None else f"{usd:,.2f}"


def plan_lines(known: Known, cost: RunCost) -> Iterator[str]:
    """What stands below a table: disk, what does not fit, and what it rests on."""
    disk = cost.disk
    yield (
        f"disk: {size(disk.kept)} when the run is done ({size(disk.models)} of models, {size(disk.tables)} of tables); "
        f"{size(disk.peak)} at its peak, with the checkpoints of a training"
    )
    for misfit in cost.misfits:
        yield f"does not fit: {misfit.describe()}"
    yield from list_sources(known, cost)


def plan_json(known: Known, costs: Sequence[RunCost]) -> Fields:
    """The same as plain data: bytes, seconds, US dollars."""
    return {"plans": [_json(known, cost) for cost in costs]}


def _json(known: Known, cost: RunCost) -> Fields:
    seconds, low, high = cost.total()
    return {
        "device": cost.setup.device.name,
        "devices": cost.setup.devices,
        "seconds": seconds,
        "low": low,
        "high": high,
        "gpu_hours": _hours(seconds, cost) if cost.setup.gpu else None,
        "usd": cost.usd,
        "disk": asdict(cost.disk) | {"kept": cost.disk.kept, "peak": cost.disk.peak},
        "stages": [_stage(of, cost) for of in cost.stages],
        "misfits": [asdict(misfit) for misfit in cost.misfits],
        "sources": list(list_sources(known, cost)),
    }


def _stage(of: StageCost, cost: RunCost) -> Fields:
    found = asdict(of)
    found["need"] = {"device": of.need.on_device, "host": of.need.on_host, "parts": asdict(of.need)}
    found["gpu_hours"] = _hours(of.seconds, cost) if cost.setup.gpu else None
    return found
