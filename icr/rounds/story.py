"""What a stage does and why, in a line: printed when it starts."""

from __future__ import annotations

from icr.base.rundir import Stage
from icr.config.schema import Config
from icr.rounds.stages.kinds import describe_kind


def explain_stage(config: Config, number: int, stage: Stage) -> str:
    """One line for a reader who does not know the method."""
    alpha = ", minus α × length" if config.reward.length_penalty != "none" else ""
    baseline = config.judge.baseline or "round-0"
    lines: dict[str, str] = {
        "align": "making π_θ⁰: the reference model learns a preference from English pairs alone",
        "sample": f"the policy answers every prompt {config.sampling.n} times",
        "score": describe_kind(config) + alpha,
        "pair": "the best and the worst answer to each prompt become a pair",
        "train": f"the next policy is trained on the pairs ({config.objective})",
        "judge": f"comparing held-out answers with those of {'round 0' if baseline == 'round-0' else baseline}"
        if number
        else "answering the held-out prompts, for later rounds to be compared with",
    }
    return lines[stage]
