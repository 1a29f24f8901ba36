"""What a malformed input is made of: a small config that is fine, the files that it names, and one thing changed."""

from __future__ import annotations

import json
import os
import resource
import shutil
import subprocess
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from tests.conftest import TEXTS
from tests.helpers.command import ICR, icr

SECONDS = 10.0
"""Within which every malformed input is answered: of computing, as other tests run beside."""
START = 30.0
"""What a process of its own has more of: torch and transformers are imported in it, which takes a slow machine 15."""


@dataclass(frozen=True)
class Done:
    """How a command ended."""

    code: int
    out: str
    err: str
    seconds: float


@dataclass
class Bench:
    """A folder of one case, and what all cases share."""

    folder: Path
    policy: Path
    reference: Path
    prompts: Path
    heldout: Path
    run: Path
    """A run folder, as if two rounds were done; `finished` copies it."""
    environment: dict[str, str] = field(default_factory=dict)
    """What is different in it, for the command."""
    root: Path = Path(__file__).parents[2]
    """Where icr is."""

    def config(self, changes: Mapping[str, str] | None = None, *, add: str = "", name: str = "config.yaml") -> Path:
        """Write a config.

        Args:
            changes: key (`sampling.n`) or section (`sampling`) → its value as YAML text; "" takes it out.
            add: text after the last line.
        """
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(self.config_text(changes or {}) + add, encoding="utf-8")
        return path

    def config_text(self, changes: Mapping[str, str]) -> str:
        sections: dict[str, dict[str, str] | str] = {
            "run": str(self.folder / "run"),
            "models": {"policy": str(self.policy), "reference": str(self.reference)},
            "prompts": {"path": str(self.prompts), "languages": "[en, es]"},
            "sampling": {"backend": "transformers", "n": "4", "max_tokens": "12"},
            "reward": {"precision": "fp32"},
            "train": {"deepspeed": "none", "precision": "fp32"},
            "judge": {"kind": "none"},
        }
        for key, value in changes.items():
            name, _, inner = key.partition(".")
            section = sections.setdefault(name, {})
            if not inner:
                sections[name] = value
            elif isinstance(section, dict):
                section[inner] = value
        return "".join(
            f"{name}: {_flow(section) if isinstance(section, dict) else section}\n"
            for name, section in sections.items()
            if section != ""
        )

    def write(self, name: str, text: str | bytes) -> Path:
        """A file in the case's folder."""
        path = self.folder / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        return path

    def lines(self, name: str, *rows: object) -> Path:
        """A jsonl file: a text is a line as it is, all else is written as JSON."""
        return self.write(name, "".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows))

    def parallel(self, **files: str | bytes) -> Path:
        """A folder of prompts in English and Spanish, with some files replaced."""
        for lang in ("en", "es"):
            text = TEXTS[lang]
            self.lines(f"p/{lang}.jsonl", *({"id": f"p{n}", "instruction": text.format(n=n)} for n in (1, 2)))
        for lang, content in files.items():
            self.write(f"p/{lang}.jsonl", content)
        return self.folder / "p"

    def finished(self) -> Path:
        """A run folder, as if two rounds were done."""
        return shutil.copytree(self.run, self.folder / "done")


def _flow(section: Mapping[str, str]) -> str:
    return "{" + ", ".join(f"{key}: {value}" for key, value in section.items() if value != "") + "}"


@dataclass(frozen=True)
class Case:
    """One malformed input, and what a person has to be told."""

    name: str
    make: Callable[[Bench], Sequence[object]]
    """Writes the input, and gives the arguments of `icr`."""
    says: tuple[str, ...]
    """Every one of these is in the message: the offending key, file, line or id among them."""
    code: int = 2
    own_process: bool = False
    """Whether it needs an interpreter of its own, as an environment does."""
    system: Callable[[Bench, pytest.MonkeyPatch], None] | None = None
    """Makes this process one on a system that is not here, such as one without file locks."""


def setting(key: str, raw: str, *says: str, code: int = 2, **more: str) -> Case:
    """A config in which one key has another value; `more`: other keys, with `__` for the dot."""
    changes = {key: raw, **{name.replace("__", "."): value for name, value in more.items()}}
    named = f"{key}: {raw}" if len(raw) < 40 else f"{key}: {raw[:40]}…"
    said = says or ((f"`{key}`",) if code else ("is fine",))
    return Case(named, lambda bench: ["validate", bench.config(changes)], said, code)


def run_here(arguments: Sequence[object], environment: Mapping[str, str] | None = None) -> Done:
    """`icr` in this process, as its entry point runs it."""
    began = time.process_time()
    done = icr(*arguments, code=None, env=environment)
    return Done(done.returncode, done.stdout, done.stderr, time.process_time() - began)


def run_alone(arguments: Sequence[object], bench: Bench) -> Done:
    """`icr` in a process of its own, in the case's folder and environment."""
    environment = {**os.environ, "PYTHONPATH": str(bench.root), **bench.environment}
    began = _spent_by_children()
    done = subprocess.run(
        [*ICR, *map(str, arguments)],
        capture_output=True, text=True, cwd=bench.folder, timeout=240, encoding="utf-8",
        env={name: value for name, value in environment.items() if value != "UNSET"},
    )  # fmt: skip
    return Done(done.returncode, done.stdout, done.stderr, _spent_by_children() - began)


def _spent_by_children() -> float:
    spent = resource.getrusage(resource.RUSAGE_CHILDREN)
    return spent.ru_utime + spent.ru_stime
