"""Shards cut along their unit, and their results put together again."""

from __future__ import annotations

import pyarrow as pa
import pytest

from icr.work.parts import Part, Whole
from icr.work.pool import Shard
from tests.helpers.dummy_worker import make_shards


def whole(rows: int, group: int, weight: int = -1, unit: tuple[str, ...] = ("group",)) -> Part:
    table = make_shards(1, rows, group=group)[0].table
    shard = Shard("00000", table, weight)
    return Part(Whole(shard, unit), 0, rows)


def test_halves_never_part_a_unit_and_are_as_equal_as_can_be() -> None:
    halves = whole(8, group=3).cut()
    assert halves is not None
    assert [half.table["number"].to_pylist() for half in halves] == [[0, 1, 2], [3, 4, 5, 6, 7]]
    assert halves[0].twin is halves[1] and halves[1].twin is halves[0]


def test_every_row_is_a_unit_where_the_task_names_none() -> None:
    halves = whole(4, group=4, unit=()).cut()
    assert halves is not None and [half.table.num_rows for half in halves] == [2, 2]


def test_one_unit_cannot_be_cut() -> None:
    assert whole(3, group=3).cut() is None
    assert whole(1, group=1, unit=()).cut() is None


@pytest.mark.parametrize("weight", [-1, 7, 100])
def test_the_weights_of_all_parts_add_up(weight: int) -> None:
    part = whole(5, group=1, weight=weight)
    uncut, single = [part], list[Part]()
    while uncut:
        halves = uncut[-1].cut()
        single += [] if halves else [uncut[-1]]
        uncut[-1:] = halves or ()
        assert sum(p.weight for p in [*uncut, *single]) == (5 if weight < 0 else weight)
    assert len(single) == 5


def test_results_come_together_in_the_order_of_the_rows() -> None:
    part = whole(6, group=1)
    first, second = part.cut() or pytest.fail("it has six units")
    for half in (second, first):
        assert not part.whole.is_done()
        part.whole.add(half, pa.table({"number": half.table["number"]}))
    assert part.whole.is_done()
    assert part.whole.join()["number"].to_pylist() == list(range(6))


def test_a_part_is_described_by_its_unit_or_its_short_values() -> None:
    assert whole(3, group=3).describe() == "shard 00000, row 1: group=g0"
    assert whole(3, group=1).describe() == "shard 00000, rows 1 to 3"
    table = pa.table({"text": ["word " * 40], "ids": [[1, 2]], "number": [5]})
    described = Part(Whole(Shard("a", table), ()), 0, 1).describe()
    assert described == f"shard a, row 1: text={('word ' * 40)[:60]}…, number=5"
