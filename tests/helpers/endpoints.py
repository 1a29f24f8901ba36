"""What the tests of the endpoint judge share: questions, scripts for the stub, and little patience."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from eval.judges.base import Judge
from eval.judges.endpoint import EndpointJudge
from eval.judges.question import Question, Verdict
from eval.xalpaca.pairwise import Comparison
from icr.base.conversation import wrap_text
from icr.base.progress import Reporter, Silent
from icr.config.schema import Judge as Settings
from icr.endpoint.endpoint import Ask, Endpoint
from tests.helpers.stub_server import Answer, Script, Stub, prefers_good

__all__ = ["Answer", "Script", "Stub", "prefers_good"]

QUICK: dict[str, Any] = {"attempts": 4, "timeout": 30.0}
FIRST_WAIT = 0.01
KEY = "sk-very-secret-0123456789"


def settings(url: str, **options: Any) -> Settings:
    return Settings(**{"base_url": url, **QUICK, **options})


def endpoint(folder: Path, url: str, reporter: Reporter | None = None, name: str = "c", **options: Any) -> Endpoint:
    """Endpoint of the model "m" with its cache in `folder`; `options`: of its settings."""
    return Endpoint(
        "m", folder / f"{name}.sqlite", settings(url, **options), reporter or Silent(), first_wait=FIRST_WAIT
    )


def judge(
    folder: Path, url: str, reporter: Reporter | None = None, preference: str = "auto", **options: Any
) -> EndpointJudge:
    asked = endpoint(folder, url, reporter, **options)
    options.pop("name", None)
    return EndpointJudge(asked, settings(url, preference=preference, **options))


def item(number: int = 0, first: str = "good", second: str = "bad") -> Question:
    return Comparison(str(number), "en", wrap_text(f"Question {number}?"), first, second).question()


def asks(count: int, **options: Any) -> list[Ask]:
    """Distinct requests that `item_of` tells apart."""
    return [Ask((("user", f"Question {n}?\ngood\nbad"),), **{"max_tokens": 8, **options}) for n in range(count)]


def verdicts_on(judge: Judge, *items: Question) -> list[Verdict]:
    return judge.ask(items, lambda more: None)


def shares(verdicts: Sequence[Verdict]) -> list[float | None]:
    """Of the first answer; None where there is no verdict."""
    return [None if v.shares is None else v.shares[0] for v in verdicts]


def item_of(request: dict[str, Any]) -> str:
    found = re.search(r"Question (\d+)\?", request["messages"][-1]["content"])
    assert found
    return found[1]


def verdict_of(script: Script, folder: Path, **options: Any) -> tuple[Verdict, Stub]:
    """The stub's script as seen by a judge that is asked one question."""
    with Stub(script) as stub:
        return verdicts_on(judge(folder, stub.url, **options), item())[0], stub


def always(answer: Answer) -> Script:
    return lambda request, before: answer


def first_then(*answers: Answer) -> Script:
    """These answers in order; the last one from then on."""
    return lambda request, before: answers[min(before, len(answers) - 1)]
