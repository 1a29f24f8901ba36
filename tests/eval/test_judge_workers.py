"""Judging by real workers: how many there are changes nothing, and one that is killed costs a shard at most."""

from __future__ import annotations

import io
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pyarrow.parquet as pq
import pytest
from rich.console import Console

from eval.judges.asking import Judging
from eval.xalpaca.pairwise import run_verdicts
from icr.config.schema import Judge
from icr.work.local_pool import Lane, LocalPool
from icr.work.machine import Machine
from tests.helpers.judging import write_answers

ROOT = Path(__file__).resolve().parents[2]
COUNT = 20
KILLED_ONCE = """
import os, pathlib, signal

class Dies:
    def preferences(self, rows):
        mark = pathlib.Path(__file__).with_suffix(".mark")
        if len(rows) < 256 and not mark.exists():  # in the second piece, when the first is done
            mark.touch()
            os.kill(os.getpid(), signal.SIGKILL)
        return [float(len(row["first"]) > len(row["second"])) for row in rows]
"""


@contextmanager
def machine_of(folder: Path, lane: str, count: int, console: Console) -> Iterator[Machine]:
    """A machine with `count` workers in one lane, as if it had as many devices."""
    machine = Machine(folder, console)
    with LocalPool(folder, {lane: Lane(count)}, env={"PYTHONPATH": str(ROOT)}) as pool:
        machine.__dict__["pool"] = pool
        yield machine


def verdicts(folder: Path) -> list[dict[str, object]]:
    return pq.read_table(folder / "verdicts" / "de.parquet").to_pylist()


@pytest.mark.timeout(300)
def test_a_local_judge_on_two_workers_says_what_one_says(tiny: Path, tmp_path: Path) -> None:
    texts = {str(n): f"Antwort {n} " + "und mehr " * (n % 5) for n in range(COUNT)}
    answers = write_answers(tmp_path / "answers", "de", texts)
    baseline = {"de": dict.fromkeys(texts, "Eine andere Antwort.")}
    shown = io.StringIO()
    for count in (1, 2):
        out = tmp_path / f"workers-{count}"
        with machine_of(out, "scorer", count, Console(file=shown)) as machine:
            config = Judge(kind="local", model=str(tiny))
            judging = Judging.of(config, str(tiny), machine, "key", out / "cache.sqlite")
            run_verdicts(judging, answers, baseline, out)
        assert len(list((out / "logs").glob("scorer-*.log"))) == count, "every worker had a share"
        assert not list(out.rglob("*.sqlite")) and not (out / "verdicts" / "pieces").exists()
    one, two = (verdicts(tmp_path / f"workers-{count}") for count in (1, 2))
    assert one == two and len(one) == 2 * COUNT and len({row["preference"] for row in one}) > COUNT
    assert "failed" not in shown.getvalue()


@pytest.mark.timeout(300)
def test_a_judging_worker_that_is_killed_is_replaced_and_nothing_is_lost(tmp_path: Path) -> None:
    (tmp_path / "my_judge.py").write_text(KILLED_ONCE)
    texts = {str(n): "lang genug, ja" if n % 3 else "kurz" for n in range(150)}
    answers = write_answers(tmp_path / "answers", "de", texts)
    baseline = {"de": dict.fromkeys(texts, "mittellang")}
    out, shown = tmp_path / "out", io.StringIO()
    with machine_of(out, "asker", 1, Console(file=shown, width=400)) as machine:
        config = Judge(kind=f"{tmp_path / 'my_judge.py'}:Dies")
        run_verdicts(Judging.of(config, None, machine, "key", out / "cache"), answers, baseline, out)
    assert (tmp_path / "my_judge.mark").exists(), "a worker was killed"
    assert "is tried again, because a worker failed: killed by SIGKILL" in shown.getvalue()
    found = {(row["prompt_id"], row["order"]): row["preference"] for row in verdicts(out)}
    assert len(found) == 300
    for id, text in texts.items():
        assert found[id, "policy-first"] == found[id, "baseline-first"] == float(len(text) > len("mittellang"))
