"""Benchmarks on any model without a run: what `icr judge xalpaca`, `mtbench` and `nlp` do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.accuracy import pick_pairs
from eval.benchmarks import BENCHMARKS, Evaluation
from eval.folders import summary_path
from eval.judges.own import check_own_judge
from eval.xalpaca.answers import heldout_prompts, is_answers, load_baseline, read_answers, write_answers
from icr.base.errors import UserError
from icr.base.files import read_json, write_text
from icr.base.lock import RunLock
from icr.base.rundir import open_run
from icr.config.load import dump_config, load_config, make_config, refuse_changes, resolve_paths
from icr.config.schema import Config
from icr.engines.models import locate
from icr.work.machine import Machine

if TYPE_CHECKING:
    from rich.console import Console


Row = dict[str, Any]


def evaluation_config(benchmark: str, model: str, judge: str | None, data: Row, overrides: Sequence[str]) -> Config:
    """The config of one evaluation.

    Args:
        model: what is measured: hub id, folder or .gguf; a folder of answers.
        judge: `local:MODEL`, `openai:MODEL` or the user's own `module:Class`; None where nobody judges.
        data: further sections and keys.
        overrides: as in `--set`.

    Raises:
        ConfigError, UserError: unknown keys, an unknown judge.
    """
    kind, colon, name = (judge or "none").partition(":")
    if judge and not (colon and name):
        raise UserError(
            f"there is no judge {judge}",
            where="--judge",
            do="write local:MODEL (hub id, folder, .gguf), openai:MODEL, or module:Class for your own",
        )
    if judge and kind not in ("local", "openai"):
        kind, name = judge, ""
        check_own_judge(judge, [benchmark])
    section = {"kind": kind, "model": name or None, "benchmarks": [benchmark], **data.pop("judge", {})}
    found = {"models": {"reference": model}, "judge": section, **data}
    resolve_paths(found, Path.cwd())  # as in evaluation.yaml, which the next command compares its settings with
    return make_config(found, overrides)


def evaluate(benchmark: str, config: Config, out: Path, console: Console) -> Row:
    """Measure config.models.reference into `out`; what an earlier command has finished there is kept.

    Returns:
        The benchmark's summary.

    Raises:
        UserError: the folder is in use or holds an evaluation under other settings; missing files; no key.
    """
    out.mkdir(parents=True, exist_ok=True)
    settings = out / "evaluation.yaml"
    lock = RunLock(out / ".lock")
    try:
        refuse_changes(settings, config, "this folder holds an evaluation under other settings",
                       "use the old values, or another --out folder", MAY_CHANGE)  # fmt: skip
        machine = Machine(out, console, [lock.fd])
        given = config.models.reference
        answers = benchmark in GIVEN_ANSWERS and is_answers(Path(given))
        if answers:
            GIVEN_ANSWERS[benchmark](config, out)
        model = "" if answers else _loadable(given, config, machine)
        judge = config.judge.local_model and _loadable(config.judge.local_model, config, machine)
        if benchmark == "xalpaca":
            _check_baseline(config, out if answers else None)
        write_text(settings, dump_config(config))
        evaluation = Evaluation(
            config=config,
            model=model,
            name=Path(given).name,
            out=out,
            judge_model=judge,
            runner=machine,
        )
        BENCHMARKS[benchmark](evaluation)
        summary: Row = read_json(summary_path(out, benchmark))
        return summary
    finally:
        lock.release()


def _xalpaca_answers(config: Config, out: Path) -> None:
    write_answers(Path(config.models.reference), config.prompts.languages, out / "answers")


def _mtbench_answers(config: Config, out: Path) -> None:
    from eval.mtbench.answers import import_answers
    from eval.mtbench.questions import load_questions

    assert config.judge.mtbench is not None
    questions = load_questions(config.judge.mtbench, config.prompts.languages)
    import_answers(questions, Path(config.models.reference), out / "mtbench")


GIVEN_ANSWERS = {"xalpaca": _xalpaca_answers, "mtbench": _mtbench_answers}
"""Benchmarks that take a folder of answers in the place of a model."""


MAY_CHANGE = {
    f"judge.{key}"
    for key in ("budget", "prices", "concurrency", "requests_per_minute", "tokens_per_minute", "attempts", "timeout")
} | {"judge.benchmarks"}
"""Settings that change no result."""


def _check_baseline(config: Config, out: Path | None) -> None:
    """The baseline has to cover the prompts; better said before a model answers them."""
    from eval.xalpaca.answers import check_baseline

    source = Path(config.judge.baseline)
    if out is not None:
        load_baseline(source, read_answers(out / "answers"))
    else:
        check_baseline(source, heldout_prompts(config))


def agreement(run: Path, number: int, judge: str | None, pairs: int, overrides: Sequence[str], console: Console) -> Row:
    """Reward accuracy of a round of a run: RUN/round-N/judge/accuracy, or judge/JUDGE/accuracy by another judge.

    Raises:
        UserError: no such run or round, no pairs, no judge.
    """
    folder = open_run(run.resolve())
    config = load_config(folder.config, overrides)
    if judge is not None:
        data = {"prompts": config.prompts.model_dump(mode="json")}
        config = evaluation_config("accuracy", config.models.reference, judge, data, overrides)
    elif config.judge.kind == "none":
        raise UserError("this run has no judge", where="judge.kind: none", do="name one: --judge openai:MODEL")
    judging = config.judge.model_copy(update={"accuracy": config.judge.accuracy.model_copy(update={"pairs": pairs})})
    config = config.model_copy(update={"judge": judging})
    round_ = folder.round(number)
    pick_pairs(round_.pairs, pairs)  # before a judge is loaded
    out = round_.judge if judge is None else round_.judge / judge.replace("/", "_")
    lock = RunLock(folder.lock)
    try:
        machine = Machine(folder.path, console, [lock.fd])
        local = config.judge.local_model and _loadable(config.judge.local_model, config, machine)
        BENCHMARKS["accuracy"](Evaluation(config, "", "", out, local, machine, number, folder.path))
    finally:
        lock.release()
    summary: Row = read_json(summary_path(out, "accuracy"))
    return summary


def _loadable(model: str, config: Config, machine: Machine) -> str:
    """A model as the user names it → hub id or folder."""
    place = locate(model, "the model")
    return machine.folders(config, [place])[place]
