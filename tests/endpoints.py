"""What the tests of the endpoint judge share: questions, scripts for the stub, and little patience."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from eval.endpoint import EndpointJudge, Patience
from eval.judge import Comparison, Judge, Verdict
from tests.stub_server import Answer, Script, Stub, says

QUICK = Patience(attempts=4, first_wait=0.01, timeout=30.0)
KEY = "sk-very-secret-0123456789"


def item(number: int = 0, first: str = "good", second: str = "bad") -> Comparison:
    return Comparison(str(number), "en", f"Question {number}?", first, second)


def prefers_good(request: dict[str, Any], before: int) -> Answer:
    question = request["messages"][-1]["content"]
    return says("A" if question.index("\ngood") < question.index("\nbad") else "B")


def compare(judge: Judge, *items: Comparison) -> list[Verdict]:
    return judge.compare(items, lambda more: None)


def item_of(request: dict[str, Any]) -> str:
    found = re.search(r"Question (\d+)\?", request["messages"][-1]["content"])
    assert found
    return found[1]


def verdict_of(script: Script, folder: Path, **options: Any) -> tuple[Verdict, Stub]:
    """The stub's script as seen by a judge that is asked one question."""
    with Stub(script) as stub:
        judge = EndpointJudge("m", folder / "c.sqlite", base_url=stub.url, patience=QUICK, **options)
        return compare(judge, item())[0], stub


def always(answer: Answer) -> Script:
    return lambda request, before: answer


def first_then(*answers: Answer) -> Script:
    """These answers in order; the last one from then on."""
    return lambda request, before: answers[min(before, len(answers) - 1)]
