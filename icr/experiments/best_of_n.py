"""`icr best-of-n`: candidates of a model, sampled once; their scores under any number of rewards; the best of k."""

from __future__ import annotations

import math
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from eval.benchmarks import GPU_SHARD
from eval.standing import begin, read_records, recorded, settle_step, write_record
from icr.base.content import hash_file, hash_rows, identify_model
from icr.base.errors import UserError, some
from icr.base.fields import Fields
from icr.base.files import write_table, write_text
from icr.base.lock import RunLock
from icr.base.problems import Collector
from icr.base.rundir import StageRecord, start_date
from icr.config.best_of_n import BestOfNConfig
from icr.config.load import dump_config, flatten
from icr.engines.check import check_located
from icr.engines.context import context_length
from icr.engines.folders import locate
from icr.engines.open import EngineSettings
from icr.engines.templates import Template
from icr.experiments.best_answers import SCORES, write_best
from icr.experiments.candidate_rewards import KEY, CandidateReward, Candidates, read_reward
from icr.languages import check_languages
from icr.rounds.facts import find_versions
from icr.work.machine import Machine
from icr.work.sampling import SampleTask, bound_tokens, sample_prompts
from icr.work.settings import USES
from icr.work.steps import Step
from prompts.load import Prompt, load_prompts
from prompts.overlap import describe_prompts

if TYPE_CHECKING:
    from rich.console import Console

CONFIG, SAMPLES = "best-of-n.yaml", "samples"
SAMPLING = "sampling"
"""The name of the step."""
TOO_LONG = "too_long"


@dataclass(frozen=True)
class BestInputs:
    """What the checks read on their way."""

    model: str
    """A folder, a hub id or a .gguf file."""
    prompts: Sequence[Prompt]
    rewards: Sequence[CandidateReward]
    k: int


def best_of_n(config: BestOfNConfig, rewards: Sequence[str], k: int | None, out: Path, console: Console) -> Fields:
    """Sample, score, choose. What an earlier command has finished in `out` is kept: candidates and scores alike.

    Args:
        rewards: classifiers, or KIND:POLICY,REFERENCE.
        k: candidates that the answers are the best of; None: all n.

    Returns:
        `samples`, the counts of the sampling, and `rewards`: name → what best_of_k.json has.

    Raises:
        ConfigError: everything that is wrong with the settings, prompts and models.
        UserError: the folder is in use, or holds candidates or scores of other files or with other settings.
        StageFailed: a worker failed.
    """
    inputs = check_best_of_n(config, rewards, k)
    out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out / ".lock")
    machine = Machine(out, console, [lock.fd], tensor_parallel=config.sampling.tensor_parallel)
    try:
        step = describe_sampling(config, inputs, machine)
        record = _settle(out, step, _tables(config, out / SAMPLES), "candidates", machine)
        write_text(out / CONFIG, dump_config(config))
        template = Template(file=config.chat_template, arguments=config.template_arguments, date=start_date(out))
        if record is None or record.state != "done":
            for note in describe_prompts(inputs.prompts, config.prompts.limit, "--prompts", "--limit"):
                machine.note(note)
            work = begin(step, record)
            _do(out, step, work, lambda: _sample(out, config, inputs, template, step.key, machine))
            record = work
        precision = machine.precision(config.reward.precision)
        of = Candidates(machine, step.key, inputs.model, template, precision, config.chat_template)
        found: Fields = {"samples": dict(record.counts), "rewards": {}}
        for reward in inputs.rewards:
            _score(out, config, reward, of)
            found["rewards"][reward.name] = write_best(out, config, reward, inputs.k)
        return found
    finally:
        machine.stop()
        lock.release()


def check_best_of_n(config: BestOfNConfig, rewards: Sequence[str], k: int | None) -> BestInputs:
    """Check everything before anything is loaded.

    Raises:
        ConfigError: every problem.
    """
    found, n = Collector(), config.sampling.n
    path, languages, limit = config.prompts.path, config.prompts.languages, config.prompts.limit
    prompts: list[Prompt] = []
    found.attempt(None, check_languages, languages, "--languages")
    if not found.problems:
        prompts = found.attempt([], load_prompts, path, languages, limit=limit, key="--prompts", pivot="")
    if k is not None and not 1 <= k <= n:
        found.add(f"the best of {k} cannot be taken of {n} candidates", where="--k", do=f"write 1 to {n}, or raise --n")
    if config.chat_template and not Path(config.chat_template).is_file():
        found.add(f"file {config.chat_template} not found", where="chat_template", do="check the path")
    model = found.attempt("", locate, config.model, "MODEL")
    if model:
        found.attempt(None, check_located, model, "MODEL")
    read = [found.attempt(None, read_reward, given, config.reward.beta, model, prompts, path) for given in rewards]
    known = [reward for reward in read if reward is not None]
    if twice := sorted({r.name for r in known if [other.name for other in known].count(r.name) > 1}):
        do = "name each reward once, and give models of one name folders of other names"
        found.add(f"two rewards are called {', '.join(twice)}", where=KEY, do=do)
    found.raise_any()
    return BestInputs(model, prompts, known, n if k is None else k)


def describe_sampling(config: BestOfNConfig, inputs: BestInputs, machine: Machine) -> Step:
    """The sampling as a step: what the candidates depend on."""
    made = {"model": identify_model(inputs.model)}
    for lang in config.prompts.languages:
        texts = ({"id": p.id, "text": p.text} for p in inputs.prompts if p.lang == lang)
        made[f"prompts in {lang}"] = hash_rows(texts)
    if config.chat_template:
        made["chat template"] = hash_file(Path(config.chat_template))
    used = {key for key, stages in USES.items() if "sample" in stages} - {"prompts.limit"}  # the prompts say it
    settings = {key: value for key, value in flatten(config).items() if key in used}
    settings |= {"sampling.precision": machine.precision(config.sampling.precision)}
    return Step(SAMPLING, made, settings | {"template_arguments": config.template_arguments})


def _tables(config: BestOfNConfig, folder: Path) -> list[Path]:
    """The tables of a finished step."""
    return [folder / f"{lang}.parquet" for lang in config.prompts.languages]


def _settle(out: Path, step: Step, tables: Sequence[Path], holds: str, machine: Machine) -> StageRecord | None:
    """The record of a step as it still holds, see `eval.standing.settle_step`.

    Args:
        tables: its files, in a folder of its own.
    """
    return settle_step(
        step,
        read_records(out).get(step.name),
        whole=all(table.is_file() for table in tables),
        holds=holds,
        where=out / CONFIG,
        remove=lambda: shutil.rmtree(tables[0].parent, ignore_errors=True),
        note=machine.note,
    )


def _do(out: Path, step: Step, record: StageRecord, work: Callable[[], Fields]) -> None:
    """Do a step, and record how it ends."""
    record.versions = find_versions()
    write_record(out, step.name, record)
    with recorded(out, step.name, record):
        record.counts = work()


def _sample(
    out: Path, config: BestOfNConfig, inputs: BestInputs, template: Template, key: str, machine: Machine
) -> Fields:
    """OUT/samples/LANG.parquet, rows of `icr.rows.RESPONSES`; an engine computes the prompt of n candidates once."""
    settings, folder = config.sampling, out / SAMPLES
    model = machine.folders({inputs.model}, config.chat_template)[inputs.model]
    longest = bound_tokens([p.text for p in inputs.prompts]) + settings.max_tokens
    engine = EngineSettings.of(settings, min(context_length(model), longest), gpu=machine.gpus > 0)
    if settings.backend == "auto" and engine.backend == "transformers":
        machine.note("vLLM is not installed: sampling with transformers' generate, which is several times slower")
    task = SampleTask(
        model=model,
        template=template,
        stop=tuple(settings.stop),
        engine=engine,
        n=settings.n,
        temperature=settings.temperature,
        top_p=settings.top_p,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        round=0,
    )
    size = min(settings.shard_size, GPU_SHARD) if machine.gpus else settings.shard_size
    shards = folder / "shards"
    counts = sample_prompts(machine, task, inputs.prompts, folder, shards / key[:16], "candidates", size)
    shutil.rmtree(shards, ignore_errors=True)
    return {"prompts": len(inputs.prompts), "n": settings.n, **counts}


def _score(out: Path, config: BestOfNConfig, reward: CandidateReward, of: Candidates) -> None:
    """OUT/scores/NAME/LANG.parquet of every language."""
    folder = out / "scores" / reward.name
    step = reward.step(of.key, of.precision)
    record = _settle(out, step, _tables(config, folder), f"scores named {reward.name}", of.machine)
    if record is not None and record.state == "done":
        return
    shards = folder / "shards" / step.key[:16]

    def work() -> Fields:
        counts = {}
        for lang in config.prompts.languages:
            rows = pq.read_table(out / SAMPLES / f"{lang}.parquet")
            scores = reward.scores(of, rows, lang, shards / lang)
            _check_scores(scores, reward, lang)
            write_table(folder / f"{lang}.parquet", _table(rows, scores))
            counts[lang] = {"candidates": len(scores), TOO_LONG: sum(score is None for score in scores)}
        shutil.rmtree(folder / "shards", ignore_errors=True)
        return {"languages": counts}

    _do(out, step, begin(step, record), work)


def _check_scores(scores: Sequence[float | None], reward: CandidateReward, lang: str) -> None:
    """Raises UserError for scores that are not finite."""
    wrong = [str(score) for score in scores if score is not None and not math.isfinite(score)]
    if wrong:
        raise UserError(
            f"{len(wrong)} of {len(scores)} scores in {lang} are not finite numbers: {some(wrong)}",
            where=f"{KEY} {reward.given}",
            do="check the weights of the reward's models",
        )


def _table(rows: pa.Table, scores: Sequence[float | None]) -> pa.Table:
    """SCORES of candidates."""
    columns = {
        **{name: rows[name] for name in ("prompt_id", "lang", "sample")},
        "score": pa.array(scores, pa.float64()),
        "tokens": pc.list_value_length(rows["token_ids"]),
        "dropped": pa.array([TOO_LONG if score is None else None for score in scores], pa.string()),
    }
    return pa.table(columns).cast(SCORES)
