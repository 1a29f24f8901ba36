from __future__ import annotations

import json
from pathlib import Path

from benchmarks.quickstart_seeds import collect, show


def write_round(run: Path, number: int, win_rate: float, right: float) -> None:
    average = {"win_rate": win_rate, "win_rate_interval": [win_rate - 5, win_rate + 5]}
    average |= {f"lc_{name}": value for name, value in average.items()}
    folder = run / f"round-{number}" / "judge"
    folder.mkdir(parents=True)
    summary = {"languages": {"es": {"right_language": right}}, "average": average}
    (folder / "summary.json").write_text(json.dumps(summary))


def test_finished_runs_are_read_seed_by_seed(tmp_path: Path) -> None:
    """The last round's win rate, and the right language of the first and the last; an unfinished run is left out."""
    for seed, variant, rounds in ((1, "cross-lingual", 3), (1, "random", 3), (2, "cross-lingual", 2)):
        for number in range(rounds):
            run = tmp_path / "avx2" / "variants" / f"seed={seed}_kind={variant}"
            write_round(run, number, 50.0 + 6 * number, 0.8 + 0.05 * number)
    lines = [show(row) for row in collect("avx2", [1, 2], tmp_path)]
    assert [line.split()[:3] for line in lines] == [["avx2", "1", "cross-lingual"], ["avx2", "1", "random"]]
    assert lines[0].endswith("62.0 [57.0, 67.0]  62.0 [57.0, 67.0]  es 80 → 90")
