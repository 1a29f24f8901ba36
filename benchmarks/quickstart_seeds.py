"""What the quickstart shows, on many seeds and on both kinds of CPU, beside its control.

    python -m benchmarks.quickstart_seeds [--seeds 10] [--kinds bf16,avx2] [--out FOLDER] [--read] [--json]

A kind of CPU is one `icr compare` from one aligned model: each seed with the cross-lingual reward, then with random
pairs. A seed changes the samples of both rounds and the held-out answers. `avx2` switches the other instructions off in
PyTorch and oneDNN. The same command continues after a kill, also with more seeds; --read shows what is finished.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
from itertools import product
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
KINDS = {"bf16": {}, "avx2": {"ATEN_CPU_CAPABILITY": "avx2", "ONEDNN_MAX_CPU_ISA": "AVX2"}}
VARIANTS = ("cross-lingual", "random")
ROUNDS = 2
"""Of the quickstart."""


def measure(kind: str, seeds: list[int], out: Path) -> None:
    """Run or continue every seed with every kind of pairs."""
    command = [sys.executable, "-m", "icr", "compare", "quickstart", "--out", str(out / kind)]
    command += ["--vary", f"sampling.seed={','.join(map(str, seeds))}", "--vary", f"reward.kind={','.join(VARIANTS)}"]
    if code := subprocess.run(command, env={**os.environ, **KINDS[kind]}, cwd=ROOT, stdout=sys.stderr).returncode:
        sys.exit(f"the comparison of {kind} ended with {code}; the same command continues")


def collect(kind: str, seeds: list[int], out: Path) -> list[dict[str, object]]:
    """One row a seed and kind of pairs, of the runs that are finished."""
    rows = []
    for seed, variant in product(seeds, VARIANTS):
        run = out / kind / "variants" / f"seed={seed}_kind={variant}"
        if (run / f"round-{ROUNDS}/judge/summary.json").is_file():
            rows.append({"cpu": kind, "seed": seed, "variant": variant, **read(run)})
    return rows


def read(run: Path) -> dict[str, object]:
    """Win rates of the last round over all languages, plain and length-controlled, with intervals; and the share of
    answers in the right language of each, before and after."""
    judged = [json.loads(file.read_text()) for file in sorted(run.glob("round-*/judge/summary.json"))]
    first, last = judged[0]["languages"], judged[-1]["languages"]
    average = judged[-1]["average"]
    return {
        **{key: average[key] for name in ("win_rate", "lc_win_rate") for key in (name, f"{name}_interval")},
        "right_language": {lang: [of[lang]["right_language"] for of in (first, last)] for lang in first},
    }


def show(row: dict[str, Any]) -> str:
    """One line of the table; shares in percent."""
    rates = "  ".join(_show_rate(row[name], row[f"{name}_interval"]) for name in ("win_rate", "lc_win_rate"))
    shares = (f"{lang} {100 * was:.0f} → {100 * now:.0f}" for lang, (was, now) in row["right_language"].items())
    return f"{row['cpu']:<5} {row['seed']:>4}  {row['variant']:<14} {rates}  {', '.join(shares)}"


def _show_rate(rate: object, interval: object) -> str:
    assert isinstance(rate, float) and isinstance(interval, list)
    return f"{rate:.1f} [{interval[0]:.1f}, {interval[1]:.1f}]"


def main() -> None:
    parser = argparse.ArgumentParser(description="the quickstart's result on many seeds, beside random pairs")
    parser.add_argument("--seeds", type=int, default=10, help="how many seeds, counted from 1")
    parser.add_argument("--kinds", default="bf16,avx2", help="kinds of CPU, by commas")
    parser.add_argument("--out", type=Path, default=Path("runs/quickstart-seeds"), help="where the runs lie")
    parser.add_argument("--read", action="store_true", help="run nothing, show what is finished")
    parser.add_argument("--json", action="store_true", help="print JSON instead of the lines")
    args = parser.parse_args()
    rows, seeds = [], list(range(1, args.seeds + 1))
    for kind in args.kinds.split(","):
        if not args.read:
            measure(kind, seeds, args.out.resolve())
        rows += collect(kind, seeds, args.out)
    print(json.dumps(rows) if args.json else "\n".join(map(show, rows)))


if __name__ == "__main__":
    main()
