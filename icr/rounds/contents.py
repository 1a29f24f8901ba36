"""What the inputs of a run are, by content: a file that changed under its name is another input."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path

from eval.judges.open import identify_judge
from eval.judges.prompts import identify_prompts
from icr.base.content import hash_file, hash_folder, hash_rows, identify_class, identify_model
from icr.config.schema import Config, Judge, reward_models
from icr.rounds.context import Inputs
from prompts.load import Prompt


def identify_inputs(config: Config, inputs: Inputs) -> dict[str, str]:
    """Input, in words for the user → its content hash, or a hub id with its commit.

    Raises:
        UserError: a class of the user's cannot be loaded.
    """
    return dict(_identify(config, inputs))


def _identify(config: Config, inputs: Inputs) -> Iterator[tuple[str, str]]:
    yield "reference", identify_model(inputs.reference)
    if inputs.policy:
        yield "policy", identify_model(inputs.policy)
    if config.models.chat_template:
        yield "chat template", hash_file(Path(config.models.chat_template))
    if inputs.alignment:
        yield "English pairs", hash_rows(inputs.alignment)
    yield from _by_language("prompts in", inputs.prompts)
    if isinstance(config.reward.model, str) and config.reward.kind == "model":
        yield "reward model", identify_model(config.reward.model)
    elif config.reward.kind == "model":
        for lang, model in reward_models(config.reward, config.prompts.languages).items():
            yield f"reward model of {lang}", identify_model(model)
    if ":" in config.reward.kind:
        yield "reward class", identify_class(config.reward.kind, "reward.kind")
    if config.objective not in ("dpo", "kto"):
        yield "objective class", identify_class(config.objective, "objective")
    if config.judge.active:
        yield from _of_judge(config.judge, inputs)


def _of_judge(judge: Judge, inputs: Inputs) -> Iterator[tuple[str, str]]:
    if "nlp" in judge.benchmarks and judge.nlp.include_path:
        yield "NLP task files", hash_folder(Path(judge.nlp.include_path))
    if judge.kind == "none":
        return
    yield from identify_judge(judge, inputs.judges).items()
    yield from identify_prompts(judge, list(judge.benchmarks)).items()
    if "xalpaca" in judge.benchmarks:
        yield from _by_language("held-out prompts in", inputs.heldout)
        if judge.baseline != "round-0":
            yield "judge's baseline answers", hash_folder(Path(judge.baseline))
        for name, path in (("difficulties", judge.difficulty), ("gamed baselines", judge.gamed)):
            if path:
                yield f"judge's {name}", hash_file(Path(path))
    if "mtbench" in judge.benchmarks and judge.mtbench:
        yield "MT-Bench questions", hash_folder(Path(judge.mtbench.questions))
        if judge.mtbench.references and Path(judge.mtbench.references).is_dir():
            yield "MT-Bench references", hash_folder(Path(judge.mtbench.references))


def _by_language(name: str, prompts: Sequence[Prompt]) -> Iterator[tuple[str, str]]:
    for lang in dict.fromkeys(p.lang for p in prompts):
        yield f"{name} {lang}", hash_rows({"id": p.id, "text": p.text} for p in prompts if p.lang == lang)
