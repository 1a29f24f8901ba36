"""How much work an experiment of `icr transfer` is, before any of it is done."""

from __future__ import annotations

from collections.abc import Sequence

from icr.base.fields import Fields
from icr.config.transfer import TransferConfig, language_of
from icr.endpoint.prices import Estimate
from icr.experiments.transfer_plan import AlignInputs, ModelPlan
from icr.experiments.transfer_rl import count_rl
from icr.experiments.transfer_sft import FineTuning
from icr.experiments.transfer_translate import Translations
from icr.work.machine import Machine


def count_work(
    config: TransferConfig, models: Sequence[ModelPlan], inputs: AlignInputs | None, todo: Sequence[str],
    machine: Machine,
) -> Fields:  # fmt: skip
    """Counts as `list_transfer` returns them.

    Args:
        todo: names of the cells that are not done.
    """
    counts = Fields()
    if config.sft is not None:
        counts["fine_tunings"] = len(config.places)
    if config.translator is not None:
        expected = Translations(config, machine).estimate(todo)
        expected += FineTuning(config, machine).estimate(todo) if config.sft else Estimate(0, 0, 0, 0, 0.0)
        counts |= {"translations": expected.calls, "translation_usd": expected.usd}
        counts |= {"translation_tokens": expected.prompt_tokens + expected.completion_tokens}
    align = config.align
    if align is None or inputs is None:
        return counts
    asked = {place: len(inputs.prompts[language_of(place)]) for place in config.places}
    models_in = {place: sum(model.serves(language_of(place)) for model in models) for place in asked}
    prompts = sum(asked.values())
    best, drawn, policies = align.best_of_n, prompts, list[str]()
    if align.dpo is not None:
        places = config.trained_places(align.dpo)
        policies += places
        drawn += sum(len(inputs.training[language_of(place)]) for place in places)
        counts["trainings"] = sum(models_in[place] for place in places)
    if align.rl is not None:
        policies += config.trained_places(align.rl)
        counts |= count_rl(config, align.rl, inputs, models)
    # one answer of each trained policy to a judged prompt
    answers = sum(asked[place] * models_in[place] for place in policies)
    counts["candidates"] = drawn * best.n + answers
    counts["tokens"] = counts["candidates"] * best.max_tokens
    chosen = sum(asked[place] * models_in[place] for place in asked)
    every = prompts * best.n if align.judged == "all" else 0
    orders = [2 if judge.config.orders == "both" else 1 for judge in inputs.judges]
    counts["questions"] = (chosen + answers + every) * sum(orders)
    return counts
