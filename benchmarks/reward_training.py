"""A reward model's training against TRL's RewardTrainer: the same pairs in the same order, the same optimiser steps.

    python -m benchmarks.reward_training [--json] [--pairs 64] [--batch 32] [--micro 8] [--repeats 3] [--checkpointing]

The baseline is RewardTrainer as its documentation sets it up: conversations as they are, padded to the longest of a
micro-batch. `icr` is what `icr rm train` runs. Both start from the same classifier and take a pass over the pairs, in
fp32, with AdamW at one rate, the same batch, micro-batch and gradient checkpointing. What is timed is the training
itself, without loading and tokenizing; of each step the loss is kept, and has to be equal. The sides take turns in one
process; for the peak of memory each runs in a process of its own.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from transformers import AutoTokenizer, TrainerCallback, TrainerControl, TrainerState, TrainingArguments

from benchmarks.reward_models import make_model, write_text
from benchmarks.scoring import describe
from icr.base.conversation import wrap_text
from icr.base.progress import EventFile
from icr.config.schema import Train
from icr.engines.classifier import read_conversation
from loops.checkpoints import Checkpoints
from loops.data import HELD, order_passes, write_training_data
from loops.families import family_of
from loops.objective import make_objective
from loops.reward_model import PairwiseFamily
from loops.spec import TrainSpec
from loops.train import build_trainer, plan

TOLERANCE = 1e-5
"""By which the loss of a step may differ."""
SEED = 42


class Setup(NamedTuple):
    """What both sides train on, and how."""

    model: str
    pairs: int
    batch: int
    micro: int
    checkpointing: bool


class Pair(NamedTuple):
    """Three texts."""

    prompt: str
    chosen: str
    rejected: str


class Trained(NamedTuple):
    """One training."""

    seconds: float
    busy: float
    """Seconds of the processor: on a machine that is shared with others the better measure."""
    losses: list[float]
    """Of each optimiser step."""
    memory: int
    """Bytes of the process at its highest, above those before the first step."""


class Watch(TrainerCallback):
    """Seconds, losses and memory of a training."""

    def __init__(self) -> None:
        self.losses: list[float] = []
        self.seconds = self.busy = 0.0
        self.before = 0

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.before = resident()
        self.started, self.began = time.perf_counter(), time.process_time()

    def on_log(
        self,
        args: TrainingArguments,
        state: TrainerState,
        control: TrainerControl,
        logs: dict[str, float] | None = None,
        **kwargs: object,
    ) -> None:
        self.losses += [logs["loss"]] if logs and "loss" in logs else []

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: object
    ) -> None:
        self.seconds, self.busy = time.perf_counter() - self.started, time.process_time() - self.began

    @property
    def result(self) -> Trained:
        return Trained(self.seconds, self.busy, self.losses, highest() - self.before)


def resident() -> int:
    """Bytes of this process's memory now."""
    pages = int(Path("/proc/self/statm").read_text().split()[1])
    return pages * resource.getpagesize()


def highest() -> int:
    """Bytes of this process's memory at its highest."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def make_pairs(count: int) -> list[Pair]:
    """Prompts and answers of uneven lengths, those of `benchmarks.reward_models`."""
    rng = np.random.default_rng(1)
    return [Pair(write_text(rng, 60), write_text(rng, 120), write_text(rng, 120)) for _ in range(count)]


def train_stock(setup: Setup, folder: Path) -> Trained:
    """TRL's trainer, given the pairs in the order in which ours takes them."""
    from datasets import Dataset
    from trl.trainer.reward_config import RewardConfig
    from trl.trainer.reward_trainer import RewardTrainer

    pairs = make_pairs(setup.pairs)
    rows = [
        {
            "prompt": [{"role": "user", "content": pair.prompt}],
            "chosen": [{"role": "assistant", "content": pair.chosen}],
            "rejected": [{"role": "assistant", "content": pair.rejected}],
        }
        for pair in (pairs[n] for n in order_passes(len(pairs), 1, SEED))
    ]
    args = RewardConfig(
        output_dir=str(folder / "stock"),
        per_device_train_batch_size=setup.micro,
        gradient_accumulation_steps=setup.batch // setup.micro,
        gradient_checkpointing=setup.checkpointing,
        num_train_epochs=1,
        train_sampling_strategy="sequential",
        learning_rate=1e-4,
        lr_scheduler_type="constant",
        max_length=None,
        bf16=False,
        seed=SEED,
        logging_steps=1,
        save_strategy="no",
        report_to="none",
        disable_tqdm=True,
        use_cpu=not torch.cuda.is_available(),
        model_init_kwargs={"dtype": "float32"},
    )
    watch = Watch()
    RewardTrainer(model=setup.model, args=args, train_dataset=Dataset.from_list(rows), callbacks=[watch]).train()
    return watch.result


def make_spec(setup: Setup, work: Path, processes: int = 1) -> TrainSpec:
    """The training as `icr rm train` gives it to its training process; its data file is in `work`."""
    tokenizer = AutoTokenizer.from_pretrained(setup.model)
    rows = []
    for pair in make_pairs(setup.pairs):
        row: dict[str, object] = {"prompt_id": pair.prompt, "prompt_ids": [], HELD: False, "margin": 0.0}
        for side, text in (("chosen", pair.chosen), ("rejected", pair.rejected)):
            read = read_conversation(tokenizer, wrap_text(pair.prompt), text)
            row[f"{side}_ids"], row[f"{side}_segments"] = [id for id, _ in read], [of for _, of in read]
        rows.append(row)
    write_training_data(work / "data.parquet", rows, PairwiseFamily.columns)
    train = Train(
        learning_rate=1e-4, scheduler="constant", warmup_steps=0, batch_size=setup.batch, processes=processes,
        micro_batch_size=setup.micro, gradient_checkpointing=setup.checkpointing, deepspeed="none",
        precision="fp32", seed=SEED,
    )  # fmt: skip
    return TrainSpec(
        model=setup.model, data=work / "data.parquet", output=work / "model", work=work, events=work / "events",
        objective="loops.reward:Pairwise", settings={"pad": int(tokenizer.pad_token_id)}, train=train,
    )  # fmt: skip


def train_ours(setup: Setup, folder: Path) -> Trained:
    """What `icr rm train` runs in its training process."""
    with tempfile.TemporaryDirectory(dir=folder) as name:
        work = Path(name)
        spec = make_spec(setup, work)
        objective = make_objective(spec.objective, beta=spec.train.beta, nll_weight=spec.train.nll_weight)
        objective.configure(spec.settings)
        family, base, watch = family_of(objective), Path(setup.model), Watch()
        schedule = plan(spec, family, base, 1)
        checkpoints = Checkpoints(work / "checkpoints", 1)
        trainer = build_trainer(spec, family, base, schedule, checkpoints, EventFile(spec.events))
        trainer.add_callback(watch)
        trainer.train()
        return watch.result


SIDES: Mapping[str, Callable[[Setup, Path], Trained]] = {"baseline": train_stock, "icr": train_ours}


def in_turns(setup: Setup, repeats: int, folder: Path) -> dict[str, list[Trained]]:
    """Every side `repeats` times, one after the other, after a short one each that pays for first calls."""
    short = setup._replace(pairs=2, batch=2, micro=2)
    for train in SIDES.values():
        train(short, folder)
    found: dict[str, list[Trained]] = {name: [] for name in SIDES}
    for _ in range(repeats):
        for name, train in SIDES.items():
            found[name].append(train(setup, folder))
    return found


def compare(found: Mapping[str, Sequence[Trained]]) -> dict[str, Any]:
    """Median seconds of each side, the median of the turns' ratios, and by how much the loss of a step differs."""
    turns = list(zip(found["baseline"], found["icr"], strict=True))
    ratios = [one.seconds / other.seconds for one, other in turns]
    losses = [np.array(of[-1].losses) for of in found.values()]
    return {
        **{name: float(np.median([one.seconds for one in of])) for name, of in found.items()},
        "ratio": float(np.median(ratios)),
        "ratios": ratios,
        "ratio_of_processor_time": float(np.median([one.busy / other.busy for one, other in turns])),
        "losses": losses[0].tolist(),
        "largest_difference": float(np.abs(losses[0] - losses[1]).max()),
    }


def alone(setup: Setup, side: str) -> int:
    """Bytes that a side's training takes at its highest, in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.reward_training", "--side", side, "--json", "--model", setup.model]
    words += ["--pairs", str(setup.pairs), "--batch", str(setup.batch), "--micro", str(setup.micro)]
    words += ["--checkpointing"] if setup.checkpointing else []
    printed = subprocess.run(words, check=True, capture_output=True, text=True).stdout
    return int(json.loads(printed.splitlines()[-1])["memory"])


def measure(setup: Setup, repeats: int, folder: Path) -> dict[str, Any]:
    device = "cuda" if torch.cuda.is_available() else "cpu"
    figures = compare(in_turns(setup, repeats, folder))
    memory = {name: alone(setup, name) for name in SIDES}
    return {"device": describe(device), **setup._asdict(), **figures, "memory": memory}


def main() -> None:
    parser = argparse.ArgumentParser(description="a reward model's training against TRL's RewardTrainer")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of lines")
    parser.add_argument("--model", help="a classifier with one logit; default: a Llama drawn at random")
    parser.add_argument("--pairs", type=int, default=64)
    parser.add_argument("--batch", type=int, default=32, help="pairs of an optimiser step")
    parser.add_argument("--micro", type=int, default=8, help="pairs that go through the model at once")
    parser.add_argument("--checkpointing", action="store_true", help="with gradient checkpointing")
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--side", choices=SIDES, help="only one training, for its memory")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        model = args.model or str(make_model(folder / "model"))
        setup = Setup(model, args.pairs, args.batch, args.micro, args.checkpointing)
        if args.side:
            print(json.dumps(SIDES[args.side](setup, folder)._asdict()))
            return
        result = measure(setup, args.repeats, folder)
    if result["largest_difference"] > TOLERANCE:
        raise SystemExit(f"the losses of the steps are not equal: {result}")
    print(json.dumps(result) if args.json else text_of(result))


def text_of(result: Mapping[str, Any]) -> str:
    """The figures in words."""
    memory = result["memory"]
    return (
        f"{result['pairs']} pairs, {result['batch']} a step, {result['micro']} at once, "
        f"{'with' if result['checkpointing'] else 'without'} gradient checkpointing, fp32, {result['device']}\n"
        f"RewardTrainer {result['baseline']:.1f} s, icr {result['icr']:.1f} s: {result['ratio']:.2f} times as fast "
        f"({result['ratio_of_processor_time']:.2f} by processor time); "
        f"the loss of a step differs by {result['largest_difference']:.1e} at most\n"
        f"memory above that before the first step: RewardTrainer {memory['baseline'] / 2**20:.0f} MiB, "
        f"icr {memory['icr'] / 2**20:.0f} MiB"
    )


if __name__ == "__main__":
    main()
