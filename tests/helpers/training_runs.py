"""Small real trainings for the tests: a tiny model, random pairs, reference log-probs from the scorer."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import torch
from safetensors.torch import load_file
from transformers import AutoModelForCausalLM

from icr.base.progress import EventFile, Silent
from icr.config.schema import Train
from icr.engines.precision import Numerics
from icr.rounds.stages.train import REQUESTS, ReferenceTask, score_requests
from icr.work.resident import Resident
from loops.callbacks import read_metrics
from loops.data import write_training_data
from loops.families import family_of
from loops.numerics import training_numerics
from loops.objective import Request, make_objective
from loops.spec import CardFacts, TrainSpec
from loops.train import run
from tests.helpers.ranks import Ranks, fork_ranks

ROOT = Path(__file__).resolve().parents[2]
SETTINGS: dict[str, Any] = {
    "learning_rate": 1e-3,
    "batch_size": 4,
    "micro_batch_size": 2,
    "precision": "fp32",
    "deepspeed": "none",
    "gradient_checkpointing": False,
}


def random_pairs(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Pairs of random tokens, with answers of 3 to 20."""
    random = np.random.default_rng(seed)

    def ids(low: int, high: int) -> list[int]:
        return [int(i) for i in random.integers(3, 500, int(random.integers(low, high)))]

    return [
        {"prompt_id": str(n), "prompt_ids": ids(4, 12), "chosen_ids": ids(3, 20), "rejected_ids": ids(3, 20)}
        for n in range(count)
    ]


def reference_logps(base: Path, requests: list[Request], numerics: Numerics = "fp32") -> list[float]:
    """By the task of the stage train."""
    task = ReferenceTask(model=str(base), numerics=numerics, batch_tokens=4096)
    table = pa.table({"prompt_ids": [p for p, _ in requests], "response_ids": [r for _, r in requests]})
    logps: list[float] = score_requests(Resident(), task, table.cast(REQUESTS), Silent())["logp"].to_pylist()
    return logps


def exact_logp(base: Path, prompt: list[int], response: list[int]) -> float:
    """The same by an independent route: full logits and softmax in fp64."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float64).eval()
    with torch.no_grad():
        logps = model(torch.tensor([prompt + response])).logits[0, :-1].log_softmax(-1)
    return sum(float(logps[len(prompt) - 1 + i, token]) for i, token in enumerate(response))


def make_spec(
    folder: Path,
    base: Path,
    pairs: list[dict[str, Any]],
    objective: str = "dpo",
    facts: dict[str, Any] | None = None,
    **settings: Any,
) -> TrainSpec:
    """Write data file and spec.json of a training into `folder`."""
    (folder / "work").mkdir(parents=True)
    train = Train.model_validate({**SETTINGS, **settings})
    made = make_objective(objective, beta=train.beta, nll_weight=train.nll_weight)
    requests = made.reference_requests(pairs, seed=train.seed)
    sums = reference_logps(base, requests, training_numerics(train)) if requests else []
    rows = made.dataset(pairs, sums, seed=train.seed)
    write_training_data(folder / "data.parquet", rows, family_of(made).columns)
    spec = TrainSpec(
        model=str(base),
        data=folder / "data.parquet",
        output=folder / "model",
        work=folder / "work",
        events=folder / "events.jsonl",
        objective=objective,
        train=train,
        facts=CardFacts(**(facts or {})),
    )
    (folder / "spec.json").write_text(spec.model_dump_json())
    return spec


def run_here(spec: TrainSpec) -> dict[str, Any]:
    """Train in this process, as one of one."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # it remembers the precision of the training before
    return run(spec, EventFile(spec.events))


def fork(spec: TrainSpec, processes: int) -> Ranks:
    """Start a training on so many ranks, for tests of what they compute; how they are launched is `start`'s."""
    folder = spec.work.parent
    return fork_ranks(folder / "spec.json", processes, folder / "log")


def start(spec: TrainSpec, processes: int) -> subprocess.Popen[str]:
    """Start a training in processes of its own: under the launcher, as a run does, or without one for one process."""
    folder = spec.work.parent
    launcher = ["icr.work.torchrun", "--standalone", f"--nproc-per-node={processes}", "-m"] if processes > 1 else []
    argv = [sys.executable, "-m", *launcher, "loops.train", str(folder / "spec.json")]
    environment = {**os.environ, "HF_HUB_OFFLINE": "1"}
    with open(folder / "log", "a") as log:
        return subprocess.Popen(argv, cwd=ROOT, env=environment, stdout=log, stderr=log, text=True)


def finish(process: subprocess.Popen[str] | Ranks, spec: TrainSpec) -> None:
    assert process.wait(timeout=300) == 0, (spec.work.parent / "log").read_text()[-4000:]


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return load_file(folder / "model.safetensors")


def largest_difference(one: Path, other: Path) -> float:
    """Over all weights of two model folders with the same keys."""
    a, b = weights(one), weights(other)
    assert a.keys() == b.keys()
    return max(float((a[k].double() - b[k].double()).abs().max()) for k in a)


def validations(spec: TrainSpec) -> list[dict[str, Any]]:
    return read_metrics(spec.work / "validation.jsonl")


def metrics(spec: TrainSpec) -> list[dict[str, Any]]:
    return read_metrics(spec.work / "metrics.jsonl")


def events(spec: TrainSpec) -> list[dict[str, Any]]:
    return [json.loads(line) for line in spec.events.read_text().splitlines()]
