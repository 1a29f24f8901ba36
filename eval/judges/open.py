"""Which judge a config names."""

from __future__ import annotations

from pathlib import Path

from eval.judges.base import Judge
from icr.base.errors import UserError
from icr.base.progress import Reporter
from icr.config.schema import Judge as JudgeConfig


def open_judge(config: JudgeConfig, cache: Path, reporter: Reporter, folder: str = "") -> Judge:
    """The judge that the config names.

    Args:
        config: the `judge` section; its kind is not `none`.
        folder: where the local judge's model lies, when it has been made a folder already.
        cache: sqlite file in which an endpoint's answers are kept; made when absent.

    Raises:
        UserError: no model named, the model or the user's class cannot be loaded, or there is no key for the endpoint.
    """
    if config.own:
        from eval.judges.own import OwnJudge

        return OwnJudge(config.own)
    if not config.model:
        raise UserError("no judge model is named", where="judge.model", do="name the model that judges")
    if config.kind == "local":
        from eval.judges.local import LocalJudge

        return LocalJudge.load(folder or config.model, config.model, reporter)
    from eval.judges.endpoint import EndpointJudge
    from icr.endpoint.endpoint import Endpoint

    return EndpointJudge(Endpoint(config.model, cache, config, reporter), config.preference)
