"""`python -m docs.make_messages`: docs/messages.md, every message of UserError, read from the source."""

from __future__ import annotations

import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from docs.read_messages import Message, Source

ROOT = Path(__file__).resolve().parents[1]
PAGE = Path(__file__).with_name("messages.md")
ROOMS = {
    "icr/config": "The config",
    "icr/commands": "Commands",
    "icr/base": "Files, YAML, custom classes",
    "prompts": "Prompts and preference data",
    "icr/engines": "Models, tokenizers, templates",
    "icr/work": "Memory, devices, workers",
    "icr/rounds": "Runs and their stages",
    "icr/planning": "Plans",
    "icr": "Languages, responses, pairs",
    "loops": "Training and export",
    "icr/endpoint": "Endpoints",
    "eval": "Judging",
    "icr/experiments": "Comparisons, reward models, best of n",
    "icr/report": "Exports",
}
"""Folder → its heading. `icr` is the files at its root."""
HEAD = """# Messages

Every message about your input or your machine. To find yours, search for a part of it without a name, number or path.

- **message** says what happened. `…` stands for what differs: a name, a number, a path.
- **what to do** is the way out, as icr prints it after `do:`. Where two are joined by `; or`, or by `Or:`, icr prints
  the one that fits your case.
- A line `where:` between them names the file, the line, the key or the option. It is not on this page.

The command ends with exit code 2; finished work is kept. Then do what the message says, and rerun the same command.
[troubleshooting.md](troubleshooting.md) gives the causes of those that are met most often.

This page is generated from the source.
"""
KEYS = "docs/config.md, or the page of this config, describes the keys"


@cache
def sources(room: str) -> list[Source]:
    folder = ROOT / room
    return [Source(path) for path in sorted(folder.glob("*.py") if room == "icr" else folder.rglob("*.py"))]


@cache
def messages(room: str) -> list[Message]:
    """The messages of a folder, in the order of its files, each once."""
    return list(dict.fromkeys(_messages(room)))


def _messages(room: str) -> Iterator[Message]:
    for source in sources(room):
        for _, found in source.messages():
            yield from found
        if room == "icr/config":
            yield from (Message(f"`…`: {text}", KEYS) for text in source.refusals())


def render() -> str:
    """The page."""
    lines = [HEAD]
    for room, title in ROOMS.items():
        lines += [f"## {title}", "", "| message | what to do |", "|---|---|"]
        lines += [f"| {_cell(message.what)} | {_cell(message.do)} |" for message in messages(room)]
        lines.append("")
    return "\n".join(lines)


def _cell(text: str) -> str:
    """A text as a cell. Signs of Markdown count as themselves; in code they do already, except the bar."""
    parts = " ".join(text.split()).replace("|", "\\|").split("`")
    return "`".join(part if n % 2 else re.sub(r"([*<]|\\(?!\|))", r"\\\1", part) for n, part in enumerate(parts))


if __name__ == "__main__":
    PAGE.write_text(render(), encoding="utf-8")
