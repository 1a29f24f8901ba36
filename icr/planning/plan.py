"""The plan of a run: each stage with its time, memory and what a judge is paid; what does not fit; what it rests on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.errors import UserError
from icr.base.rundir import RunDir, Stage
from icr.config.load import load_config
from icr.config.schema import Config, reward_models
from icr.engines.precision import Precision
from icr.engines.sizes import GIB
from icr.planning.devices import Device, count_gpus, find_device
from icr.planning.disk import DiskPlan, plan_disk
from icr.planning.elapsed import elapse
from icr.planning.facts import ModelFacts, find_facts
from icr.planning.formulas import SPREAD
from icr.planning.lengths import Lengths, guess_lengths, lengths_of_runs, read_lengths
from icr.planning.memory import Misfit, Need, find_misfits, find_need
from icr.planning.questions import Asked, plan_questions
from icr.planning.rates import SAME, Observation, Rates, fit, read_rates, write_rates
from icr.planning.setup import Setup
from icr.planning.texts import Texts, count_texts
from icr.planning.work import Job, list_jobs, response_tokens
from icr.rounds.context import Inputs
from icr.rounds.plan import judges_beside
from loops.disk import RESERVE, free_disk

MEASURED, FAR = 1.3, 1.7
"""The least range of a rate that was measured on this device, as a factor either way; and where it is carried over to
another model size, or to three times as much work or a third. Observations that differ by more widen it."""
FAR_WORK = 3.0
START_SPREAD = (0.25, 3.0)
"""Best and worst of an assumed start-up, as multiples. Workers import while the plan is made, so it may be short."""


@dataclass(frozen=True)
class StageCost:
    """One stage of one round."""

    round: int
    stage: Stage
    seconds: float
    low: float
    high: float
    basis: str
    """measured, carried over, or assumed."""
    jobs: tuple[Job, ...]
    need: Need
    tokens: int
    """Written by an engine, or gone through a model that is trained or scores."""
    calls: int = 0
    prompt_tokens: int = 0
    completion_tokens: int = 0
    usd: float | None = 0.0
    done: bool = False
    """Whether the run folder has this stage done."""
    took: float | None = None
    """Seconds that it took there, where the run has this plan's config."""
    beside: float = 0.0
    """Share of its time, at its end, in which an endpoint is asked while the next round goes on."""

    @property
    def unknown(self) -> list[str]:
        return [job.unknown for job in self.jobs if job.unknown]


@dataclass(frozen=True)
class RunCost:
    """A whole run on so many devices."""

    setup: Setup
    lengths: Lengths
    asked: Asked
    stages: tuple[StageCost, ...]
    disk: DiskPlan
    misfits: tuple[Misfit, ...]

    def total(self, *, left: bool = False) -> tuple[float, float, float]:
        """(seconds, at best, at worst), less than the sums of all stages where a judge is asked beside the next round.

        Args:
            left: only of the stages that are not done.
        """
        rows = [of for of in self.stages if not (left and of.done)]
        times = [[of.seconds for of in rows], [of.low for of in rows], [of.high for of in rows]]
        seconds, low, high = (_elapse(rows, of) for of in times)
        return seconds, low, high

    @property
    def took(self) -> float:
        """Seconds of the stages that are done, taken together like those of the plan."""
        return _elapse(self.stages, [of.took or 0.0 for of in self.stages])

    @property
    def usd(self) -> float | None:
        return None if any(of.usd is None for of in self.stages) else sum(of.usd or 0.0 for of in self.stages)


def _elapse(stages: Sequence[StageCost], seconds: Sequence[float]) -> float:
    return elapse((of.stage, each, of.beside) for of, each in zip(stages, seconds, strict=True))


@dataclass(frozen=True)
class Known:
    """What was read once for all device counts of a plan."""

    config: Config
    inputs: Inputs
    texts: Texts
    policy: ModelFacts
    reference: ModelFacts
    judge: ModelFacts | None
    classifiers: dict[str, ModelFacts]
    questions: int
    run: RunDir | None
    """Its finished rounds say how long answers are."""
    same: bool
    """Whether that run has this config, so that what its stages took can be compared."""
    rates: Rates
    device: Device


def know(
    config: Config, inputs: Inputs, run: RunDir | None = None, *, gpu: str | None = None, parameters: int | None = None
) -> Known:
    """Read what a plan rests on.

    Args:
        run: a run folder whose finished rounds say how long answers are.
        gpu: a name for `find_device`; None is this machine.
        parameters: of policy and reference, where their files are not here.

    Raises:
        UserError: the device is not known; the policy's size is not known.
    """
    rates = read_rates()
    device = find_device(gpu, rates.processor)
    if device.kind == "cpu" and rates.processor(device.name) is None:
        rates.keep(device)
        write_rates(rates)
    template = config.models.chat_template
    name = inputs.policy or inputs.reference
    policy = find_facts(name, template, parameters)
    if policy is None:
        do = "say how many parameters it has (icr plan --parameters 8b), or download it first (hf download)"
        raise UserError("the model is not on this machine, so its size is not known", where=name, do=do)
    reference = find_facts(inputs.reference, template, policy.parameters) or policy
    judges = [facts for of in inputs.judges.values() if (facts := find_facts(of))]
    judge = max(judges, key=lambda facts: facts.parameters, default=None)  # several judge one after the other
    models = {of: find_facts(of) for of in reward_models(config.reward, config.prompts.languages).values()}
    return Known(
        config=config, inputs=inputs, texts=count_texts(config, inputs, policy), policy=policy, reference=reference,
        judge=judge, classifiers={of: facts for of, facts in models.items() if facts}, questions=_count(config),
        run=run, same=run is not None and _is_same(run, config), rates=rates, device=device,
    )  # fmt: skip


def _is_same(run: RunDir, config: Config) -> bool:
    """Whether a run was last used with this config; the number of rounds and the folder do not count."""
    if not run.config.is_file():
        return False
    try:
        old = load_config(run.config)
    except UserError:
        return False  # of another version; the run itself says so
    return old.model_dump(exclude={"run", "rounds"}) == config.model_dump(exclude={"run", "rounds"})


def _count(config: Config) -> int:
    """MT-Bench's questions in all languages."""
    judge = config.judge
    if judge.mtbench is None or "mtbench" not in judge.benchmarks or not judge.active:
        return 0
    from eval.mtbench.questions import load_questions

    return sum(map(len, load_questions(judge.mtbench, config.prompts.languages).values()))


def make_setup(known: Known, devices: int | None = None) -> Setup:
    """The run on so many devices; None is as many as this machine has."""
    count = 1 if known.device.kind == "cpu" else devices or count_gpus()
    return Setup(
        config=known.config, inputs=known.inputs, texts=known.texts, policy=known.policy, reference=known.reference,
        device=known.device, devices=count, judge=known.judge, classifiers=known.classifiers, questions=known.questions,
    )  # fmt: skip


def make_plan(known: Known, devices: int | None = None, lengths: Lengths | None = None) -> RunCost:
    """What the run will cost.

    Args:
        lengths: of answers; None: from the run's rounds, else from earlier runs, else a guess.
    """
    setup = make_setup(known, devices)
    lengths = lengths or find_lengths(known, setup)
    judged = observations(known.rates, setup, "judge")
    asked = plan_questions(known.config, known.inputs, known.texts, lengths, judged)
    stages = tuple(_cost(known, setup, lengths, asked, number, stage) for number, stage in setup.stages)
    longest = max((of.high for of in stages if of.stage in ("align", "train")), default=0.0)
    disk = plan_disk(setup, lengths, longest)
    return RunCost(setup, lengths, asked, stages, disk, tuple(find_misfits(setup, lengths)))


def find_lengths(known: Known, setup: Setup) -> Lengths:
    """From the run's newest round, else from earlier runs, else a guess."""
    cap = known.config.sampling.max_tokens
    if known.run is not None and (found := read_lengths(known.run, cap)):
        return found
    earlier = lengths_of_runs(known.texts, observations(known.rates, setup, "sample"), cap)
    return earlier or guess_lengths(known.texts)


def rate_key(stage: str) -> str:
    """Under which name a stage's observations are kept: the alignment is a training."""
    return "train" if stage == "align" else stage


def precision_of(setup: Setup, stage: str) -> Precision:
    """In which most of a stage computes."""
    config = setup.config
    asked = {"score": config.reward.precision, "train": config.train.precision, "align": config.train.precision}
    return setup.precision(asked.get(stage, config.sampling.precision))


def observations(rates: Rates, setup: Setup, stage: str) -> list[Observation]:
    return rates.find(setup.device.name, rate_key(stage), setup.policy.parameters, precision_of(setup, stage))


def _cost(known: Known, setup: Setup, lengths: Lengths, asked: Asked, number: int, stage: Stage) -> StageCost:
    jobs = list_jobs(setup, lengths, asked, number, stage)
    start, work = sum(job.start for job in jobs), sum(job.work for job in jobs)
    seconds, low, high, basis = estimate(setup, start, work, observations(known.rates, setup, stage))
    paid = asked.in_round(known.config.judge, number) if stage == "judge" else {}
    return StageCost(
        round=number,
        stage=stage,
        seconds=seconds,
        low=low,
        high=high,
        basis=basis,
        jobs=tuple(jobs),
        need=find_need(setup, lengths, stage, response_tokens(setup, lengths)),
        tokens=sum(job.tokens for job in jobs),
        calls=sum(of.calls for of in paid.values()),
        prompt_tokens=sum(of.prompt_tokens for of in paid.values()),
        completion_tokens=sum(of.completion_tokens for of in paid.values()),
        usd=None if any(of.usd is None for of in paid.values()) else sum(of.usd or 0.0 for of in paid.values()),
        done=known.run is not None and known.run.round(number).done(stage),
        took=_took(known, number, stage),
        beside=_find_beside(known.config, jobs, number) if stage == "judge" else 0.0,
    )


def _find_beside(config: Config, jobs: Sequence[Job], number: int) -> float:
    """The share of a judge stage that is spent on verdicts, where they come beside the next round."""
    every = sum(job.start + job.work for job in jobs)
    verdicts = sum(job.start + job.work for job in jobs if job.kind == "judge")
    return verdicts / every if every and judges_beside(config, number) else 0.0


def estimate(setup: Setup, start: float, work: float, found: Sequence[Observation]) -> tuple[float, float, float, str]:
    """(seconds, at best, at worst, basis) of start-ups and work that take so long by the assumed speeds."""
    if not found:
        best, worst = SPREAD[setup.device.kind]
        low, high = START_SPREAD[0] * start + best * work, START_SPREAD[1] * start + worst * work
        return start + work, low, high, "assumed"
    factors = fit(found)
    seconds = factors.start * start + factors.work * work
    size = setup.policy.parameters
    apart = max(max(o.parameters / size, size / o.parameters) for o in found)
    amounts = [o.work for o in found]
    far = apart > SAME or work > FAR_WORK * max(amounts) or work * FAR_WORK < min(amounts)
    least = FAR if far else MEASURED
    off = [o.seconds / max(1e-9, factors.start * o.start + factors.work * o.work) for o in found]
    low, high = min(1 / least, *off), max(least, *off)
    return seconds, seconds * low, seconds * high, "carried over" if far else "measured"


def _took(known: Known, number: int, stage: Stage) -> float | None:
    if known.run is None or not known.same or not known.run.round(number).done(stage):
        return None
    return known.run.round(number).record.stages[stage].seconds


def check_plan(cost: RunCost, folder: Path) -> None:
    """Refuse a run that cannot fit at all: weights larger than the memory, models larger than what the disk has free.

    Raises:
        UserError: it cannot.
    """
    for misfit in cost.misfits:
        if misfit.certain:
            raise UserError(misfit.what, where=f"stage {misfit.stage}", do=misfit.do)
    left = sum(not of.done and of.stage in ("align", "train") for of in cost.stages)
    wanted, free = left * cost.disk.model, free_disk(folder)
    if wanted > free + RESERVE:
        raise UserError(
            f"the disk has {free / GIB:.1f} GiB free, but the {left} models that the run will make need "
            f"{wanted / GIB:.1f} GiB",
            where=str(folder),
            do="free some space, name a run folder on a larger disk (--run), or set a smaller number of rounds",
        )
