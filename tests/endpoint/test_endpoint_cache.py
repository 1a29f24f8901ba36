"""The cache of an endpoint's answers: group commits, two processes at once, and what cannot be kept."""

from __future__ import annotations

import asyncio
import json
import sqlite3
import subprocess
import sys
import threading
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from icr.base.errors import UserError
from icr.base.files import write_text
from icr.endpoint.cache import Cache, Lookup, Writer
from icr.endpoint.endpoint import _alone
from tests.helpers.endpoints import asks, endpoint
from tests.helpers.stub_server import Stub, says

ROOT = Path(__file__).resolve().parents[2]
CONCURRENCY = 8

TWO = """
import sys
from pathlib import Path
from icr.endpoint.endpoint import Endpoint
from icr.config.schema import Endpoint as Settings
from tests.helpers.endpoints import asks
url, folder, start, stop = sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]), int(sys.argv[4])
endpoint = Endpoint("m", folder / "c.sqlite", Settings(base_url=url, concurrency=8))
print("ready", flush=True)
sys.stdin.readline()
replies = endpoint.ask(asks(500)[start:stop], lambda more: None)
print([reply.choices[0].message.content for reply in replies])
"""


def test_two_processes_at_once_share_what_either_has_paid_for(tmp_path: Path) -> None:
    """They ask overlapping questions. One is paid for twice only where both have it on its way when they meet."""

    def script(request: dict[str, object], before: int) -> object:
        return replace(says(f"answer {len(stub.sent)}"), delay=0.02)

    with Stub(script) as stub:  # type: ignore[arg-type]
        both = [
            subprocess.Popen(
                [sys.executable, "-c", TWO, stub.url, str(tmp_path), *span],
                cwd=ROOT,
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                text=True,
            )
            for span in (("0", "400"), ("100", "500"))
        ]
        for process in both:
            assert process.stdout is not None and process.stdout.readline() == "ready\n"
        for process in both:
            assert process.stdin is not None
            process.stdin.write("\n")
            process.stdin.flush()
        first, second = ([*map(str, _list(process.communicate()[0]))] for process in both)
        assert [process.returncode for process in both] == [0, 0]
        twice = sum(count - 1 for count in stub.asked.values())
    assert len(stub.asked) == 500 == len(Cache(tmp_path / "c.sqlite"))
    assert first[100:] == second[:300]  # also where both paid: one answer stays
    assert twice <= 2 * CONCURRENCY


def test_a_new_cache_may_be_opened_by_many_at_once(tmp_path: Path) -> None:
    """Who comes while another turns the new file to WAL is refused by sqlite at once, and has to come again."""
    other = sqlite3.connect(tmp_path / "c.sqlite", isolation_level=None, check_same_thread=False)
    other.execute("BEGIN IMMEDIATE")
    threading.Timer(0.3, other.close).start()
    Cache(tmp_path / "c.sqlite").put("key", "A")
    assert Cache(tmp_path / "c.sqlite").get("key") == "A"


def test_a_cache_that_stays_locked_is_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    Cache(tmp_path / "c.sqlite")
    holder = sqlite3.connect(tmp_path / "c.sqlite", isolation_level=None)
    holder.execute("BEGIN EXCLUSIVE")
    monkeypatch.setattr("icr.endpoint.cache.SECONDS_FOR_OTHERS", 0.1)
    with pytest.raises(UserError, match="another process has locked the cache"):
        Cache(tmp_path / "c.sqlite").put("key", "A")


def _list(text: str) -> list[str]:
    found: list[str] = json.loads(text.replace("'", '"'))
    return found


def test_who_is_not_alone_starts_from_the_end(tmp_path: Path) -> None:
    with Stub(lambda request, before: says("A")) as stub:
        orders = []
        for held in (False, True):
            order: list[int] = []
            asked = endpoint(tmp_path, stub.url, concurrency=1, name=f"c{held}")
            with _alone(tmp_path) if held else nullcontext():
                asked.ask(asks(3), lambda more: None, lambda number, reply, order=order: order.append(number))  # type: ignore[misc]
            orders.append(order)
    assert orders == [[0, 1, 2], [2, 1, 0]]


def test_an_answer_counts_when_it_is_on_disk(tmp_path: Path) -> None:
    seen: list[bool] = []

    def heard(number: int, reply: object) -> None:
        other = Cache(tmp_path / "c.sqlite")  # as another process would see it
        seen.append(len(other) > len(seen))

    with Stub(lambda request, before: replace(says("A"), delay=0.01)) as stub:
        endpoint(tmp_path, stub.url, concurrency=4).ask(asks(40), lambda more: None, heard)
    assert seen == [True] * 40


def test_a_writer_makes_one_transaction_of_what_comes_in_together(tmp_path: Path) -> None:
    cache = Cache(tmp_path / "c.sqlite")
    sizes: list[int] = []

    class Counted(Cache):
        def put_all(self, answers):  # type: ignore[no-untyped-def]
            sizes.append(len(answers))
            return super().put_all(answers)

    async def write() -> list[tuple[str, str | None]]:
        kept: list[tuple[str, str | None]] = []
        writer = Writer(Counted(tmp_path / "c.sqlite"))
        for n in range(50):
            writer.put(f"k{n}", "ours", lambda there, n=n: kept.append((f"k{n}", there)))  # type: ignore[misc]
        await asyncio.sleep(0)
        writer.flush()
        return kept

    cache.put("k7", "theirs")
    assert asyncio.run(write()) == [(f"k{n}", "theirs" if n == 7 else None) for n in range(50)]
    assert sizes == [50]
    assert (cache.get("k7"), cache.get("k8"), cache.get("k50")) == ("theirs", "ours", None)


def test_a_full_disk_is_said_and_nothing_more_is_paid_for(tmp_path: Path) -> None:
    with Stub(lambda request, before: says("A" * 4000)) as stub:
        asked = endpoint(tmp_path, stub.url, concurrency=2)
        pages = asked._cache._db.execute("PRAGMA page_count").fetchone()[0]
        asked._cache._db.execute(f"PRAGMA max_page_count = {pages + 8}")  # room for few answers
        with pytest.raises(UserError, match="disk is full"):
            asked.ask(asks(400), lambda more: None)
        assert len(stub.sent) < 200
        kept = len(Cache(tmp_path / "c.sqlite"))
        assert 0 < kept < len(stub.sent)
        endpoint(tmp_path, stub.url).ask(asks(400), lambda more: None)
        assert len(Cache(tmp_path / "c.sqlite")) == 400


def test_a_file_that_is_no_cache_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "c.sqlite", "no database, but long enough to be taken for one" * 50)
    with pytest.raises(UserError, match="cache of answers cannot be read") as caught:
        Cache(tmp_path / "c.sqlite")
    assert "c.sqlite" in caught.value.where


def test_questions_are_looked_up_some_at_a_time_and_what_was_not_there_is_looked_up_again_soon(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    cache, looks = Cache(tmp_path / "c.sqlite"), list[int]()
    found = cache.get_all
    monkeypatch.setattr(cache, "get_all", lambda keys: looks.append(len(keys)) or found(keys))
    keys = [f"k{n}" for n in range(12)]
    cache.put("k1", "one")
    lookup = Lookup(cache, 4)
    assert [lookup.find(key, keys[n + 1 :]) for n, key in enumerate(keys[:8])] == [None, "one", *[None] * 6]
    assert looks == [4, 4]
    assert lookup.find("k8", keys[9:]) is None and looks == [4, 4, 4]
    Cache(tmp_path / "c.sqlite").put_all([("k9", "theirs"), ("k10", "theirs")])
    monkeypatch.setattr(Lookup, "FRESH", 0.0)
    lookup._until = 0.0  # the moment is over
    assert lookup.find("k9", keys[10:]) == "theirs" and lookup.find("k10", keys[11:]) == "theirs"
    assert cache.get_all([f"k{n}" for n in range(1200)]) == {"k1": "one", "k9": "theirs", "k10": "theirs"}
