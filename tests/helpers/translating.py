"""What the tests of `icr prompts translate` share: the command in this process, and what it asks and writes."""

from __future__ import annotations

import io
import json
import re
from contextlib import redirect_stderr, redirect_stdout
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from icr.base.errors import UserError
from icr.commands.prompts import prompts_app

CODES = {"English": "en", "Spanish": "es", "Russian": "ru", "Thai": "th"}


def text_of(request: dict[str, Any]) -> str:
    found = re.search(r"<text>\n(.*)\n</text>", request["messages"][-1]["content"], re.DOTALL)
    assert found
    return found[1]


def language_of(request: dict[str, Any]) -> str:
    found = re.search(r"</text> into (\w+)\.", request["messages"][-1]["content"])
    assert found
    return CODES[found[1]]


def arguments(source: object, out: Path, url: str = "", *more: object) -> list[str]:
    given = ["--source", source, "--out", out, "--from", "en", "--translator", "openai:m", *more]
    if "--to" not in more:
        given += ["--to", "es,ru"]
    return list(map(str, given + (["--base-url", url] if url else [])))


@dataclass(frozen=True)
class Done:
    returncode: int
    stdout: str
    stderr: str


def translate(*given: Any) -> Done:
    """The command in this process, which saves its start."""
    status, out, err = 0, io.StringIO(), io.StringIO()
    with redirect_stdout(out), redirect_stderr(err):
        try:
            prompts_app(["translate", *arguments(*given)], standalone_mode=False)
        except UserError as error:
            status = 2
            print(error, file=err)
    return Done(status, out.getvalue(), err.getvalue())


def rows(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").split("\n") if line]


def report(out: Path) -> dict[str, Any]:
    read: dict[str, Any] = json.loads((out / "translation_report.json").read_text())
    return read
