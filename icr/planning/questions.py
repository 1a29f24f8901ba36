"""What judges will be asked, as far as it is known before there are answers: calls, tokens and money.

The questions are the evaluation's own, about stand-ins that are as long as the answers are expected to be.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from eval.accuracy import PairTexts, make_question
from eval.estimate import PLANS
from eval.judges.prompts import find_prompts
from eval.judges.question import Question
from eval.xalpaca.answers import Answer
from eval.xalpaca.pairwise import comparisons
from icr.config.evaluation import EvaluationConfig
from icr.config.schema import Config, Judge
from icr.endpoint.prices import Price, Usage, find_price, guess_prompt_tokens
from icr.planning.lengths import Lengths
from icr.planning.rates import Observation
from icr.planning.texts import Texts
from icr.rounds.context import Inputs


@dataclass(frozen=True)
class Asking:
    """What is asked of one benchmark in one round, over all judges."""

    calls: int = 0
    guessed: int = 0
    """Prompt tokens as guessed from the texts: on the high side."""
    prompt_tokens: int = 0
    """The guess, times what earlier guesses were off by, where that is known."""
    completion_tokens: int = 0
    """As earlier runs had them, else at most."""
    usd: float | None = 0.0
    """At most; None where the price is not known."""


@dataclass(frozen=True)
class Asked:
    """By benchmark, of a round that has all of them."""

    benchmarks: Mapping[str, Asking] = field(default_factory=dict)
    counted: bool = False
    """Whether tokens are corrected by what an endpoint has counted before."""

    def in_round(self, judge: Judge, number: int) -> dict[str, Asking]:
        """Round 0 has no pairs, and no verdicts where it is the baseline."""
        left_out = {"accuracy"} if number == 0 else set()
        if number == 0 and judge.baseline == "round-0":
            left_out.add("xalpaca")
        return {name: of for name, of in self.benchmarks.items() if name not in left_out}


def plan_questions(
    config: Config, inputs: Inputs, texts: Texts, lengths: Lengths, observations: Sequence[Observation] = ()
) -> Asked:
    """What the judge is asked in a round.

    Raises:
        UserError: MT-Bench's questions or the prices cannot be read.
    """
    judge = config.judge
    if judge.kind == "none":
        return Asked()
    made: dict[str, Callable[[], list[Question]]] = {
        "xalpaca": lambda: _xalpaca(judge, inputs, texts, lengths),
        "accuracy": lambda: _accuracy(config, inputs, texts, lengths),
        "mtbench": lambda: _mtbench(config),
    }
    questions: dict[str, list[Question]] = {name: make() for name, make in made.items() if name in judge.benchmarks}
    found: dict[str, Asking] = {name: _ask(judge, asked, observations, name) for name, asked in questions.items()}
    counted = judge.kind == "openai" and any(o.calls and o.benchmark in found for o in observations)
    return Asked(found, counted)


def _stand_in(letter: str, tokens: float, per_token: float) -> str:
    return letter * max(1, round(tokens * per_token))


def _xalpaca(judge: Judge, inputs: Inputs, texts: Texts, lengths: Lengths) -> list[Question]:
    wording = find_prompts(judge, "xalpaca").one
    questions = []
    for lang, of in texts.heldout.items():
        tokens = lengths.answer(lang, judge.max_tokens)
        one, other = (_stand_in(letter, tokens, of.bytes_per_token) for letter in "xy")
        answers = [Answer(p.id, p.messages, one, False) for p in inputs.heldout if p.lang == lang]
        pairs = comparisons(lang, answers, {a.id: other for a in answers}, judge.orders)
        questions += [comparison.question(wording) for _, comparison in pairs]
    return questions


def _accuracy(config: Config, inputs: Inputs, texts: Texts, lengths: Lengths) -> list[Question]:
    wording, questions = find_prompts(config.judge, "accuracy").one, []
    for lang, of in texts.prompts.items():
        tokens = lengths.response(lang, config.sampling.max_tokens)
        chosen, rejected = (_stand_in(letter, tokens, of.bytes_per_token) for letter in "xy")
        count = min(config.judge.accuracy.pairs, round(of.prompts * lengths.pairs(lang)))
        for p in [p for p in inputs.prompts if p.lang == lang][:count]:
            pair: PairTexts = {
                "prompt_id": p.id, "lang": lang, "prompt": p.text, "chosen": chosen, "rejected": rejected
            }  # fmt: skip
            questions.append(make_question(lang, pair, wording))
    return questions


def _mtbench(config: Config) -> list[Question]:
    if config.judge.mtbench is None:
        return []
    asked = EvaluationConfig(benchmark="mtbench", languages=config.prompts.languages, judge=config.judge)
    return PLANS["mtbench"](asked, Path()).questions


def _ask(judge: Judge, questions: Sequence[Question], observations: Sequence[Observation], benchmark: str) -> Asking:
    """Calls and tokens; with several judges, of all of them."""
    if judge.kind != "openai":
        guessed = guess_prompt_tokens([question.prompt() for question in questions])
        return Asking(0 if judge.own else len(questions), guessed, 0 if judge.own else guessed, 0, 0.0)
    of_each = [_ask_endpoint(one, questions) for one in judge.members.values() or [judge]]
    like = [o for o in observations if o.benchmark == benchmark and o.calls]
    return _corrected(judge, of_each, like)


def _ask_endpoint(judge: Judge, questions: Sequence[Question]) -> Asking:
    """By the endpoint's own estimate: the first reading of each question, its answer as long as it may be."""
    from eval.judges.endpoint import EndpointJudge
    from icr.endpoint.endpoint import Endpoint

    assert judge.model is not None
    endpoint = Endpoint(judge.model, Path("no-cache", "cache.sqlite"), judge, dry=True, batch=judge.batch)
    asks = EndpointJudge(endpoint, judge)
    found = endpoint.estimate([asks.ask_of(question) for question in questions])
    return Asking(found.calls, found.prompt_tokens, found.prompt_tokens, found.completion_tokens, found.usd)


def _corrected(judge: Judge, of_each: Sequence[Asking], like: Sequence[Observation]) -> Asking:
    """The sum; prompt tokens times counted ÷ guessed, and completion tokens a call, as of earlier runs."""
    calls, guessed = sum(a.calls for a in of_each), sum(a.guessed for a in of_each)
    usd = None if any(a.usd is None for a in of_each) else sum(a.usd or 0.0 for a in of_each)
    found = Asking(calls, guessed, guessed, sum(a.completion_tokens for a in of_each), usd)
    if not like:
        return found
    answered = sum(o.calls for o in like)
    prompt = round(guessed * sum(o.prompt_tokens for o in like) / max(1, sum(o.guessed for o in like)))
    completion = round(calls * sum(o.completion_tokens for o in like) / answered)
    price = None if judge.judges else _price(judge)
    cost = usd if price is None else price(Usage(prompt, completion, batched=judge.batch))
    return replace(found, prompt_tokens=prompt, completion_tokens=completion, usd=cost)


def _price(judge: Judge) -> Price | None:
    from icr.endpoint.address import Address

    return find_price(judge.model or "", Address.find(judge, key_needed=False).base, judge.prices)
