"""`--json` and `--quiet`: every command that prints a result has the one, every long command the other."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
import yaml
from typer.core import TyperGroup
from typer.testing import CliRunner

from icr.commands.main import app
from prompts.fetch import Fetched
from tests.conftest import Config, write_prompts
from tests.helpers.fake_run import build
from tests.helpers.public_repositories import Public

ROOT = Path(__file__).resolve().parents[2]
WITHOUT_RESULT = {"init", "chat", "human export", "sample", "score", "pair", "train"}
"""They write files, or talk."""
LONG = {
    *("iterate", "plan", "sample", "score", "pair", "train", "compare", "transfer", "sft", "rl", "best-of-n"),
    *("judge xalpaca", "judge mtbench", "judge nlp", "judge accuracy", "judge audit"),
    *("prompts translate", "rm translate", "data get", "rm train", "rm eval", "rm bench", "rm look"),
}
run = CliRunner().invoke


def commands(group: Any = None, before: str = "") -> Iterator[tuple[str, set[str]]]:
    """Name and options of every command."""
    for name, command in (group or typer.main.get_command(app)).commands.items():
        if isinstance(command, TyperGroup):
            yield from commands(command, f"{before}{name} ")
        else:
            yield f"{before}{name}", {option for parameter in command.params for option in parameter.opts}


def test_who_has_which_option() -> None:
    every = dict(commands())
    assert {name for name, options in every.items() if "--json" not in options} == WITHOUT_RESULT
    assert {name for name, options in every.items() if "--quiet" in options} == LONG
    assert "--quiet" in run(app, ["judge", "--help"]).stdout  # of a round


def test_there_is_one_way_to_print_json() -> None:
    own = [path.name for path in (ROOT / "icr" / "commands").glob("*.py") if "json.dumps" in path.read_text("utf-8")]
    assert own == ["options.py"]


def printed(*arguments: object, code: int = 0) -> Any:
    """The JSON of a command, which is all that it has on stdout."""
    done = run(app, [*map(str, arguments), "--json"])
    assert done.exit_code == code, done.output
    return json.loads(done.stdout)


def test_results_as_json(tmp_path: Path, public: Public) -> None:
    made = build(tmp_path / "run")
    found = printed("report", made.path)
    assert found["judged"]["2"]["languages"]["es"]["win_rate"] and Path(found["report"]).is_file()
    prompts = write_prompts(tmp_path / "prompts", range(1, 9))
    assert printed("prompts", "split", prompts, "--held-out", 2, "--out", tmp_path / "split")["heldout"]["es"] == 2
    pairs = printed("export", made.round(2).path, "--to", "trl", "--out", tmp_path / "pairs")
    assert pairs == {"out": str(tmp_path / "pairs"), "pairs": made.round(2).record.stages["pair"].counts["pairs"]}
    clones = [part for clone in public.clones for part in ("--clone", clone)]
    (data,) = printed("data", "get", "mt_bench", "--out", tmp_path, *clones)
    assert data["new"] and data["rows"]


def test_validate_as_json(tmp_path: Path, tiny_config: Config) -> None:
    config = tiny_config(tmp_path)
    found = printed("validate", config, "--show-prompts")
    assert found["fine"] and (found["prompts"], found["held_out"]) == (18, 12) and found["shown"]
    config.write_text(yaml.safe_dump({**yaml.safe_load(config.read_text()), "rounds": 0, "wrong": 1}))
    refused = printed("validate", config, code=1)  # 2 by icr.commands.main.main
    assert not refused["fine"] and {"what", "where", "do"} == refused["problems"][0].keys()
    assert any("unknown key `wrong`" in problem["what"] for problem in refused["problems"])


def test_quiet_leaves_the_result_alone(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    def fetch(name: str, out: Path, clones: list[Path], note: Callable[[str], None]) -> Fetched:
        note("fetching")
        return Fetched(out / name, True, {"en.jsonl": 3}, [])

    monkeypatch.setattr("prompts.fetch.fetch", fetch)
    words = ["data", "get", "mt_bench", "--out", str(tmp_path)]
    loud, quiet, again = (run(app, [*words, *more]) for more in ([], ["-q"], []))
    assert loud.stderr == again.stderr == "fetching\n" and quiet.stderr == ""  # one quiet command makes no other so
    assert loud.stdout == quiet.stdout and "en 3" in quiet.stdout
