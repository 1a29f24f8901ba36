"""The command line. Heavy imports are inside the commands, so that --help is quick."""

from __future__ import annotations

import io
import os
import shlex
import signal
import sys
from collections.abc import Callable
from types import FrameType

import typer

from icr.base.errors import IcrError, UserError, explain_os_error
from icr.base.process import forget_current_folder
from icr.base.secrets import hide_in
from icr.commands import inspect, runs
from icr.commands.about import env, options
from icr.commands.audit import audit
from icr.commands.best_of_n import best_of_n
from icr.commands.chat import chat
from icr.commands.compare import compare
from icr.commands.data import data_app
from icr.commands.export import export
from icr.commands.help import WIDTH, use_plain_help
from icr.commands.human import human_app
from icr.commands.judge import judge_app
from icr.commands.plan import plan
from icr.commands.prompts import prompts_app
from icr.commands.reward_models import rm_app
from icr.commands.rl import rl
from icr.commands.sft import sft
from icr.commands.start import init, recipes
from icr.commands.transfer import transfer

app = typer.Typer(
    name="icr",
    help="Align a language model in many languages, using the reward implied by its English alignment.",
    no_args_is_help=True,
    context_settings={"help_option_names": ["-h", "--help"], "max_content_width": WIDTH},
    pretty_exceptions_enable=False,
    rich_markup_mode=None,
)


KEEPS_NOTHING = frozenset(
    ("init", "recipes", "validate", "plan", "status", "report", "best", "chat", "export", "lc", "env")
)
"""Commands that begin again from the start."""


class Interrupted(BaseException):
    """Ctrl-C or SIGTERM. Not KeyboardInterrupt: typer would handle that itself and not print how to resume."""


def main() -> None:
    """The `icr` command: 0 done, 2 the user's input is wrong, 1 our fault, 130 interrupted."""
    forget_current_folder()
    for number in (signal.SIGINT, signal.SIGTERM):
        signal.signal(number, _interrupt)
    for stream in (sys.stdout, sys.stderr):
        if isinstance(stream, io.TextIOWrapper):
            stream.reconfigure(errors="backslashreplace")  # a terminal without → or α still gets the message
    try:
        app()
    except Interrupted:
        keeps = not KEEPS_NOTHING.intersection(sys.argv[1:2])
        _say("interrupted" + (f"; finished work is kept. To resume:\n  {_resume_command()}" if keeps else ""))
        sys.exit(130)
    except UserError as error:
        _say(f"error: {error}")
        sys.exit(2)
    except BrokenPipeError:  # the reader of a pipe has gone, as `head` does
        os.dup2(os.open(os.devnull, os.O_WRONLY), 1)  # what is still in the buffer
        sys.exit(0)
    except OSError as error:
        known = explain_os_error(error)
        if known is None:
            raise
        _say(f"error: {known}")
        sys.exit(2)
    except IcrError as error:
        _say(f"failed: {error}\n  finished work is kept. To try again:\n  {_resume_command()}")
        sys.exit(1)


def _interrupt(number: int, frame: FrameType | None) -> None:
    raise Interrupted


def _resume_command() -> str:
    return hide_in(shlex.join(["icr", *sys.argv[1:]]))


def _say(text: str) -> None:
    print(text, file=sys.stderr)


app.callback(help=app.info.help)(options)
_COMMANDS: tuple[Callable[..., None], ...] = (
    *(init, recipes, runs.iterate, inspect.status, inspect.best, inspect.report, inspect.validate),
    *(plan, chat, export, inspect.lc, compare, transfer, sft, rl, env),
)
for _command in _COMMANDS:
    app.command()(_command)
for _name, _help in {
    "sample": "Sample N responses per prompt from the policy (equation 7).",
    "score": "Reward the responses and fit α per language (equations 9, 15).",
    "pair": "Make best/worst pairs (equation 10).",
    "train": "Train the next policy on the pairs (equation 11 or 16).",
}.items():
    app.command(_name, help=_help)(runs.stage_command(_name))
judge_app.command()(audit)
app.command("best-of-n")(best_of_n)
app.add_typer(judge_app, name="judge")
app.add_typer(human_app, name="human")
app.add_typer(prompts_app, name="prompts")
app.add_typer(data_app, name="data")
app.add_typer(rm_app, name="rm")
use_plain_help(app)


if __name__ == "__main__":
    main()
