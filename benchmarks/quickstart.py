"""The quickstart's time: alone, beside a process that keeps one core busy, and against an earlier revision.

    python -m benchmarks.quickstart [--json] [--against REVISION] [--no-busy]

Every run starts from nothing in a folder of its own, one after the other, so a quiet machine gives quiet figures. An
earlier revision is checked out into a folder that is removed afterwards; it runs with this environment's packages.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from icr.engines.precision import has_bf16

ROOT = Path(__file__).parents[1]


def measure(against: str | None, busy: bool) -> dict[str, object]:
    """Seconds of each run, and their ratios."""
    result: dict[str, object] = {"cores": os.cpu_count(), "bf16": has_bf16()}
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        if against:
            with _check_out(against, folder / "earlier") as tree:
                before = _time_run(tree, folder / "run-earlier")
            result |= {"against": against, "earlier_seconds": before}
        quiet = _time_run(ROOT, folder / "run-quiet")
        result["seconds"] = quiet
        result["stages"] = _read_stages(folder / "run-quiet")
        if against:
            result["ratio_to_earlier"] = quiet / before
        if busy:
            with _keep_busy():
                beside = _time_run(ROOT, folder / "run-busy")
            result |= {"busy_seconds": beside, "busy_ratio": beside / quiet}
    return result


def _time_run(tree: Path, run: Path) -> float:
    module = "icr.commands.main" if (tree / "icr" / "commands").is_dir() else "icr.cli"
    command = [sys.executable, "-m", module, "iterate", "--config", "quickstart", "--rounds", "2", "--run", str(run)]
    env = {**os.environ, "PYTHONPATH": str(tree)}
    started = time.perf_counter()
    done = subprocess.run(command, env=env, cwd=tree, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"the run in {tree} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return time.perf_counter() - started


def _read_stages(run: Path) -> dict[str, float]:
    """Seconds of each stage, as the run's records have them."""
    found = {}
    for file in sorted(run.glob("round-*/round.json")):
        for stage, record in json.loads(file.read_text())["stages"].items():
            found[f"{file.parent.name} {stage}"] = float(record["seconds"])
    return found


@contextmanager
def _check_out(revision: str, folder: Path) -> Iterator[Path]:
    git = ["git", "-C", str(ROOT), "worktree"]
    subprocess.run([*git, "add", "--quiet", "--detach", str(folder), revision], check=True)
    try:
        yield folder
    finally:
        subprocess.run([*git, "remove", "--force", str(folder)], check=True)


@contextmanager
def _keep_busy() -> Iterator[None]:
    process = subprocess.Popen([sys.executable, "-c", "while True: pass"])
    try:
        yield
    finally:
        process.kill()
        process.wait()


def main() -> None:
    parser = argparse.ArgumentParser(description="the quickstart's time, alone and beside a busy process")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--against", metavar="REVISION", help="also time an earlier revision of this repository")
    parser.add_argument("--no-busy", action="store_true", help="leave out the run beside a busy process")
    args = parser.parse_args()
    r = measure(args.against, not args.no_busy)
    if args.json:
        print(json.dumps(r))
        return
    print(f"{r['cores']} cores, {'with' if r['bf16'] else 'without'} bf16 instructions")
    print(f"alone        {r['seconds']:.0f} s")
    for stage, seconds in r["stages"].items():  # type: ignore[attr-defined]
        print(f"  {stage:<15} {seconds:5.0f} s")
    if args.against:
        print(f"{args.against:<12} {r['earlier_seconds']:.0f} s; now {r['ratio_to_earlier']:.2f} of it")
    if not args.no_busy:
        print(f"beside one   {r['busy_seconds']:.0f} s, {r['busy_ratio']:.2f} times as long")


if __name__ == "__main__":
    main()
