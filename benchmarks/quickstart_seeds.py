"""What the quickstart shows, on many seeds and on both kinds of CPU, beside its control.

    python -m benchmarks.quickstart_seeds [--seeds 10] [--kinds bf16,avx2] [--out FOLDER] [--json]

For each seed, `icr compare` runs the quickstart twice from one aligned model: with the cross-lingual reward and with
random pairs. A seed changes the samples of both rounds and the held-out answers. `avx2` switches the other instructions
off in PyTorch and oneDNN. Killed, the same command goes on.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path

ROOT = Path(__file__).parents[1]
KINDS = {"bf16": {}, "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}}
VARIANTS = ("cross-lingual", "random")


def measure(kinds: list[str], seeds: list[int], out: Path) -> list[dict[str, object]]:
    """One row a kind of CPU, seed and variant."""
    rows = []
    for kind in kinds:
        for seed in seeds:
            folder = out / kind / str(seed)
            _run(folder, seed, KINDS[kind])
            for variant in VARIANTS:
                row = {"cpu": kind, "seed": seed, "variant": variant, **read(folder / f"variants/kind={variant}")}
                print(show(row), file=sys.stderr, flush=True)
                rows.append(row)
    return rows


def read(run: Path) -> dict[str, object]:
    """Win rates of the last round over all languages, plain and length-controlled, with intervals; and the language
    whose share of answers in the right language has fallen most, or risen least."""
    judged = [json.loads(file.read_text()) for file in sorted(run.glob("round-*/judge/summary.json"))]
    first, last = judged[0]["languages"], judged[-1]["languages"]
    average = judged[-1]["average"]
    changes = {lang: last[lang]["right_language"] - first[lang]["right_language"] for lang in first}
    fallen = min(changes, key=lambda lang: changes[lang])
    return {
        **{key: average[key] for name in ("win_rate", "lc_win_rate") for key in (name, f"{name}_interval")},
        "least_change": changes[fallen],
        "language": fallen,
    }


def show(row: dict[str, object]) -> str:
    """One line of the table; the change in the right language is in points."""
    rates = "  ".join(_show_rate(row[name], row[f"{name}_interval"]) for name in ("win_rate", "lc_win_rate"))
    change = f"{100 * float(str(row['least_change'])):+.0f} ({row['language']})"
    return f"{row['cpu']:<5} {row['seed']:>4}  {row['variant']:<14} {rates}  {change}"


def _show_rate(rate: object, interval: object) -> str:
    assert isinstance(rate, float) and isinstance(interval, list)
    return f"{rate:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def _run(folder: Path, seed: int, instructions: dict[str, str]) -> None:
    command = [sys.executable, "-m", "icr", "compare", "quickstart", "--out", str(folder), "--set"]
    command += [f"sampling.seed={seed}", "--set", f"train.seed={seed}", "--vary", f"reward.kind={','.join(VARIANTS)}"]
    done = subprocess.run(command, env={**os.environ, **instructions}, cwd=ROOT, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"seed {seed} ended with {done.returncode}:\n{done.stderr[-2000:]}")


def main() -> None:
    parser = argparse.ArgumentParser(description="the quickstart's result on many seeds, beside random pairs")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds, counted from 1")
    parser.add_argument("--kinds", default="bf16,avx2", help="kinds of CPU, by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart-seeds"), help="where the runs lie")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the lines")
    args = parser.parse_args()
    rows = measure(args.kinds.split(","), list(range(1, args.seeds + 1)), args.out)
    if args.json:
        print(json.dumps(rows))


if __name__ == "__main__":
    main()
