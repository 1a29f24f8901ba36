"""Which stages a run has, in order."""

from __future__ import annotations

from typing import Any

from icr.base.rundir import RunDir
from icr.config.plain import section

STAGES = ("align", "sample", "score", "pair", "train", "judge")


def planned_stages(run: RunDir, config: dict[str, Any]) -> list[tuple[int, str]]:
    """The stages that the config asks for, in order, and those that were run although it does not."""
    plan: list[tuple[int, str]] = []
    judge, rounds = section(config, "judge"), int(config.get("rounds") or 0)
    judged = judge.get("kind", "none") != "none" or "nlp" in (judge.get("benchmarks") or [])
    if not section(config, "models").get("policy") and config.get("alignment"):
        plan.append((0, "align"))
    if judged:
        plan.append((0, "judge"))
    for n in range(1, rounds + 1):
        plan += [(n, stage) for stage in ("sample", "score", "pair", "train")]
        if judged and (n % (judge.get("every") or 1) == 0 or n == rounds):
            plan.append((n, "judge"))
    met = [(r.number, stage) for r in run.rounds() for stage in r.record.stages]
    return sorted({*plan, *met}, key=lambda item: (item[0], STAGES.index(item[1])))
