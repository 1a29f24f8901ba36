"""What a plan rests on, and the plan in one line."""

from __future__ import annotations

from collections.abc import Iterator

from icr.planning.plan import Known, RunCost
from icr.planning.words import minutes, size

ONE_MACHINE = 8
"""GPUs."""


def list_sources(known: Known, cost: RunCost) -> Iterator[str]:
    """What the figures rest on, a line each."""
    device = known.device
    of = f"{cost.setup.devices} × {device.name}" if device.kind == "gpu" else device.name
    yield f"device: {of} ({device.source})"
    if cost.setup.devices > ONE_MACHINE:
        yield f"{cost.setup.devices} GPUs: as if one pool of workers had them all"
    yield f"model: {known.policy.parameters / 1e6:,.0f}M parameters, from {known.policy.source}"
    yield f"prompt tokens: {known.texts.source}"
    yield f"response lengths: {cost.lengths.source}"
    bases = {kind: sorted({of.stage for of in cost.stages if of.basis == kind and of.seconds >= 1}) for kind in
             ("measured", "carried over", "assumed")}  # fmt: skip
    for kind, stages in bases.items():
        if stages:
            yield f"time of {', '.join(stages)}: {_BASES[kind]}"
    if known.config.judge.kind == "openai":
        guessed = "guessed from their bytes, on the high side"
        yield f"judge tokens: {'as the endpoint counted before' if cost.asked.counted else guessed}"
    if device.kind == "gpu":
        yield "figures for GPUs are arithmetic: icr was not measured on one"
    for reason in dict.fromkeys(reason for of in cost.stages for reason in of.unknown):
        yield f"not in the plan: {reason}"
    judge = known.config.judge
    if judge.mtbench is not None and judge.mtbench.references == "judge" and "mtbench" in judge.benchmarks:
        yield "not in the plan: references that the judge writes (icr judge mtbench --dry-run counts them)"
    if known.rates.problem:
        yield f"note: {known.rates.problem}"


_BASES = {
    "measured": "from finished stages on this device",
    "carried over": "from finished stages on this device, of another size",
    "assumed": "from assumed speeds, which no run here has confirmed",
}


def describe_plan(cost: RunCost) -> str:
    """The plan in one line, of what is left to do."""
    seconds, low, high = cost.total(left=True)
    rows = [of for of in cost.stages if not of.done]
    trained = sum(of.stage in ("align", "train") for of in rows)
    parts = [f"about {minutes(seconds)} ({minutes(low)} to {minutes(high)})"]
    parts.append(f"{size(trained * cost.disk.model + cost.disk.tables)} of disk")
    calls = sum(of.calls for of in rows)
    if calls and cost.setup.config.judge.kind == "openai":
        usd = None if any(of.usd is None for of in rows) else sum(of.usd or 0.0 for of in rows)
        parts.append(f"{calls:,} judge calls, " + ("price unknown" if usd is None else f"at most ${usd:,.2f}"))
    return f"plan: {', '.join(parts)} (icr plan shows it by stage)"
