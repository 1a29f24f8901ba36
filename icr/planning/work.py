"""What each stage of a run has to compute, and what that takes by the assumed speeds."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from icr.base.rundir import Stage
from icr.engines.precision import Precision
from icr.planning.facts import ModelFacts
from icr.planning.formulas import (
    Sampled,
    computing_seconds,
    forward_flops,
    sampling_seconds,
    training_flops,
)
from icr.planning.lengths import Lengths
from icr.planning.questions import Asked
from icr.planning.setup import Setup
from icr.rounds.stages.kinds import LogRatio, find_kind, samples_greedily
from icr.translation import ROOM
from loops.disk import estimate_disk

Kind = Literal["sample", "score", "train", "judge", "tables"]
START: dict[str, dict[str, float]] = {
    "cpu": {"engine": 12.0, "reload": 1.5, "scorer": 2.5, "training": 12.0, "first": 10.0},
    "gpu": {"engine": 60.0, "reload": 5.0, "scorer": 15.0, "training": 105.0, "first": 20.0},
}
"""Seconds. On two cores: measured, 2026-11. On GPUs: as others report of vLLM and DeepSpeed, not confirmed by a run."""
EACH_RESPONSE = 2e-4
"""Seconds for the tables that a stage reads and writes, a response."""
SHARING_PAYS = 0.1
"""Of `icr.scoring`, which brings transformers' models and seconds with it; a test compares the two."""
CALL = 2.5
"""Seconds of an endpoint's answer."""
WRITTEN_A_SECOND = 2e9
"""Bytes a second of a shared disk, for checkpoints."""


@dataclass(frozen=True)
class Job:
    """One piece of a stage."""

    kind: Kind
    name: str
    start: float = 0.0
    """Seconds until it is at work."""
    work: float = 0.0
    """Seconds of work."""
    tokens: int = 0
    """That are written (sample), or go through the model."""
    answers: int = 0
    unknown: str = ""
    """Why its time is not estimated."""


def list_jobs(setup: Setup, lengths: Lengths, asked: Asked, number: int, stage: Stage) -> list[Job]:
    """What one stage of a run does.

    Args:
        asked: what judges are asked in one round.
    """
    match stage:
        case "align":
            return list(_align(setup))
        case "sample":
            return list(_sample(setup, lengths, number))
        case "score":
            return list(_score(setup, lengths))
        case "pair":
            return [Job("tables", "pairs", work=EACH_RESPONSE * count_responses(setup))]
        case "train":
            return list(_train(setup, lengths))
        case "judge":
            return list(_judge(setup, lengths, asked, number))


def samples_of(setup: Setup) -> int:
    """Responses a prompt."""
    return 1 if samples_greedily(setup.config.reward.kind) else setup.config.sampling.n


def count_responses(setup: Setup) -> int:
    """Of a round: prompts · n."""
    return sum(of.prompts for _, of in setup.languages()) * samples_of(setup)


def response_tokens(setup: Setup, lengths: Lengths) -> int:
    """Of a round, in all languages: prompts · n · mean length."""
    cap, n = setup.config.sampling.max_tokens, samples_of(setup)
    return round(sum(of.prompts * n * lengths.response(lang, cap) for lang, of in setup.languages()))


def count_pairs(setup: Setup, lengths: Lengths) -> int:
    """Of a round, in all languages."""
    return round(sum(of.prompts * pairs_of(setup, lengths, lang) for lang, of in setup.languages()))


def pairs_of(setup: Setup, lengths: Lengths, lang: str) -> float:
    """Pairs for each prompt: 1 where no round has said otherwise; LIDR pairs English with every other language."""
    if lengths.paired is None and setup.config.reward.kind == "lidr" and lang == "en":
        return len(setup.texts.prompts) - 1
    return lengths.pairs(lang)


def answer_tokens(setup: Setup, lengths: Lengths) -> int:
    """Of a round's answers to the held-out prompts."""
    cap = setup.config.judge.max_tokens
    return round(sum(of.prompts * lengths.answer(lang, cap) for lang, of in setup.texts.heldout.items()))


def _write(setup: Setup, what: Sampled) -> float:
    sampling = setup.config.sampling
    return sampling_seconds(
        setup.policy, what, setup.device, setup.precision(sampling.precision),
        engines=setup.engines, tp=setup.tensor_parallel, share=sampling.gpu_memory,
    )  # fmt: skip


def _start(setup: Setup, name: str) -> float:
    return START[setup.device.kind][name]


def _engine(setup: Setup, number: int, stage: Stage) -> float:
    """Seconds until an engine has the weights: it is built for the first stage that samples, then it takes new ones."""
    first = next(of for of in setup.stages if of[1] in ("sample", "judge"))
    return _start(setup, "engine" if (number, stage) == first else "reload")


def _sample(setup: Setup, lengths: Lengths, number: int) -> Iterator[Job]:
    """n responses of the policy to every prompt."""
    responses, tokens = count_responses(setup), response_tokens(setup, lengths)
    prompt = sum(of.prompts * of.tokens for _, of in setup.languages()) / max(1, responses // samples_of(setup))
    cap = setup.config.sampling.max_tokens
    what = Sampled(
        responses, prompt, tokens / max(1, responses), _longest(tokens / max(1, responses), cap), samples_of(setup)
    )
    yield Job("sample", "responses", _engine(setup, number, "sample"), _write(setup, what), tokens, responses)
    if number == 1 and issubclass(find_kind(setup.config.reward.kind), LogRatio):
        yield Job("score", "comparing engine and scorer", start=_start(setup, "scorer"))
    yield Job("tables", "responses", work=EACH_RESPONSE * responses)


def _longest(mean: float, cap: int) -> float:
    """Tokens of the longest answer: of many, one reaches the cap, or 6 times the mean (lognormal, 1 in 2,000)."""
    return min(float(cap), 6 * mean)


def _score(setup: Setup, lengths: Lengths) -> Iterator[Job]:
    """Log-probs under policy and reference, or what another kind of reward does."""
    kind, config = find_kind(setup.config.reward.kind), setup.config
    if kind.greedy or config.reward.kind == "translate":
        yield _translate(setup, lengths)
    precision = setup.precision(config.reward.precision)
    if issubclass(kind, LogRatio):
        for name, facts in (("policy", setup.policy), ("reference", setup.reference)):
            loaded = setup.gpu or name == "policy"  # on a processor the reference stays in memory
            yield _pass(setup, lengths, name, facts, precision, _start(setup, "scorer") if loaded else 0.0)
    elif config.reward.kind == "model":
        for name, facts in (setup.classifiers or {}).items():
            yield _pass(setup, lengths, name, facts, precision, _start(setup, "scorer"), len(setup.classifiers or {}))
        if not setup.classifiers:
            yield Job("score", "reward model", unknown="the reward model is not on this machine")
    elif ":" in config.reward.kind:
        yield Job("score", config.reward.kind, unknown="a custom reward takes what its class takes")
    if kind.has_precision and precision == "bf16" and config.reward.flip_check:
        share = min(1.0, config.reward.flip_check / max(1, sum(of.prompts for _, of in setup.languages())))
        for name, facts in (("policy", setup.policy), ("reference", setup.reference)):
            whole = _pass(setup, lengths, f"{name}, fp32 check", facts, "fp32", 0.0)
            yield Job("score", whole.name, _start(setup, "scorer"), share * whole.work, round(share * whole.tokens))
    yield Job("tables", "rewards", work=EACH_RESPONSE * count_responses(setup))


def _pass(
    setup: Setup, lengths: Lengths, name: str, facts: ModelFacts, precision: Precision, start: float, share: int = 1
) -> Job:
    """A forward pass over all responses of a round. A prompt that N responses share runs once, where that saves 10 %.

    Args:
        share: models among which the languages are shared out.
    """
    n, cap = samples_of(setup), setup.config.sampling.max_tokens
    tokens = flops = 0.0
    for lang, of in setup.languages():
        answer = lengths.response(lang, cap)
        shared = of.condition * (n - 1) / n >= SHARING_PAYS * (of.condition + answer)
        each = answer + (of.condition / n if shared else of.condition)
        tokens += of.prompts * n * each
        flops += forward_flops(facts, of.prompts * n * each, of.condition + answer)
    seconds = computing_seconds(flops / share, setup.device, precision, "score", setup.devices)
    return Job("score", name, start, seconds, round(tokens / share))


def _translate(setup: Setup, lengths: Lengths) -> Job:
    """Responses in other languages into English; for LIDR each way. A translation may have ROOM times the tokens."""
    cap, n = setup.config.sampling.max_tokens, samples_of(setup)
    others = [(lang, of) for lang, of in setup.languages() if lang != "en"]
    ways = 2 if setup.config.reward.kind == "lidr" else 1
    requests = ways * n * sum(of.prompts for _, of in others)
    tokens = ways * n * sum(of.prompts * lengths.response(lang, cap) for lang, of in others)
    mean = tokens / max(1, requests)
    what = Sampled(requests, 100 + mean, mean, ROOM * mean)
    return Job("sample", "translations", 0.0, _write(setup, what), round(tokens), requests)


def _align(setup: Setup) -> Iterator[Job]:
    """DPO on the English pairs, after one pass of the reference over them."""
    alignment = setup.config.alignment
    yield Job("tables", "models and libraries", start=_start(setup, "first"))
    sequences = [prompt + answer for prompt, *answers in setup.texts.alignment for answer in answers]
    epochs = alignment.epochs if alignment else 1.0
    yield from _training(setup, setup.reference, sum(sequences), len(sequences), epochs)


def _train(setup: Setup, lengths: Lengths) -> Iterator[Job]:
    """The objective on the round's pairs, after one pass of the policy, which is the training's reference."""
    cap = setup.config.sampling.max_tokens
    tokens = sum(
        2 * of.prompts * pairs_of(setup, lengths, lang) * (of.tokens + lengths.response(lang, cap))
        for lang, of in setup.languages()
    )
    yield from _training(setup, setup.policy, tokens, 2 * count_pairs(setup, lengths), setup.config.train.epochs)


def _training(setup: Setup, facts: ModelFacts, tokens: float, sequences: int, epochs: float) -> Iterator[Job]:
    train, mean = setup.train, tokens / max(1, sequences)
    precision: Precision = "bf16" if train.precision == "bf16" else "fp32"
    flops = forward_flops(facts, tokens, mean)
    seconds = computing_seconds(flops, setup.device, precision, "score", setup.devices)
    yield Job("score", "reference log-probs", _start(setup, "scorer"), seconds, round(tokens))
    flops = epochs * training_flops(facts, tokens, mean, checkpointing=train.gradient_checkpointing)
    work = computing_seconds(flops, setup.device, precision, "train", setup.processes)
    saved = int(work / (60 * train.save_minutes)) * estimate_disk(train, facts.size).checkpoint / WRITTEN_A_SECOND
    yield Job("train", "training", _start(setup, "training"), work + saved, round(epochs * tokens))


def _judge(setup: Setup, lengths: Lengths, asked: Asked, number: int) -> Iterator[Job]:
    """The policy's answers, then what the judge is asked about them."""
    judge = setup.config.judge
    start = _engine(setup, number, "judge")
    if "xalpaca" in judge.benchmarks and judge.kind != "none":
        yield _answers(setup, lengths, start)
        start = 0.0
    if "mtbench" in judge.benchmarks and judge.mtbench is not None:
        requests, cap = 2 * setup.questions, judge.mtbench.max_tokens
        mean = sum(lengths.answer(lang, cap) for lang in setup.texts.prompts) / max(1, len(setup.texts.prompts))
        what = Sampled(requests, 100 + mean / 2, mean, float(cap))
        yield Job("sample", "MT-Bench answers", start, _write(setup, what), round(requests * mean), requests)
    if "nlp" in judge.benchmarks:
        yield Job("score", "NLP tasks", unknown="NLP tasks depend on data sets that are read when they run")
    for benchmark, of in asked.in_round(judge, number).items():
        yield _verdicts(setup, benchmark, of.calls, of.prompt_tokens)


def _answers(setup: Setup, lengths: Lengths, start: float) -> Job:
    prompts = sum(of.prompts for of in setup.texts.heldout.values())
    tokens = answer_tokens(setup, lengths)
    prompt = sum(of.prompts * of.tokens for of in setup.texts.heldout.values()) / max(1, prompts)
    mean = tokens / max(1, prompts)
    what = Sampled(prompts, prompt, mean, _longest(mean, setup.config.judge.max_tokens))
    return Job("sample", "answers", start, _write(setup, what), tokens, prompts)


def _verdicts(setup: Setup, benchmark: str, calls: int, tokens: int) -> Job:
    judge, name = setup.config.judge, f"verdicts, {benchmark}"
    if judge.own:
        return Job("judge", name, work=EACH_RESPONSE * calls)
    if judge.kind == "openai":
        if judge.batch:
            return Job("judge", name, unknown="a Batch API answers within a day")
        return Job("judge", name, work=CALL * calls / judge.concurrency, tokens=tokens)
    if setup.judge is None:
        return Job("judge", name, unknown="the judge's model is not on this machine")
    flops = forward_flops(setup.judge, tokens, tokens / max(1, calls))
    precision: Precision = setup.precision("auto")
    seconds = computing_seconds(flops, setup.device, precision, "score", setup.devices)
    return Job("score", name, _start(setup, "scorer"), seconds, tokens)
