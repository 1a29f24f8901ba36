"""The training's data file, and the order its rows are laid out in."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest

from icr.base.errors import UserError
from loops.data import Split, hold_back, lay_out, longest_first, write_training_data
from loops.dpo import DPO
from loops.pair_family import PairFamily
from tests.helpers.training_runs import random_pairs


class TestSchedule:
    """Rows are told apart by their reference log-prob, the row number."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        pairs = random_pairs(10)
        rows = DPO(beta=0.1, nll_weight=1.0).dataset(pairs, [float(n // 2) for n in range(20)])
        write_training_data(tmp_path / "data.parquet", rows, PairFamily.columns)
        return tmp_path / "data.parquet"

    def lay_out(self, data: Path, **changes: Any) -> Any:
        usual = {"answers": PairFamily.answers, "context": 512, "epochs": 2.5, "split": Split(8, 2, 2), "seed": 1}
        return lay_out(data, **{**usual, **changes})

    def test_passes_and_weights(self, data: Path) -> None:
        """2.5 passes over 10 rows are 25 rows: three steps of 8, and one of 1, filled up to 2·2."""
        schedule = self.lay_out(data)
        order = schedule.table["ref_chosen_logps"].to_pylist()
        weight = schedule.table["weight"].to_pylist()
        assert sorted(order[:10]) == sorted(order[10:20]) == list(range(10))
        assert order[:10] != order[10:20] and len(set(order[20:25])) == 5
        assert weight == [1.0] * 24 + [4.0, 0, 0, 0]
        assert (schedule.steps, schedule.accumulation, schedule.rows) == (4, 2, 10)
        assert schedule.epochs == [0, 0.8, 1.6, 2.4, 2.5]
        lengths = [
            2 * len(row["prompt_ids"]) + len(row["chosen_ids"]) + len(row["rejected_ids"])
            for row in schedule.table.to_pylist()
        ]
        assert schedule.tokens == [sum(lengths[:n]) for n in (0, 8, 16, 24, 28)]

    def test_order_depends_on_the_seed_alone(self, data: Path) -> None:
        order = [self.lay_out(data, **c).table["ref_chosen_logps"].to_pylist()[:25]
                 for c in ({}, {"split": Split(8, 8, 1)}, {"seed": 2})]  # fmt: skip
        assert order[0] == order[1] != order[2]

    def test_by_length(self, data: Path) -> None:
        """The same rows in every step, with the same weights; within a step the longest first."""
        plain, ranked = self.lay_out(data), self.lay_out(data, by_length=True)
        assert ranked.tokens == plain.tokens
        for start in range(0, 28, 8):
            rows, before = (one.table.to_pylist()[start : start + 8] for one in (ranked, plain))
            longest = [len(row["prompt_ids"]) + max(len(row["chosen_ids"]), len(row["rejected_ids"])) for row in rows]
            assert longest == sorted(longest, reverse=True)
            known = [sorted((row["number"], row["weight"]) for row in of) for of in (rows, before)]
            assert known[0] == known[1]
        assert ranked.table["number"].to_pylist() != plain.table["number"].to_pylist()

    def test_longest_first(self) -> None:
        """Two steps of 3 and one of 2; equal lengths stay in their order."""
        assert longest_first(np.array([5, 9, 5, 1, 2, 3, 4, 7]), 3).tolist() == [1, 0, 2, 5, 4, 3, 7, 6]

    def test_too_long_rows_are_counted(self, data: Path) -> None:
        lengths = [len(p["prompt_ids"]) + max(len(p["chosen_ids"]), len(p["rejected_ids"])) for p in random_pairs(10)]
        context = sorted(lengths)[4]
        fitting = sum(length <= context for length in lengths)
        assert 0 < fitting < 10
        schedule = self.lay_out(data, context=context, epochs=1)
        assert (schedule.rows, schedule.dropped_too_long) == (fitting, 10 - fitting)
        assert all(lengths[int(n)] <= context for n in schedule.table["ref_chosen_logps"].to_pylist())
        with pytest.raises(UserError, match="none of the 10 training rows fits"):
            self.lay_out(data, context=3)

    def test_batch_that_cannot_be_split(self, data: Path) -> None:
        with pytest.raises(UserError, match="cannot be split") as raised:
            self.lay_out(data, split=Split(6, 2, 2))
        assert "multiple of 4" in raised.value.do

    def test_no_pair_and_no_token(self, tmp_path: Path) -> None:
        with pytest.raises(UserError, match="no pair"):
            write_training_data(tmp_path / "none.parquet", [], PairFamily.columns)
        pairs = random_pairs(2)
        pairs[1]["rejected_ids"] = []
        with pytest.raises(UserError, match="pair 2 has no token in rejected_ids"):
            DPO(beta=0.1, nll_weight=1.0).dataset(pairs, [0.0] * 4)

    def test_columns(self, data: Path) -> None:
        assert pq.read_schema(data).names == [
            "prompt_id", "prompt_ids", "chosen_ids", "rejected_ids", "ref_chosen_logps", "ref_rejected_logps",
        ]  # fmt: skip


class TestValidation:
    """Rows held back: 12 rows of 6 prompts, of which prompt n has rows 2·n and 2·n + 1."""

    @pytest.fixture
    def data(self, tmp_path: Path) -> Path:
        pairs = [{**pair, "prompt_id": f"p{n // 2}"} for n, pair in enumerate(random_pairs(12))]
        rows = DPO(beta=0.1, nll_weight=1.0).dataset(pairs, [float(n // 2) for n in range(24)])
        write_training_data(tmp_path / "data.parquet", rows, PairFamily.columns)
        return tmp_path / "data.parquet"

    @pytest.mark.parametrize(("asked", "rows"), [(0.25, 4), (3, 4), (2, 2), (0.01, 2), (0.5, 6)])
    def test_whole_prompts_are_held_back(self, data: Path, asked: float, rows: int) -> None:
        """3 of 12 rows, by number or as a quarter: two prompts of two rows; 0.01 still is one row, so one prompt."""
        held = hold_back(pq.read_table(data), asked, seed=1)
        assert held.sum() == rows
        assert all(held[n] == held[n + 1] for n in range(0, 12, 2))
        assert (held == hold_back(pq.read_table(data), asked, seed=1)).all()

    def test_another_seed_holds_back_others(self, data: Path) -> None:
        drawn = {tuple(hold_back(pq.read_table(data), 2, seed)) for seed in range(20)}
        assert len(drawn) == 6

    def test_by_the_tokens_where_there_is_no_id(self, data: Path) -> None:
        table = pq.read_table(data).drop_columns(["prompt_id"])
        assert hold_back(table, 3, seed=1).sum() == 3

    def test_held_back_rows_are_not_trained_on(self, data: Path) -> None:
        """Of 12 rows 4 are held back, filled up to 2·3; 8 are left, in two passes of 16 rows: 12 and 4."""
        split = Split(12, 2, 3)
        schedule = lay_out(data, answers=PairFamily.answers, context=512, epochs=2, split=split, seed=1, validation=0.3)
        assert schedule.validation is not None
        held = schedule.validation["ref_chosen_logps"].to_pylist()
        assert schedule.validation["weight"].to_pylist() == [1.0] * 4 + [0.0] * 2
        assert (schedule.rows, schedule.validation_rows, schedule.steps) == (8, 4, 2)
        trained = schedule.table["ref_chosen_logps"].to_pylist()
        assert sorted({*held[:4], *trained}) == list(range(12)) and not {*held} & {*trained}
        assert sorted(schedule.trained_rows()["ref_chosen_logps"].to_pylist()) == sorted({*trained})

    def test_something_has_to_be_left(self, data: Path) -> None:
        with pytest.raises(UserError, match="11 of 12 rows for validation leave none to train on"):
            hold_back(pq.read_table(data), 11, seed=1)

    def test_none(self, data: Path) -> None:
        assert not hold_back(pq.read_table(data), 0, seed=1).any()
