"""The judge engine's throughput against a stub endpoint on loopback: `python -m benchmarks.judge [--delay S] [--json]`.

1,000 pairs of answers in five languages, in both orders, are 2,000 requests. At 16 under way at a time (the default of
`judge.concurrency`) and 50 ms each they cannot take less than 2,000 / 16 × 0.05 s = 6.25 s; at 32 half of it, at 64 a
quarter. Measured is everything from the answers on disk to the verdicts on disk, with every answer in both caches, in
this process; and beside it a bare aiohttp loop that sends the same bodies and reads nothing. Of what is lost, some
belongs to the question: the first request is alone, so that what the endpoint refuses is known, and the last ones leave
slots empty. The stub is a process of its own.
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
from icr.planning.devices import name_processor
from tests.helpers.judging import Inline, write_answers

CONCURRENCY = (16, 32, 64)
"""Requests under way at a time."""
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


async def bare(url: str, bodies: Sequence[dict[str, Any]], concurrency: int) -> tuple[float, float]:
    """Seconds and CPU seconds of the requests alone."""
    todo = iter(bodies)

    async def work() -> None:
        for body in todo:
            async with session.post(url + "/chat/completions", json=body) as response:
                await response.read()

    async with aiohttp.ClientSession() as session:
        started, busy = time.perf_counter(), time.process_time()
        await asyncio.gather(*(work() for _ in range(concurrency)))
        return time.perf_counter() - started, time.process_time() - busy


def ask(url: str, folder: Path, pairs: int, run: int, concurrency: int) -> tuple[float, float, list[dict[str, Any]]]:
    """Seconds and CPU seconds that judging takes, and the bodies that it sends."""
    answers, theirs = folder / f"answers-{run}", texts(pairs, run, "another, somewhat longer. ")
    for lang, of in texts(pairs, run, "a sentence of some length. ").items():
        write_answers(answers, lang, of)
    config = Judge(kind="openai", model="m", base_url=url, concurrency=concurrency, cache=str(folder / "user"))
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


def measure(pairs: int, repeats: int, delay: float, concurrency: int) -> dict[str, Any]:
    """Shares of the ideal throughput, one a repeat, and CPU time: the judge's and the bare loop's."""
    ideal = 2 * pairs / concurrency * delay
    rows = []
    with stub(delay) as url, tempfile.TemporaryDirectory() as folder:
        for run in range(repeats):
            seconds, cpu, bodies = ask(url, Path(folder), pairs, run, concurrency)
            alone, bare_cpu = asyncio.run(bare(url, bodies, concurrency))
            rows.append(
                {
                    "share": ideal / seconds,
                    "bare": ideal / alone,
                    "cpu": cpu / len(bodies) * 1e3,
                    "bare_cpu": bare_cpu / len(bodies) * 1e3,
                    "ratio": alone / seconds,
                }
            )
    return {
        "requests": 2 * pairs,
        "concurrency": concurrency,
        "delay": delay,
        "ideal_seconds": ideal,
        "shares_of_ideal": [round(row["share"], 3) for row in rows],
        "bare_shares_of_ideal": [round(row["bare"], 3) for row in rows],
        "ratios_to_bare": [round(row["ratio"], 3) for row in rows],
        "best_share_of_ideal": max(row["share"] for row in rows),
        "cpu_ms_per_request": min(row["cpu"] for row in rows),
        "bare_cpu_ms_per_request": min(row["bare_cpu"] for row in rows),
        "load": os.getloadavg()[0],
    }


def show(result: dict[str, Any]) -> str:
    mine, bare_cpu = result["cpu_ms_per_request"], result["bare_cpu_ms_per_request"]
    return "\n".join(
        [
            f"{result['requests']} requests, {result['concurrency']} under way at a time, "
            f"{result['delay'] * 1e3:.0f} ms each: ideal {result['ideal_seconds']:.2f} s",
            "  the judge  " + "  ".join(f"{share:.3f}" for share in result["shares_of_ideal"]) + "  of the ideal",
            "  bare loop  " + "  ".join(f"{share:.3f}" for share in result["bare_shares_of_ideal"]) + "  of the ideal",
            "  ratio      " + "  ".join(f"{ratio:.3f}" for ratio in result["ratios_to_bare"]) + "  of the bare loop",
            f"  CPU        {mine:.2f} ms a request, so that one core carries {1e3 / mine:,.0f} a second; "
            f"bare loop {bare_cpu:.2f} ms; load of the machine {result['load']:.1f}",
        ]
    )


def main() -> None:
    parser = argparse.ArgumentParser(description="the judge engine against a stub endpoint")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--pairs", type=int, default=1000)
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--delay", type=float, default=0.05, help="seconds from a question to its answer")
    parser.add_argument("--concurrency", type=int, nargs="+", default=CONCURRENCY, help="requests under way at a time")
    args = parser.parse_args()
    results = [measure(args.pairs, args.repeats, args.delay, concurrency) for concurrency in args.concurrency]
    if args.json:
        print(json.dumps({"processor": name_processor(), "results": results}))
        return
    print(name_processor())
    for result in results:
        print(show(result))


if __name__ == "__main__":
    main()
