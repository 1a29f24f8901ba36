"""`python -m benchmarks`: every benchmark, one after the other, each in its own process."""

from __future__ import annotations

import subprocess
import sys

NAMES = (
    "alpha",
    "coverage",
    "scoring",
    "reward_models",
    "reward_training",
    "training",
    "sampling",
    "controller",
    "pool",
    "cluster",
    "quickstart",
    "judge",
    "audit",
)

if __name__ == "__main__":
    codes = []
    for name in NAMES:
        print(f"== {name}", flush=True)
        codes.append(subprocess.run([sys.executable, "-m", f"benchmarks.{name}"]).returncode)
    sys.exit(max(codes))
