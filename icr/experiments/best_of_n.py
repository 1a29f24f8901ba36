"""`icr best-of-n`: candidates of a model, sampled once; their scores under any number of rewards; the best of k."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from eval.best_of_k import Scores
from eval.estimate import Forecast
from eval.judges.panel import member_folder
from eval.reward_models.rows import Workplace
from eval.standing import begin, read_records, settle_step, write_record
from icr.base.fields import Fields
from icr.base.files import sweep, write_json, write_text
from icr.base.lock import RunLock
from icr.base.problems import Collector
from icr.base.rundir import StageRecord, start_date
from icr.config.best_of_n import BestOfNConfig
from icr.config.load import dump_config
from icr.engines.check import check_chat, check_located
from icr.engines.folders import locate
from icr.engines.precision import Precision
from icr.engines.templates import Template
from icr.experiments.best_answers import read_scores, write_best
from icr.experiments.candidate_rewards import KEY, CandidateReward, Candidates, read_reward
from icr.experiments.candidates import describe_sampling, sample_candidates, score_candidates
from icr.experiments.judged_candidates import (
    FIRST,
    NO_JUDGES,
    SAMPLES,
    CandidateJudges,
    describe_wins,
    estimate_judges,
    judge_candidates,
)
from icr.languages import check_languages
from icr.rounds.facts import find_versions
from icr.work.machine import Machine
from icr.work.steps import Step, recorded
from prompts.load import Prompt, load_prompts
from prompts.overlap import describe_prompts

if TYPE_CHECKING:
    from rich.console import Console

CONFIG, WIN_RATES = "best-of-n.yaml", "win_rates.json"


@dataclass(frozen=True)
class BestInputs:
    """What the checks read on their way."""

    model: str
    """A folder, a hub id or a .gguf file."""
    prompts: Sequence[Prompt]
    rewards: Sequence[CandidateReward]
    k: int


def best_of_n(
    config: BestOfNConfig,
    rewards: Sequence[str],
    k: int | None,
    out: Path,
    console: Console,
    judging: CandidateJudges = NO_JUDGES,
) -> Fields:
    """Sample, score, choose. What an earlier command has finished in `out` is kept: candidates and scores alike.

    Args:
        rewards: classifiers, or KIND:POLICY,REFERENCE.
        k: candidates that the answers are the best of; None: all n.
        judging: who compares every candidate with the baseline's answer.

    Returns:
        `samples`, the counts of the sampling; `rewards`: name → what best_of_k.json has, and with judges `win_rates`:
        judge → what win_rates.json has.

    Raises:
        ConfigError: everything that is wrong with the settings, prompts and models.
        UserError: the folder is in use, or holds candidates or scores of other files or with other settings.
        StageFailed: a worker failed.
    """
    inputs = check_best_of_n(config, rewards, k)
    out.mkdir(parents=True, exist_ok=True)
    lock = RunLock(out / ".lock")
    sweep(out)
    machine = Machine(out, console, [lock.fd], tensor_parallel=config.sampling.tensor_parallel)
    try:
        step = describe_sampling(config, inputs.model, inputs.prompts, machine)
        record = _settle(out, step, _tables(config, out / SAMPLES), "candidates", machine)
        write_text(out / CONFIG, dump_config(config))
        template = Template(file=config.chat_template, arguments=config.template_arguments, date=start_date(out))
        if record is None or record.state != "done":
            for note in describe_prompts(inputs.prompts, config.prompts.limit, "--prompts", "--limit"):
                machine.note(note)
            work = begin(step, record)
            _do(
                out,
                step,
                work,
                lambda: sample_candidates(
                    out / SAMPLES, config, inputs.model, inputs.prompts, template, step.key, machine
                ),
            )
            record = work
        precision = machine.precision(config.reward.precision)
        of = Candidates(machine, step.key, inputs.model, template, precision, config.chat_template)
        found: Fields = {"samples": dict(record.counts), "rewards": {}}
        for reward in inputs.rewards:
            _score(out, config, reward, of)
            folders = out / "best" / reward.name, out / SAMPLES, out / "scores" / reward.name
            found["rewards"][reward.name] = write_best(*folders, config, reward, inputs.k)
        if judging.judges:
            wins = _judge(out, config, judging, machine, precision)
            for reward in inputs.rewards:
                found["rewards"][reward.name]["win_rates"] = _write_wins(out, config, reward.name, wins, inputs.k)
        return found
    finally:
        machine.stop()
        lock.release()


def estimate_best_of_n(
    config: BestOfNConfig, rewards: Sequence[str], k: int | None, out: Path, judging: CandidateJudges = NO_JUDGES
) -> Forecast:
    """How much work there is, and what the judges cost. Nothing is loaded, sampled or sent.

    Raises:
        ConfigError, UserError: as `best_of_n`, and a budget without a price.
    """
    inputs = check_best_of_n(config, rewards, k)
    count, most = len(inputs.prompts) * config.sampling.n, config.sampling.max_tokens
    there = all(table.is_file() for table in _tables(config, out / SAMPLES))
    sampled = "already sampled" if there else f"at most {count * most:,} tokens"
    names = ", ".join(reward.name for reward in inputs.rewards)
    work = f"{len(inputs.prompts):,} prompts, {count:,} candidates ({sampled}), scored by {names}"
    return Forecast(estimate_judges(judging, config, inputs.prompts, out) if judging.judges else [], before=[work])


def _judge(
    out: Path, config: BestOfNConfig, judging: CandidateJudges, machine: Machine, precision: Precision
) -> dict[str, tuple[Fields, Scores]]:
    """Judge → who it is, and its preferences for all candidates."""
    at = Workplace(machine, out, precision, machine.folders(judging.models, None) if judging.models else {})
    found: dict[str, tuple[Fields, Scores]] = {}
    for judge in judging.judges:
        folder, orders = member_folder(out, judge.name), judge.config.orders
        languages, baseline = config.prompts.languages, judging.baseline
        wins = judge_candidates(judge.judging(at), out / SAMPLES, languages, baseline, folder, orders)
        facts = {**judge.summary(out), "baseline": baseline.name if baseline else FIRST, "orders": orders}
        found[judge.name] = facts, wins
    return found


def _write_wins(
    out: Path, config: BestOfNConfig, name: str, wins: dict[str, tuple[Fields, Scores]], k: int
) -> dict[str, Fields]:
    """OUT/best/NAME/win_rates.json: for each judge the expected win rate of the best of k."""
    folder = out / "scores" / name
    scores = {lang: read_scores(folder / f"{lang}.parquet") for lang in config.prompts.languages}
    found = {judge: {**facts, **describe_wins(scores, of, config.sampling.n, k)} for judge, (facts, of) in wins.items()}
    write_json(out / "best" / name / WIN_RATES, found)
    return found


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
        found.add(f"k is {k}, but each prompt has {n} candidates", where="--k", do=f"write 1 to {n}, or raise --n")
    if config.chat_template and not Path(config.chat_template).is_file():
        found.add(f"file {config.chat_template} not found", where="chat_template", do="check the path")
    model = found.attempt("", locate, config.model, "MODEL")
    if model:
        found.attempt(None, check_located, model, "MODEL")
        template = Template(file=config.chat_template, arguments=config.template_arguments)
        found.attempt(None, check_chat, model, template, "MODEL")
    read = [found.attempt(None, read_reward, given, config.reward.beta, model, prompts, path) for given in rewards]
    known = [reward for reward in read if reward is not None]
    if twice := sorted({r.name for r in known if [other.name for other in known].count(r.name) > 1}):
        do = "name each reward once, and give models of one name folders of other names"
        found.add(f"two rewards are called {', '.join(twice)}", where=KEY, do=do)
    found.raise_any()
    return BestInputs(model, prompts, known, n if k is None else k)


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
    with recorded(record, partial(write_record, out, step.name, record)):
        record.counts = work()


def _score(out: Path, config: BestOfNConfig, reward: CandidateReward, of: Candidates) -> None:
    """OUT/scores/NAME/LANG.parquet of every language."""
    folder = out / "scores" / reward.name
    step = reward.step(of.key, of.precision)
    record = _settle(out, step, _tables(config, folder), f"scores named {reward.name}", of.machine)
    if record is not None and record.state == "done":
        return

    def work() -> Fields:
        return score_candidates(folder, out / SAMPLES, config.prompts.languages, reward, of, step.key)

    _do(out, step, begin(step, record), work)
