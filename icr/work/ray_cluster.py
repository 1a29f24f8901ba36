"""The way to a Ray cluster, what it has, and whether its nodes are like this machine."""

from __future__ import annotations

import logging
import os
import socket
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from icr.base.errors import UserError
from icr.config.schema import Cluster

RAY_ENVIRONMENT = {"RAY_USAGE_STATS_ENABLED": "0", "RAY_DEDUP_LOGS_SKIP_REGEX": ".*"}
"""Nothing is sent to Ray's makers, and the dumps of a raylet that ended stay in Ray's own logs."""
CONNECT_SECONDS = 5.0
PASSED = ("HF_", "ICR_", "VLLM_", "PYTHONPATH", "OMP_NUM_THREADS")
"""How the names of the driver's environment variables begin that workers also get."""
PASSED_TO_TRAININGS = ("NCCL_", "GLOO_", "TORCH_", "WANDB_")
"""The same of those that trainings get besides."""


@dataclass(frozen=True)
class Nodes:
    """The nodes of a cluster that are alive and have at least one CPU: GPUs and CPUs of each."""

    gpus: Sequence[int]
    cpus: Sequence[int] = ()

    @property
    def most(self) -> int:
        """GPUs of the node that has most of them."""
        return max(self.gpus, default=0)

    def hosts_each(self, gpus_each: int) -> list[int]:
        """Engines that each node has room for; without GPUs one."""
        return [gpus // gpus_each if gpus_each else 1 for gpus in self.gpus]

    def count_hosts(self, gpus_each: int) -> int:
        """Engines that all nodes together have room for."""
        return sum(self.hosts_each(gpus_each))

    def only(self, places: Sequence[int]) -> Nodes:
        """Some of the nodes."""
        return Nodes([self.gpus[at] for at in places], [self.cpus[at] for at in places])


def connect(cluster: Cluster) -> Nodes:
    """Connect this process to the cluster, if it is not yet.

    Raises:
        UserError: Ray is not installed; there is no cluster at the address, or another version of Ray or Python.
    """
    where = f"cluster.address: {cluster.address}"
    _check_address(str(cluster.address), where)
    os.environ.update(RAY_ENVIRONMENT)
    try:
        import ray
    except ImportError as error:
        raise UserError("ray is not installed", where=where, do="pip install 'icr-align[ray]'") from error
    logging.getLogger("ray").setLevel(logging.ERROR)  # it would tell the user how to switch tokens off
    if not ray.is_initialized():
        try:
            ray.init(
                address=cluster.address,
                log_to_driver=False,
                logging_level=logging.ERROR,
                configure_logging=False,
            )
        except Exception as error:  # Ray has no class for it: ConnectionError, ValueError, RuntimeError and others
            lines = [line.strip() for line in str(error).splitlines() if line.strip()]
            raise UserError(
                f"cannot connect to a Ray cluster: {' '.join(lines)[:300] or type(error).__name__}",
                where=where,
                do="run this command on a node of the cluster; to start one, run `ray start --head` here "
                "(docs/cluster.md)",
            ) from error
    alive = [node["Resources"] for node in ray.nodes() if node["Alive"]]
    alive = [have for have in alive if have.get("CPU", 0) >= 1]
    return Nodes([int(have.get("GPU", 0)) for have in alive], [int(have["CPU"]) for have in alive])


def pass_on(more: tuple[str, ...] = ()) -> dict[str, str]:
    """The driver's environment variables that processes on nodes get; `more` is how other names begin."""
    return {name: value for name, value in os.environ.items() if name.startswith(PASSED + more)}


def _check_address(address: str, where: str) -> None:
    """Whether something listens at HOST:PORT; Ray itself would try for minutes. Raises UserError."""
    if "://" in address:
        do = "run this command on a node of the cluster, with auto or HOST:PORT"
        raise UserError("Ray Client is not supported", where=where, do=do)
    host, _, port = address.rpartition(":")
    if not host or not port.isdigit():
        return
    try:
        socket.create_connection((host.strip("[]"), int(port)), CONNECT_SECONDS).close()
    except (OSError, OverflowError) as error:
        do = "check the address: `ray start --head` prints it; its port is 6379 unless another one is set"
        raise UserError(f"no Ray cluster answers: {error}", where=where, do=do) from error


def describe_difference(there: Mapping[str, str], here: Mapping[str, str], node: str) -> UserError | None:
    """What to tell the user where a node has other versions of the packages that decide results; None: it has not."""
    names = [name for name in {**here, **there} if here.get(name) != there.get(name)]
    if not names:
        return None
    differences = ", ".join(
        f"{name} {there.get(name, 'missing')} (here: {here.get(name, 'missing')})" for name in names
    )
    return UserError(
        f"node {node} has other packages than this machine: {differences}",
        where="cluster.address",
        do="install the same versions on every node, for example by one image or one environment on a shared disk",
    )
