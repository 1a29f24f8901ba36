"""`icr chat`: a round's model and π_θ⁰ side by side."""

from __future__ import annotations

import sys
from typing import Annotated

import typer

from icr.commands.options import RunArgument, stdout

HELP = "/new starts over, /quit (or Ctrl-D) ends"


def chat(
    run: RunArgument,
    round_: Annotated[int | None, typer.Option("--round", min=0, help="The round. Default: the last one.")] = None,
    max_tokens: Annotated[int, typer.Option("--max-tokens", min=1, max=2048, help="Tokens of an answer.")] = 256,
    seed: Annotated[int, typer.Option("--seed", min=0, help="Seed of the sampling.")] = 42,
) -> None:
    """Talk to a round's model and to round 0 side by side.

    Each line is a message. Without a terminal, lines are read from stdin.
    """
    import transformers
    from rich.text import Text

    from icr.base.rundir import open_run
    from icr.rounds.chat import open_speakers

    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    speakers, console, turn = open_speakers(open_run(run), round_, max_tokens), stdout(), 0
    terminal = sys.stdin.isatty()
    if terminal:
        print(HELP, file=sys.stderr)
    while (line := _read(terminal)) is not None and line != "/quit":
        if line == "/new":
            for speaker in speakers:
                speaker.messages = []
        elif line:
            for speaker in speakers:
                console.print(Text.assemble((f"{speaker.name}: ", "bold"), speaker.answer(line, seed + turn)))
            turn += 1


def _read(terminal: bool) -> str | None:
    """The next line without blanks around it; None at the end."""
    if terminal:
        print("> ", end="", file=sys.stderr, flush=True)
    line = sys.stdin.readline()
    return line.strip() if line else None
