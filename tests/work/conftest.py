"""A local pool of dummy workers."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path

import pytest

from icr.work.local_pool import Lane, LocalPool

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
