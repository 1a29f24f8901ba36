"""The end of a training: its model is written, and never lost where that fails."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.errors import IcrError
from loops.families import Family
from loops.objective import Objective
from loops.settings import lora_config
from loops.spec import TrainSpec, adapter_folder

if TYPE_CHECKING:
    from loops.saving import Checkpointed


def export(spec: TrainSpec, trainer: Checkpointed, base: Path, family: Family[Objective], output: Path) -> None:
    """Write the model as it is now to the folder `output`, which appears whole; to be called on every rank.

    LoRA's adapter goes beside it, for those who want to go on with it; the model has it merged in.
    """
    from loops.adapter import merged_weights, write_adapter
    from loops.export import trained_weights, write_model

    first = trainer.is_world_process_zero()
    model = trainer.accelerator.unwrap_model(trainer.model)
    weights = trained_weights(model, keep=first)
    if not first:
        return
    lora = lora_config(spec.train, family)
    if lora is not None:
        write_adapter(adapter_folder(output), model, weights, lora, base, adapter_folder(spec.output))
        weights = merged_weights(base, lora, weights, family)
        model = model.get_base_model()
    template, end = _describe_answers(spec, base)
    write_model(output, base, model, weights, spec.facts, template, family, end)


def _describe_answers(spec: TrainSpec, base: Path) -> tuple[str | None, int | None]:
    """The chat template of the final model, where it is not the base's, and the token that ends its answers."""
    from icr.engines.models import read_tokenizer
    from icr.engines.templates import Template, template_ends

    file = str(spec.chat_template) if spec.chat_template else None
    template = Template(file=file, arguments=spec.template_arguments)
    if not (base / "tokenizer_config.json").is_file():
        return (spec.chat_template.read_text(encoding="utf-8") if spec.chat_template else None), None
    tokenizer = read_tokenizer(str(base))
    text = template.exported(tokenizer) if file or template.arguments else None
    template.apply(tokenizer)
    return text, next(iter(template_ends(tokenizer)), None)


def export_or_save(spec: TrainSpec, trainer: Checkpointed, base: Path, family: Family[Objective], output: Path) -> None:
    """`export`; where that fails, the training is saved as a checkpoint first, from which the same command goes on.

    Raises: what `export` raises, on every rank.
    """
    failure: Exception | None = None
    try:
        export(spec, trainer, base, family, output)
    except Exception as error:  # whatever it is, the trained weights must not be lost with it
        failure = error
    if not trainer.any_rank(failure is not None):
        return
    trainer.save_checkpoint()
    raise failure or IcrError("the first process could not write the model")
