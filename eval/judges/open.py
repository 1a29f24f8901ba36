"""Which judge a config names: what it is called, and how a worker makes one."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel

from eval.judges.base import Judge
from icr.base.content import identify_class, identify_model
from icr.base.errors import ConfigError, UserError
from icr.base.fields import Fields
from icr.base.progress import Reporter
from icr.config.schema import Judge as JudgeConfig
from icr.work.resident import Resident


def name_judge(config: JudgeConfig) -> str:
    """Kind, model and how it is read, as summaries say it.

    Raises:
        UserError: the judge needs a model and has none.
    """
    if config.own:
        return config.own
    if config.judges:
        return f"{len(config.judges)} judges: {', '.join(config.members)}"
    if not config.model:
        raise UserError("the judge has no model", where="judge.model", do="name a model")
    reading = "" if config.kind == "local" or config.preference == "auto" else f", read from its {config.preference}"
    # a local judge's folder is known by its content; its name is for people
    name = Path(config.model).name if Path(config.model).is_absolute() else config.model
    return f"{config.kind}: {name}{reading}"


def check_judge(config: JudgeConfig) -> None:
    """What can be known to be wrong before a worker is started.

    Raises:
        UserError: no model.
        ConfigError: an endpoint's address, key, prices or budget.
    """
    name_judge(config)
    if config.kind == "openai":
        from icr.endpoint.check import check_endpoint

        problems: list[UserError] = []
        for judge in config.members.values() or [config]:
            assert judge.model is not None
            try:
                check_endpoint(judge.model, judge)
            except ConfigError as error:
                problems += error.problems
        if problems:
            raise ConfigError(problems)


def identify_judge(config: JudgeConfig, model: str | None) -> dict[str, str]:
    """What the judge is by its content, where it has one here; the name of an endpoint's model is a setting.

    Args:
        model: the local judge's, as `icr.engines.folders.locate` gives it.
    """
    if model:
        return {"judge model": identify_model(model)}
    return {"judge class": identify_class(config.own, "judge.kind")} if config.own else {}


class Examiner(BaseModel, frozen=True):
    """A judge that one process asks: an endpoint, or a class of the user's."""

    config: JudgeConfig
    cache: str
    """sqlite file in which an endpoint's answers are kept; made when absent."""
    ledger: str | None
    """File of what this command has spent of its budget, in all rounds, benchmarks and variants."""

    @classmethod
    def of(cls, config: JudgeConfig, cache: Path) -> Examiner:
        from icr.endpoint.ledger import command_ledger

        return cls(config=config, cache=str(cache), ledger=str(command_ledger()) if config.budget else None)


def open_judge(state: Resident, examiner: Examiner, reporter: Reporter) -> Judge:
    """The judge, made once in the worker that asks it.

    Raises:
        UserError: the class cannot be created, or the endpoint cannot be used: no key, no price for a budget.
    """
    config = examiner.config
    if config.own:
        from eval.judges.own import OwnJudge

        name = config.own
        return state.keep(f"judge {name}", lambda: OwnJudge(name))
    from eval.judges.endpoint import EndpointJudge
    from icr.endpoint.endpoint import Endpoint
    from icr.endpoint.shared import find_user_cache

    def make() -> EndpointJudge:
        assert config.model is not None
        ledger = Path(examiner.ledger) if examiner.ledger else None
        endpoint = Endpoint(
            config.model, Path(examiner.cache), config, reporter, shared=find_user_cache(config), ledger=ledger,
            batch=config.batch,
        )  # fmt: skip
        return EndpointJudge(endpoint, config)

    judge = state.keep(f"judge {config.model} {examiner.cache}", make)
    judge.endpoint.reporter = reporter
    return judge


def find_address(config: JudgeConfig) -> str | None:
    """The address of a judge that is an endpoint, without its secrets; None of any other judge."""
    if config.kind != "openai" or config.judges:
        return None
    from icr.endpoint.address import show_address

    return show_address(config)


def sum_costs(costs: Sequence[Fields]) -> Fields:
    """Of several judges; the money is None where that of one is unknown."""
    keys = {key: [cost[key] for cost in costs] for key in costs[0]}
    return {key: None if None in values else sum(values) for key, values in keys.items()}


def count_cost(config: JudgeConfig, cache: Path) -> Fields | None:
    """Of all answers in an endpoint's cache, including those of earlier commands: calls, tokens, usd. None: no cost."""
    if config.kind != "openai":
        return None
    from icr.endpoint.endpoint import Endpoint

    assert config.model is not None
    return asdict(Endpoint(config.model, cache, config, dry=True).cost_of())
