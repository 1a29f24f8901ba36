"""A local pool of dummy workers, and a Ray cluster."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from icr.work.local_pool import Lane, LocalPool
from tests.helpers.ray_nodes import Nodes, open_nodes

ROOT = Path(__file__).parents[2]
OpenPool = Callable[..., LocalPool]


@pytest.fixture
def open_pool(tmp_path: Path) -> Iterator[OpenPool]:
    """Opens a pool of `count` dummy workers in the lane "engine"; all end with the test."""
    with ExitStack() as stack:

        def opened(count: int = 1, depth: int = 1) -> LocalPool:
            lanes = {"engine": Lane(count, depth=depth)}
            env = {"PYTHONPATH": f"{ROOT}:{tmp_path}"}  # the workers have no current folder on their path
            return stack.enter_context(LocalPool(tmp_path, lanes, "tests.helpers.dummy_worker", env=env))

        yield opened


@pytest.fixture(scope="package")
def nodes(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nodes]:
    """One cluster for all tests of this folder: to start one takes as long as most of them."""
    pytest.importorskip("ray", reason="ray is not installed: pip install 'icr-align[ray]'")
    with open_nodes(tmp_path_factory.mktemp("ray")) as made:
        yield made
