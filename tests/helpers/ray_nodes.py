"""A Ray cluster of two nodes, both on this machine."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import psutil
import pytest

ROOT = Path(__file__).parents[2]
STORE = 80 * 2**20


@dataclass
class Nodes:
    """A cluster whose second node can be killed and comes back."""

    cluster: Any
    each: dict[str, int]
    """What a node has."""
    added: list[Any] = field(default_factory=list)

    def add(self) -> None:
        self.added.append(self.cluster.add_node(**self.each))

    def restore(self) -> None:
        """The second node is there again."""
        if not self.added:
            self.add()

    @property
    def second(self) -> int:
        """The process that all others of the second node are below."""
        return int(self.added[-1].all_processes["raylet"][0].process.pid)

    def kill(self) -> None:
        self.cluster.remove_node(self.added.pop(), allow_graceful=False)

    @contextmanager
    def another(self, **resources: int) -> Iterator[None]:
        """One more node for a while, with other resources."""
        node = self.cluster.add_node(**{**self.each, **resources})
        try:
            yield
        finally:
            self.cluster.remove_node(node, allow_graceful=False)


@contextmanager
def open_nodes(folder: Path, store: int = STORE) -> Iterator[Nodes]:
    """The cluster, with what processes of this machine need in the environment; it ends with the block.

    Args:
        folder: for the cluster's token.
        store: bytes of each node's object store.
    """
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_TOKEN_PATH", str(folder / "token"))
        patch.setenv("PYTHONPATH", os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]))
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        patch.setenv("RAY_memory_monitor_refresh_ms", "0")  # it ends actors where other tests fill the memory
        import ray
        from ray._private.authentication.authentication_token_setup import ensure_token_if_auth_enabled
        from ray.cluster_utils import Cluster as LocalCluster

        ensure_token_if_auth_enabled(create_token_if_missing=True)
        each = {"num_cpus": 1, "object_store_memory": store}
        made = Nodes(LocalCluster(initialize_head=True, head_node_args={**each, "include_dashboard": False}), each)
        made.add()
        patch.setenv("RAY_ADDRESS", made.cluster.address)  # what `auto` means
        yield made
        ray.shutdown()
        made.cluster.shutdown()


def find(name: str) -> list[psutil.Process]:
    """Processes whose names begin like this, such as those of actors."""
    return [process for process in psutil.process_iter(["name"]) if (process.info["name"] or "").startswith(name)]
