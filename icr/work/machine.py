"""Where heavy work runs: worker processes on this machine's processors, for a run or for one evaluation."""

from __future__ import annotations

import os
import shlex
import socket
import sys
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from icr.base.files import write_text
from icr.config.schema import Config
from icr.engines.precision import Precision, resolve_precision
from icr.work.display import StageDisplay
from icr.work.job import Job
from icr.work.launch import Worker, run_workers

if TYPE_CHECKING:
    from rich.console import Console


class Machine:
    """Runs jobs in processes of their own; their files and logs lie in `folder`/jobs and `folder`/logs."""

    def __init__(self, folder: Path, console: Console, keep_fds: Sequence[int] = (), processes: int | None = None):
        """`keep_fds`: a lock that the workers hold, too. `processes`: of training; None is one per GPU."""
        self.folder, self._console, self._keep_fds, self._asked = folder, console, keep_fds, processes
        self._gpus: int | None = None

    @property
    def gpus(self) -> int:
        if self._gpus is None:
            import torch

            self._gpus = torch.cuda.device_count()
        return self._gpus

    @property
    def processes(self) -> int:
        """Training processes on each node."""
        return self._asked or max(1, self.gpus)

    def precision(self, asked: Literal["auto", "fp32", "bf16"]) -> Precision:
        """`auto` resolved by what this machine computes well in."""
        return resolve_precision(asked, gpu=self.gpus > 0)

    def work(self, job: Job, label: str, *, spread: bool = False, gpus_each: int = 1) -> list[dict[str, Any]]:
        """Run a job in one worker process, or (`spread`) in as many as the GPUs allow."""
        of = max(1, self.gpus // gpus_each) if spread else 1
        job = job.model_copy(update={"of": of})
        name = f"round-{job.round}-{job.task}"
        path = self.folder / "jobs" / f"{name}.json"
        write_text(path, job.model_dump_json(indent=1))
        workers = []
        for index in range(of):
            events = self.folder / "jobs" / f"{name}-{index}.events"
            env = {"CUDA_VISIBLE_DEVICES": _devices(index * gpus_each, gpus_each)} if self.gpus else {}
            argv = [sys.executable, "-m", "icr.commands.worker", str(path), str(index), str(events)]
            workers.append(Worker(argv, events, self.folder / "logs" / f"{name}-{index}.log", env))
        return self._run(workers, label)

    def folders(self, config: Config, models: Collection[str]) -> dict[str, str]:
        """Every model (hub id, folder or .gguf) → the hub id or folder that transformers and vLLM load."""
        if not any(model.endswith(".gguf") for model in models):
            return {model: model for model in models}
        job = Job(task="prepare", config=config, run=str(self.folder), round=0, models=sorted(models))
        folders: dict[str, str] = self.work(job, "preparing models")[0]["folders"]
        return folders

    def train(self, spec: Any, label: str) -> dict[str, Any]:
        """Run a TrainSpec under torchrun."""
        name = f"{spec.work.parent.name}-train"
        spec = spec.model_copy(update={"events": self.folder / "jobs" / f"{name}.events"})
        path = self.folder / "jobs" / f"{name}.json"
        write_text(path, spec.model_dump_json(indent=1))
        where = _rendezvous(spec.train.nodes) if spec.train.nodes > 1 else ["--standalone"]
        torchrun = [sys.executable, "-m", "icr.work.torchrun", *where, f"--nproc-per-node={self.processes}"]
        argv = [*shlex.split(spec.train.launcher), *torchrun, "-m", "loops.train", str(path)]
        return self._run([Worker(argv, spec.events, self.folder / "logs" / f"{name}.log", {})], label)[0]

    def note(self, text: str) -> None:
        """One line for the user."""
        self._console.print(f"  note: {text}", style="yellow", markup=False, highlight=False)

    def _run(self, workers: list[Worker], label: str) -> list[dict[str, Any]]:
        with StageDisplay(self._console, label) as display:
            return run_workers(workers, display, keep_fds=self._keep_fds)


def _rendezvous(nodes: int) -> list[str]:
    """torchrun's words for several nodes: they meet at a free port of this one."""
    with socket.socket() as free:
        free.bind(("", 0))
        port = free.getsockname()[1]
    here = f"{socket.gethostname()}:{port}"
    return [f"--nnodes={nodes}", "--rdzv-backend=c10d", f"--rdzv-endpoint={here}", f"--rdzv-id=icr-{port}"]


def _devices(first: int, count: int) -> str:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    names = visible.split(",") if visible else [str(i) for i in range(first + count)]
    return ",".join(names[first : first + count])
