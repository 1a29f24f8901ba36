"""Small git repositories with the layout of the public ones, and the data sets that point to them."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path

import pytest

from eval.mtbench.questions import TEMPERATURES
from icr.base.fields import Fields
from prompts.clones import HOST, Repository
from prompts.public_sets import SETS, PublicSet

IDENTITY = ("-c", "user.name=test", "-c", "user.email=test@example.org")


@dataclass(frozen=True)
class Public:
    """The repositories, each in `root`/OWNER/NAME, and sets that name their commits."""

    root: Path
    sets: Mapping[str, PublicSet]

    @property
    def clones(self) -> list[Path]:
        return sorted({self.root / source.name for of_set in self.sets.values() for source in of_set.paths})

    def use(self, monkeypatch: pytest.MonkeyPatch) -> None:
        """Let `icr data get` fetch from these: git itself takes the folders in place of GitHub."""
        monkeypatch.setattr("prompts.fetch.SETS", dict(self.sets))
        monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
        monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{self.root}/.insteadOf")
        monkeypatch.setenv("GIT_CONFIG_VALUE_0", f"{HOST}/")


def make_public_repositories(root: Path) -> Public:
    files: dict[Repository, dict[str, str]] = {}
    for of_set in SETS.values():
        for source, paths in of_set.paths.items():
            files.setdefault(source, {}).update({path: _content(path) for path in paths})
    commits = {source: _commit(root / source.name, texts) for source, texts in files.items()}
    moved = {source: Repository(source.name, commit) for source, commit in commits.items()}
    sets = {
        name: replace(of_set, paths={moved[source]: paths for source, paths in of_set.paths.items()})
        for name, of_set in SETS.items()
    }
    return Public(root, sets)


def _commit(folder: Path, texts: Mapping[str, str]) -> str:
    folder.mkdir(parents=True)
    git(folder, "init", "--quiet")
    # as GitHub has it: any commit may be asked for, and files left out
    git(folder, "config", "uploadpack.allowAnySHA1InWant", "true")
    git(folder, "config", "uploadpack.allowFilter", "true")
    for path, text in {**texts, "big/unused.bin": "x" * 1000}.items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_text(text, encoding="utf-8")
    git(folder, "add", ".")
    git(folder, *IDENTITY, "commit", "--quiet", "-m", "data")
    return git(folder, "rev-parse", "HEAD")


def git(folder: Path, *arguments: str) -> str:
    done = subprocess.run(["git", "-C", str(folder), *arguments], check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _content(path: str) -> str:
    """A file of the public repositories in small: three prompts, or a question of each category."""
    parts = Path(path).parts
    if "ultrafeedback_binarized" in parts:
        lang = Path(path).stem
        order = [1, 2, 3] if lang == "en" else [3, 1, 2]
        # a language may have a prompt that English lacks
        order += [9] if lang == "sw" else []
        rows: list[Fields] = [{"instruction": f"{lang} train {n}", "instruction_id": f"u{n}"} for n in order]
        if lang == "zh":
            rows += [{**rows[0], "instruction": "again"}, {"instruction": " ", "instruction_id": "u8"}]
        return _lines(rows)
    if "x-alpacaeval" in parts:
        return json.dumps(_alpaca(Path(path).stem))
    if "x-alpacaeval_format" in parts:
        lang, model = parts[3], parts[4]
        answers = [{**row, "generator": model, "output": f"{model} {lang} {row['id']}"} for row in _alpaca(lang)]
        if (lang, model) == ("en", "gpt-4-turbo-2024-04-09"):
            answers = [{name: row[name] for name in row if name != "id"} for row in reversed(answers)]
        return json.dumps(answers)
    return _lines(_mt_references() if "reference_answer" in parts else _mt_questions(parts[-2]))


def _alpaca(lang: str) -> list[Fields]:
    return [{"id": n, "dataset": "helpful_base", "instruction": f"{lang} held out {n}"} for n in (1, 2, 3)]


def _mt_questions(folder: str) -> list[Fields]:
    questions: list[Fields] = [
        {"question_id": 81 + n, "category": category, "turns": [f"first {n}", f"second {n}"], "reference": "['a, b]"}
        for n, category in enumerate(TEMPERATURES)
    ]
    if folder == "mt_bench_thai":
        questions[0]["turns"][1] = ""
    return questions


def _mt_references() -> list[Fields]:
    choices: list[Fields] = [{"index": 0, "turns": ["a proof", 127]}]
    return [
        {"question_id": 81 + n, "answer_id": "x", "model_id": "gpt-4", "choices": choices, "tstamp": 1.0}
        for n in range(len(TEMPERATURES))
    ]


def _lines(rows: list[Fields]) -> str:
    return "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
