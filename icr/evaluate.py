"""Benchmarks on any model without a run: what `icr judge xalpaca`, `mtbench` and `nlp` do."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from eval.answers import load_baseline, read_answers
from icr.config import Config
from icr.configfile import differences, dump_config, load_config, make_config
from icr.errors import ConfigError, UserError
from icr.files import read_json, write_rows, write_text
from icr.job import Job
from icr.judging import BENCHMARKS, Evaluation
from icr.lock import RunLock
from icr.machine import Machine
from icr.models import locate
from icr.rundir import RESPONSES

if TYPE_CHECKING:
    from rich.console import Console

Row = dict[str, Any]


def evaluation_config(benchmark: str, model: str, judge: str | None, data: Row, overrides: Sequence[str]) -> Config:
    """The config of one evaluation.

    Args:
        model: what is measured: hub id, folder or .gguf; a folder of answers.
        judge: `local:MODEL` or `openai:MODEL`; None where nobody judges.
        data: further sections and keys.
        overrides: as in `--set`.

    Raises:
        ConfigError, UserError: unknown keys, an unknown judge.
    """
    kind, _, name = (judge or "none").partition(":")
    if kind not in ("local", "openai", "none") or (kind != "none" and not name):
        raise UserError(
            f"there is no judge {judge}",
            where="--judge",
            do="write local:MODEL (hub id, folder, .gguf) or openai:MODEL",
        )
    section = {"kind": kind, "model": name or None, "benchmarks": [benchmark], **data.pop("judge", {})}
    return make_config({"models": {"reference": model}, "judge": section, **data}, overrides)


def evaluate(benchmark: str, config: Config, out: Path, console: Console) -> Row:
    """Measure config.models.reference into `out`; what an earlier command has finished there is kept.

    Returns:
        The benchmark's summary.

    Raises:
        UserError: the folder is in use or holds an evaluation under other settings; missing files; no key.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out / ".lock")
    try:
        _refuse_other_settings(out / "evaluation.yaml", config)
        machine = Machine(out, console, [lock.fd])
        given = config.models.reference
        answers = benchmark in GIVEN_ANSWERS and is_answers(Path(given))
        if answers:
            GIVEN_ANSWERS[benchmark](config, out)
        names = [] if answers else [given]
        names += [config.judge.model] if config.judge.kind == "local" and config.judge.model else []
        folders = _folders(config, out, machine, names)
        if benchmark == "xalpaca":
            _check_baseline(config, out if answers else None)
        write_text(out / "evaluation.yaml", dump_config(config))
        evaluation = Evaluation(
            config=config,
            model="" if answers else folders[given],
            name=Path(given).name,
            out=out,
            judge_model=folders.get(config.judge.model or ""),
            runner=machine,
        )
        BENCHMARKS[benchmark](evaluation)
        summary: Row = read_json(summary_path(out, benchmark))
        return summary
    finally:
        lock.release()


def summary_path(out: Path, benchmark: str) -> Path:
    """Where a benchmark's summary lies in an evaluation folder."""
    return out / "summary.json" if benchmark == "xalpaca" else out / benchmark / "summary.json"


def is_answers(folder: Path) -> bool:
    """Whether a folder holds answers (LANG.json, LANG.jsonl, LANG.parquet, LANG/MODEL.jsonl), and no model."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return False
    return any(any(folder.glob(pattern)) for pattern in ("*.json", "*.jsonl", "*.parquet", "*/*.jsonl"))


def write_answers(source: Path, languages: Sequence[str], out: Path) -> None:
    """Answers in the public files' form as the rows that the judge reads.

    Raises:
        UserError: a language without answers, an answer without its instruction, an id twice.
    """
    from eval.answers import read_outputs

    for lang in languages:
        rows: list[Row] = [
            {"prompt_id": a.id, "lang": lang, "sample": 0, "prompt": a.instruction, "response": a.text, "token_ids": [],
             "finish_reason": "length" if a.truncated else "given", "prompt_ids": []}
            for a in read_outputs(source, lang)
        ]  # fmt: skip
        write_rows(out / f"{lang}.parquet", rows, RESPONSES)


def _xalpaca_answers(config: Config, out: Path) -> None:
    write_answers(Path(config.models.reference), config.prompts.languages, out / "answers")


def _mtbench_answers(config: Config, out: Path) -> None:
    from eval.mtbench_answers import import_answers
    from eval.mtbench_questions import load_questions

    assert config.judge.mtbench is not None
    questions = load_questions(config.judge.mtbench, config.prompts.languages)
    import_answers(questions, Path(config.models.reference), out / "mtbench")


GIVEN_ANSWERS = {"xalpaca": _xalpaca_answers, "mtbench": _mtbench_answers}
"""Benchmarks that take a folder of answers in the place of a model."""


def _refuse_other_settings(path: Path, config: Config) -> None:
    """One folder is one evaluation: what was judged under other settings is not mixed with this."""
    if path.exists():
        changed = [d for d in differences(load_config(path), config) if d[0] not in MAY_CHANGE]
        if changed:
            lines = "\n".join(f"    {key}: {old!r} → {new!r}" for key, old, new in changed)
            raise UserError(
                f"this folder holds an evaluation under other settings:\n{lines}",
                where=str(path),
                do="use the old values, or another --out folder",
            )


MAY_CHANGE = {
    f"judge.{key}"
    for key in ("budget", "prices", "concurrency", "requests_per_minute", "tokens_per_minute", "attempts", "timeout")
} | {"judge.benchmarks"}
"""Settings that change no result."""


def _folders(config: Config, out: Path, machine: Machine, names: Sequence[str]) -> dict[str, str]:
    """Every model as a folder or hub id that loads."""
    found = {name: locate(name, "the model") for name in names}
    if not any(place.endswith(".gguf") for place in found.values()):
        return found
    job = Job(task="prepare", config=config, run=str(out), round=0, models=sorted(found.values()))
    folders = machine.work(job, "preparing models")[0]["folders"]
    return {name: folders[place] for name, place in found.items()}


def _check_baseline(config: Config, out: Path | None) -> None:
    """The baseline has to cover the prompts; better said before a model answers them."""
    from icr.preflight import check_baseline

    source = Path(config.judge.baseline)
    if out is not None:
        load_baseline(source, read_answers(out / "answers"))
        return
    if not config.judge.prompts:
        raise ConfigError([UserError("there are no prompts", where="--prompts", do="name a folder of LANG.json(l)")])
    from prompts.load import load_heldout

    check_baseline(source, load_heldout(config.judge.prompts, config.prompts.languages, config.judge.limit))


def agreement(run: Path, number: int, judge: str | None, pairs: int, overrides: Sequence[str], console: Console) -> Row:
    """Reward accuracy of a round of a run, by the run's judge or another: RUN/round-N/judge/accuracy[-JUDGE].

    Raises:
        UserError: no such run or round, no pairs, no judge.
    """
    from icr.rundir import RunDir

    folder = RunDir(run.resolve())
    if not folder.config.is_file():
        raise UserError(f"{run} is not a run folder", where="--run", do="name a folder that icr iterate made")
    config = load_config(folder.config, overrides)
    if judge is not None:
        config = evaluation_config("accuracy", config.models.reference, judge, _judge_data(config), overrides)
    elif config.judge.kind == "none":
        raise UserError("this run has no judge", where="judge.kind: none", do="name one: --judge openai:MODEL")
    judging = config.judge.model_copy(update={"accuracy": config.judge.accuracy.model_copy(update={"pairs": pairs})})
    config = config.model_copy(update={"judge": judging})
    if not folder.round(number).pairs.is_file():
        raise UserError(f"round {number} has no pairs", where=str(folder.round(number).path),
                        do="name a round that has been paired")  # fmt: skip
    out = folder.round(number).judge if judge is None else folder.round(number).judge / judge.replace("/", "_")
    lock = RunLock(folder.lock)
    try:
        machine = Machine(folder.path, console, [lock.fd])
        names = [config.judge.model] if config.judge.kind == "local" and config.judge.model else []
        folders = _folders(config, out, machine, names)
        evaluation = Evaluation(
            config, "", "", out, folders.get(config.judge.model or ""), machine, number, folder.path
        )
        BENCHMARKS["accuracy"](evaluation)
    finally:
        lock.release()
    summary: Row = read_json(summary_path(out, "accuracy"))
    return summary


def _judge_data(config: Config) -> Row:
    return {"prompts": config.prompts.model_dump(mode="json")}
