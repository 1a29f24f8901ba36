"""Models that are stored in a bucket, and a node's copies of them."""

from __future__ import annotations

import json
import threading
from pathlib import Path

import pyarrow as pa
import pytest

from icr.base.bucket import Bucket
from icr.base.errors import UserError
from icr.work import published
from icr.work.local_pool import pack_shard
from icr.work.messages import readdress
from icr.work.published import Published, find_copy, rename
from tests.helpers.dummy_worker import Sleep


@pytest.fixture
def model(tmp_path: Path) -> Path:
    folder = tmp_path / "models" / "round-1"
    folder.mkdir(parents=True)
    (folder / "config.json").write_text("{}")
    (folder / "model.safetensors").write_bytes(b"w" * 1000)
    (folder / "notes.md").write_text("nobody loads this")
    return folder


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("ICR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


def test_a_model_is_stored_once_and_copied_once_a_node(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    template = tmp_path / "chat.jinja"
    template.write_text("{{ messages }}")
    task = {"model": str(model), "template": {"file": str(template)}, "stop": ["/", "x"], "n": 3, "beta": 0.5}
    uri, said = (tmp_path / "bucket").as_uri(), list[str]()
    names = Published(uri, said.append).publish(json.dumps(task))
    assert set(names) == {str(model), str(template)} and names[str(template)].endswith("/chat.jinja")
    assert [line.split(" (")[0] for line in sorted(said)] == ["copying chat.jinja", "copying round-1"]
    assert Published(uri, said.append).publish(json.dumps(task)) == names and len(said) == 2

    gets: list[str] = []
    get = Bucket.get
    monkeypatch.setattr(Bucket, "get", lambda self, name, file: (gets.append(name), get(self, name, file)))
    threads = [threading.Thread(target=find_copy, args=(uri, names[str(model)])) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(gets) == 3  # the list and two files
    copies = {path: str(find_copy(uri, name)) for path, name in names.items()}
    assert {path.name for path in Path(copies[str(model)]).iterdir()} == {"config.json", "model.safetensors"}
    assert Path(copies[str(template)]).read_text() == "{{ messages }}"
    changed = json.loads(rename(json.dumps(task), copies))
    assert changed == {**task, "model": copies[str(model)], "template": {"file": copies[str(template)]}}


def test_a_copy_that_fails_leaves_nothing_that_looks_like_a_model(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, cache: Path
) -> None:
    uri = (tmp_path / "bucket").as_uri()
    (name,) = Published(uri, print).publish(json.dumps({"model": str(model)})).values()
    (tmp_path / "bucket" / name / "model.safetensors").rename(tmp_path / "away")
    with pytest.raises(OSError):
        find_copy(uri, name)
    assert not [path for path in (cache / "published").iterdir() if path.is_dir()]
    (tmp_path / "away").rename(tmp_path / "bucket" / name / "model.safetensors")
    assert (find_copy(uri, name) / "model.safetensors").stat().st_size == 1000


def test_weights_that_have_changed_are_another_model(model: Path, tmp_path: Path) -> None:
    uri, task = (tmp_path / "bucket").as_uri(), json.dumps({"model": str(model)})
    before = Published(uri, print).publish(task)
    (model / "model.safetensors").write_bytes(b"v" * 1000)
    assert Published(uri, print).publish(task) != before


def test_a_packed_shard_gets_other_paths() -> None:
    table = pa.table({"number": [1, 2]})
    packed = b"".join(pack_shard(7, Sleep(folder="/a/b"), table))
    there = b"".join(pack_shard(7, Sleep(folder="/somewhere/else"), table))
    other = readdress(packed, lambda payload: Sleep(folder="/somewhere/else").model_dump_json())
    assert other == there and packed != there


def test_no_bucket_is_a_users_error() -> None:
    with pytest.raises(UserError) as error:
        Published("/a/b", print)
    assert error.value.where == published.WHERE
