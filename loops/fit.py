"""Whether a model can be trained as the settings say and saved afterwards, found without its weights."""

from __future__ import annotations

import difflib
import re
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.errors import UserError
from icr.base.problems import Collector
from icr.config.schema import Train
from icr.engines.skeleton import load_skeleton
from icr.engines.weights import read_headers

if TYPE_CHECKING:
    from transformers import PreTrainedModel

    from loops.families import Family
    from loops.objective import Objective, Setting

KEY = "train.lora.target_modules"
ALL = "all-linear"
"""peft's word for every linear layer but the output head."""


def check_trainable(
    folder: Path, where: str, train: Train, objective: str, settings: Mapping[str, Setting] | None = None
) -> None:
    """Check LoRA's targets against the model's modules, and the trained model's names against the checkpoint's.

    Args:
        folder: of a checkpoint that `icr.engines.check.check_model` has passed.
        where: the config key that names it.
        settings: of the objective, beyond `train`.

    Raises:
        ConfigError: everything that is wrong.
    """
    from loops.export import check_export
    from loops.families import family_of
    from loops.objective import make_objective
    from loops.settings import refuse_strange, refuse_untrained

    made = make_objective(objective, beta=train.beta, nll_weight=train.nll_weight)
    made.configure(settings or {})
    family = family_of(made)
    loaded = load_skeleton(folder, read_headers(folder, where), family.auto_class, family.config_changes())
    found = Collector()
    found.attempt(None, refuse_strange, folder, loaded.missing, loaded.unexpected, family)
    found.attempt(None, refuse_untrained, folder, loaded.missing, train)
    if not found.problems:
        found.attempt(None, check_export, folder, loaded.model, family)
    found.attempt(None, check_lora, loaded.model, train, family)
    found.raise_any()


def check_lora(model: PreTrainedModel, train: Train, family: Family[Objective]) -> None:
    """Whether every entry of `train.lora.target_modules` names modules that LoRA can be put on.

    Args:
        model: may be without its weights; has adapters afterwards.

    Raises:
        UserError: one does not.
    """
    from peft import get_peft_model

    from loops.settings import lora_config, refuse_head

    lora = lora_config(train, family)
    if lora is None or train.lora is None:
        return
    _check_names(model, train.lora.target_modules)
    try:
        adapted = get_peft_model(model, lora, low_cpu_mem_usage=True)
    except ValueError as error:
        first = str(error).strip().splitlines()[0]
        do = f"name linear layers, such as q_proj and v_proj, or write {ALL}"
        raise UserError(f"LoRA cannot be applied to these modules: {first}", where=KEY, do=do) from error
    refuse_head(adapted)


def _check_names(model: PreTrainedModel, targets: str | list[str]) -> None:
    names = [name for name, _ in model.named_modules() if name]
    if isinstance(targets, str):
        try:
            found = targets == ALL or any(re.fullmatch(targets, name) for name in names)
        except re.error as error:
            raise UserError(f"{targets} is not a regular expression: {error}", where=KEY, do="fix it") from error
        if not found:
            what = f"no module of {type(model).__name__} has a name that {targets} matches as a whole"
            raise UserError(what, where=KEY, do=f"write {ALL}, or a list of names: {_endings(model)}")
        return
    unknown = [t for t in targets if not any(name == t or name.endswith(f".{t}") for name in names)]
    if unknown:
        known = sorted({name.rpartition(".")[2] for name in names})
        near = [n for t in unknown for n in difflib.get_close_matches(t, known, n=1)]
        raise UserError(
            f"{type(model).__name__} has no module named {', '.join(unknown)}",
            where=KEY,
            do=f"{f'did you mean {near[0]}? ' if near else ''}LoRA can be applied to {_endings(model)}",
        )


def _endings(model: PreTrainedModel) -> str:
    """The last parts of the names of the linear layers."""
    from torch.nn import Linear

    head = model.get_output_embeddings()  # type: ignore[no-untyped-call]
    linear = (name for name, module in model.named_modules() if isinstance(module, Linear) and module is not head)
    return ", ".join(dict.fromkeys(name.rpartition(".")[2] for name in linear))
