"""How long the sequences of a run may be: one engine serves all that its policies sample."""

from __future__ import annotations

from collections.abc import Sequence

from eval.mtbench.answers import bound_conversation
from eval.mtbench.questions import load_questions
from icr.config.schema import Config
from icr.engines.context import context_length
from icr.rounds.context import Inputs
from icr.translation import ROOM
from icr.work.sampling import bound_tokens


def bound_window(config: Config, inputs: Inputs, models: Sequence[str]) -> int:
    """Tokens of the longest sequence that the run can ask for, and no more than its models were made for.

    Args:
        models: folders of the reference and of a policy; later policies are as long as the first one.
    """
    longest = [bound_tokens([p.text for p in inputs.prompts]) + config.sampling.max_tokens]
    if config.reward.kind in ("translate", "lidr"):
        longest.append(bound_tokens([""]) + 2 * ROOM * config.sampling.max_tokens)
    judge = config.judge
    if judge.active and "xalpaca" in judge.benchmarks:
        longest.append(bound_tokens([p.text for p in inputs.heldout]) + judge.max_tokens)
    if judge.active and "mtbench" in judge.benchmarks and judge.mtbench is not None:
        questions = load_questions(judge.mtbench, config.prompts.languages)
        longest.append(bound_conversation(questions, judge.mtbench.max_tokens))
    return min(*map(context_length, models), max(longest))
