"""What pages and model cards call files and models."""

from __future__ import annotations

from pathlib import Path

import pytest

from icr.base.shown import hide_paths, show_path


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("org/name@abc", "org/name@abc"),
        ("/data/run/round-1/model", "round-1/model"),
        ("/data/run", "."),
        ("/data/run2/model", "…/model"),
        ("/mnt/x/my model", "…/my model"),
    ],
)
def test_one_name(name: str, shown: str) -> None:
    assert show_path(name, Path("/data/run")) == shown


def test_a_link_to_the_run_is_the_run(tmp_path: Path) -> None:
    (tmp_path / "run").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "run")
    assert show_path(f"{tmp_path.resolve()}/run/model", tmp_path / "link") == "model"


def test_texts_and_tables() -> None:
    config = {
        "run": "/a/b/run",
        "n": 3,
        "launcher": "/usr/bin/srun --chdir=/a/b/c:1",
        "url": "http://host/v1/chat",
        "list": ["/a/b/run/x", "and/or", None],
    }
    assert hide_paths(config, Path("/a/b/run")) == {
        "run": ".",
        "n": 3,
        "launcher": "…/srun --chdir=…/c:1",
        "url": "http://host/v1/chat",
        "list": ["x", "and/or", None],
    }
    assert hide_paths("# 2026 models.policy: /a/b/c → /a/b/run/d", Path("/a/b/run")) == "# 2026 models.policy: …/c → d"
