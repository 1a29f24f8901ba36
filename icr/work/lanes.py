"""The lanes of a pool: kinds of workers, how many there are of each, and what each has."""

from __future__ import annotations

from icr.work.local_pool import Lane

GPU_DEPTH = 2
"""Shards in flight per engine on a GPU, so that the longest answers of one do not leave it idle. On a CPU there is one:
what is batched together is then the same in every run, and so are the bits."""


def list_lanes(gpus: int, each: int) -> dict[str, Lane]:
    """Of workers that share `gpus` GPUs; an engine has `each` of them."""
    engines = max(1, gpus // max(1, each))
    return {
        "engine": Lane(engines, each, GPU_DEPTH if gpus else 1),
        "scorer": Lane(max(1, gpus), 1 if gpus else 0),
        "nlp": Lane(engines, each),
    }
