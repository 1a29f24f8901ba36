"""Workers that are killed, stopped, or raise; rows that no worker can do."""

from __future__ import annotations

import contextlib
import os
import shutil
from pathlib import Path
from typing import NamedTuple

import psutil
import pytest

from icr.base.errors import StageFailed, UserError
from icr.work.crew import Limits
from tests.helpers.dummy_worker import Sleep, make_shards
from tests.helpers.watching import Run, is_alive
from tests.work.conftest import OpenPool

QUICK, SOON = Limits(silence=4.0), Limits(floor=3.0)
"""Short, and still longer than a busy machine keeps a healthy worker waiting."""


@pytest.fixture
def task(tmp_path: Path) -> Sleep:
    return Sleep(folder=str(tmp_path), seconds=0.02)


@pytest.mark.parametrize("workers", [1, 2])
def test_a_killed_worker_costs_one_retry(open_pool: OpenPool, task: Sleep, workers: int) -> None:
    shards = make_shards(6, rows=4, deeds={9: "kill-once"})
    run = Run().run(open_pool(workers), task, shards)
    run.check(shards)
    assert (run.tally.retries, run.tally.restarts, run.tally.cuts) == (1, 1, 0)
    (note,) = run.retold
    assert note.startswith(
        "shard 00002 is tried again, because a worker failed: killed by SIGKILL (out of memory?) (log: "
    )


def test_a_stopped_worker_is_killed_after_its_silence(open_pool: OpenPool, task: Sleep) -> None:
    shards = make_shards(6, rows=2, deeds={4: "stop-once"})
    run = Run().run(open_pool(2), task, shards, QUICK)
    run.check(shards)
    (note,) = run.retold
    assert note.startswith("shard 00002 is tried again, because a worker failed: no sign of life for ")
    assert run.tally.restarts == 1


def test_a_shard_that_takes_far_longer_than_the_others_is_given_to_another(open_pool: OpenPool, task: Sleep) -> None:
    shards = make_shards(8, deeds={5: "hang-once"})
    run = Run().run(open_pool(2), task, shards, SOON)
    run.check(shards)
    (note,) = run.retold
    assert note.startswith("shard 00005 is tried again, because a worker failed: shard 00005 ran for ")


def test_a_shard_that_hangs_is_alone_to_blame(open_pool: OpenPool, task: Sleep) -> None:
    """With two in flight the other one is lost with the worker, but not counted against."""
    shards = make_shards(12, deeds={5: "hang-once"})
    run = Run().run(open_pool(1, depth=2), task, shards, SOON)
    run.check(shards)
    assert run.tally.retries == 1


def test_a_row_that_kills_every_worker_is_named_after_all_others_are_done(open_pool: OpenPool, task: Sleep) -> None:
    run, shards = Run(), make_shards(6, rows=4, deeds={7: "kill"}, group=2)
    with pytest.raises(StageFailed) as failed:
        run.run(open_pool(2), task, shards)
    run.check([shard for shard in shards if shard.name != "00001"])
    message = str(failed.value)
    assert message.startswith("these rows fail every time; all others are done:")
    assert "\n  shard 00001, row 3: group=g3\n" in message  # rows 6 and 7 of all, 3 and 4 of the shard, are a unit
    assert "killed by SIGKILL" in message and "about to be killed" in message and "engine-" in message
    assert run.tally.cuts == 1 and run.tally.restarts in (3, 4)  # two for 4 and 2 rows; the last one maybe in vain
    assert len(run.retold) == 1
    assert "shard 00001, row 3: group=g3 fails every time; the other shards are finished first" in run.notes


def test_a_row_that_raises_is_named(open_pool: OpenPool, task: Sleep) -> None:
    run, shards = Run(), make_shards(4, rows=4, deeds={14: "fail"})
    with pytest.raises(StageFailed, match="ValueError: this row cannot be read") as failed:
        run.run(open_pool(2), task, shards)
    run.check(shards[:3])
    assert "shard 00003, row 3: group=g14" in str(failed.value)
    assert "in fail\n" in str(failed.value)  # the traceback is in the tail of the log


def test_two_bad_rows_of_two_shards_are_named_together(open_pool: OpenPool, task: Sleep) -> None:
    run, shards = Run(), make_shards(4, rows=2, deeds={3: "fail", 4: "fail"})
    with pytest.raises(StageFailed) as failed:
        run.run(open_pool(1), task, shards)
    run.check([shards[0], shards[3]])
    assert "shard 00001, row 2: group=g3\n  shard 00002, row 1: group=g4" in str(failed.value)


def test_halves_come_back_as_the_shard_in_the_order_of_its_rows(open_pool: OpenPool, task: Sleep) -> None:
    """The shard dies twice, at different rows, and its halves come through."""
    shards = make_shards(3, rows=7, deeds={8: "kill-once", 12: "kill-once"})
    run = Run().run(open_pool(2), task, shards)
    run.check(shards)
    assert run.tally.cuts == 1 and run.tally.retries == 1
    assert run.shown[-1] == (21, 21, 210)


def test_rows_are_not_blamed_where_both_halves_fail(open_pool: OpenPool, task: Sleep) -> None:
    run, shards = Run(), make_shards(3, rows=8, deeds=dict.fromkeys(range(8, 24), "fail"))
    with pytest.raises(StageFailed, match="both halves of shard 00001 fail every time: the cause is not a single row"):
        run.run(open_pool(1), task, shards)
    run.check(shards[:1])
    assert run.tally.cuts == 1


def test_an_exception_before_anything_is_done_is_not_tried_again(open_pool: OpenPool, task: Sleep) -> None:
    run, shards = Run(), make_shards(4, rows=8, deeds=dict.fromkeys(range(32), "fail"))
    with pytest.raises(StageFailed, match="a worker failed: ValueError: this row cannot be read"):
        run.run(open_pool(1), task, shards)
    log = Path(task.folder) / "logs" / "engine-0.log"
    assert log.read_text().count("ValueError: this row cannot be read") == 1
    assert run.tally.retries == 0 and run.retold == []


def test_workers_that_die_before_anything_is_done_are_given_up_soon(open_pool: OpenPool, task: Sleep) -> None:
    run, shards = Run(), make_shards(4, rows=8, deeds=dict.fromkeys(range(32), "kill"))
    with pytest.raises(StageFailed, match="both halves of shard 00000 fail"):
        run.run(open_pool(1), task, shards)
    assert run.tally.restarts == 5


def test_workers_are_replaced_a_bounded_number_of_times(open_pool: OpenPool, task: Sleep) -> None:
    shards = make_shards(6, deeds=dict.fromkeys(range(1, 6), "kill-once"))
    with pytest.raises(StageFailed, match="a worker ended, after 2 had been replaced: killed by SIGKILL"):
        Run().run(open_pool(1), task, shards, Limits(restarts=2))


def test_a_worker_whose_engine_broke_is_replaced(open_pool: OpenPool, task: Sleep) -> None:
    """After the row's deed everything fails in that process, whatever the row."""
    shards = make_shards(5, rows=2, deeds={4: "break-once"})
    run = Run().run(open_pool(1), task, shards)
    run.check(shards)
    assert "worker engine-0 is replaced, because it failed 2 times in a row" in run.notes
    assert run.tally.restarts == 1


def test_leaving_is_a_failure_also_in_a_thread(open_pool: OpenPool, task: Sleep) -> None:
    shards = make_shards(6, deeds={2: "leave-once", 3: "leave-once"})
    run = Run().run(open_pool(1, depth=2), task, shards)
    run.check(shards)
    assert any("SystemExit: 3" in note for note in run.retold)


def test_a_users_error_stops_at_once_and_arrives_whole(open_pool: OpenPool, task: Sleep) -> None:
    run, shards = Run(), make_shards(6, deeds={2: "refuse"})
    with pytest.raises(UserError) as refused:
        run.run(open_pool(1), task, shards)
    error = refused.value
    assert (error.what, error.where, error.do) == (
        "the prompt is too long",
        "prompt p7, language es",
        "shorten it",
    )
    assert set(run.results) == {"00000", "00001"} and run.retold == []


def test_a_full_disk_is_named_whatever_the_worker_says(
    open_pool: OpenPool, task: Sleep, monkeypatch: pytest.MonkeyPatch
) -> None:
    class Usage(NamedTuple):
        free: int

    pool = open_pool(1)
    Run().run(pool, task, make_shards(1))
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(free=2**20))
    with pytest.raises(UserError, match="the disk is full"):
        Run().run(pool, task, make_shards(2, deeds={0: "kill"}))


def test_processes_that_a_dead_worker_leaves_behind_end_with_it(open_pool: OpenPool, task: Sleep) -> None:
    shards = make_shards(3, rows=2, deeds={2: "spawn", 3: "kill-once"})
    run = Run().run(open_pool(1), task, shards)
    run.check(shards)
    children = sorted(int(path.name.partition("-")[2]) for path in Path(task.folder).glob("child-*"))
    assert len(children) == 4  # of both tries, in the worker's process group and in a session of their own
    assert sum(is_alive(pid) for pid in children) == 2  # those of the second try, whose worker lives


def test_a_worker_ends_with_its_guard(open_pool: OpenPool, task: Sleep) -> None:
    """The guard is a process like others; where it is killed, the worker and its process group are ended from here."""
    pool = open_pool(1)
    (worker,) = Run().run(pool, task, make_shards(1, deeds={0: "spawn"})).pids()
    children = [psutil.Process(int(path.name.partition("-")[2])) for path in Path(task.folder).glob("child-*")]
    same_group = [child for child in children if os.getpgid(child.pid) == os.getpgid(worker)]
    psutil.Process(worker).parent().kill()
    shards = make_shards(2)
    after = Run().run(pool, task, shards)
    after.check(shards)
    assert len(same_group) == 1
    assert not is_alive(worker) and worker not in after.pids()
    assert not is_alive(same_group[0].pid)
    for child in children:
        with contextlib.suppress(psutil.NoSuchProcess):
            child.kill()  # the one in a session of its own, which nobody knows of any more


def test_two_shards_lost_with_one_worker_are_then_tried_each_alone(open_pool: OpenPool, task: Sleep) -> None:
    """One of two in flight kills the worker every time; the other one is never cut."""
    run, shards = Run(), make_shards(5, rows=2, deeds={6: "kill"})
    slower = task.model_copy(update={"seconds": 0.1})
    with pytest.raises(StageFailed, match="shard 00003, row 1: group=g6"):
        run.run(open_pool(1, depth=2), slower, shards)
    run.check([shard for shard in shards if shard.name != "00003"])
    assert run.tally.cuts == 1
