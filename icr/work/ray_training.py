"""A training on nodes of a Ray cluster: an agent on each starts torchrun there. Where one is lost, all are ended and
started again, and the training goes on from its newest complete checkpoint."""

from __future__ import annotations

import os
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from icr.base.errors import StageFailed
from icr.work.causes import is_secondary, last_lines
from icr.work.launch import Heard, Watcher, by_user, describe_end
from icr.work.ray_agent import Agent, Launch, Place, Report
from icr.work.ray_cluster import PASSED_TO_TRAININGS, describe_difference, pass_on
from icr.work.ray_host import find_versions
from icr.work.ray_hosts import SILENCE_SECONDS, cannot_run, create_named
from icr.work.shares import Share

if TYPE_CHECKING:
    from icr.config.schema import Cluster, Train
    from icr.work.runner import Counts
    from loops.spec import TrainSpec

RELAUNCHES = 2
"""How often a training is started again."""
GATHER_SECONDS = 60.0
"""How long nodes that are missing at the beginning are waited for. A training that has lost one goes on at once."""
PLACE_SECONDS = 20.0
"""How long Ray may take to reserve the nodes: one of them may have ended just now."""
READY_SECONDS = 120.0
START_SECONDS = 60.0
GIVEN_UP_SECONDS = 600.0
"""How long there may be no node at all, or none that an agent starts on."""
STOP_SECONDS = 15.0
LISTEN_SECONDS = 1.0
LAST_WORDS_SECONDS = 3.0
"""How long the others are listened to once one has failed: the first to say so is often not the cause."""
TAIL_BYTES = 2**17


@dataclass(eq=False)
class _Node:
    """One agent and what came from it."""

    actor: Any
    log: Path
    place: Place | None = None
    heard: Heard = field(default_factory=Heard)
    tail: bytes = b""
    answer: Any = None
    asked_at: float = 0.0
    code: int | None = None
    lost: str = ""
    """Why there is nothing more to come from it."""

    @property
    def failed(self) -> bool:
        return bool(self.lost or self.heard.error or (self.code is not None and self.code != 0))


class RayTraining:
    """One training. `ray_cluster.connect` comes first."""

    def __init__(
        self,
        run: Path,
        spec: TrainSpec,
        name: str,
        processes: int,
        *,
        gpus: bool,
        env: dict[str, str],
        share: Share | None = None,
    ) -> None:
        """
        Args:
            run: its folder; agents are named by it, so that two commands cannot train it at a time.
            name: of its logs: RUN/logs/NAME.log, and NAME-node1.log and so on for the other nodes.
            processes: on each node; with `gpus` only nodes that have as many GPUs take part.
            env: added to the processes' environment.
            share: of whose nodes it takes the first ones; None: of the whole cluster's, this machine first.
        """
        import ray

        self._ray, self._run, self._spec, self._name = ray, run, spec, name
        self._processes, self._gpus = processes, gpus
        self._env, self._share = {**pass_on(PASSED_TO_TRAININGS), **env}, share
        self._group: Any = None
        self._nodes: list[_Node] = []

    def run(self, watcher: Watcher) -> Counts:
        """Train; returns the training's counts.

        Raises:
            UserError: the training's settings or data are wrong, or a node is not like this machine.
            StageFailed: it has failed again after it was started again as often as it may be; there is no node for it.
        """
        asked, patience = self._spec.train.nodes, GATHER_SECONDS
        for launch in range(RELAUNCHES + 1):
            try:
                self._gather(patience, watcher)
                if len(self._nodes) < asked:
                    watcher.note(f"the training runs on {len(self._nodes)} of {asked} nodes; the cluster has no more")
                if (counts := self._train(watcher)) is not None:
                    return counts
                why, log, text = self._explain()
                if launch < RELAUNCHES:
                    watcher.note(f"the training is started again, because {why} (log: {log})")
            finally:
                self._stop()
            patience = 0.0
        raise StageFailed(f"the training failed {RELAUNCHES + 1} times; the last time {why}\n  log: {log}\n{text}")

    # -- nodes

    def _gather(self, patience: float, watcher: Watcher) -> None:
        """Reserve nodes and start an agent on each."""
        deadline = time.monotonic() + patience
        given_up = time.monotonic() + GIVEN_UP_SECONDS
        while True:
            watcher.progress(0, 0, 0)  # a look at whether the work is to end
            found = self._find_places()
            count = fit_nodes(len(found), self._spec.train, self._processes)
            if count and (len(found) >= self._spec.train.nodes or time.monotonic() >= deadline):
                if self._place(found[:count]):
                    return
                self._stop()
            if time.monotonic() > given_up:
                need = f"{self._processes} GPUs" if self._gpus else "1 CPU"
                raise StageFailed(
                    f"no node of the cluster can train now: it needs {need}; `ray status` shows all nodes"
                )
            time.sleep(0.5)

    def _find_places(self) -> Sequence[str | int]:
        """Nodes that can take part: addresses, this machine's first, or bundles of the share."""
        if self._share:
            return [
                at for at in self._share.find_alive() if not self._gpus or self._share.nodes.gpus[at] >= self._processes
            ]
        here = self._ray.get_runtime_context().get_node_id()
        able = [
            node
            for node in self._ray.nodes()
            if node["Alive"]
            and node["Resources"].get("CPU", 0) >= 1
            and (not self._gpus or node["Resources"].get("GPU", 0) >= self._processes)
        ]
        return [node["NodeManagerAddress"] for node in sorted(able, key=lambda node: node["NodeID"] != here)]

    def _reserve(self, places: Sequence[str | int]) -> list[object]:
        """Ray's scheduling strategy for an agent on each; [] where one of them is gone.

        The engines have the nodes' GPUs and CPUs in Ray's books, and sleep meanwhile. So an agent asks for a trace of
        what each node has of itself alone, and takes the GPUs that torchrun finds.
        """
        if self._share:
            return [self._share.at(int(bundle)) for bundle in places]
        from ray.util.placement_group import placement_group
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        self._group = placement_group([{f"node:{address}": 0.001} for address in places], strategy="STRICT_SPREAD")
        if not self._group.wait(PLACE_SECONDS):
            return []
        return [PlacementGroupSchedulingStrategy(self._group, index) for index in range(len(places))]

    def _place(self, places: Sequence[str | int]) -> bool:
        """An agent on each of these nodes; False where one of them is gone."""
        strategies = self._reserve(places)
        if not strategies:
            return False
        for index, strategy in enumerate(strategies):
            kind = self._ray.remote(
                num_cpus=0,
                max_restarts=0,
                scheduling_strategy=strategy,
                runtime_env={"env_vars": {"RAY_EXPERIMENTAL_NOSET_CUDA_VISIBLE_DEVICES": "1"}},
            )(Agent)
            log = self._run / "logs" / (f"{self._name}.log" if index == 0 else f"{self._name}-node{index}.log")
            self._nodes.append(_Node(create_named(kind, self._run, f"train-{index}"), log))
        asked = [node.actor.ready.remote() for node in self._nodes]
        self._ray.wait(asked, num_returns=len(asked), timeout=READY_SECONDS)
        for node, answer in zip(self._nodes, asked, strict=True):
            try:
                node.place = self._ray.get(answer, timeout=0)
            except self._ray.exceptions.RayTaskError as error:
                raise cannot_run(error.cause) from error
            except self._ray.exceptions.RayActorError as error:
                if "creation task" in str(error):
                    raise cannot_run(error) from error
                return False
            except self._ray.exceptions.GetTimeoutError:
                return False
            if problem := describe_difference(node.place.versions, find_versions(), node.place.node):
                raise problem
        return True

    def _stop(self) -> None:
        """End all that is left; the processes of a training on nodes that answer are gone when this returns."""
        asked = [node.actor.stop.remote() for node in self._nodes if not node.lost]
        if asked:
            self._ray.wait(asked, num_returns=len(asked), timeout=STOP_SECONDS)
        for node in self._nodes:
            self._ray.kill(node.actor)
        self._nodes.clear()
        if self._group is not None:
            self._ray.util.remove_placement_group(self._group)
            self._group = None

    # -- the training

    def _train(self, watcher: Watcher) -> Counts | None:
        """Its counts; None where it has failed and may be started again. Raises UserError."""
        first = self._nodes[0].place
        assert first is not None
        spec = self._spec.model_copy(update={"events": Path("EVENTS")}).model_dump_json()
        shape = len(self._nodes), self._processes, first.address, first.port
        self._start([Launch(self._spec.program, spec, n, *shape, self._env, os.getcwd()) for n in range(shape[0])])
        deadline = None
        while not all(node.lost or node.code is not None for node in self._nodes):
            self._listen(watcher)
            heard = max((node.heard for node in self._nodes), key=lambda heard: heard.done)
            watcher.progress(heard.done, heard.total, heard.tokens)
            if any(node.failed for node in self._nodes):
                deadline = deadline or time.monotonic() + LAST_WORDS_SECONDS
            if deadline and time.monotonic() > deadline:
                break
        for node in self._nodes:
            if error := by_user(node.heard.error, self._run):
                raise error
        results = [node.heard.result for node in self._nodes if node.heard.result is not None]
        return results[0] if results and not any(node.failed for node in self._nodes) else None

    def _start(self, launches: Sequence[Launch]) -> None:
        """Start torchrun on every node. An asynchronous actor takes its calls in any order, so that it could be asked
        about a training that has not begun: each says first that it has."""
        asked = [node.actor.start.remote(launch) for node, launch in zip(self._nodes, launches, strict=True)]
        self._ray.wait(asked, num_returns=len(asked), timeout=START_SECONDS)
        for node, answer in zip(self._nodes, asked, strict=True):
            try:
                self._ray.get(answer, timeout=0)
            except self._ray.exceptions.RayTaskError as error:
                node.lost = f"torchrun could not be started: {error.cause}"
            except self._ray.exceptions.GetTimeoutError:
                node.lost = f"torchrun did not start in {START_SECONDS:.0f} s"
            except self._ray.exceptions.RayError:
                node.lost = "its agent ended"

    def _listen(self, watcher: Watcher) -> None:
        now = time.monotonic()
        for node in self._nodes:
            if node.answer is None and not node.lost and node.code is None:
                node.answer, node.asked_at = node.actor.watch.remote(LISTEN_SECONDS), now
            elif node.answer is not None and now - node.asked_at > SILENCE_SECONDS:
                node.answer, node.lost = None, f"its agent has not answered for {now - node.asked_at:.0f} s"
        asked = {node.answer: node for node in self._nodes if node.answer is not None}
        if not asked:
            return
        for answer in self._ray.wait(list(asked), timeout=LISTEN_SECONDS)[0]:
            node, node_answer = asked[answer], answer
            node.answer = None
            try:
                self._take(node, self._ray.get(node_answer), watcher)
            except self._ray.exceptions.RayError:
                node.lost = "its agent ended"

    def _take(self, node: _Node, report: Report, watcher: Watcher) -> None:
        node.heard.take(report.events, watcher)
        node.code = report.code
        node.tail = (node.tail + report.log)[-TAIL_BYTES:]
        if report.log:
            node.log.parent.mkdir(parents=True, exist_ok=True)
            with open(node.log, "ab") as file:
                file.write(report.log)

    def _explain(self) -> tuple[str, Path, str]:
        """Why it failed, by the node that most likely is the cause: the reason, its log, the end of that."""
        failures = []
        for node in self._nodes:
            if node.failed:
                text = node.tail.decode(errors="replace")
                why = node.lost or describe_end(node.heard.error, text, node.code)
                where = f" (on {node.place.node})" if node.place else ""
                failures.append(
                    (0 if node.lost else 1 + is_secondary(why), f"{why}{where}", node.log, last_lines(text))
                )
        if not failures:
            return "it ended without a result", self._nodes[0].log, ""
        return min(failures, key=lambda each: each[0])[1:]


def fit_nodes(there: int, train: Train, processes: int) -> int:
    """How many of the nodes that are there the training takes: as many as it asks for, or, where there are fewer, the
    most that a batch can be split on."""
    if there >= train.nodes:
        return train.nodes
    micro = 1 if train.micro_batch_size == "auto" else train.micro_batch_size
    return next((n for n in range(there, 0, -1) if train.batch_size % (micro * n * processes) == 0), there)


def trains_on_cluster(cluster: Cluster, train: Train, share: Share | None = None) -> bool:
    """Whether a training runs on nodes of the cluster: where it is to have several and no other launcher, or where its
    run has a share of them."""
    return cluster.address is not None and (train.nodes > 1 or share is not None) and not train.launcher
