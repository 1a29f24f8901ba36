"""What is installed from a wheel is whole: every room, template, recipe and prompt."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
PACKAGES = ("icr", "loops", "prompts", "eval", "configs")


@pytest.fixture(scope="module")
def installed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder that holds what a wheel of this tree installs."""
    source, wheels, target = (tmp_path_factory.mktemp(name) for name in ("source", "wheels", "target"))
    for name in PACKAGES:
        shutil.copytree(ROOT / name, source / name, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source / name)
    command = [sys.executable, "-m", "pip", "wheel", "--quiet", "--no-deps", "--no-build-isolation", "-w", str(wheels)]
    subprocess.run([*command, str(source)], check=True, capture_output=True)
    with zipfile.ZipFile(next(wheels.glob("icr_align-*.whl"))) as wheel:
        wheel.extractall(target)
    return target


def run(installed: Path, *arguments: str) -> str:
    env = os.environ | {"PYTHONPATH": str(installed)}
    done = subprocess.run([sys.executable, *arguments], env=env, cwd=installed, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_every_file_of_the_packages_is_in_the_wheel(installed: Path) -> None:
    wanted = {
        str(file.relative_to(ROOT))
        for name in PACKAGES
        for file in (ROOT / name).rglob("*")
        if file.is_file() and "__pycache__" not in file.parts
    }
    found = {str(file.relative_to(installed)) for file in installed.rglob("*") if file.is_file()}
    assert wanted <= found, sorted(wanted - found)


def test_the_command_runs_from_there(installed: Path) -> None:
    assert run(installed, "-c", "import icr; print(icr.__file__)").startswith(str(installed))
    assert "iterate" in run(installed, "-m", "icr.commands.main", "--help")
    assert "is fine" in run(installed, "-m", "icr.commands.main", "validate", "quickstart")
    assert re.fullmatch(r"icr \d[\w.]*\n", run(installed, "-m", "icr", "--version"))
