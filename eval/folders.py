"""What is where in an evaluation folder: a round's RUN/round-N/judge, or the --out folder of `icr judge`."""

from __future__ import annotations

from pathlib import Path


def benchmark_folder(out: Path, benchmark: str) -> Path:
    """X-AlpacaEval's files are in the folder itself, those of any other benchmark in one of its name."""
    return out if benchmark == "xalpaca" else out / benchmark


def summary_path(out: Path, benchmark: str) -> Path:
    return benchmark_folder(out, benchmark) / "summary.json"


def cache_path(out: Path, benchmark: str) -> Path:
    """What an endpoint has answered: one file per benchmark, so that each knows what it cost."""
    return benchmark_folder(out, benchmark) / "cache.sqlite"
