"""The runs behind the transfer benchmark: configs written, `icr` called, and what runs may share copied.

Everything is in one work folder and is done by the public commands, so that a killed benchmark goes on where it was:

    prompts/        English prompts for the alignment, parallel ones for ICR, parallel ones held out
    base/           the reference's own English samples, from which alignment.jsonl is made
    runs/NAME/      one ICR run a reward kind; the first makes π_θ⁰ and round 1's responses, the others take both over
    heldout/MODEL/  what a model answers to the held-out prompts
"""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml

from benchmarks.transfer_measures import closest_pairs
from eval.layout import is_laid_out
from icr.base.files import read_rows, write_text
from icr.base.rundir import RunDir
from icr.rows import is_empty

QUICKSTART = Path(__file__).resolve().parent.parent / "prompts" / "quickstart"
TARGETS = ["es", "fr", "de", "ru"]
LANGUAGES = ["en", *TARGETS]
FIRST = "cross-lingual"
ON_REFERENCE = "cross-lingual on the reference"
"""The run that only scores π_I's answers."""
RUNS: dict[str, dict[str, Any]] = {
    FIRST: {"kind": "cross-lingual"},
    "multilingual": {"kind": "multilingual"},
    "translate": {"kind": "translate"},
    "random": {"kind": "random"},
    "no alpha": {"kind": "cross-lingual", "length_penalty": "none"},
    "filtered": {"kind": "cross-lingual", "drop_wrong_language": True},
}
"""The runs and their `reward` sections: the kinds, and R_c again without length penalty, and without responses that are
in another language than their prompt."""
ABLATIONS = ("no alpha", "filtered")
"""Of one round, and without a ranking of their own: their reward is R_c."""


@dataclass(frozen=True)
class Model:
    """A small model and how it is asked."""

    file: str
    """A .gguf file, as the config names it."""
    chat_template: str | None = None
    laid_out: bool = True
    """Which layout is preferred: several lines, or one block. The rarer one, for there is something to gain."""
    rate: float = 1e-5
    """Learning rate of the alignment and of the rounds."""

    def has(self, response: str) -> bool:
        """The property of this model's benchmark: the preferred layout. An empty response has none."""
        return bool(response.strip()) and is_laid_out(response) == self.laid_out


@dataclass(frozen=True)
class Size:
    """How much is sampled; the two in use are in benchmarks/transfer.py."""

    aligned: int
    """English prompts whose samples make alignment pairs."""
    prompts: int
    """Parallel prompts of the ICR rounds."""
    heldout: int
    """Parallel prompts held out; those that ICR leaves of the quickstart's training prompts count among them."""
    base_samples: int
    samples: int
    heldout_samples: int
    max_tokens: int = 64
    temperature: float = 0.7
    batch: int = 8
    pairs_per_prompt: int = 2


@dataclass(frozen=True)
class Bench:
    """One model's benchmark in its work folder."""

    work: Path
    model: Model
    size: Size

    def run(self, name: str) -> RunDir:
        return RunDir(self.work / "runs" / name.replace(" ", "-"))

    def heldout(self, model: str) -> RunDir:
        return RunDir(self.work / "heldout" / model.replace(" ", "-"))

    @property
    def alignment(self) -> Path:
        return self.work / "alignment.jsonl"

    def prepare(self) -> None:
        """Write the prompts, sample the reference in English, and make the alignment pairs."""
        for name, prompts in split_prompts(self.size).items():
            for lang, rows in prompts.items():
                write_jsonl(self.work / "prompts" / name / f"{lang}.jsonl", rows)
        base = RunDir(self.work / "base")
        self._sample(base, self._reference_folder(), "align", ["en"], self.size.base_samples)
        if not self.alignment.exists():
            responses = read_rows(base.round(1).responses / "en.parquet")
            rows = alignment_pairs(responses, self.model.has, self.size.pairs_per_prompt)
            write_jsonl(self.alignment, rows)

    def iterate(self, name: str, rounds: int) -> None:
        """The ICR run `name`, to `rounds` rounds. Runs after the first start with its π_θ⁰ and its responses."""
        run, config = self._start(name, rounds)
        self._icr("iterate", "--config", self._write(run, config), "--run", run.path, "--rounds", rounds)

    def score(self, name: str) -> None:
        """Only the rewards of round 1's responses, without training on them."""
        self._score(*self._start(name, 1))

    def _score(self, run: RunDir, config: dict[str, Any]) -> None:
        self._write(run, config, run.config)
        if not run.round(1).done("score"):
            self._icr("score", "--run", run.path, "--round", 1)

    def _start(self, name: str, rounds: int) -> tuple[RunDir, dict[str, Any]]:
        run = self.run(name)
        config = self._config("train", LANGUAGES, self.size.samples) | {"rounds": rounds}
        config["reward"] = {"precision": "bf16", "flip_check": 6, **RUNS[name]}
        train = {"learning_rate": self.model.rate, "batch_size": self.size.batch}
        config["train"] = {**train, "micro_batch_size": 4, "deepspeed": "none", "gradient_checkpointing": False}
        if name == FIRST:
            config["alignment"] = {"pairs": str(self.alignment), **train}
        else:
            config["models"]["policy"] = str(self.run(FIRST).round(0).model)
            # the same policy with the same seeds
            self._share_responses(run, self.run(FIRST))
        return run, config

    def answer(self, name: str, model: Path | str) -> None:
        """Sample the held-out prompts from `model`, a folder."""
        self._sample(self.heldout(name), model, "heldout", LANGUAGES, self.size.heldout_samples)

    def answers(self, rounds: dict[str, int]) -> dict[str, str | Path]:
        """The models whose held-out answers are wanted: π_I, π_θ⁰ and every round's model of the runs."""
        models: dict[str, str | Path] = {
            "reference": self._reference_folder(),
            "aligned": self.run(FIRST).round(0).model,
        }
        for name, last in rounds.items():
            models |= {f"{name} {n}": self.run(name).round(n).model for n in range(1, last + 1)}
        return models

    def rank_reference(self) -> None:
        """R_c of π_I's held-out answers: they differ where the alignment gave nearly all of π_θ⁰'s the property."""
        run = self.run(ON_REFERENCE)
        config = self._config("heldout", LANGUAGES, self.size.heldout_samples)
        config["models"]["policy"] = str(self.run(FIRST).round(0).model)
        config["reward"] = {"precision": "bf16", "flip_check": 0, **RUNS[FIRST]}
        self._share_responses(run, self.heldout("reference"))
        self._score(run, config)

    def _share_responses(self, run: RunDir, source: RunDir) -> None:
        """The responses of the source's round 1, so that they are not sampled twice."""
        ours, theirs = run.round(1), source.round(1)
        if ours.done("sample"):
            return
        shutil.copytree(theirs.responses, ours.responses, dirs_exist_ok=True)
        ours.write_stage("sample", theirs.record.stages["sample"])

    def _sample(self, run: RunDir, policy: Path | str, prompts: str, languages: list[str], n: int) -> None:
        config = self._config(prompts, languages, n)
        config["models"]["policy"] = str(policy)
        self._write(run, config, RunDir(run.path).config)
        if not run.round(1).done("sample"):
            self._icr("sample", "--run", run.path, "--round", 1)

    def _config(self, prompts: str, languages: list[str], n: int) -> dict[str, Any]:
        size = self.size
        return {
            "models": {"reference": self.model.file, "chat_template": self.model.chat_template},
            "prompts": {"path": str(self.work / "prompts" / prompts), "languages": languages},
            "sampling": {
                "n": n,
                "temperature": size.temperature,
                "max_tokens": size.max_tokens,
                "shard_size": 100,
            },
            "judge": {"kind": "none"},
        }

    def _write(self, run: RunDir, config: dict[str, Any], path: Path | None = None) -> Path:
        path = path or self.work / "configs" / f"{run.path.name}.yaml"
        if not path.exists() or path.parent.name == "configs":
            write_text(path, yaml.safe_dump(config, sort_keys=False))
        return path

    def _reference_folder(self) -> str:
        """π_I as a folder: icr refuses a policy of the same name as the reference."""
        from icr.engines.folders import locate, materialise

        return materialise(locate(self.model.file, "--model"), self.model.chat_template)

    def _icr(self, *arguments: object) -> None:
        words = [sys.executable, "-m", "icr.commands.main", *map(str, arguments)]
        print("$ icr", *words[3:], flush=True)
        code = subprocess.run(words, check=False).returncode
        if code:
            raise SystemExit(code)  # the command has said what is wrong, and this one goes on where it stopped


def split_prompts(size: Size) -> dict[str, dict[str, list[dict[str, str]]]]:
    """part → language → prompts. No English prompt of the alignment, and none held out, has a twin in ICR's rounds."""
    pairs = _read_jsonl(QUICKSTART / "english_pairs.jsonl")[: size.aligned]
    parts: dict[str, dict[str, list[dict[str, str]]]] = {
        "align": {"en": [{"id": f"align-{n}", "instruction": pair["prompt"]} for n, pair in enumerate(pairs, 1)]},
        "train": {},
        "heldout": {},
    }
    for lang in LANGUAGES:
        rows = _read_jsonl(QUICKSTART / "train" / f"{lang}.jsonl")
        parts["train"][lang] = rows[: size.prompts]
        spare = [*_read_jsonl(QUICKSTART / "heldout" / f"{lang}.jsonl"), *rows[size.prompts :]]
        parts["heldout"][lang] = spare[: size.heldout]
    return parts


def alignment_pairs(
    responses: Iterable[dict[str, Any]], has: Callable[[str], bool], per_prompt: int
) -> list[dict[str, str]]:
    """English pairs: a response with the property against one without, of one prompt and nearly one length."""
    groups: dict[str, list[dict[str, Any]]] = {}
    for row in responses:
        if not is_empty(row):
            groups.setdefault(row["prompt_id"], []).append(row)
    pairs = []
    for rows in groups.values():
        lengths = [len(row["token_ids"]) for row in rows]
        labels = [has(row["response"]) for row in rows]
        for good, bad in closest_pairs(labels, lengths, per_prompt):
            texts = {"chosen": rows[good]["response"], "rejected": rows[bad]["response"]}
            pairs.append({"prompt": rows[good]["prompt"], **texts})
    return pairs


def _read_jsonl(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if line.strip()]


def write_jsonl(path: Path, rows: Iterable[dict[str, str]]) -> None:
    write_text(path, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in rows))
