"""What a question to an endpoint costs this machine: a part of the benchmark."""

from __future__ import annotations

from benchmarks.judge import measure, show


def test_a_question_takes_little_of_a_core_and_requests_overlap() -> None:
    """In processor time, which other work on the machine changes little: 3 to 4 times that of a bare request. One
    through the `openai` package's own method takes 9 times that."""
    found = measure(pairs=200, repeats=2, delay=0.05, concurrency=16)
    assert found["cpu_ms_per_request"] < 6 * found["bare_cpu_ms_per_request"]
    assert found["best_share_of_ideal"] > 0.2  # 1/16 one after another; on a free machine 0.8 of 400 requests and more
    assert f"{found['cpu_ms_per_request']:.2f} ms a request" in show(found)
