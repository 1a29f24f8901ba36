"""`icr transfer` with everything in it, on tiny models: how long it takes, and whether kills change its tables.

    python -m benchmarks.matrix [--kills 10] [--seed 0] [--work FOLDER] [--json]

Two experiments, one on pairs and one on ratings, each with two sources and three targets: reward models, best of n,
DPO and RLOO, a judge, a look inside. First undisturbed; then another time, with SIGKILLs of the command at random
moments, each followed by the same command. All tables have to be equal to the byte. At last a third source is added,
and its steps alone may run.
"""

from __future__ import annotations

import argparse
import json
import random
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import yaml

from tests.conftest import write_prompts
from tests.helpers.reward_models import make_encoder, make_folder, pair_rows, rating_rows
from tests.helpers.tiny_models import make_tiny_model

LANGUAGES = ("en", "es", "ru")
JUDGE = """
class Longer:
    def preferences(self, rows):
        return [0.5 + 0.5 * ((len(r["first"]) > len(r["second"])) - (len(r["first"]) < len(r["second"]))) for r in rows]
"""
TRAIN = {
    "learning_rate": 3e-3, "batch_size": 8, "micro_batch_size": 8, "epochs": 2, "precision": "fp32", "save_steps": 2,
    "deepspeed": "none", "gradient_checkpointing": False,
}  # fmt: skip


def make_experiment(folder: Path, rows: list[dict[str, Any]]) -> dict[str, Any]:
    """The content of an experiment, whose rows are copied into the third language."""
    rows = rows + [
        {**row, "lang": "ru", "prompt": row["prompt"].replace("en", "ru")} for row in rows if row["lang"] == "en"
    ]
    (folder / "judges.py").write_text(JUDGE)
    policy_train = {**TRAIN, "learning_rate": 1e-3, "epochs": 1}
    return {
        "base": str(make_encoder(folder / "encoder")),
        "languages": {"sources": ["en", "es"], "targets": list(LANGUAGES)},
        "data": {
            "preferences": str(make_folder(folder / "data", rows)),
            "prompts": str(write_prompts(folder / "judged", range(1, 9))),
        },
        "reward_model": {"train": TRAIN},
        "align": {
            "policy": str(make_tiny_model(folder / "policy")),
            "best_of_n": {"n": 4, "backend": "transformers", "precision": "fp32", "max_tokens": 8, "shard_size": 4},
            "dpo": {"prompts": str(write_prompts(folder / "dpo", range(11, 19))), "train": policy_train},
            "rl": {
                "prompts": str(write_prompts(folder / "rl", range(21, 33))),
                "sampling": {"n": 2, "max_tokens": 8}, "heldout": {"prompts": 4, "every": 2},
                "train": {**policy_train, "batch_size": 2, "micro_batch_size": 4},
            },
        },
        "judges": [{"kind": f"{folder / 'judges.py'}:Longer"}],
        "look": {},
    }  # fmt: skip


def start(file: Path, run: Path) -> subprocess.Popen[bytes]:
    command = [sys.executable, "-m", "icr", "transfer", str(file), "--run", str(run), "--quiet"]
    return subprocess.Popen(command, stdout=subprocess.DEVNULL)


def finish(file: Path, run: Path) -> float:
    """Seconds until the command has ended well."""
    began, process = time.monotonic(), start(file, run)
    if code := process.wait():
        sys.exit(f"icr transfer {file.name} ended with {code}")
    return time.monotonic() - began


def kill(file: Path, run: Path, kills: int, longest: float, rng: random.Random) -> int:
    """Start and kill; returns how many starts were killed before the experiment was finished."""
    for done in range(kills):
        process = start(file, run)
        try:
            code = process.wait(rng.uniform(2, longest))
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()
            continue
        if code:
            sys.exit(f"icr transfer {file.name} ended with {code} after {done} kills")
        return done
    return kills


def tables(run: Path) -> dict[str, bytes]:
    return {file.name: file.read_bytes() for folder in ("tables", "look") for file in (run / folder).glob("*.[cj]s*")}


def finished(run: Path) -> dict[str, float]:
    """Step → when it was finished."""
    records = {file.parent.name: json.loads(file.read_text()) for file in run.glob("steps/*/step.json")}
    return {name: record["finished"] for name, record in records.items()}


def measure(name: str, rows: list[dict[str, Any]], work: Path, kills: int, rng: random.Random) -> dict[str, object]:
    folder = work / name
    folder.mkdir(parents=True, exist_ok=True)
    content, file = make_experiment(folder, rows), folder / "x.yaml"
    file.write_text(yaml.safe_dump(content))
    calm = finish(file, folder / "calm")
    killed = kill(file, folder / "killed", kills, max(4.0, 2 * calm / kills), rng)
    finish(file, folder / "killed")
    first, second = tables(folder / "calm"), tables(folder / "killed")
    different = sorted(name for name in first.keys() | second.keys() if first.get(name) != second.get(name))
    before = finished(folder / "calm")
    content["languages"]["sources"].append("ru")
    file.write_text(yaml.safe_dump(content))
    added = finish(file, folder / "calm")
    after = finished(folder / "calm")
    again = sorted(name for name, when in before.items() if after[name] != when)
    return {
        "experiment": name, "steps": len(before), "seconds": round(calm), "kills": killed, "tables": len(first),
        "different_tables": different, "added_steps": len(after) - len(before), "added_seconds": round(added),
        "done_again": again,
    }  # fmt: skip


def main() -> None:
    parser = argparse.ArgumentParser(description="icr transfer with everything in it, killed again and again")
    parser.add_argument("--kills", type=int, default=10, help="of each of the two experiments, at most")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--work", type=Path, help="keep the runs here")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    rng = random.Random(args.seed)
    with tempfile.TemporaryDirectory() as temporary:
        work = (args.work or Path(temporary)).resolve()
        kinds = {"pairs": pair_rows(32), "ratings": rating_rows(32)}
        found = [measure(name, rows, work, args.kills, rng) for name, rows in kinds.items()]
    if args.json:
        print(json.dumps(found))
    else:
        for row in found:
            print(", ".join(f"{key} {value}" for key, value in row.items()))
    if any(row["different_tables"] or row["done_again"] for row in found):
        sys.exit("tables differ, or finished steps were done again")


if __name__ == "__main__":
    main()
