"""The benchmark of a reward model's training: both sides train the same, and the comparison says so or fails."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks.reward_models import make_model
from benchmarks.reward_training import TOLERANCE, Setup, Trained, compare, make_pairs, text_of, train_ours, train_stock


def test_our_training_has_the_losses_of_trl(tmp_path: Path) -> None:
    """Two steps of 4 pairs, two at once, of uneven lengths: RewardTrainer pads in the pairs' order, ours by length."""
    setup = Setup(str(make_model(tmp_path / "model")), pairs=8, batch=4, micro=2, checkpointing=False)
    stock, ours = train_stock(setup, tmp_path), train_ours(setup, tmp_path)
    assert len(stock.losses) == len(ours.losses) == 2
    assert ours.losses == pytest.approx(stock.losses, abs=TOLERANCE)
    assert ours.losses[1] != pytest.approx(ours.losses[0], abs=1e-3)


def test_comparison() -> None:
    """Medians of the sides, and the median of the turns' ratios: 4/2, 9/3 and 5/5."""
    found = {
        "baseline": [Trained(4, 4, [1.0, 0.5], 0), Trained(9, 6, [1.0, 0.5], 0), Trained(5, 5, [1.0, 0.5], 0)],
        "icr": [Trained(2, 1, [1.0, 0.25], 0), Trained(3, 4, [1.0, 0.25], 0), Trained(5, 5, [1.0, 0.25], 0)],
    }
    result = compare(found)
    assert (result["baseline"], result["icr"], result["ratio"]) == (5, 3, 2)
    assert result["ratio_of_processor_time"] == 1.5
    assert result["largest_difference"] == 0.25
    text = text_of(
        {**result, **Setup("m", 8, 4, 2, True)._asdict(), "device": "cpu", "memory": {"baseline": 2**21, "icr": 2**20}}
    )
    assert "2.00 times as fast (1.50 by processor time)" in text and "RewardTrainer 2 MiB, icr 1 MiB" in text


def test_pairs_are_of_uneven_lengths() -> None:
    lengths = [len(text.split()) for pair in make_pairs(64) for text in pair]
    assert max(lengths) > 5 * sorted(lengths)[len(lengths) // 2]
