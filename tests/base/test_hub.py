"""Which names are paths, and which are the hub's."""

from __future__ import annotations

from pathlib import Path

import pytest

from icr.base.hub import HubId, means_path, read_hub_id

IDS = {
    "org/name": HubId("org/name"),
    "hf:org/name": HubId("org/name"),
    "Qwen/Qwen3-0.6B@main": HubId("Qwen/Qwen3-0.6B", "main"),
    "org/na.me_x@refs/pr/1": HubId("org/na.me_x", "refs/pr/1"),
    "hf:data/name@v1.0": HubId("data/name", "v1.0"),
}


@pytest.mark.parametrize("name", IDS)
def test_ids(name: str) -> None:
    assert read_hub_id(name) == IDS[name]
    assert f"hf:{read_hub_id(name)}".removeprefix("hf:") == name.removeprefix("hf:")


@pytest.mark.parametrize(
    "name", ["name", "a/b/c", "org/", "/org/name", "./name", "org/name@", "org/na me", "../org", ""]
)
def test_no_ids(name: str) -> None:
    assert read_hub_id(name) is None


PATHS = (
    "./a", "../a/b", "~/models/a", "/a/b", "a/b/c", "data/ultrafeedback", "models/llama", "Models/llama", "runs/first",
    "checkpoints/100", "here/name", "org/na me",
)  # fmt: skip


@pytest.mark.parametrize("name", PATHS)
def test_paths(name: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert means_path(name, (tmp_path / "elsewhere", tmp_path))


@pytest.mark.parametrize("name", ["org/name", "gpt-4", "org/name@v1", "hf:data/name", "hf:here/name", "modelscope/a"])
def test_no_paths(name: str, tmp_path: Path) -> None:
    (tmp_path / "here").mkdir()
    assert not means_path(name, (tmp_path,))
