"""The judge engine's throughput against a stub endpoint on loopback: `python -m benchmarks.judge [--delay S] [--json]`.

1,000 pairs of answers in five languages, in both orders, are 2,000 requests. At 64 under way at a time and 50 ms each
they cannot take less than 2,000 / 64 × 0.05 s = 1.56 s. Measured is everything from the answers on disk to the verdicts
on disk, with every answer in both caches, in this process; and beside it a bare aiohttp loop that sends the same bodies
and reads nothing. Of what is lost, some belongs to the question: the first request is alone, so that what the endpoint
refuses is known, and the last 16 leave three quarters of the slots empty. The stub is a process of its own.
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
from pathlib import Path
from typing import Any

import aiohttp

from eval.judges.asking import Judging
from eval.judges.endpoint import EndpointJudge
from eval.xalpaca.answers import read_answers
from eval.xalpaca.pairwise import comparisons, run_verdicts
from icr.config.schema import Judge
from icr.endpoint.endpoint import Endpoint
from tests.helpers.judging import Inline, write_answers

CONCURRENCY = 64
LANGUAGES = ("de", "en", "es", "fr", "ru")


@contextmanager
def stub(delay: float) -> Iterator[str]:
    """The address of a stub that answers after `delay` seconds."""
    argv = [sys.executable, "-m", "tests.helpers.stub_server", "--delay", str(delay)]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield f"http://127.0.0.1:{int(process.stdout.readline())}/v1"
        finally:
            process.kill()


def texts(pairs: int, run: int, text: str) -> dict[str, dict[str, str]]:
    """Answers of about 900 characters, by language and id; those of another run are others."""
    return {
        lang: {str(n): f"{run} {lang} {n} " + text * 33 for n in range(pairs // len(LANGUAGES))} for lang in LANGUAGES
    }


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


def ask(url: str, folder: Path, pairs: int, run: int) -> tuple[float, float, list[dict[str, Any]]]:
    """Seconds and CPU seconds that judging takes, and the bodies that it sends."""
    answers, theirs = folder / f"answers-{run}", texts(pairs, run, "another, somewhat longer. ")
    for lang, of in texts(pairs, run, "a sentence of some length. ").items():
        write_answers(answers, lang, of)
    config = Judge(kind="openai", model="m", base_url=url, concurrency=CONCURRENCY, cache=str(folder / "user"))
    machine: Any = Inline()
    judging = Judging.of(config, None, machine, f"key {run}", folder / "cache.sqlite")
    started, busy = time.perf_counter(), time.process_time()
    run_verdicts(judging, answers, theirs, folder / f"out-{run}")
    seconds, cpu = time.perf_counter() - started, time.process_time() - busy
    judge = EndpointJudge(Endpoint("m", folder / "dry.sqlite", config, dry=True), config)
    questions = [c.question() for lang, of in read_answers(answers).items()
                 for _, c in comparisons(lang, of, theirs[lang], "both")]  # fmt: skip
    asks = [judge.ask_of(question) for question in questions]
    return seconds, cpu, [{"model": "m", "messages": of.json(), **of.params} for of in asks]


def measure(pairs: int, repeats: int, delay: float) -> dict[str, Any]:
    """Shares of the ideal throughput, one a repeat: the judge's and the bare loop's."""
    ideal = 2 * pairs / CONCURRENCY * delay
    rows = []
    with stub(delay) as url, tempfile.TemporaryDirectory() as folder:
        for run in range(repeats):
            seconds, cpu, bodies = ask(url, Path(folder), pairs, run)
            alone = asyncio.run(bare(url, bodies))
            rows.append(
                {
                    "share": ideal / seconds,
                    "bare": ideal / alone,
                    "cpu": cpu / len(bodies) * 1e3,
                    "ratio": alone / seconds,
                }
            )
    best = max(rows, key=lambda row: row["share"])
    return {
        "requests": 2 * pairs,
        "delay": delay,
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
    parser.add_argument("--delay", type=float, default=0.05, help="seconds from a question to its answer")
    args = parser.parse_args()
    result = measure(args.pairs, args.repeats, args.delay)
    if args.json:
        print(json.dumps(result))
        return
    print(f"{result['requests']} requests, {CONCURRENCY} under way at a time, {result['delay'] * 1e3:.0f} ms each")
    print(f"ideal       {result['ideal_seconds']:.2f} s")
    print("the judge   " + "  ".join(f"{share:.3f}" for share in result["shares_of_ideal"]) + "  of the ideal")
    print("bare loop   " + "  ".join(f"{share:.3f}" for share in result["bare_shares_of_ideal"]) + "  of the ideal")
    print("ratio       " + "  ".join(f"{ratio:.3f}" for ratio in result["ratios_to_bare"]) + "  of the bare loop")
    print(f"CPU         {result['cpu_ms_per_request']:.2f} ms a request; load of the machine {result['load']:.1f}")


if __name__ == "__main__":
    main()
