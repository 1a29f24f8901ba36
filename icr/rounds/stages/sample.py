"""Stage "sample" (equation 7)."""

from __future__ import annotations

from icr.rounds.context import Context
from icr.rounds.stages.kinds import samples_greedily, scores_policy
from icr.work.runner import Counts
from icr.work.sampling import SampleTask, sample_prompts


def sample(context: Context) -> Counts:
    """Eq. 7: N responses of the policy for every prompt of every language; for LIDR one, the greedy one.

    In round 1 engine and scorer are compared on one text; the scorer that this loads is the next stage's.
    """
    settings, greedy = context.config.sampling, samples_greedily(context.config.reward.kind)
    task = SampleTask(
        model=context.policy,
        template=context.template,
        stop=tuple(settings.stop),
        engine=context.engine,
        n=1 if greedy else settings.n,
        temperature=0.0 if greedy else settings.temperature,
        top_p=1.0 if greedy else settings.top_p,
        max_tokens=settings.max_tokens,
        seed=settings.seed,
        round=context.round.number,
    )
    if settings.backend == "auto" and context.engine.backend == "transformers":
        context.machine.note_once(
            "vLLM is not installed: sampling with transformers' generate, which is several times slower"
        )
    if settings.tensor_parallel > 1 and not context.machine.gpus:
        context.machine.note_once("without a GPU, sampling.tensor_parallel has no effect")
    prompts, folder = context.inputs.prompts, context.round.responses
    shards = context.shard_folder(folder / "shards")
    counts = sample_prompts(context.machine, task, prompts, folder, shards, "responses", context.shard_size)
    if context.round.number == 1 and scores_policy(context.config.reward.kind):
        found = context.machine.compare(task, context.machine.precision(context.config.reward.precision))
        counts = {**counts, "engine_and_scorer": found.model_dump() if found else None}
    return {"prompts": len(prompts), **counts}
