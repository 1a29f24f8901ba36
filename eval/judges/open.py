"""Which judge a config names: what it is called, and how a worker makes one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

from pydantic import BaseModel

from eval.judges.base import Judge
from icr.base.content import identify_class, identify_model
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.problems import Collector
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
        ConfigError: an endpoint's address, key, prices or budget; a class that cannot be loaded, or cannot give grades.
    """
    name_judge(config)
    found = Collector()
    for judge in config.each.values():
        found.attempt(None, _check_one, judge)
    found.raise_any()


def _check_one(judge: JudgeConfig) -> None:
    if judge.own:
        from eval.judges.own import check_own_judge

        check_own_judge(judge.own, judge.benchmarks)
    elif judge.kind == "openai":
        from icr.endpoint.check import check_endpoint

        assert judge.model is not None
        check_endpoint(judge.model, judge)


def locate_judges(config: JudgeConfig) -> dict[str, str]:
    """The models of local judges: as the config names them → as `icr.engines.folders.locate` gives them.

    Raises:
        ConfigError: every one that is not there.
    """
    from icr.engines.folders import locate

    located, found = {}, Collector()
    for name, judge in config.each.items():
        if judge.local_model:
            located[judge.local_model] = found.attempt("", locate, judge.local_model, _key_of(name))
    found.raise_any()
    return located


def _key_of(name: str) -> str:
    """Where the config names the model of a judge."""
    return f"judge.judges: {name}" if name else "judge.model"


def name_models(config: JudgeConfig, models: Mapping[str, str]) -> dict[str, str]:
    """The models of local judges by what steps call them; `models` is what `locate_judges` gives."""
    local = {name: judge.local_model for name, judge in config.each.items() if judge.local_model in models}
    return {f"judge model of {name}" if name else "judge model": models[model or ""] for name, model in local.items()}


def identify_judge(config: JudgeConfig, models: Mapping[str, str]) -> dict[str, str]:
    """What the judges are by their content, where they have one here; the name of an endpoint's model is a setting.

    Args:
        models: as `locate_judges` gives them.
    """
    found = {called: identify_model(model) for called, model in name_models(config, models).items()}
    classes = {f"judge class of {name}" if name else "judge class": judge.own for name, judge in config.each.items()}
    return found | {called: identify_class(own, "judge.kind") for called, own in classes.items() if own}


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


def find_terms(config: JudgeConfig) -> dict[str, str | None]:
    """What a summary says of a judge beside its name: the address of an endpoint, the rule of a custom class."""
    return {"address": _find_address(config), "rule": _find_rule(config)}


def _find_rule(config: JudgeConfig) -> str | None:
    if not config.own:
        return None
    from eval.judges.own import find_rule

    return find_rule(config.own)


def _find_address(config: JudgeConfig) -> str | None:
    """The address of a judge that is an endpoint, without its secrets; None of any other judge."""
    if config.kind != "openai" or config.judges:
        return None
    from icr.endpoint.address import show_address

    return show_address(config)


def sum_costs(costs: Sequence[Fields]) -> Fields | None:
    """Of several judges; the money is None where that of one is unknown. None without an endpoint."""
    if not costs:
        return None
    keys = {key: [cost[key] for cost in costs] for key in costs[0]}
    return {key: None if None in values else sum(values) for key, values in keys.items()}


def count_cost(config: JudgeConfig, cache: Path) -> Fields | None:
    """Of all answers in an endpoint's cache, including those of earlier commands: calls, tokens, usd. None: no cost."""
    if config.kind != "openai":
        return None
    from icr.endpoint.endpoint import Endpoint

    assert config.model is not None
    return asdict(Endpoint(config.model, cache, config, dry=True).cost_of())
