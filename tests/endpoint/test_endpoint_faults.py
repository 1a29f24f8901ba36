"""The endpoint judge when a fifth of the answers are faults of every kind, and when one fault stops everything."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

from tests.helpers.endpoints import item, item_of, judge, verdicts_on
from tests.helpers.judging import Steps
from tests.helpers.stub_server import Answer, Stub, completion, fault, prefers_good, says

PASSING = {
    "429": fault(429, headers={"Retry-After": "1"}),
    "500": fault(500),
    "503": fault(503),
    "hangs": replace(says("A"), delay=60.0),
    "closes half-way": replace(says("A"), cut=True),
    "broken JSON": Answer(b'{"choices": [{"mess'),
    "no choices": completion([]),
    "slow": replace(says("A"), delay=0.4),
}
"""Seen once, then an answer comes; a slow answer is one."""
LASTING = {
    "refusal": (says(None, refusal="I won't."), "refused"),
    "outside the labels": (says("C"), "verdict outside the labels"),
    "another language": (says("La primera respuesta es mejor."), "verdict outside the labels"),
    "500 for ever": (fault(500), "no answer: HTTP 500"),
    "empty": (says(""), "empty answer"),
}
KINDS = [*PASSING, *LASTING]


def kind_of(number: int) -> str | None:
    """A fifth of the questions meet a fault."""
    return KINDS[number // 5 % len(KINDS)] if number % 5 == 0 else None


def script(request: dict[str, Any], before: int) -> Answer:
    kind = kind_of(int(item_of(request)))
    if kind in LASTING:
        return LASTING[kind][0]
    return PASSING[kind] if kind in PASSING and before == 0 else replace(prefers_good(request, before), delay=0.02)


def test_every_pair_ends_scored_or_unscored_with_its_reason(tmp_path: Path) -> None:
    count, steps = 390, Steps()
    with Stub(script) as stub:
        asked = judge(tmp_path, stub.url, steps, concurrency=64, timeout=4.0)
        verdicts = verdicts_on(asked, *(item(n, *pair) for n in range(count) for pair in PAIRS))
    assert len(verdicts) == 2 * count
    # the order of the verdicts is the order of the questions, whatever came back when
    for number, expected in [(n, first) for n in range(count) for first in (1.0, 0.0)]:
        verdict = verdicts.pop(0)
        kind = kind_of(number)
        if kind in LASTING:
            assert (verdict.shares, verdict.reason) == (None, LASTING[kind][1])
        elif kind == "slow":  # its first answer stood: A
            assert verdict.shares == (1.0, 0.0)
        else:
            assert (verdict.shares, verdict.reason) == ((expected, 1 - expected), None), kind
    unscored = sum(2 for n in range(count) if kind_of(n) in LASTING)
    assert steps.statuses[-1].endswith(f", {unscored} unscored")


PAIRS = (("good", "bad"), ("bad", "good"))
