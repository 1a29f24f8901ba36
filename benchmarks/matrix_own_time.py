"""The driver's own time in a 6 × 6 matrix of best of n: all of `icr transfer` but trainings, sampling and scoring.

    python -m benchmarks.matrix_own_time [--prompts 50] [--n 16] [--pairs 120] [--json]

Six sources, six targets, tiny models, in one process: what workers would do is timed and taken off, and what is left is
the driver's. It is processor time, as the machine may be shared. Its share is reckoned beside a matrix whose steps
take as long as `--training`, `--sampling` and `--scoring` say, in seconds each. Models of real size are hashed in
longer time, which is not in it. Steps are counted in their records.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

from icr.base.files import read_json
from icr.config.load import load_section
from icr.config.transfer import TransferConfig
from icr.experiments.transfer import run_transfer
from icr.report.transfer import write_transfer_page
from icr.work.machine import Machine
from tests.conftest import write_prompts
from tests.helpers.inline import run_inline, silent
from tests.helpers.judging import InlinePool
from tests.helpers.reward_models import make_encoder, make_folder, pair_rows
from tests.helpers.tiny_models import make_tiny_model

LANGUAGES = ("de", "en", "es", "ru", "tr", "vi")
TRAIN = {
    "learning_rate": 3e-3, "batch_size": 32, "micro_batch_size": 32, "epochs": 1, "precision": "fp32",
    "deepspeed": "none", "gradient_checkpointing": False,
}  # fmt: skip
KINDS = {"rm": "trainings", "samples": "samplings", "scores": "scorings"}
"""Beginning of a step's name → what it is."""


def make_experiment(folder: Path, prompts: int, n: int, pairs: int) -> Path:
    """An experiment with the same rows and prompts under six languages."""
    rows = [row for row in pair_rows(pairs) if row["lang"] == "en"]
    rows = [{**row, "lang": lang, "prompt": f"{lang} {row['prompt']}"} for row in rows for lang in LANGUAGES]
    asked = write_prompts(folder / "prompts", range(prompts))
    for lang in LANGUAGES:
        (asked / f"{lang}.jsonl").write_bytes((asked / "en.jsonl").read_bytes())
    content = {
        "run": str(folder / "run"),
        "base": str(make_encoder(folder / "encoder")),
        "languages": {"sources": list(LANGUAGES), "targets": list(LANGUAGES)},
        "data": {"preferences": str(make_folder(folder / "data", rows)), "prompts": str(asked)},
        "reward_model": {"train": TRAIN},
        "align": {
            "policy": str(make_tiny_model(folder / "policy")),
            "best_of_n": {"n": n, "backend": "transformers", "precision": "fp32", "max_tokens": 8, "shard_size": 64},
        },
    }
    (folder / "x.yaml").write_text(yaml.safe_dump(content))
    return folder / "x.yaml"


class Watch:
    """Processor seconds that are spent in workers' functions."""

    def __init__(self) -> None:
        self.busy = 0.0

    def around(self, function: Callable[..., Any]) -> Callable[..., Any]:
        def timed(*args: Any, **kwargs: Any) -> Any:
            started = time.process_time()
            try:
                return function(*args, **kwargs)
            finally:
                self.busy += time.process_time() - started

        return timed


def measure(folder: Path, prompts: int, n: int, pairs: int) -> dict[str, Any]:
    """The driver's processor seconds of the first command and of one that finds all done, and what was done."""
    config = load_section(TransferConfig, make_experiment(folder, prompts, n, pairs))
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        watch = Watch()
        patch.setattr(Machine, "train", watch.around(Machine.train))
        patch.setattr(InlinePool, "_work", watch.around(InlinePool._work))
        own = []
        for _ in range(2):
            started, before = time.process_time(), watch.busy
            result, failed = run_transfer(config, "*", silent())
            write_transfer_page(result, folder / "run")
            own.append(time.process_time() - started - (watch.busy - before))
            assert not failed
    records = {file.parent.name: read_json(file) for file in (folder / "run").glob("steps/*/step.json")}
    done = Counter(KINDS[name.partition("-")[0]] for name in records if name.partition("-")[0] in KINDS)
    return {"own_seconds": own[0], "again_seconds": own[1], "worker_seconds": watch.busy, **done}


def main() -> None:
    parser = argparse.ArgumentParser(description="the driver's own time in a 6 × 6 matrix of best of n")
    parser.add_argument("--prompts", type=int, default=50, help="of each target")
    parser.add_argument("--n", type=int, default=16)
    parser.add_argument("--pairs", type=int, default=120, help="of each language, a quarter of them held back")
    parser.add_argument("--training", type=float, default=600, help="seconds that a training is taken to last")
    parser.add_argument("--sampling", type=float, default=300)
    parser.add_argument("--scoring", type=float, default=20)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as name:
        found = measure(Path(name), args.prompts, args.n, args.pairs)
    work = sum(found[f"{kind}s"] * getattr(args, kind) for kind in ("training", "sampling", "scoring"))
    found |= {"assumed_seconds": work, "share": found["own_seconds"] / (work + found["own_seconds"])}
    print(json.dumps(found) if args.json else text_of(found))
    if (found["trainings"], found["samplings"], found["scorings"]) != (6, 6, 36):
        raise SystemExit("a 6 × 6 matrix is 6 trainings, 6 samplings and 36 scorings")


def text_of(found: dict[str, Any]) -> str:
    return (
        f"{found['trainings']} trainings, {found['samplings']} samplings, {found['scorings']} scorings\n"
        f"the driver's own {found['own_seconds']:.1f} s of processor time ({found['again_seconds']:.1f} s where all is "
        f"done), {100 * found['share']:.2f} % of a matrix of {found['assumed_seconds'] / 60:.0f} minutes"
    )


if __name__ == "__main__":
    main()
