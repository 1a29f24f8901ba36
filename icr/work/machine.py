"""The machine that a run works on: its GPUs, its pool of workers, its trainings, and what the user sees of them."""

from __future__ import annotations

from collections.abc import Collection, Generator, Sequence
from contextlib import closing
from copy import copy
from dataclasses import replace
from functools import cached_property
from pathlib import Path
from threading import Event, Lock
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from icr.base.errors import UserError
from icr.base.files import write_text
from icr.config.schema import Cluster, Train
from icr.engines.folders import fetch, is_ready
from icr.engines.open import slow_imports
from icr.engines.precision import Precision, resolve_precision
from icr.work.crew import Limits
from icr.work.display import Bars, NamedConsole, StageDisplay
from icr.work.lanes import list_lanes
from icr.work.launch import Worker, run_workers
from icr.work.local_pool import Lane, LocalPool
from icr.work.pool import Pool, Shard, Task
from icr.work.prepare import PrepareTask
from icr.work.probe import TEXT, Agreement, EngineProbeTask, EngineTask, Probe, ProbeTask
from icr.work.published import Published
from icr.work.ray_cluster import Nodes, connect
from icr.work.ray_pool import RayPool
from icr.work.ray_training import RayTraining, trains_on_cluster
from icr.work.shard_queue import Tally, run_shards
from icr.work.shards import ShardFolder, cut_table
from icr.work.shares import Share
from icr.work.torchrun import ON_CPU, start_command
from icr.work.translating import run_translation

if TYPE_CHECKING:
    from rich.console import Console

    from icr.work.runner import Counts
    from loops.spec import TrainSpec
    from prompts.translator import TranslatorJob

_preparing = Lock()
"""Runs that go on side by side may need the same model: the second one finds what the first has made."""


class Machine:
    """Owns the workers of one command. They start when they are needed and stay until `stop`."""

    def __init__(
        self,
        folder: Path,
        console: Console,
        keep_fds: Sequence[int] = (),
        tensor_parallel: int = 1,
        gpu_memory: float = 0.9,
        cluster: Cluster | None = None,
    ) -> None:
        """
        Args:
            folder: logs go to `folder`/logs, the specifications of trainings to `folder`/jobs.
            keep_fds: a lock that trainings hold, too, as they write into the run folder.
            tensor_parallel: GPUs of each engine.
            gpu_memory: share of a GPU's memory for lm-eval's vLLM; engines have theirs in their settings.
            cluster: where workers are, if it has an address; else, and for trainings, this machine.
        """
        self.folder, self._console, self._keep_fds = folder, console, keep_fds
        self._tensor_parallel, self.gpu_memory = tensor_parallel, gpu_memory
        self._cluster = cluster or Cluster()
        self._share: Share | None = None
        self._awake: str | None = None
        self._started = False
        self.bars, self._title = console.bars if isinstance(console, NamedConsole) else Bars(console), ""
        self._ended: Event | None = None
        self._noted: set[str] = set()
        """What was said already. Workers say the same in every round; the user reads it once."""
        self._served: set[str] = set()
        self._probes: dict[str, Probe] = {}

    @cached_property
    def own_gpus(self) -> int:
        """Of this machine."""
        import torch

        return torch.cuda.device_count()

    @cached_property
    def gpus(self) -> int:
        """GPUs that an engine may have: this machine's, or of the cluster's node that has most."""
        return self.nodes.most if self.nodes else self.own_gpus

    @cached_property
    def nodes(self) -> Nodes | None:
        """The cluster's nodes, if workers are on one. Raises UserError as `icr.work.ray_cluster.connect`."""
        if self._cluster.address is None:
            return None
        return self._share.nodes if self._share else connect(self._cluster)

    def confine(self, share: Share, ended: Event) -> None:
        """Use these nodes of the cluster alone from now on, also for trainings on one node.

        Args:
            ended: as of `beside`.
        """
        self.stop()
        self._share, self._ended = share, ended
        for name in ("nodes", "gpus", "pool"):
            self.__dict__.pop(name, None)

    def training_gpus(self, train: Train) -> int:
        """GPUs of each machine that a training runs on."""
        return self.gpus if trains_on_cluster(self._cluster, train, self._share) else self.own_gpus

    def processes(self, train: Train) -> int:
        """Training processes on each node: `train.processes`, or one per GPU.

        Raises:
            UserError: this machine is to train, and the GPUs are all elsewhere.
        """
        gpus = self.training_gpus(train)
        if self.gpus and not gpus:
            where = f"cluster.address: {self._cluster.address}"
            do = "run this command on a node with GPUs, or train on several nodes of the cluster (train.nodes)"
            raise UserError("the cluster has GPUs, but this machine, which trains, has none", where=where, do=do)
        return max(1, gpus) if train.processes == "auto" else train.processes

    def precision(self, asked: Literal["auto", "fp32", "bf16"]) -> Precision:
        """`auto` resolved by what this machine computes well in."""
        return resolve_precision(asked, gpu=self.gpus > 0)

    @cached_property
    def pool(self) -> Pool:
        """Lanes: `engine` samples, `scorer` gives numbers, `nlp` runs lm-eval, `single` does one process's work,
        `asker` asks an endpoint or a class of the user's."""
        each = self._tensor_parallel if self.gpus else 0
        nodes, here = self.nodes, {"single": Lane(1), "asker": Lane(1)}
        self._started = True
        if nodes is None:
            return LocalPool(self.folder, list_lanes(self.gpus, each) | here)
        fits, asked = nodes.count_hosts(each), self._cluster.workers
        count = max(1, fits) if asked == "all" or self._share else asked
        if count > fits:
            self.note(f"the cluster has room for {fits} of {count} workers now; the others start when it grows")
        lanes, rest = list_lanes(each, each), LocalPool(self.folder, here)
        models = Published(self._cluster.models, self.note) if self._cluster.models else None
        return RayPool(self.folder, lanes, rest, count, each, models=models, share=self._share)

    def _limits(self, asked: Limits | None) -> Limits | None:
        """On a cluster a shard is tried again as often as the config says, and no failure at one node ends the work."""
        if self.nodes is None:
            return asked
        return replace(asked or Limits(), tries=1 + self._cluster.retries, witnesses=2)

    def warm(self, backend: str) -> None:
        """Start the engines and scorers of a run, so that they import what they need while the first step works."""
        self.pool.warm("engine", slow_imports(backend))
        self.pool.warm("scorer", ["icr.scoring", "transformers.models.auto.modeling_auto"])

    def fill(
        self, folder: Path, task: Task, shards: Sequence[Shard], label: str, limits: Limits | None = None
    ) -> tuple[list[pa.Table], Counts]:
        """The results of shards, in their order; what is in `folder` already is not done again.

        Args:
            limits: when a worker counts as hanging, if the usual limits do not fit the work.

        Returns:
            The tables, and how often something was tried again; {} where nothing was.

        Raises:
            UserError, StageFailed: as `icr.work.shard_queue.run_shards`.
        """
        place, tally = ShardFolder(folder), Tally()
        if place.missing(shards):
            task = self._prepare(task)
            with self._display(label) as display:
                place.fill(self.pool, task, shards, display, tally, self._limits(limits))
        return list(place.read(shards)), {"retries": tally.retries} if tally.retries else {}

    def run(self, task: Task, table: pa.Table, label: str) -> pa.Table:
        """One table through one worker; nothing is saved."""
        ((_, result),) = self.work(task, cut_table(table, max(1, table.num_rows)), label)
        return result

    def work(
        self, task: Task, shards: Sequence[Shard], label: str, limits: Limits | None = None
    ) -> Generator[tuple[Shard, pa.Table], None, None]:
        """Each shard and its result as it is done; nothing is saved.

        Raises:
            UserError, StageFailed: as `icr.work.shard_queue.run_shards`.
        """
        task = self._prepare(task)
        with (
            self._display(label) as display,
            closing(run_shards(self.pool, task, shards, display, limits=self._limits(limits))) as results,
        ):
            yield from results

    def _prepare(self, task: Task) -> Task:
        """Wake the task's lane; once engines have to change their weights, say what the new ones are checked by."""
        if isinstance(task, EngineTask):
            self._served.add(task.model)
            if len(self._served) > 1:
                task = task.model_copy(update={"probe": self._probe(task)})
        self._wake(task.lane)
        return task

    def _probe(self, task: EngineTask) -> Probe:
        if task.model not in self._probes:
            asked = ProbeTask(
                model=task.model,
                template=task.template,
                precision=task.engine.precision,
                tokens=task.engine.window - 1,
            )
            made = self.run(asked, pa.table({"text": [TEXT]}), "checking new weights")
            self._probes[task.model] = Probe(token_ids=made["token_ids"][0].as_py(), logp=made["logp"][0].as_py())
        return self._probes[task.model]

    def compare(self, task: EngineTask, precision: Precision) -> Agreement | None:
        """What the engine that did `task`, and a scorer in this precision, say of one text; None where no engine of
        this command has served the task's model. The scorer stays in memory. Raises UserError where they cannot be of
        one model."""
        if task.model not in self._served:
            return None
        shared = {"model": task.model, "template": task.template, "tokens": task.engine.window - 1}
        text = pa.table({"text": [TEXT]})
        engine = self.run(EngineProbeTask(engine=task.engine, **shared), text, "comparing engine and scorer")  # type: ignore[arg-type]
        scorer = self.run(ProbeTask(precision=precision, **shared), text, "comparing engine and scorer")  # type: ignore[arg-type]
        logps = engine["logp"][0].as_py(), scorer["logp"][0].as_py()
        found = Agreement.of(len(engine["token_ids"][0]) - 1, *logps, (task.engine.precision, precision))
        self.note_once(found.describe())
        found.check(task.model)
        return found

    def _wake(self, lane: str) -> None:
        """On a GPU one lane at a time has the memory: the others give theirs back first."""
        if self.gpus and self._awake not in (None, lane):
            self.pool.rest(self._awake)
        self._awake = lane

    def folders(self, models: Collection[str], chat_template: str | None) -> dict[str, str]:
        """Every model (hub id, folder or .gguf) → the folder that transformers and vLLM load. Raises UserError as
        `icr.engines.folders.materialise`."""
        fetched = {model: fetch(model) for model in models}  # here: a download may take longer than a worker's deadline
        names = sorted({name for name in fetched.values() if not is_ready(name)})
        if not names:
            return fetched
        table = pa.table({"model": names})
        with _preparing:
            made = self.run(PrepareTask(chat_template=chat_template), table, "preparing models")
        self.pool.stop("single")  # it has loaded weights that nobody needs any more
        folders = dict(zip(names, made["folder"].to_pylist(), strict=True))
        return {model: folders.get(name, name) for model, name in fetched.items()}

    def _rest(self) -> None:
        """Give the GPUs' memory to a process that is none of the pool's."""
        if self.gpus and self._started:
            for lane in ("engine", "scorer"):
                self.pool.rest(lane)
            self._awake = None

    def translate(self, job: TranslatorJob, module: str) -> None:
        """Run a job of translation, or go on with it. Raises as `icr.work.translating.run_translation`."""
        self._rest()
        run_translation(job, module, self._console, self._keep_fds)

    def train(self, spec: TrainSpec, label: str, name: str | None = None) -> Counts:
        """Run a training; on several processes or nodes under torchrun, on several nodes of a cluster by its agents.
        `name` is that of its log and specification; None: that of the folder around its own."""
        self._rest()
        name = f"{name or spec.work.parent.name}-train"
        spec = spec.model_copy(update={"events": self.folder / "jobs" / f"{name}.events"})
        path = self.folder / "jobs" / f"{name}.json"
        write_text(path, spec.model_dump_json(indent=1))
        env, processes = {} if self.gpus else ON_CPU, self.processes(spec.train)
        with self._display(label) as display:
            if self.nodes and trains_on_cluster(self._cluster, spec.train, self._share):
                gpus, share = self.gpus > 0, self._share
                return RayTraining(self.folder, spec, name, processes, gpus=gpus, env=env, share=share).run(display)
            argv = [*start_command(spec.train, processes), "-m", spec.program, str(path)]
            worker = Worker(argv, spec.events, self.folder / "logs" / f"{name}.log", env)
            return run_workers([worker], display, keep_fds=self._keep_fds)[0]

    def beside(self, pool: Pool, title: str, ended: Event) -> Machine:
        """This machine for a thread of its own, with another pool, as each serves one caller at a time.

        Args:
            title: of the work, before the label of each of its displays.
            ended: set once the work is to end; waiting for a worker then raises Ended.
        """
        other = copy(self)
        other.pool, other._awake, other._title, other._ended = pool, None, f"{title} ", ended
        return other

    def _display(self, label: str) -> StageDisplay:
        return StageDisplay(self._console, f"{self._title}{label}", self._noted, self.bars, self._ended)

    def note(self, text: str) -> None:
        """One line for the user."""
        self._console.print(f"  note: {text}", style="yellow", markup=False, highlight=False)

    def note_once(self, text: str) -> None:
        """`note`, but a text that was there already is not repeated."""
        if text not in self._noted:
            self._noted.add(text)
            self.note(text)

    def stop(self) -> None:
        """End all workers. Others start where there is more work."""
        if self._started:
            self.pool.stop()
            self.__dict__.pop("pool", None)
            self._started, self._awake = False, None
