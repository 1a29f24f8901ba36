"""`--dry-run`: estimated questions and cost. Nothing is sent and no model is loaded."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from eval.folders import cache_path
from eval.judges.panel import member_folder
from eval.judges.prompts import find_prompts
from eval.judges.question import Question
from eval.mtbench.questions import load_questions
from eval.power import describe_power
from eval.xalpaca.answers import Answer, given_answers, heldout_prompts, is_answers, load_baseline, read_answers
from eval.xalpaca.pairwise import comparisons
from icr.base.conversation import Conversation
from icr.base.fields import Fields
from icr.config.evaluation import EvaluationConfig
from icr.config.schema import Judge
from icr.endpoint.ends import describe_ends
from icr.endpoint.prices import Estimate

FREE = Estimate(calls=0, cached=0, prompt_tokens=0, completion_tokens=0, usd=0.0)
"""What questions to a judge on this machine cost."""


@dataclass(frozen=True)
class Planned:
    """What an evaluation would ask."""

    questions: list[Question]
    assumed: str
    """About answers that do not exist yet."""
    prompts: dict[str, int]
    """Their number by language."""
    kind: str = "comparisons"
    """Of the questions: comparisons, grades or ratings."""
    references: list[Conversation] = field(default_factory=list)
    """What the judge would be asked to write, and `longest`, the most tokens of each."""
    longest: int = 0


@dataclass(frozen=True)
class Expected:
    """What one judge would be asked."""

    judge: str
    by: str
    """`judge.kind`."""
    kinds: Mapping[str, tuple[int, Estimate]]
    """Kind of question → number of questions, and what they cost."""
    text: str
    """The same in words."""

    def rows(self) -> list[Fields]:
        return [
            {"judge": self.judge, "by": self.by, "kind": kind, "questions": count, **asdict(cost)}
            for kind, (count, cost) in self.kinds.items()
        ]


@dataclass(frozen=True)
class Forecast:
    """What all judges would be asked: in words, or in numbers for programs."""

    judges: Sequence[Expected]
    before: Sequence[str] = ()
    after: Sequence[str] = ()
    """Lines around those of the judges."""

    @property
    def lines(self) -> list[str]:
        return [*self.before, *(judge.text for judge in self.judges), *self.after]

    def numbers(self) -> Fields:
        """`asked`: a row for each judge and kind of question; `total`: their sums; `notes`: all else, in words."""
        kinds = [pair for judge in self.judges for pair in judge.kinds.values()]
        total = sum((cost for _, cost in kinds), FREE)
        return {
            "asked": [row for judge in self.judges for row in judge.rows()],
            "total": {"questions": sum(count for count, _ in kinds), **asdict(total)},
            "notes": [*self.before, *self.after],
        }


def estimate(config: EvaluationConfig, out: Path) -> Forecast:
    """The estimated questions and cost of an evaluation, and the differences that it can show.

    Raises:
        UserError: as the evaluation itself, for prompts, answers and a baseline that do not fit together; a budget
            without a price.
    """
    judges, prompts = list[Expected](), dict[str, int]()
    for number, (name, judge) in enumerate(config.judge.each.items()):
        planned = PLANS[config.benchmark](config.model_copy(update={"judge": judge}), out)
        prompts = planned.prompts
        if number:  # the first of several judges writes the references
            planned = replace(planned, references=[])
        cache = cache_path(member_folder(out, name) if name else out, config.benchmark)
        judges.append(expect_cost(judge, name, cache, planned))
    ends = [f"note: {line}" for line in describe_ends(config.judge)]
    return Forecast(judges, after=[describe_power(config.benchmark, prompts), *ends])


def expect_cost(judge: Judge, name: str, cache: Path, planned: Planned, label: str = "") -> Expected:
    """What one judge would be asked.

    Args:
        name: its own among several.
        label: how its line begins, where that names it.
    """
    written = f"; {len(planned.references):,} of them write references" if planned.references else ""
    end = f"{written}{planned.assumed}"
    counts = {planned.kind: len(planned.questions)} | ({"references": len(planned.references)} if written else {})
    if judge.kind == "openai":
        costs = _ask_endpoint(judge, cache, planned)
        found = sum(costs.values(), FREE)
        money = "price unknown (set judge.prices)" if found.usd is None else f"at most {found.usd:.2f} dollars"
        text = (
            f"{found.calls:,} calls to {judge.model}, {money}: about {found.prompt_tokens:,} prompt tokens, at most "
            f"{found.completion_tokens:,} completion tokens; {found.cached:,} answers are already there"
        )
    else:
        costs = dict.fromkeys(counts, FREE)
        whom = f"{name} on" if name and not label else "a judge on"
        text = f"{sum(counts.values()):,} questions to {whom} this machine, at no cost"
    kinds = {kind: (count, costs[kind]) for kind, count in counts.items()}
    return Expected(name or judge.model or judge.kind, judge.kind, kinds, f"{label}{text}{end}")


def _ask_endpoint(judge: Judge, cache: Path, planned: Planned) -> dict[str, Estimate]:
    """Kind of question → what one endpoint would take for it."""
    from eval.judges.endpoint import EndpointJudge
    from eval.mtbench.writing import ask_for
    from icr.endpoint.endpoint import Endpoint
    from icr.endpoint.shared import find_user_cache

    assert judge.model is not None
    shared = find_user_cache(judge)
    endpoint = Endpoint(judge.model, cache, judge, shared=shared, dry=True, batch=judge.batch)
    found = {planned.kind: EndpointJudge(endpoint, judge).estimate(planned.questions)}
    if planned.references:
        asks = [ask_for(conversation, planned.longest) for conversation in planned.references]
        found["references"] = endpoint.estimate(asks)
    return found


def _xalpaca(config: EvaluationConfig, out: Path) -> Planned:
    given, assumed = _answers(config, out)
    baseline = load_baseline(Path(config.judge.baseline), given, key="--baseline")
    if assumed:
        given = {lang: [Answer(a.id, a.prompt, baseline[lang][a.id], False) for a in of]
                 for lang, of in given.items()}  # fmt: skip
    pairs = [comparisons(lang, of, baseline[lang], config.judge.orders) for lang, of in given.items()]
    asked = [c for of in pairs for _, c in of if assumed or c.first != c.second]  # identical ones are draws unasked
    wording = find_prompts(config.judge, "xalpaca").one
    return Planned([c.question(wording) for c in asked], assumed, {lang: len(of) for lang, of in given.items()})


def _answers(config: EvaluationConfig, out: Path) -> tuple[dict[str, list[Answer]], str]:
    """The answers that were given or are there already; else the prompts with answers still to come."""
    source, languages = Path(config.model), config.languages
    if is_answers(source):
        return given_answers(source, languages, config.judge.limit), ""
    if (out / "answers").is_dir() and any((out / "answers").glob("*.parquet")):
        return read_answers(out / "answers"), ""
    prompts = heldout_prompts(config.judge, languages)
    found = {lang: [Answer(p.id, p.messages, "", False) for p in prompts if p.lang == lang] for lang in languages}
    return found, "; assuming that the model's answers are as long as the baseline's"


TYPICAL_ANSWER = "x" * 1500
"""Assumed answer for MT-Bench: about what chat models write."""


def _mtbench(config: EvaluationConfig, out: Path) -> Planned:
    from eval.mtbench.grade import template_question
    from eval.mtbench.questions import BY_JUDGE
    from eval.mtbench.references import conversations, with_written
    from icr.endpoint.prices import BYTES_PER_TOKEN

    settings = config.judge.mtbench
    assert settings is not None
    questions = load_questions(settings, config.languages)
    prompts, every = find_prompts(config.judge, "mtbench"), [q for of in questions.values() for q in of]
    longest = "x" * (settings.max_tokens * BYTES_PER_TOKEN)
    references = [c for q in every for c in conversations(q, longest)] if settings.references == BY_JUDGE else []
    if references:  # a question is graded with what is written for it
        every = [with_written(q, longest) for q in every]
    asked = [template_question(q, turn, TYPICAL_ANSWER, prompts) for q in every for turn in (1, 2)]
    assumed = f"; assuming answers of {len(TYPICAL_ANSWER):,} characters"
    if references:
        assumed += f" and references of {settings.max_tokens:,} tokens"
    prompts_of = {lang: len(of) for lang, of in questions.items()}
    return Planned(asked, assumed, prompts_of, "grades", references, settings.max_tokens)


PLANS: dict[str, Callable[[EvaluationConfig, Path], Planned]] = {"xalpaca": _xalpaca, "mtbench": _mtbench}
