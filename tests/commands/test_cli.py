from __future__ import annotations

import ast
import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from icr.base.errors import ConfigError, StageFailed, UserError, explain_os_error
from icr.base.lock import RunLock, is_held
from icr.base.outputs import refuse_other_files
from icr.commands.runs import _controller
from icr.rounds.preflight import load_checked
from icr.work.launch import Worker, run_workers
from tests.helpers.command import icr

ROOT = Path(__file__).parents[2]


def test_help_imports_nothing_heavy() -> None:
    heavy = ("torch", "transformers", "pyarrow", "pydantic")
    code = f"import sys, icr.commands.main; print([m for m in {heavy} if m in sys.modules])"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    # typer itself brings pydantic
    assert out.strip() in ("[]", "['pydantic']")
    assert "iterate" in icr("--help").stdout


def test_usage_errors_end_with_2() -> None:
    icr("iterat", code=2)
    icr("iterate", "--rounds", "none", code=2)
    assert "icr recipes lists the recipes" in icr("iterate", "--config", "no-such-recipe", code=2).stderr
    assert "is not a run folder" in icr("status", "nowhere", code=2).stderr


def test_an_argument_that_should_be_an_option(tmp_path: Path) -> None:
    assert "Did you mean --config my.yaml?" in icr("iterate", "my.yaml", code=2).stderr
    assert f"Did you mean --run {tmp_path}?" in icr("iterate", tmp_path, code=2).stderr
    assert "Did you mean" not in icr("iterate", "--config", "my.yaml", "other.yaml", code=2).stderr
    assert "Did you mean" not in icr("validate", "my.yaml", "other.yaml", code=2).stderr
    assert "icr validate my.yaml\n" in icr("validate", "--config", "my.yaml", code=2).stderr
    assert "Missing option '--run'. Did you mean --run runs/a?" in icr("score", "runs/a", "--round", 1, code=2).stderr
    assert "Did you mean --to hub?" in icr("export", "runs/a/round-1", "hub", "--out", "x", code=2).stderr


@pytest.mark.parametrize(
    ("typed", "meant"),
    [
        ("validate --config=my.yaml --json", "validate my.yaml --json"),
        ("validate --config", "validate CONFIG"),
        ("chat --run runs/a --round 1", "chat runs/a --round 1"),
        ("export --run runs/a --to trl", "export runs/a/round-N --to trl"),
        ("export --to trl --run runs/a --round 2", "export runs/a/round-2 --to trl"),
        ("export --run runs/a/round-1/ --to trl", "export runs/a/round-1 --to trl"),
        ("judge audit --run runs/a --round 1", "judge audit runs/a/round-1/judge"),
        ("judge audit --run runs/a", "judge audit runs/a/round-N/judge"),
    ],
)
def test_an_option_that_should_be_an_argument(typed: str, meant: str) -> None:
    said = icr(*typed.split(), code=2).stderr
    assert "Write: " in said and f"icr {meant}\n" in said and "Possible options" not in said


def test_a_value_that_does_not_fit(tmp_path: Path) -> None:
    score = ("score", "--run", "runs/a", "--round")
    assert "'--round': 'one' is not a whole number\n" in icr(*score, "one", code=2).stderr
    assert "'--round': 'one' is not a whole number\n" in icr("judge", "--round", "one", code=2).stderr
    assert "'--round': -1 is less than 0\n" in icr(*score, "-1", code=2).stderr
    assert "'--max-tokens': 5000 is more than 2048\n" in icr("chat", "runs/a", "--max-tokens", 5000, code=2).stderr
    file = tmp_path / "x.yaml"
    file.touch()
    said = icr("compare", file, "--vary", "rounds=1", "--out", file, code=2).stderr
    assert f"'--out': {file} is a file, not a folder\n" in said


def test_a_run_that_is_not_there_starts_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icr.rounds.controller.Controller", None)
    said = icr("iterate", "--run", tmp_path / "nosuch", code=2).stderr
    assert f"{tmp_path}/nosuch is not a run" in said and "for a new run add --config" in said
    assert "nosuch is not a run folder" in icr("plan", "quickstart", "--run", tmp_path / "nosuch", code=2).stderr
    assert not (tmp_path / "nosuch").exists()


OTHERS = {
    "compare": "compare CONFIG --vary train.beta=0.1,0.2 --out OUT",
    "best-of-n": "best-of-n a/b --reward a/c --prompts p --languages es --out OUT",
    "judge": "judge nlp a/b --languages es --out OUT",
}


@pytest.mark.parametrize("command", OTHERS)
def test_a_folder_with_other_files_is_refused(command: str, tmp_path: Path, tiny_config: Callable[..., Path]) -> None:
    out = tmp_path / "mine"
    out.mkdir()
    (out / "notes.txt").touch()
    words = {"OUT": out, "CONFIG": tiny_config(tmp_path)}
    said = icr(*(words.get(word, word) for word in OTHERS[command].split()), code=2).stderr
    assert f"{out} has files of something else: notes.txt" in said and "name a new or an empty folder" in said
    assert [path.name for path in out.iterdir()] == ["notes.txt"]


def test_a_folder_of_the_same_command_is_not(tmp_path: Path) -> None:
    for name in ("notes.txt", ".lock", "logs"):
        (tmp_path / name).touch()
    (tmp_path / "variants").mkdir()
    refuse_other_files(tmp_path, "variants", where="--out")
    (tmp_path / "variants").rmdir()
    (tmp_path / "notes.txt").unlink()
    refuse_other_files(tmp_path, "variants", where="--out")  # a command that was killed as it began


def test_what_is_missing_is_named(tmp_path: Path) -> None:
    assert "Missing option '--run'. The run folder." in icr("score", "--round", 1, code=2).stderr
    assert "Missing argument 'RUN'. " in icr("status", code=2).stderr
    said = icr("export", "runs/a/round-1", "--out", "x", code=2).stderr
    assert "Missing option '--to'. hub, gguf, trl, llama-factory or alpaca-eval." in said


def test_a_config_or_a_run_without_a_command(tmp_path: Path) -> None:
    said = icr("my.yaml", code=2).stderr
    assert "No such command 'my.yaml'. Did you mean " in said and "icr iterate --config my.yaml?" in said
    assert f"icr status {tmp_path}?" in icr(tmp_path, code=2).stderr
    assert "Did you mean" not in icr("judge", "my.yaml", code=2).stderr
    for words in (["--round", 1, tmp_path], [tmp_path, "--round", 1]):
        assert f"icr judge --run {tmp_path} --round 1?" in icr("judge", *words, code=2).stderr
    assert f"icr judge --run {tmp_path} --round N?" in icr("judge", tmp_path, code=2).stderr
    assert "Did you mean --run" in icr("judge", "accuracy", tmp_path, code=2).stderr


def test_validate(tmp_path: Path, tiny_config: Callable[..., Path]) -> None:
    good = icr("validate", tiny_config(tmp_path))
    assert "18 prompts in en, es, ru, 12 held out" in good.stdout
    bad = icr("validate", tiny_config(tmp_path, sampling={"n": 1}, prompts={"languages": ["en", "de"]}), code=2)
    assert "3 problems" in bad.stderr


def test_lc(tmp_path: Path) -> None:
    pairs = [(0.9, 120, 100), (0.4, 80, 100), (0.7, 150, 90), (0.2, 60, 110), (0.6, 100, 100), (0.5, 140, 80)]
    rows = ["preference,len_model,len_baseline", *(f"{p},{m},{b}" for p, m, b in pairs)]
    table = tmp_path / "t.csv"
    table.write_text("\n".join(rows))
    result = json.loads(icr("lc", table, "--json").stdout)
    assert result["n"] == 6 and result["win_rate"] == pytest.approx(55.0)
    assert {"win_rate_se", "lc_win_rate", "lc_win_rate_se", "variant"} <= result.keys()
    assert "length-controlled win rate" in icr("lc", table).stdout
    table.write_text("preference,len_model,len_baseline\n1.4,1,2\n")
    assert f"{table}:2" in icr("lc", table, code=2).stderr


def test_a_judge_without_key_or_answers_is_found_before_the_run(
    tmp_path: Path, tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("OPENAI_API_KEY", raising=False)
    baseline = tmp_path / "answers"
    baseline.mkdir()
    for lang in ("en", "es", "ru"):
        answers = [{"id": f"p{n}", "output": "x"} for n in (range(11, 15) if lang != "ru" else range(11, 13))]
        (baseline / f"{lang}.json").write_text(json.dumps(answers))
    config = tiny_config(tmp_path, judge={"kind": "openai", "model": "m", "baseline": str(baseline)})
    with pytest.raises(ConfigError) as caught:
        load_checked(config)
    text = str(caught.value)
    assert "OPENAI_API_KEY" in text and "p13" in text and "ru" in text


class Watcher:
    def __init__(self) -> None:
        self.notes: list[str] = []
        self.last = (0, 0, 0)

    def progress(self, done: int, total: int, tokens: int) -> None:
        self.last = (done, total, tokens)

    def note(self, text: str) -> None:
        self.notes.append(text)


def worker(tmp_path: Path, name: str, body: str) -> Worker:
    head = (
        f"from icr.base.progress import EventFile; from pathlib import Path; e = EventFile(Path('{tmp_path / name}'))\n"
    )
    return Worker([sys.executable, "-c", head + body], tmp_path / name, tmp_path / f"{name}.log")


def test_workers_report_progress_notes_and_results(tmp_path: Path) -> None:
    body = "e.progress(2, 2, 30); e.note('hello'); e.send(event='done', counts={'x': 1})"
    watcher = Watcher()
    results = run_workers([worker(tmp_path, "a", body), worker(tmp_path, "b", body)], watcher)
    assert results == [{"x": 1}] * 2 and watcher.notes == ["hello"] * 2 and watcher.last == (4, 4, 60)


def test_a_workers_complaint_reaches_the_user_and_ends_the_others(tmp_path: Path) -> None:
    slow = worker(tmp_path, "slow", "import time; time.sleep(60)")
    bad = worker(tmp_path, "bad", "e.send(event='error', kind='user', what='no', where='here', do='fix it')")
    started = time.monotonic()
    with pytest.raises(UserError, match="no") as caught:
        run_workers([slow, bad], Watcher())
    assert caught.value.where == "here" and time.monotonic() - started < 30


@pytest.mark.parametrize(
    ("body", "what"),
    [
        ("import os; os.kill(os.getpid(), 9)", "killed by SIGKILL"),
        ("import sys; print('last words'); sys.exit(3)", "last words"),
        ("pass", "exit code 0 and no result"),
        ("e.send(event='error', kind='crash', text='KeyError: 1')", "KeyError: 1"),
    ],
)
def test_a_crash_is_told_with_the_end_of_its_log(tmp_path: Path, body: str, what: str) -> None:
    with pytest.raises(StageFailed, match=what):
        run_workers([worker(tmp_path, "a", body)], Watcher())


def test_a_lock_knows_its_holder_and_ends_with_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("icr.base.lock.PATIENCE", 0.3)
    path = tmp_path / "run" / ".lock"
    assert not is_held(path)
    first = RunLock(path)
    assert is_held(path)
    with pytest.raises(UserError, match="another command is using this run folder"):
        RunLock(path)
    first.release()
    assert not is_held(path)
    RunLock(path).release()


def test_a_full_disk_is_the_users_to_mend() -> None:
    known = explain_os_error(OSError(28, "No space left on device", "/x/y"))
    assert known is not None and "disk is full" in str(known) and "/x/y" in str(known)
    assert explain_os_error(OSError(2, "No such file")) is None


HEAVY = ("torch", "transformers", "vllm", "deepspeed", "trl", "matplotlib")


def imports(path: Path, top_only: bool) -> set[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    nodes = tree.body if top_only else ast.walk(tree)
    found = set()
    for node in nodes:
        if isinstance(node, ast.Import):
            found |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom) and node.module:
            found.add(node.module)
    return found


LIGHT = (
    "icr/base",
    "icr/config",
    "icr/endpoint",
    "icr/rounds",
    "icr/planning",
    "icr/experiments",
    "icr/report",
    "icr/commands",
)
"""Rooms of the driver: what they need of torch or transformers they import where it is needed."""


def test_the_drivers_side_stays_light() -> None:
    for path in [p for room in LIGHT for p in (ROOT / room).rglob("*.py") if p.name != "plots.py"]:
        top = {module.split(".")[0] for module in imports(path, top_only=True)}
        assert not top & set(HEAVY), path


def test_vllm_is_imported_by_the_engine_and_by_lm_evals_own_backend_alone() -> None:
    files = [p for package in ("icr", "loops", "prompts", "eval") for p in (ROOT / package).rglob("*.py")]
    using = {str(p.relative_to(ROOT)) for p in files for m in imports(p, top_only=False) if m.split(".")[0] == "vllm"}
    assert using == {"icr/engines/vllm_engine.py", "eval/nlp/models.py"}


def test_iterate_writes_its_last_page_itself(
    tmp_path: Path, tiny_config: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The page of a run that goes on is not written right before the last one."""

    class Run:
        def __init__(self, *of: object, after_stage: Callable[[], None]) -> None:
            self.after_stage, self.left = after_stage, 1

        def prepare(self) -> None:
            pass

        def is_done(self) -> bool:
            return not self.left

        def close(self) -> None:
            pass

    written: list[int] = []
    monkeypatch.setattr("icr.rounds.controller.Controller", Run)
    monkeypatch.setattr("icr.planning.start.Start", lambda *of: SimpleNamespace(update=lambda: None))
    monkeypatch.setattr("icr.report.live.LivePage.update", lambda page: written.append(1))
    config = str(tiny_config(tmp_path))
    for planned, expected in ((True, 1), (False, 2)):  # a single stage writes no page of its own
        written.clear()
        with _controller(config, tmp_path / "run", None, planned=planned) as made:
            run: Any = made
            run.after_stage()
            run.left = 0
            run.after_stage()
        assert len(written) == expected
