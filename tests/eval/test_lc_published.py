"""The published length-controlled win rates, met from the published judged pairs."""

from __future__ import annotations

import csv
import gzip
from pathlib import Path

import numpy as np
import pytest

from eval.xalpaca.judged_pairs import read_difficulty, read_gamed, read_judged_pairs
from eval.xalpaca.lc import LCResult, length_controlled
from icr.base.errors import UserError

pytestmark = pytest.mark.usefixtures("quiet")
PUBLISHED = Path(__file__).parents[2] / "../shared/data/lc"


@pytest.fixture(scope="module")
def published(
    tmp_path_factory: pytest.TempPathFactory,
) -> list[tuple[dict[str, str], tuple[LCResult, LCResult, LCResult]]]:
    """Per model its row of expected.csv and the results of the three variants."""
    if not PUBLISHED.is_dir():
        pytest.skip("the published judged pairs (../shared/data/lc) are not on this machine")
    with gzip.open(PUBLISHED / "pairs.csv.gz", "rt") as file:
        header, *lines = file.read().splitlines()
    difficulty, gamed = read_difficulty(PUBLISHED / "difficulty.csv"), read_gamed(PUBLISHED / "gamed.csv")
    path = tmp_path_factory.mktemp("lc") / "pairs.csv"
    found = []
    for row in csv.DictReader((PUBLISHED / "expected.csv").open()):
        path.write_text("\n".join([header, *(line for line in lines if line.startswith(row["model"] + ","))]))
        pairs = read_judged_pairs(path)
        fits = (
            length_controlled(pairs, difficulty, gamed),
            length_controlled(pairs, difficulty),
            length_controlled(pairs),
        )
        found.append((row, fits))
    return found


def test_published_models_are_met_exactly(
    published: list[tuple[dict[str, str], tuple[LCResult, LCResult, LCResult]]],
) -> None:
    assert len(published) == 10
    for row, fits in published:
        assert [fit.variant for fit in fits] == [f"length_controlled_{v}" for v in ("v1", "noreg", "minimal")]
        for fit, column in zip(fits, ("ours_v1", "ours_noreg", "ours_minimal"), strict=True):
            assert fit.lc_win_rate == pytest.approx(float(row[column]), abs=1e-5)
            assert fit.win_rate == pytest.approx(float(row["published_wr"]), abs=1e-5)
        assert fits[0].weights == pytest.approx(
            {name: float(row[f"w_{name}"]) for name in ("tanh_len", "difficulty", "intercept")}, abs=1e-5
        )


def test_published_values_are_near(
    published: list[tuple[dict[str, str], tuple[LCResult, LCResult, LCResult]]],
) -> None:
    differences = [abs(fits[0].lc_win_rate - float(row["published_lc"])) for row, fits in published]
    assert np.mean(differences) < 0.10 and max(differences) < 0.15


def test_a_table_of_ten_models_is_refused() -> None:
    if not PUBLISHED.is_dir():
        pytest.skip("the published judged pairs (../shared/data/lc) are not on this machine")
    with pytest.raises(UserError, match="10 models"):
        read_judged_pairs(PUBLISHED / "pairs.csv.gz")
