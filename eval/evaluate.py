"""Benchmarks on any model without a run: what `icr judge xalpaca`, `mtbench`, `nlp` and `accuracy` do."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eval.accuracy import pick_pairs
from eval.benchmarks import BENCHMARKS, Evaluation
from eval.folders import summary_path, verdicts_folder
from eval.judges.asking import has_failed
from eval.judges.open import check_judge, identify_judge, locate_judges
from eval.judges.own import check_own_judge
from eval.judges.prompts import check_prompts, identify_prompts
from eval.mtbench.answers import bound_conversation, import_answers
from eval.mtbench.questions import load_questions
from eval.nlp.tasks import check_settings
from eval.standing import SETTINGS_FILE, begin, describe_evaluation, settle, write_record
from eval.xalpaca.answers import (
    check_baseline,
    given_answers,
    heldout_prompts,
    is_answers,
    load_baseline,
    write_answers,
)
from icr.base.content import hash_value
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json, write_text
from icr.base.hub import means_path
from icr.base.lock import RunLock
from icr.base.rundir import open_run, start_date
from icr.config.evaluation import Benchmark, EvaluationConfig
from icr.config.load import dump_config, load_config, make_section, resolve_paths
from icr.config.schema import Judge
from icr.engines.check import check_located
from icr.engines.context import context_length
from icr.engines.folders import locate
from icr.engines.open import EngineSettings
from icr.engines.templates import Template
from icr.languages import check_languages
from icr.work.machine import Machine
from icr.work.sampling import bound_tokens
from icr.work.settings import SINCE
from icr.work.steps import recorded
from prompts.overlap import describe_prompts

if TYPE_CHECKING:
    from rich.console import Console


def evaluation_config(
    benchmark: Benchmark, model: str, judge: str | None, data: Fields, overrides: Sequence[str]
) -> EvaluationConfig:
    """The settings of one evaluation.

    Args:
        model: what is measured: hub id, folder or .gguf; a folder of answers; "" for accuracy.
        judge: `local:MODEL`, `openai:MODEL` or a custom `module:Class`; None without a judge.
        data: further sections and keys.
        overrides: as in `--set`.

    Raises:
        ConfigError, UserError: unknown keys, an unknown judge, an unknown language or one twice.
    """
    kind, colon, name = (judge or "none").partition(":")
    if judge and not (colon and name):
        raise UserError(
            f"unknown judge {judge}",
            where="--judge",
            do="write local:MODEL (hub id, folder, .gguf), openai:MODEL, or module:Class for a custom one",
        )
    if judge and kind not in ("local", "openai"):
        kind, name = judge, ""
        check_own_judge(judge, [benchmark], "--judge")
    section = {"kind": kind, "model": name or None, "benchmarks": [benchmark], **data.pop("judge", {})}
    found = {"benchmark": benchmark, "model": model, "judge": section, **data}
    resolve_paths(found, Path.cwd())  # as in evaluation.yaml, which people read
    config = make_section(EvaluationConfig, found, overrides)
    check_languages(config.languages, "--languages")
    return config


def evaluate(config: EvaluationConfig, out: Path, console: Console) -> Fields:
    """Measure config.model into `out`; what an earlier command has finished there is kept.

    Returns:
        The benchmark's summary.

    Raises:
        UserError: the folder is in use or holds an evaluation of other files or with other settings; missing files; no
            key.
        StageFailed: a worker failed.
    """
    out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out / ".lock")
    machine = Machine(out, console, [lock.fd], tensor_parallel=config.sampling.tensor_parallel)
    try:
        return _evaluate(config, out, machine)
    finally:
        machine.stop()
        lock.release()


def _evaluate(config: EvaluationConfig, out: Path, machine: Machine) -> Fields:
    given = config.benchmark != "nlp" and is_answers(Path(config.model))
    model = None if given else _locate_model(config)
    judge_models = locate_judges(config.judge)
    _check(config, given, machine.note)
    step = describe_evaluation(config, model, judge_models, machine.precision)
    record = settle(out, config, step, machine.note)
    if record is not None and record.state == "done" and has_failed(verdicts_folder(out, config.benchmark)):
        machine.note("questions that the endpoint did not answer are asked again")
        record.state = "failed"
    if record is None or record.state != "done":
        if config.benchmark != "nlp":
            check_judge(config.judge)
        for name, key in ((model, "the model"), *((judge, "judge.model") for judge in judge_models.values())):
            if name:
                check_located(name, key)
        record = begin(step, record)
    write_text(out / SETTINGS_FILE, dump_config(config))
    write_record(out, config.benchmark, record)
    if record.state != "done":
        with recorded(record, partial(write_record, out, config.benchmark, record)):
            names = {name for name in (model, *judge_models.values()) if name}
            folders = machine.folders(names, config.chat_template)
            if given:
                _take_answers(config, out, machine)
            evaluation = Evaluation(
                model=folders[model] if model else "",
                name=Path(config.model).name,
                out=out,
                languages=config.languages,
                template=Template(file=config.chat_template, arguments=config.template_arguments, date=start_date(out)),
                sampling=config.sampling,
                judge=config.judge,
                judge_models={name: folders[judge] for name, judge in judge_models.items()},
                machine=machine,
                engine=_choose_engine(config, folders[model], machine) if model else None,
                key=step.key,
                baseline=Path(config.judge.baseline),
            )
            record.counts = BENCHMARKS[config.benchmark](evaluation)
    summary: Fields = read_json(summary_path(out, config.benchmark))
    return summary


def _locate_model(config: EvaluationConfig) -> str:
    """As `locate`; a path where nothing is may be meant as one of answers."""
    path = Path(config.model).expanduser()
    if config.benchmark != "nlp" and path.suffix != ".gguf" and not path.is_dir() and means_path(config.model):
        do = "give a folder of answers (LANG.json or LANG.jsonl), a model's folder, a .gguf file, or a hub id"
        if path.is_file():
            raise UserError(f"{path} is a file, and answers are a folder", where="the model", do=f"name {path.parent}")
        raise UserError(f"folder {path} not found", where="the model", do=do)
    return locate(config.model, "the model")


def _check(config: EvaluationConfig, given: bool, note: Callable[[str], None]) -> None:
    """Find what is wrong before a model answers anything.

    Args:
        note: gets a line for the user about what is unusual, and not wrong.

    Raises:
        UserError: answers that do not cover the prompts; questions or task files that cannot be read.
    """
    judge, languages = config.judge, config.languages
    check_prompts(judge)
    if config.benchmark == "xalpaca" and given:
        source = Path(config.model)
        load_baseline(Path(judge.baseline), given_answers(source, languages, judge.limit), key="--baseline")
    elif config.benchmark == "xalpaca":
        prompts = heldout_prompts(judge, languages)
        check_baseline(Path(judge.baseline), prompts, "--baseline")
        for line in describe_prompts(prompts, judge.limit, "--prompts", "--limit"):
            note(line)
    elif config.benchmark == "mtbench":
        assert judge.mtbench is not None
        load_questions(judge.mtbench, languages)
    else:
        check_settings(judge.nlp, languages)


def _choose_engine(config: EvaluationConfig, model: str, machine: Machine) -> EngineSettings | None:
    """The model's engine, with room for the longest that the benchmark can ask for; None where nothing is sampled."""
    judge = config.judge
    if config.benchmark == "nlp":
        return None
    if config.benchmark == "mtbench":
        assert judge.mtbench is not None
        longest = bound_conversation(load_questions(judge.mtbench, config.languages), judge.mtbench.max_tokens)
    else:
        longest = bound_tokens([p.text for p in heldout_prompts(judge, config.languages)]) + judge.max_tokens
    return EngineSettings.of(config.sampling, min(context_length(model), longest), gpu=machine.gpus > 0)


def _take_answers(config: EvaluationConfig, out: Path, machine: Machine) -> None:
    """Given answers in the place of the model's."""
    if config.benchmark == "xalpaca":
        write_answers(given_answers(Path(config.model), config.languages, config.judge.limit), out / "answers")
        return
    assert config.judge.mtbench is not None
    questions = load_questions(config.judge.mtbench, config.languages)
    import_answers(questions, Path(config.model), out / "mtbench", machine)


def agreement(
    run: Path, number: int, judge: str | None, pairs: int, overrides: Sequence[str], console: Console
) -> Fields:
    """Reward accuracy of a round of a run: RUN/round-N/judge/accuracy, or judge/JUDGE/accuracy by another judge.

    Raises:
        UserError: no such run or round, no pairs, no judge.
        StageFailed: a worker failed.
    """
    folder = open_run(run.resolve())
    of_run = load_config(folder.config, () if judge else overrides)
    languages = of_run.prompts.languages
    if judge is not None:
        asked = evaluation_config("accuracy", "", judge, {"languages": languages}, overrides).judge
    elif of_run.judge.kind == "none":
        raise UserError("this run has no judge", where="judge.kind: none", do="name one, e.g. --judge openai:MODEL")
    else:
        asked = of_run.judge
    asked = asked.model_copy(update={"accuracy": asked.accuracy.model_copy(update={"pairs": pairs})})
    round_ = folder.round(number)
    pick_pairs(round_.pairs, pairs)  # before a judge is loaded
    check_judge(asked)
    check_prompts(asked)
    models = locate_judges(asked)
    for model in models.values():
        check_located(model, "judge.model")
    out = round_.judge if judge is None else round_.judge / judge.replace("/", "_")
    lock = RunLock(folder.lock)
    machine = Machine(folder.path, console, [lock.fd])
    try:
        folders = machine.folders(set(models.values()), of_run.models.chat_template)
        evaluation = Evaluation(
            model="",
            name="",
            out=out,
            languages=languages,
            template=Template(date=start_date(folder.path)),
            sampling=of_run.sampling,
            judge=asked,
            judge_models={name: folders[model] for name, model in models.items()},
            machine=machine,
            engine=None,
            key=key_of_judge(asked, models),
            round=number,
            pairs=round_.pairs,
        )
        BENCHMARKS["accuracy"](evaluation)
    finally:
        machine.stop()
        lock.release()
    summary: Fields = read_json(summary_path(out, "accuracy"))
    return summary


def key_of_judge(judge: Judge, models: Mapping[str, str], benchmark: Benchmark = "accuracy") -> str:
    """What verdicts depend on besides the pairs, of which more may be asked for at any time.

    Args:
        models: as `locate_judges` gives them.
    """
    endpoint: list[object] = [judge.model, judge.base_url, judge.preference] if judge.asks_endpoint else []
    if endpoint or judge.judges:
        values = {key: getattr(judge, key.removeprefix("judge.")) for key in SINCE} | {
            "judge.judges": judge.judges_asked
        }
        endpoint += [[key, value] for key, value in values.items() if value != SINCE[key]]
    return hash_value([identify_judge(judge, models) | identify_prompts(judge, [benchmark]), endpoint])
