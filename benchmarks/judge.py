"""The judge engine's throughput against a stub endpoint on loopback: `python -m benchmarks.judge [--json]`.

1,000 pairs in both orders are 2,000 requests. At 64 under way at a time and 50 ms each they cannot take less than
2,000 / 64 × 0.05 s = 1.56 s. Measured is the judge's `ask`, from the questions to the verdicts, with every answer in
the cache on disk; and beside it a bare aiohttp loop that sends the same bodies and reads nothing. The stub is a process
of its own.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from itertools import permutations
from pathlib import Path
from typing import Any

import aiohttp

from eval.judges.endpoint import EndpointJudge
from eval.judges.question import Question
from eval.xalpaca.pairwise import Comparison
from icr.base.conversation import wrap_text
from icr.config.schema import Endpoint as Settings
from icr.endpoint.endpoint import Endpoint

DELAY = 0.05
CONCURRENCY = 64


@contextmanager
def stub() -> Iterator[str]:
    """The address of a stub that answers after `DELAY` seconds."""
    argv = [sys.executable, "-m", "tests.helpers.stub_server", "--delay", str(DELAY)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def questions(pairs: int, run: int) -> list[Question]:
    """Both orders of pairs of about 900 characters an answer; those of another run are others."""
    made = []
    for n in range(pairs):
        answers = [f"{run} {n} " + text * 33 for text in ("a sentence of some length. ", "another, somewhat longer. ")]
        for first, second in permutations(answers):
            made.append(Comparison(str(n), "en", wrap_text(f"What is {n}?"), first, second).question())
    return made


async def bare(url: str, bodies: Sequence[dict[str, Any]]) -> float:
    """Seconds of the requests alone."""
    todo = iter(bodies)

    async def work() -> None:
        for body in todo:
            async with session.post(url + "/chat/completions", json=body) as response:
                await response.read()

    async with aiohttp.ClientSession() as session:
        started = time.perf_counter()
        await asyncio.gather(*(work() for _ in range(CONCURRENCY)))
        return time.perf_counter() - started


def measure(pairs: int, repeats: int) -> dict[str, Any]:
    """Shares of the ideal throughput, one a repeat: the judge's and the bare loop's."""
    ideal = 2 * pairs / CONCURRENCY * DELAY
    rows = []
    with stub() as url, tempfile.TemporaryDirectory() as folder:
        for run in range(repeats):
            asked = questions(pairs, run)
            endpoint = Endpoint("m", Path(folder) / "cache.sqlite", Settings(base_url=url, concurrency=CONCURRENCY))
            judge = EndpointJudge(endpoint)
            started, busy = time.perf_counter(), time.process_time()
            verdicts = judge.ask(asked, lambda more: None)
            seconds, cpu = time.perf_counter() - started, time.process_time() - busy
            assert len(verdicts) == len(asked) == endpoint.cost.calls
            assert all(v.shares is not None for v in verdicts)
            bodies = [{"model": "m", "messages": judge.ask_of(q).json(), **judge.ask_of(q).params} for q in asked]
            alone = asyncio.run(bare(url, bodies))
            rows.append(
                {
                    "share": ideal / seconds,
                    "bare": ideal / alone,
                    "cpu": cpu / len(asked) * 1e3,
                    "ratio": alone / seconds,
                }
            )
    best = max(rows, key=lambda row: row["share"])
    return {
        "requests": 2 * pairs,
        "ideal_seconds": ideal,
        "shares_of_ideal": [round(row["share"], 3) for row in rows],
        "bare_shares_of_ideal": [round(row["bare"], 3) for row in rows],
        "ratios_to_bare": [round(row["ratio"], 3) for row in rows],
        "best_share_of_ideal": best["share"],
        "cpu_ms_per_request": min(row["cpu"] for row in rows),
        "load": os.getloadavg()[0],
    }


def main() -> None:
    parser = argparse.ArgumentParser(description="the judge engine against a stub endpoint")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    args = parser.parse_args()
    result = measure(args.pairs, args.repeats)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['requests']} requests, {CONCURRENCY} under way at a time, {DELAY * 1e3:.0f} ms each")
    print(f"ideal       {result['ideal_seconds']:.2f} s")
    print("the judge   " + "  ".join(f"{share:.3f}" for share in result["shares_of_ideal"]) + "  of the ideal")
    print("bare loop   " + "  ".join(f"{share:.3f}" for share in result["bare_shares_of_ideal"]) + "  of the ideal")
    print("ratio       " + "  ".join(f"{ratio:.3f}" for ratio in result["ratios_to_bare"]) + "  of the bare loop")
    print(f"CPU         {result['cpu_ms_per_request']:.2f} ms a request; load of the machine {result['load']:.1f}")


if __name__ == "__main__":
    main()
