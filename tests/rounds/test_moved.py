"""A run folder may be copied, renamed or reached by another path: it goes on, and names no folder of this machine."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from safetensors.torch import load_file

from icr.base.rundir import RunDir
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from tests.conftest import Config
from tests.helpers.independent import rows
from tests.helpers.inline import run_inline, silent


@pytest.fixture(scope="module")
def tasks() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


def controller(config: Path, run: Path | None = None) -> Controller:
    resolved, inputs = load_checked(config, (), {"run": str(run.resolve())} if run else {})
    assert resolved.run is not None
    return Controller(RunDir(Path(resolved.run)), resolved, inputs, silent())


def iterate(config: Path, run: Path | None = None, last: str | None = None) -> Path:
    """All of it, or up to a stage of round 1."""
    made = controller(config, run)
    try:
        if last is None:
            made.iterate()
        for number, stage in made.plan.stages() if last else ():
            made.stage(number, stage)
            if (number, stage) == (1, last):
                break
    finally:
        made.close()
    return made.run.path


@pytest.fixture(scope="module")
def started(
    tasks: list[str], tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """A run that is scored, with its models inside its folder."""
    folder = tmp_path_factory.mktemp("started")
    for name, model in zip(("policy", "reference"), tiny_pair, strict=True):
        shutil.copytree(model, folder / "run" / "models" / name)
    inside = folder / "run" / "models"
    config = tiny_config(
        folder,
        rounds=1,
        models={"policy": str(inside / "policy"), "reference": str(inside / "reference")},
        prompts={"languages": ["en", "es"], "limit": 2},
        sampling={"max_tokens": 6},
        train={"lora": {"rank": 2}},
        judge={"model": str(inside / "reference"), "limit": 1, "max_tokens": 6},
    )
    return iterate(config, last="score")


@pytest.fixture(scope="module")
def calm(started: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The same, finished where it was started, as far as anyone can see."""
    copied = shutil.copytree(started, tmp_path_factory.mktemp("calm") / "run")
    return iterate(copied / "config.yaml", copied)


@pytest.mark.parametrize("way", ["renamed", "copied", "linked", "mounted"])
def test_it_goes_on(started: Path, calm: Path, tasks: list[str], tmp_path: Path, way: str) -> None:
    run = shutil.copytree(started, tmp_path / "first" / "run")
    if way == "renamed":
        run = run.rename(tmp_path / "first" / "other")
    elif way == "copied":
        run = shutil.copytree(run, tmp_path / "a b ü" / "run")
    elif way == "linked":
        (tmp_path / "link").symlink_to(run)
        run = tmp_path / "link"
    else:
        (tmp_path / "mount").symlink_to(tmp_path / "first")
        run = tmp_path / "mount" / "run"
    before = {p: p.stat().st_mtime_ns for p in run.glob("round-1/re*/*.parquet")}
    tasks.clear()
    iterate(run / "config.yaml", run)
    assert "logps" not in tasks and tasks.count("train") == 1
    assert before == {p: p.stat().st_mtime_ns for p in run.glob("round-1/re*/*.parquet")}
    ours, theirs = (load_file(at / "round-1/model/model.safetensors") for at in (run, calm))
    assert all((ours[name] == theirs[name]).all() for name in theirs)
    assert rows(run / "round-1" / "pairs.parquet") == rows(calm / "round-1" / "pairs.parquet")


def test_a_finished_run_has_nothing_to_do_elsewhere(calm: Path, tasks: list[str], tmp_path: Path) -> None:
    run = shutil.copytree(calm, tmp_path / "run")
    tasks.clear()
    iterate(run / "config.yaml", run)
    assert not tasks


def test_a_new_run_starts_from_a_moved_ones_round(calm: Path, tmp_path: Path) -> None:
    from typer.testing import CliRunner

    from icr.commands.main import app

    run = shutil.copytree(calm, tmp_path / "moved")
    asked = [
        "iterate",
        "--from",
        f"{run}/round-0",
        "--run",
        f"{tmp_path}/new",
        "--rounds",
        "1",
        "--set",
        "judge.kind=none",
    ]
    done = CliRunner().invoke(app, asked)
    assert done.exit_code == 0, done.output
    assert rows(tmp_path / "new/round-1/pairs.parquet") == rows(calm / "round-1/pairs.parquet")


def test_pages_and_cards_name_no_folder_of_this_machine(calm: Path, tmp_path: Path) -> None:
    from icr.report.page import write_report

    run = shutil.copytree(calm, tmp_path / "run")
    page = write_report(RunDir(run)).read_text(encoding="utf-8")
    card = (run / "round-1" / "model" / "README.md").read_text(encoding="utf-8")
    adapter = (run / "round-1" / "adapter" / "adapter_config.json").read_text(encoding="utf-8")
    for text in (page, card, adapter):
        assert str(tmp_path.parents[1]) not in text
    assert "trained from: models/policy" in card and "reference of the reward: models/reference" in card
    assert "models/policy" in page
    assert (run / "round-0" / "model.json").read_text().count("models/") == 2
    record = (run / "round-1" / "round.json").read_text()
    assert str(tmp_path.parents[1]) not in record
