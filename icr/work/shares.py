"""Shares of a cluster: whole nodes that one of several runs has for itself, so that they go on side by side.

A share is a placement group with one bundle a node, which has all GPUs of it, or all CPUs where there are none. Ray
puts the share's engines and trainings there and nothing else. The bundle of a lost node moves to another free one.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from icr.work.ray_cluster import Nodes

PLACE_SECONDS = 30.0
"""How long Ray may take to reserve all shares. The engines that had the nodes before have just been ended."""


@dataclass(frozen=True)
class Share:
    """Of a cluster, reserved."""

    group: Any
    nodes: Nodes
    """Those that the bundles were made for."""

    def list_places(self, gpus_each: int) -> list[int]:
        """The bundle of each host."""
        counts = enumerate(self.nodes.hosts_each(gpus_each))
        return [bundle for bundle, count in counts for _ in range(count)]

    def find_alive(self) -> list[int]:
        """Bundles that are on a node which is alive."""
        import ray
        from ray.util import placement_group_table

        alive = {node["NodeID"] for node in ray.nodes() if node["Alive"]}
        places: Mapping[int, str] = placement_group_table(self.group)["bundles_to_node_id"]
        return [bundle for bundle in range(len(self.nodes.gpus)) if places.get(bundle) in alive]

    def at(self, bundle: int) -> object:
        """Ray's scheduling strategy for an actor of this bundle."""
        from ray.util.scheduling_strategies import PlacementGroupSchedulingStrategy

        return PlacementGroupSchedulingStrategy(self.group, bundle)


def split_nodes(nodes: Nodes, gpus_each: int, workers: int | None, runs: int, each: int) -> list[Nodes]:
    """Nodes for each of as many runs as can go on side by side, as equal as whole nodes can be; [] for fewer than two.

    Args:
        gpus_each: GPUs of an engine.
        workers: engines of all runs together, at most; None: as many as there is room for.
        runs: that there are.
        each: nodes that a run needs at least.
    """
    hosts = nodes.hosts_each(gpus_each)
    able = sorted((at for at, count in enumerate(hosts) if count), key=lambda at: -hosts[at])
    most = sum(hosts) if workers is None else workers
    chosen = [at for place, at in enumerate(able) if sum(hosts[of] for of in able[: place + 1]) <= most]
    count = min(runs, len(chosen) // each)
    return [nodes.only(chosen[first::count]) for first in range(count)] if count > 1 else []


@contextmanager
def reserve(parts: Sequence[Nodes], gpus_each: int) -> Iterator[list[Share]]:
    """A share for each part; none where not all of them are free. They are given back at the end of the block."""
    import ray
    from ray.util.placement_group import placement_group

    shares = []
    try:
        for part in parts:
            bundles = [
                {"CPU": hosts, "GPU": gpus} if gpus_each else {"CPU": cpus}
                for hosts, gpus, cpus in zip(part.hosts_each(gpus_each), part.gpus, part.cpus, strict=True)
            ]
            shares.append(Share(placement_group(bundles, strategy="STRICT_SPREAD"), part))
        deadline = time.monotonic() + PLACE_SECONDS
        placed = [share.group.wait(max(0.1, deadline - time.monotonic())) for share in shares]
        yield shares if all(placed) else []
    finally:
        for share in shares:
            ray.util.remove_placement_group(share.group)
