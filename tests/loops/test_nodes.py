"""Training on two nodes, which are two launches on this machine: they meet, and train as one process would."""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from icr.base.errors import ConfigError
from icr.base.rundir import RunDir
from icr.config.load import make_config
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from tests.helpers.inline import run_inline, silent

# by its path: workers do not look for modules in the working directory
LAUNCHER = f"{sys.executable} {Path(__file__).parents[1] / 'helpers' / 'two_nodes.py'}"


@pytest.mark.timeout(600)
def test_two_nodes_train_what_one_does(
    tiny_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """All but the training on two nodes is in this process."""
    models = []
    for name, settings in {"one": {}, "two": {"train.nodes": 2, "train.launcher": LAUNCHER}}.items():
        config = tiny_config(
            tmp_path / name, rounds=1, judge={"kind": "none"}, train={"processes": 1, "save_steps": 50}
        )
        run = RunDir(tmp_path / name / "run")
        with monkeypatch.context() as patch:
            run_inline(patch, trainings=name == "one")
            controller = Controller(run, *load_checked(config, [], {"run": str(run.path), **settings}), silent())
            controller.iterate()
            controller.close()
        assert run.round(1).record.stages["train"].counts["processes"] == (2 if name == "two" else 1)
        models.append(load_file(run.round(1).model / "model.safetensors"))
    one, two = models
    assert one.keys() == two.keys()
    assert all(torch.allclose(one[k], two[k], atol=1e-4) for k in one)


def test_nodes_without_a_launcher_are_refused(tiny_config: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"the command that starts the training on 2 nodes is missing"):
        load_checked(tiny_config(tmp_path, train={"nodes": 2}))


def test_a_launcher_is_a_command_line() -> None:
    data: dict[str, Any] = {"models": {"reference": "a/b"}, "prompts": {"path": "p", "languages": ["en"]}}
    config = make_config(data, ["train.nodes=2", "train.launcher=srun --nodes=2"])
    assert (config.train.nodes, config.train.launcher) == (2, "srun --nodes=2")
