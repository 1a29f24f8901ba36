"""`icr transfer` on two nodes of a Ray cluster: real workers and trainings, and the tables of steps in order."""

from __future__ import annotations

from pathlib import Path

import pytest

from icr.experiments.transfer_cluster import SHARES
from tests.experiments.test_transfer_cluster import check_tables, count_overlaps, do, load, make_content, on
from tests.helpers.ray_nodes import Nodes


@pytest.mark.timeout(900)
def test_steps_on_two_nodes(nodes: Nodes, tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    made = make_content(tmp_path, tiny_pair[0])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("OMP_NUM_THREADS", "1")
        do(load(tmp_path, made, **on()))
        do(load(tmp_path, made, "serial"))  # in processes as well: sums in another order differ in their last bits
    assert count_overlaps(tmp_path / "run")
    check_tables(tmp_path / "serial", tmp_path / "run")
    logs = {file.name for number in "12" for file in (tmp_path / "run" / SHARES / number / "logs").iterdir()}
    assert {"rm-en-train.log", "rm-es-train.log"} < logs
