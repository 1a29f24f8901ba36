"""What an input is: the same content has the same hash wherever it is, and other content another one."""

from __future__ import annotations

import hashlib
import json
import os
from concurrent.futures import ProcessPoolExecutor
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi, constants
from hypothesis import given
from hypothesis import strategies as st

from icr.base import content
from icr.base.content import (
    LARGE,
    cache_root,
    canonical_json,
    hash_file,
    hash_folder,
    hash_rows,
    hash_value,
    hub_revision,
    identify_class,
    identify_model,
)
from icr.base.errors import UserError

COMMIT, OTHER = "a" * 40, "b" * 40
LONG_AGO = 10**18
"""Nanoseconds since 1970: 2001."""

JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(), inner, max_size=3),
    max_leaves=8,
)


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The file of remembered hashes."""
    monkeypatch.setenv("ICR_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache" / "hashes.json"


@pytest.fixture
def readings(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The files that were read, in order."""
    read: list[str] = []
    digest = hashlib.file_digest

    def reading(handle: Any, name: str) -> Any:
        read.append(Path(handle.name).name)
        return digest(handle, name)

    monkeypatch.setattr(hashlib, "file_digest", reading)
    return read


def write(path: Path, text: bytes, stamp: int | None = LONG_AGO) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text)
    if stamp is not None:
        os.utime(path, ns=(stamp, stamp))
    return path


def sha256(text: bytes) -> str:
    return hashlib.sha256(text).hexdigest()


def test_the_cache_is_in_the_users_cache_folder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    assert cache_root() == tmp_path / "cache"
    monkeypatch.delenv("ICR_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert cache_root() == tmp_path / "xdg" / "icr"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert cache_root() == tmp_path / "home" / ".cache" / "icr"


def test_a_small_file_is_read_each_time(tmp_path: Path, cache: Path, readings: list[str]) -> None:
    path = write(tmp_path / "a", b"x")
    assert hash_file(path) == hash_file(path) == sha256(b"x")
    assert readings == ["a", "a"] and not cache.exists()


def test_a_large_file_is_read_once(tmp_path: Path, cache: Path, readings: list[str]) -> None:
    whole = b"x" * LARGE
    path = write(tmp_path / "a", whole)
    link = tmp_path / "link"
    link.symlink_to(path)
    assert hash_file(path) == hash_file(path) == hash_file(link) == sha256(whole)
    assert readings == ["a"]
    assert json.loads(cache.read_text()) == {str(path): [LARGE, LONG_AGO, path.stat().st_ino, sha256(whole)]}


@pytest.mark.parametrize("change", ["time", "size", "inode"])
def test_a_changed_file_is_read_again(tmp_path: Path, readings: list[str], change: str) -> None:
    path = write(tmp_path / "a", b"x" * LARGE)
    hash_file(path)
    if change == "inode":
        other = write(tmp_path / "b", b"y" * LARGE)
        os.replace(other, path)
    else:
        write(path, b"y" * (LARGE + (change == "size")), LONG_AGO + (change == "time"))
    assert hash_file(path) == sha256(path.read_bytes())
    assert readings == ["a", "a"]


@pytest.mark.parametrize(("age", "remembered"), [(3.0, True), (1.0, False), (-3600.0, False)])
def test_a_file_that_was_just_written_may_change_within_its_time_stamp(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: float, remembered: bool
) -> None:
    monkeypatch.setattr(content.time, "time_ns", lambda: LONG_AGO + int(age * 1e9))
    path = write(tmp_path / "a", b"x" * LARGE)
    hash_file(path)
    write(path, b"y" * LARGE)  # same size, same time, same inode
    assert hash_file(path) == sha256((b"x" if remembered else b"y") * LARGE)


def test_a_file_that_changes_while_it_is_read_is_not_remembered(
    tmp_path: Path, cache: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path, digest = write(tmp_path / "a", b"x" * LARGE), hashlib.file_digest

    def reading(handle: Any, name: str) -> Any:
        found = digest(handle, name)
        write(path, b"y" * LARGE, LONG_AGO + 1)
        return found

    monkeypatch.setattr(hashlib, "file_digest", reading)
    hash_file(path)
    assert not cache.exists()


@pytest.mark.parametrize(
    "text", ["", "{", "[1]", "null", '{"PATH": 1}', '{"PATH": [SIZE, TIME, INODE, "short"]}', '{"PATH": [1]}', "\udcff"]
)
def test_a_corrupt_cache_is_ignored_and_replaced(tmp_path: Path, cache: Path, readings: list[str], text: str) -> None:
    path = write(tmp_path / "a", b"x" * LARGE)
    for name, value in (("PATH", path), ("SIZE", LARGE), ("TIME", LONG_AGO), ("INODE", path.stat().st_ino)):
        text = text.replace(name, str(value))
    write(cache, text.encode("utf-8", "surrogateescape"))
    assert hash_file(path) == hash_file(path) == sha256(b"x" * LARGE)
    assert readings == ["a"]


def test_files_that_are_gone_are_forgotten_and_others_kept(tmp_path: Path, cache: Path) -> None:
    paths = [write(tmp_path / name, b"x" * LARGE) for name in ("a", "b", "c")]
    for path in paths[:2]:
        hash_file(path)
    paths[0].unlink()
    hash_file(paths[2])
    assert list(json.loads(cache.read_text())) == [str(path) for path in paths[1:]]


def test_a_cache_that_cannot_be_written_changes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, readings: list[str]
) -> None:
    monkeypatch.setenv("ICR_CACHE", str(write(tmp_path / "file", b"") / "below"))
    path = write(tmp_path / "a", b"x" * LARGE)
    assert hash_file(path) == hash_file(path) == sha256(b"x" * LARGE)
    assert readings == ["a", "a"]


def test_processes_that_write_at_once_leave_a_whole_cache(tmp_path: Path, cache: Path) -> None:
    paths = [write(tmp_path / f"{n}", bytes([n]) * LARGE) for n in range(8)]
    with ProcessPoolExecutor(4) as pool:
        assert list(pool.map(hash_file, paths)) == [sha256(bytes([n]) * LARGE) for n in range(8)]
    found = json.loads(cache.read_text())
    assert found and all(entry[3] == sha256(bytes([int(Path(name).name)]) * LARGE) for name, entry in found.items())
    assert [p.name for p in cache.parent.iterdir()] == [cache.name]


def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        hash_file(tmp_path / "none")


def test_a_folder_is_its_names_and_contents(tmp_path: Path) -> None:
    def folder(name: str, **files: bytes) -> str:
        for file, text in files.items():
            write(tmp_path / name / file.replace("__", "/"), text)
        return hash_folder(tmp_path / name)

    first = folder("first", a=b"1", sub__b=b"2")
    assert first == folder("second", sub__b=b"2", a=b"1")
    others = [
        folder("content", a=b"1", sub__b=b"3"),
        folder("name", a=b"1", sub__c=b"2"),
        folder("place", a=b"1", b=b"2"),
        folder("more", a=b"1", sub__b=b"2", c=b""),
        folder("less", a=b"1"),
    ]
    assert len({first, *others}) == 6
    write(tmp_path / "first" / ".hidden" / "x", b"1")
    write(tmp_path / "first" / "__pycache__" / "x.pyc", b"1")
    write(tmp_path / "first" / "sub" / ".DS_Store", b"1")
    assert hash_folder(tmp_path / "first") == first
    assert hash_folder(tmp_path / "first", ["a"]) == hash_folder(tmp_path / "less")


def test_what_is_not_a_folder_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(NotADirectoryError, match="none is not a folder"):
        hash_folder(tmp_path / "none")


def test_a_model_is_what_loading_it_reads(tmp_path: Path) -> None:
    read = ["model.safetensors", "config.json", "chat_template.jinja", "merges.txt", "tokenizer.model", "a.tiktoken"]
    read += ["additional_chat_templates/tool.jinja", "a.gguf"]
    folder = tmp_path / "model"
    for name in read:
        write(folder / name, b"1")
    found = {identify_model(str(folder))}
    for name in ("README.md", "modeling.py", "optimizer.pt", "checkpoint-5/model.safetensors", ".cache/a.json"):
        write(folder / name, b"1")
        found.add(identify_model(str(folder)))
    assert len(found) == 1
    for name in read:
        write(folder / name, b"2")
        found.add(identify_model(str(folder)))
    assert len(found) == 1 + len(read)
    assert identify_model(str(write(tmp_path / "m.gguf", b"weights"))) == sha256(b"weights")


@pytest.fixture
def hub_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    write(tmp_path / "hub" / "models--org--name" / "refs" / "main", COMMIT.encode())
    write(tmp_path / "hub" / "models--org--name" / "refs" / "v1", OTHER.encode())
    write(tmp_path / "hub" / "models--org--empty" / "refs" / "main", b"")
    write(tmp_path / "hub" / "datasets--rows" / "refs" / "main", OTHER.encode() + b"\n")
    return tmp_path / "hub"


def test_a_hub_id_offline_is_the_commit_in_the_cache(hub_cache: Path) -> None:
    assert constants.is_offline_mode()
    assert hub_revision("org/name") == COMMIT
    assert hub_revision("org/name", revision="v1") == OTHER
    assert hub_revision("rows", "dataset") == OTHER
    assert hub_revision("org/name", "dataset") is None
    assert hub_revision("org/name", revision="v2") is None
    assert hub_revision("org/empty") is None
    assert hub_revision("org/never-seen", revision=OTHER) == OTHER
    assert identify_model("org/name") == f"org/name@{COMMIT}"
    assert identify_model("org/never-seen") == "org/never-seen"


def test_the_hub_knows_better_than_the_cache_when_it_answers(hub_cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Any] = []
    answers: list[Any] = [OTHER]

    def repo_info(self: HfApi, repo_id: str, **options: Any) -> Any:
        asked.append((repo_id, options["repo_type"], options["revision"], options["timeout"]))
        if isinstance(answers[-1], Exception):
            raise answers[-1]
        return type("Info", (), {"sha": answers[-1]})

    monkeypatch.setattr(HfApi, "repo_info", repo_info)
    assert hub_revision("org/name") == COMMIT and not asked  # offline
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    assert hub_revision("org/name") == OTHER
    assert hub_revision("org/name", revision=COMMIT) == COMMIT
    assert asked == [("org/name", "model", None, content.TIMEOUT)]
    for none in (None, httpx2.ConnectTimeout("slow"), OSError("unreachable"), ValueError("no JSON")):
        answers.append(none)
        assert hub_revision("org/name") == COMMIT
        assert hub_revision("org/other") is None


def test_a_class_is_the_text_of_its_file(tmp_path: Path) -> None:
    text = b"class Reward:\n    pass\n"
    path = write(tmp_path / "mine.py", text)
    assert identify_class(f"{path}:Reward", "reward.kind") == sha256(text)
    changed = text + b"# longer\n"
    write(path, changed)
    assert identify_class(f"{path}:Reward", "reward.kind") == sha256(changed)
    with pytest.raises(UserError, match="has no class Other"):
        identify_class(f"{path}:Other", "reward.kind")
    assert len(identify_class("builtins:dict", "reward.kind")) == 64
    assert identify_class("builtins:dict", "reward.kind") != identify_class("builtins:list", "reward.kind")


def test_rows_are_their_values_in_their_order() -> None:
    rows = [{"a": 1, "b": "x"}, {"a": 2.5, "b": None}]
    assert hash_rows(rows) == hash_rows(iter([{"b": "x", "a": 1.0}, {"b": None, "a": 2.5}]))
    others = [rows[::-1], rows[:1], [], [{}], [{"a": 1, "b": "y"}, rows[1]], [{"a": True, "b": "x"}, rows[1]]]
    assert len({hash_rows(rows), *map(hash_rows, others)}) == 7
    assert hash_rows([{"a": "ü\ud800"}]) != hash_rows([{"a": "u"}])  # half a surrogate, as a JSON file may have it
    with pytest.raises(TypeError):
        hash_rows([{"a": object()}])


def test_one_value_has_one_text() -> None:
    assert canonical_json({"b": [1.0, (2, 0.5)], "a": {"d": None, "c": True}}) == (
        '{"a":{"c":true,"d":null},"b":[1,[2,0.5]]}'
    )
    assert canonical_json(1e300) == "1e+300" and canonical_json(-0.0) == "0"
    assert hash_value({"a": 1}) == sha256(b'{"a":1}')


@given(JSON)
def test_a_text_has_its_value(value: Any) -> None:
    assert json.loads(canonical_json(value)) == value
    assert canonical_json(json.loads(json.dumps(value))) == canonical_json(value)
