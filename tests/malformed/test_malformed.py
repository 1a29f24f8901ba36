"""Every malformed input ends with exit 2, or 0 where it is fine, and with a message that names what is wrong."""

from __future__ import annotations

import os
from collections import Counter
from pathlib import Path

import pytest

from tests.conftest import write_prompts
from tests.helpers.fake_run import build
from tests.malformed import (
    command_cases,
    environment_cases,
    file_cases,
    plugin_cases,
    run_cases,
    setting_cases,
    yaml_cases,
)
from tests.malformed.bench import SECONDS, START, Bench, Case, run_alone, run_here

SOURCES = (yaml_cases, setting_cases, file_cases, run_cases, command_cases, plugin_cases, environment_cases)
CASES: list[Case] = [case for source in SOURCES for case in source.cases()]
LATER: dict[str, str] = {}
"""Name of a case → why it does not end as it should yet."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path, Path]:
    """Prompts to train on, others, and a run."""
    root = tmp_path_factory.mktemp("malformed")
    train, heldout = write_prompts(root / "train", range(1, 7)), write_prompts(root / "heldout", range(11, 15))
    return train, heldout, build(root / "done").path


@pytest.fixture
def bench(
    tmp_path: Path, tiny_pair: tuple[Path, Path], shared: tuple[Path, Path, Path], monkeypatch: pytest.MonkeyPatch
) -> Bench:
    for name in ("OPENAI_API_KEY", "OPENAI_BASE_URL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.chdir(tmp_path)
    return Bench(tmp_path, *tiny_pair, *shared)


def test_there_are_many_and_their_names_differ() -> None:
    names = Counter(case.name for case in CASES)
    assert len(CASES) >= 200
    assert not [name for name, count in names.items() if count > 1]
    assert not LATER.keys() - names.keys()


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_it_ends_well(case: Case, bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    if case.name in LATER:
        pytest.xfail(LATER[case.name])
    arguments = case.make(bench)
    if case.system is not None:
        case.system(bench, monkeypatch)
    before = set(os.listdir(bench.folder.parent))
    done = run_alone(arguments, bench) if case.own_process else run_here(arguments, bench.environment)
    assert done.code == case.code, done.err + done.out
    assert "Traceback" not in done.err and "secret-1" not in done.err + done.out
    text = done.out + done.err if case.code == 0 else done.err
    assert not [part for part in case.says if part not in text], text
    assert done.seconds < SECONDS + (START if case.own_process else 0.0)
    assert set(os.listdir(bench.folder.parent)) == before  # nothing is written outside
