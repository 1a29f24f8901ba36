"""A run's files, copied to a bucket stage by stage."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from icr.base.bucket import Bucket
from icr.base.errors import UserError
from icr.base.rundir import RunDir
from icr.commands.runs import iterate
from icr.rounds.mirror import Mirror
from tests.conftest import Config
from tests.helpers.inline import run_inline


@pytest.fixture
def run(tmp_path: Path) -> RunDir:
    path = tmp_path / "run"
    files = ("config.yaml", "round-1/pairs.parquet", "round-1/model/model.safetensors", "logs/engine-0.log")
    unfinished = (".lock", "round-1/.x.1.tmp", "round-1/train/checkpoints/a", "jobs/a.json", "round-1/shards/0.parquet")
    for name in files + unfinished:
        (path / name).parent.mkdir(parents=True, exist_ok=True)
        (path / name).write_text(name)
    return RunDir(path)


def test_new_and_changed_files_are_copied_and_what_is_there_is_not(
    run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    copied: list[str] = []
    put = Bucket.put
    monkeypatch.setattr(Bucket, "put", lambda self, file, name: (copied.append(name), put(self, file, name)))
    far, said = tmp_path / "far", list[str]()
    mirror = Mirror(run, far.as_uri(), said.append)
    mirror.update()
    first = {"config.yaml", "round-1/pairs.parquet", "round-1/model/model.safetensors", "logs/engine-0.log"}
    assert set(copied) == first and all((far / name).read_text() == name for name in first)
    mirror.update()
    Mirror(run, far.as_uri(), said.append).update()  # of the command that goes on
    assert len(copied) == 4
    (run.path / "config.yaml").write_text("CONFIG.yaml")
    (run.path / "report.html").write_text("new")
    mirror.update()
    assert copied[4:] == ["config.yaml", "report.html"] and (far / "config.yaml").read_text() == "CONFIG.yaml"
    assert not said


def test_a_failure_is_said_and_made_good_later(run: RunDir, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    far, said = tmp_path / "far", list[str]()
    mirror = Mirror(run, far.as_uri(), said.append)

    def fail(self: Bucket, file: Path, name: str) -> None:
        raise OSError("the line is cut")

    with monkeypatch.context() as patch:
        patch.setattr(Bucket, "put", fail)
        mirror.update()
    assert len(said) == 1 and "the line is cut; it is tried again later" in said[0]
    mirror.update()
    assert (far / "round-1" / "pairs.parquet").is_file()


def test_a_file_of_the_same_size_that_is_newer_here_is_copied(run: RunDir, tmp_path: Path) -> None:
    far = tmp_path / "far"
    Mirror(run, far.as_uri(), print).update()
    (run.path / "config.yaml").write_text("other.yaml!"[:11])
    later = (far / "config.yaml").stat().st_mtime_ns + 10**9
    os.utime(run.path / "config.yaml", ns=(later, later))
    Mirror(run, far.as_uri(), print).update()
    assert (far / "config.yaml").read_text() == "other.yaml!"


def test_iterate_leaves_a_copy_that_can_be_gone_on_from(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = run_inline(monkeypatch)
    config = tiny_config(tmp_path, rounds=1, prompts={"limit": 2}, judge={"kind": "none"})
    with pytest.raises(UserError, match="is not the address of a bucket") as error:
        iterate(str(config), mirror="far/away")
    assert error.value.where == "--mirror" and not (tmp_path / "run").exists()
    far, run = tmp_path / "far", tmp_path / "run"
    iterate(str(config), mirror=far.as_uri())
    kept = {path.relative_to(run) for path in run.rglob("*") if path.is_file() and path.name != ".lock"}
    copied = {path.relative_to(far) for path in far.rglob("*") if path.is_file()}
    assert copied == {path for path in kept if not {"jobs", "shards"} & set(path.parts)}
    assert {Path("report.html"), Path("round-1/model/model.safetensors"), Path("round-1/round.json")} <= copied
    tasks.clear()
    iterate(str(config), run=far)
    assert not tasks
