"""What is where in an evaluation folder: a round's RUN/round-N/judge, or the --out folder of `icr judge`."""

from __future__ import annotations

from pathlib import Path

from icr.base.fields import Fields
from icr.base.files import read_object
from icr.base.rundir import RunDir


def benchmark_folder(out: Path, benchmark: str) -> Path:
    """X-AlpacaEval's files are in the folder itself, those of any other benchmark in one of its name."""
    return out if benchmark == "xalpaca" else out / benchmark


def summary_path(out: Path, benchmark: str) -> Path:
    return benchmark_folder(out, benchmark) / "summary.json"


def cache_path(out: Path, benchmark: str) -> Path:
    """What an endpoint has answered: one file per benchmark, so that each knows what it cost."""
    return benchmark_folder(out, benchmark) / "cache.sqlite"


def verdicts_folder(out: Path, benchmark: str) -> Path:
    """The tables of verdicts, LANG.parquet."""
    folder = benchmark_folder(out, benchmark)
    return folder if benchmark == "accuracy" else folder / "verdicts"


def evaluation_inside(folder: Path, benchmark: str) -> Path | None:
    """The evaluation folder that is meant by a round's folder, or by a run's: that of its last judged round."""
    inside = [folder / "judge", *(round_.judge for round_ in reversed(RunDir(folder).rounds()))]
    return next((path for path in inside if summary_path(path, benchmark).is_file()), None)


def read_summary(path: Path) -> Fields:
    """A benchmark's summary.

    Raises:
        OSError: it cannot be read.
        ValueError: it is not JSON, or not a summary.
    """
    summary = read_object(path)
    for key in ("languages", "average"):
        if not isinstance(summary.get(key), dict):
            raise ValueError(f"there is no {key} in it")
    return summary
