"""How much memory each stage needs at its peak, by what it holds; and what does not fit, with the key to change.

Reuses what the stages themselves go by: `loops.micro_batch` for a training, `icr.engines.memory` for a scorer.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, replace
from functools import partial

from icr.base.rundir import Stage
from icr.config.schema import Config, Lora, Train
from icr.engines.memory import ROOM
from icr.engines.precision import Precision
from icr.engines.sizes import GIB
from icr.planning.facts import ModelFacts
from icr.planning.formulas import CPU_CACHE, RESERVE, cache_bytes, forward_bytes, weights_bytes
from icr.planning.lengths import Lengths
from icr.planning.setup import Setup
from icr.rounds.stages.kinds import find_kind
from loops.micro_batch import MOST, USABLE, row_bytes, state_bytes

PROCESS = GIB
"""Host memory of a worker's process before it has a model."""
DRIVER = GIB // 2
EACH_TOKEN = 200
"""Bytes of the driver's tables for each token of a round's responses, with their text: Python's lists of ids."""

Parts = Mapping[str, float]
"""What is held → bytes."""
Change = Mapping[str, object]
"""Config keys and the values that they are to be set to."""


@dataclass(frozen=True)
class Need:
    """What one stage holds at its peak. Bytes."""

    device: Parts
    """On each GPU; without GPUs nothing."""
    host: Parts

    @property
    def on_device(self) -> float:
        return sum(self.device.values())

    @property
    def on_host(self) -> float:
        return sum(self.host.values())


@dataclass(frozen=True)
class Misfit:
    """Something that does not fit."""

    stage: str
    what: str
    change: Change
    """Keys that make it fit, as far as this arithmetic goes; {} where no key does."""
    do: str
    certain: bool = False
    """Its weights alone are larger than the memory, so a run is refused."""

    def describe(self) -> str:
        return f"{self.stage}: {self.what}; {self.do}"


def find_need(setup: Setup, lengths: Lengths, stage: Stage, tokens: int) -> Need:
    """What a stage holds at its peak.

    Args:
        tokens: of a round's responses, which the driver has in its tables.
    """
    parts: dict[str, float] = {}
    if stage in ("sample", "judge"):
        parts = _engine(setup)
    if stage == "score":
        parts = _scorer(setup)
    if stage in ("align", "train"):
        parts = _training(setup, lengths)
    local = stage == "judge" and setup.judge is not None
    if setup.gpu:
        judge = {"judge's weights": float(weights_bytes(setup.judge, "bf16"))} if local and setup.judge else {}
        device = judge if sum(judge.values()) > sum(parts.values()) else parts  # one of them has the GPU at a time
        asleep = setup.engines * weights_bytes(setup.policy, setup.precision(setup.config.sampling.precision))
        if stage in ("align", "sample") or (stage == "judge" and not local):
            asleep = 0
        workers = PROCESS * 2 * setup.devices
        return Need(device, {"processes": workers, "sleeping engines": asleep, "tables": DRIVER + EACH_TOKEN * tokens})
    resident = _engine(setup) | _scorer(setup) | (_training(setup, lengths) if stage in ("align", "train") else {})
    if stage == "align":  # nothing was sampled or scored before
        resident = _training(setup, lengths)
    if stage == "judge" and setup.judge:
        resident["judge's weights"] = weights_bytes(setup.judge, setup.precision("auto"))
    return Need({}, {"processes": 3 * PROCESS, "tables": DRIVER + EACH_TOKEN * tokens, **resident})


def _engine(setup: Setup) -> dict[str, float]:
    """b·P ÷ tensor_parallel for the weights; the rest of its share of a GPU is cache and RESERVE."""
    sampling = setup.config.sampling
    weights = weights_bytes(setup.policy, setup.precision(sampling.precision)) / setup.tensor_parallel
    if not setup.gpu:
        return {"engine's weights": weights, "keys and values": CPU_CACHE}
    rest = max(0.0, sampling.gpu_memory * setup.device.memory - weights - RESERVE)
    return {"engine's weights": weights, "keys and values": rest, "engine's buffers": RESERVE}


def _scorer(setup: Setup) -> dict[str, float]:
    """b·P of policy and reference side by side where ROOM allows it, else of one; and a batch."""
    precision: Precision = setup.precision(setup.config.reward.precision)
    batch = forward_bytes(setup.policy, precision, setup.config.reward.batch_tokens)
    if not find_kind(setup.config.reward.kind).has_precision:
        return {}
    if setup.config.reward.kind == "model":
        largest = max((weights_bytes(of, precision) for of in (setup.classifiers or {}).values()), default=0)
        return {"reward model's weights": largest, "batch": batch}
    one, other = (weights_bytes(of, precision) for of in (setup.policy, setup.reference))
    both = other <= ROOM * (setup.device.memory - one)
    return {"scorer's weights": one + other if both else max(one, other), "batch": batch}


def _training(setup: Setup, lengths: Lengths) -> dict[str, float]:
    """The bytes of `loops.micro_batch.state_bytes`, and the activations of a micro-batch."""
    train = setup.train
    states = state_bytes(train, setup.policy.parameters, setup.processes)
    row = row_of(setup, lengths)
    asked = train.micro_batch_size
    fitting = int((USABLE * setup.device.memory - states) // row) if setup.gpu else 1
    rows = max(1, min(MOST, fitting, train.batch_size // setup.processes)) if asked == "auto" else asked
    return {"weights, gradients, optimiser": states, "activations": rows * row}


def row_of(setup: Setup, lengths: Lengths) -> float:
    """Bytes of the longest pair, by `loops.micro_batch.row_bytes`: two sequences of a prompt and the longest answer."""
    cap = setup.config.sampling.max_tokens
    tokens = max((of.tokens + min(cap, 6 * lengths.response(lang, cap)) for lang, of in setup.languages()), default=1.0)
    shape = setup.policy.shape
    return float(row_bytes(setup.train, layers=shape.layers, hidden=shape.hidden, tokens=round(tokens), sequences=2))


def find_misfits(setup: Setup, lengths: Lengths) -> Iterator[Misfit]:
    """Everything that does not fit into the device's memory, with keys that change it."""
    yield from _misfit_weights(setup)
    if setup.gpu:
        yield from _misfit_engine(setup)
        yield from _misfit_check(setup)
    yield from _misfit_training(setup, lengths)
    if setup.gpu and setup.processes < setup.asked_processes:
        batch, asked = setup.config.train.batch_size, setup.asked_processes
        what = f"a batch of {batch} pairs cannot be split over {asked} processes; the plan is for {setup.processes}"
        nodes = setup.config.train.nodes
        change = {"train.processes": setup.processes // nodes} if setup.processes % nodes == 0 else {}
        yield Misfit("train", what, change, _say(change))


def _misfit_weights(setup: Setup) -> Iterator[Misfit]:
    """Weights that are larger than the memory, whatever else is there."""
    memory, config = setup.device.memory, setup.config
    engine, scorer = setup.precision(config.sampling.precision), setup.precision(config.reward.precision)
    loaded = [("sample", setup.policy, engine, setup.tensor_parallel, "sampling.precision")]
    if find_kind(config.reward.kind).needs_reference:
        loaded += [("score", of, scorer, 1, "reward.precision") for of in (setup.policy, setup.reference)]
    loaded += [("score", of, scorer, 1, "reward.precision") for of in (setup.classifiers or {}).values()]
    loaded += [("judge", setup.judge, setup.precision("auto"), 1, "")] if setup.judge else []
    said: set[str] = set()
    for stage, facts, precision, shared, key in loaded:
        weights = weights_bytes(facts, precision) / shared
        if weights <= memory or stage in said:
            continue
        said.add(stage)
        what = f"weights of {_gib(weights)} in {precision} are larger than the memory of {_gib(memory)}"
        change: Change = {}
        if precision == "fp32" and key and weights / 2 <= memory and setup.gpu:
            change = {key: "bf16"}
        elif stage == "sample" and (fitting := _engines(setup, partial(_holds, facts, precision, memory))):
            change = {"sampling.tensor_parallel": fitting}
        other = (
            "name a smaller judge.model, or an endpoint" if stage == "judge" else "use a smaller model or more memory"
        )
        yield Misfit(stage, what, change, _say(change, other), certain=True)


def _holds(facts: ModelFacts, precision: Precision, memory: int, tp: int) -> bool:
    return weights_bytes(facts, precision) / tp <= memory


def _engines(setup: Setup, fits: Callable[[int], bool]) -> int | None:
    """The smallest number of GPUs for an engine that fits and shares out its KV heads."""
    heads = setup.policy.shape.kv_heads
    every = (tp for tp in (2, 4, 8) if tp <= setup.devices and (heads % tp == 0 or tp % heads == 0))
    return next((tp for tp in every if fits(tp)), None)


def _misfit_engine(setup: Setup) -> Iterator[Misfit]:
    """An engine needs its weights, its buffers and the cache of one longest sequence."""
    sampling, memory = setup.config.sampling, setup.device.memory
    precision = setup.precision(sampling.precision)
    longest = max((of.tokens for _, of in setup.languages()), default=0.0) + sampling.max_tokens

    def fits(tp: int, share: float = sampling.gpu_memory, tokens: float = longest) -> bool:
        held = (weights_bytes(setup.policy, precision) + tokens * cache_bytes(setup.policy, precision)) / tp
        return held + RESERVE <= share * memory

    if fits(setup.tensor_parallel) or weights_bytes(setup.policy, precision) / setup.tensor_parallel > memory:
        return
    what = f"{sampling.gpu_memory:.2f} of {_gib(memory)} is too small for an engine and its longest sequence"
    half = sampling.max_tokens // 2
    change: Change = {}
    if fitting := _engines(setup, fits):
        change = {"sampling.tensor_parallel": fitting}
    elif fits(setup.tensor_parallel, 0.95):
        change = {"sampling.gpu_memory": 0.95}
    elif half and fits(setup.tensor_parallel, 0.95, longest - sampling.max_tokens + half):
        change = {"sampling.gpu_memory": 0.95, "sampling.max_tokens": half}
    yield Misfit("sample", what, change, _say(change))


def _misfit_check(setup: Setup) -> Iterator[Misfit]:
    """The check of a bf16 run in fp32 is left out where it does not fit: that ends no run, but counts nothing."""
    reward, memory = setup.config.reward, setup.device.memory
    if not (reward.flip_check and find_kind(reward.kind).has_precision and setup.precision(reward.precision) == "bf16"):
        return
    weights = weights_bytes(setup.policy, "fp32")
    if weights <= ROOM * memory or weights / 2 > memory or reward.kind == "model":
        return
    what = f"the check of bf16 in fp32 needs weights of {_gib(weights)} on {_gib(memory)} and will be left out"
    yield Misfit("score", what, {"reward.flip_check": 0}, f"{_say({'reward.flip_check': 0})} to do without it")


def _misfit_training(setup: Setup, lengths: Lengths) -> Iterator[Misfit]:
    """States and one row have to be in USABLE of the memory."""
    memory = setup.device.memory
    if _trains(setup, lengths):
        return
    needed = _least(setup, lengths)
    how = (
        "LoRA" if setup.train.lora else {"zero2": "ZeRO-2", "zero3": "ZeRO-3"}.get(setup.train.deepspeed, "a training")
    )
    on = f"{setup.processes} × {_gib(memory)}" if setup.gpu else _gib(memory)
    what = (
        f"{how} of {setup.policy.parameters / 1e9:.1f}B parameters needs {_gib(needed)} a process; of {on}, "
        f"{_gib(USABLE * memory)} each can be counted on"
    )
    change = next((change for change in _changes(setup) if _trains(_changed(setup, change), lengths)), {})
    more = next(
        (n for n in (2, 4, 8, 16, 32, 64) if n > setup.devices and _trains(replace(setup, devices=n), lengths)), None
    )
    other = (
        f"use {more} GPUs" if more and setup.gpu and setup.config.train.processes == "auto" else "use a smaller model"
    )
    say = f"{_say(change)}, or {other}" if change else other
    yield Misfit("train", what, change, say, certain=_surely(setup) > memory)


def _trains(setup: Setup, lengths: Lengths) -> bool:
    return _least(setup, lengths) <= USABLE * setup.device.memory


def _least(setup: Setup, lengths: Lengths) -> float:
    """Bytes of a process with the smallest micro-batch that the config allows."""
    micro = setup.train.micro_batch_size
    states = state_bytes(setup.train, setup.policy.parameters, setup.processes)
    return states + (1 if micro == "auto" else micro) * row_of(setup, lengths)


def _surely(setup: Setup) -> float:
    """Bytes of the weights that each process has, without anything else."""
    train, P = setup.train, setup.policy.parameters
    width = 2 if train.precision == "bf16" and (train.lora is not None or train.deepspeed != "none") else 4
    return width * P / (setup.processes if train.deepspeed == "zero3" else 1)


def _changes(setup: Setup) -> Iterator[Change]:
    """What may make a training fit, the smallest change of the method first."""
    train = setup.config.train
    if train.micro_batch_size not in ("auto", 1):
        yield {"train.micro_batch_size": "auto"}
    if not train.gradient_checkpointing:
        yield {"train.gradient_checkpointing": True}
    first: Change = {"train.micro_batch_size": "auto", "train.gradient_checkpointing": True}
    first = {key: value for key, value in first.items() if getattr(train, key.removeprefix("train.")) != value}
    if setup.gpu and train.deepspeed != "zero3" and train.optimizer == "adamw" and setup.processes > 1:
        yield {**first, "train.deepspeed": "zero3"}
    bf16: Change = {} if setup.train.precision == "bf16" else {"train.precision": "bf16"}
    if train.lora is None:
        yield {**first, "train.deepspeed": "none", "train.optimizer": "adafactor"}
        yield {**first, "train.deepspeed": "none", "train.lora.rank": 16, **bf16}


def _changed(setup: Setup, change: Change) -> Setup:
    train: dict[str, object] = {key.removeprefix("train."): value for key, value in change.items()}
    if "lora.rank" in train:
        train["lora"] = Lora(rank=16)
        del train["lora.rank"]
    config: Config = setup.config.model_copy(
        update={"train": Train.model_validate(setup.config.train.model_dump() | train)}
    )
    return replace(setup, config=config)


def _say(change: Change, other: str = "use a smaller model or more memory") -> str:
    if not change:
        return other
    return "set " + " and ".join(
        f"{key}: {str(value).lower() if isinstance(value, bool) else value}" for key, value in change.items()
    )


def _gib(size: float) -> str:
    return f"{size / GIB:.1f} GiB"
