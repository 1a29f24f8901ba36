"""`--dry-run`: estimated questions and cost. Nothing is sent and no model is loaded."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from eval.folders import cache_path
from eval.judges.prompts import find_prompts
from eval.judges.question import Question
from eval.mtbench.questions import load_questions
from eval.power import describe_power
from eval.xalpaca.answers import Answer, heldout_prompts, is_answers, load_baseline, read_answers, read_outputs
from eval.xalpaca.pairwise import comparisons
from icr.config.evaluation import EvaluationConfig

Planned = tuple[list[Question], str, dict[str, int]]
"""The questions, what was assumed about answers that do not exist yet, and the number of prompts by language."""


def estimate(config: EvaluationConfig, out: Path) -> str:
    """The estimated questions and cost of an evaluation, and the differences that it can show, in words.

    Raises:
        UserError: as the evaluation itself, for prompts, answers and a baseline that do not fit together; a budget
            without a price.
    """
    questions, assumed, prompts = PLANS[config.benchmark](config, out)
    return f"{_cost(config, out, questions, assumed)}\n{describe_power(config.benchmark, prompts)}"


def _cost(config: EvaluationConfig, out: Path, questions: list[Question], assumed: str) -> str:
    judge = config.judge
    if judge.kind != "openai":
        return f"{len(questions):,} questions to a judge on this machine, at no cost{assumed}"
    from eval.judges.endpoint import EndpointJudge
    from icr.endpoint.endpoint import Endpoint
    from icr.endpoint.shared import find_user_cache

    assert judge.model is not None
    shared = find_user_cache(judge)
    endpoint = Endpoint(judge.model, cache_path(out, config.benchmark), judge, shared=shared, dry=True)
    found = EndpointJudge(endpoint, judge).estimate(questions)
    money = "price unknown (set judge.prices)" if found.usd is None else f"at most {found.usd:.2f} dollars"
    return (
        f"{found.calls:,} calls to {judge.model}, {money}: about {found.prompt_tokens:,} prompt tokens, at most "
        f"{found.completion_tokens:,} completion tokens; {found.cached:,} answers are already there{assumed}"
    )


def _xalpaca(config: EvaluationConfig, out: Path) -> Planned:
    given, assumed = _answers(config, out)
    baseline = load_baseline(Path(config.judge.baseline), given)
    if assumed:
        given = {lang: [Answer(a.id, a.prompt, baseline[lang][a.id], False) for a in of]
                 for lang, of in given.items()}  # fmt: skip
    pairs = [comparisons(lang, of, baseline[lang], config.judge.orders) for lang, of in given.items()]
    asked = [c for of in pairs for _, c in of if assumed or c.first != c.second]  # identical ones are draws unasked
    wording = find_prompts(config.judge, "xalpaca").one
    return [c.question(wording) for c in asked], assumed, {lang: len(of) for lang, of in given.items()}


def _answers(config: EvaluationConfig, out: Path) -> tuple[dict[str, list[Answer]], str]:
    """The answers that were given or are there already; else the prompts with answers still to come."""
    source, languages = Path(config.model), config.languages
    if is_answers(source):
        return {lang: read_outputs(source, lang) for lang in languages}, ""
    if (out / "answers").is_dir() and any((out / "answers").glob("*.parquet")):
        return read_answers(out / "answers"), ""
    prompts = heldout_prompts(config.judge, languages)
    found = {lang: [Answer(p.id, p.messages, "", False) for p in prompts if p.lang == lang] for lang in languages}
    return found, "; assuming that the model's answers are as long as the baseline's"


TYPICAL_ANSWER = "x" * 1500
"""Assumed answer for MT-Bench: about what chat models write."""


def _mtbench(config: EvaluationConfig, out: Path) -> Planned:
    from eval.mtbench.grade import template_question

    assert config.judge.mtbench is not None
    questions = load_questions(config.judge.mtbench, config.languages)
    prompts, every = find_prompts(config.judge, "mtbench"), [q for of in questions.values() for q in of]
    asked = [template_question(q, turn, TYPICAL_ANSWER, prompts) for q in every for turn in (1, 2)]
    assumed = f"; assuming answers of {len(TYPICAL_ANSWER):,} characters; references are not counted"
    return asked, assumed, {lang: len(of) for lang, of in questions.items()}


PLANS: dict[str, Callable[[EvaluationConfig, Path], Planned]] = {"xalpaca": _xalpaca, "mtbench": _mtbench}
