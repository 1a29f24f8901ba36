from __future__ import annotations

import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
from typer.testing import CliRunner

from icr.base.errors import UserError
from icr.base.files import write_json, write_text
from icr.base.rundir import RunDir
from icr.commands.main import app
from icr.config.load import dump_config, load_config
from icr.rounds import chat as module
from icr.rounds.chat import open_speakers


@pytest.fixture
def run(tmp_path: Path, tiny_pair: tuple[Path, Path], tiny_config: Callable[..., Path]) -> RunDir:
    """A run whose first round has a model: the tiny reference stands for it."""
    policy, reference = tiny_pair
    made = RunDir(tmp_path / "run")
    (made.path / "round-1").mkdir(parents=True)
    config = load_config(tiny_config(tmp_path, sampling={"backend": "transformers"}))
    write_text(made.config, dump_config(config))
    (made.path / "round-0").mkdir()
    write_json(made.path / "round-0" / "model.json", {"policy": str(policy), "reference": str(reference)})
    shutil.copytree(reference, made.round(1).model)
    return made


def test_two_models_answer_side_by_side(run: RunDir) -> None:
    first, last = open_speakers(run, None, 8)
    assert (first.name, last.name) == ("round 0", "round 1")
    said = first.answer("Name a river.", 1)
    assert [message["role"] for message in first.messages] == ["user", "assistant"]
    assert first.messages[1]["content"] == said
    first.messages = []
    assert first.answer("Name a river.", 1) == said  # the seed decides
    first.answer("And a lake?", 2)
    assert len(first.messages) == 4 and not last.messages


def test_what_cannot_be_talked_to(run: RunDir, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(UserError, match="round 3 has no model"):
        open_speakers(run, 3, 8)
    monkeypatch.setattr(module, "WINDOW", 10)
    [only] = open_speakers(run, 0, 8)
    with pytest.raises(UserError, match="more than 10"):
        only.answer("Name a river and a lake and an island, please.", 1)
    shutil.rmtree(run.round(1).model)
    with pytest.raises(UserError, match="no trained model yet"):
        open_speakers(run, None, 8)


def test_the_command_reads_lines(run: RunDir) -> None:
    typed = "Name a river.\n/new\n\nName a lake.\n/quit\nnever asked\n"
    done = CliRunner().invoke(app, ["chat", str(run.path), "--max-tokens", "4"], input=typed)
    assert done.exit_code == 0, done.exception
    assert done.stdout.count("round 0: ") == 2 and done.stdout.count("round 1: ") == 2
