"""A run on a disk that is too small."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest

from icr.config.load import dump_config, load_config
from tests.conftest import Config
from tests.helpers.command import icr
from tests.helpers.inline import run_inline

pytestmark = pytest.mark.timeout(1200)


def test_a_full_disk_is_said_plainly_and_the_run_goes_on(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    disk = tmp_path / "disk"
    disk.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=96k", "tmpfs", str(disk)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except FileNotFoundError:
        mounted = False
    if not mounted:
        pytest.skip("a small file system cannot be mounted here")
    try:
        config = tiny_config(tmp_path, run=str(disk / "run"), rounds=1, judge={"kind": "none"})
        refused = icr("iterate", "--config", config, code=2)
        assert "but a training needs about" in refused.stderr and "name a run folder on a larger disk" in refused.stderr
        # a run that has begun finds out when it writes
        (disk / "run").mkdir(exist_ok=True)
        (disk / "run" / "config.yaml").write_text(dump_config(load_config(Path(config))))
        full = icr("iterate", "--config", config, code=2)
        assert "the disk is full" in full.stderr and "free some space" in full.stderr
        subprocess.run(["mount", "-o", "remount,size=512m", str(disk)], check=True)
        run_inline(monkeypatch)
        icr("iterate", "--config", config)
        record = json.loads((disk / "run" / "round-1" / "round.json").read_text())
        assert record["stages"]["train"]["state"] == "done"
    finally:
        subprocess.run(["umount", "-l", str(disk)], check=True)
