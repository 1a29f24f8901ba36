"""How many rows one process takes through the model at once, where the config leaves it to us.

A rough estimate from the sizes of model, data and GPU. It decides speed alone: the mean over an optimiser step is taken
over all of its rows. Not measured on a GPU yet; it is on the careful side, and a number in the config replaces it.
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from icr.config.schema import Train
from icr.engines.context import context_length
from loops.data import longest_row
from loops.settings import is_zero3
from loops.spec import TrainSpec

if TYPE_CHECKING:
    from loops.families import Family
    from loops.objective import Objective

USABLE = 0.8
"""Share of a GPU's memory that is counted on; the rest is for fragments, buffers and the driver."""
MOST = 16
"""Rows; beyond that a forward pass gets no faster by more."""
WITHIN_LAYER = 34
"""Values per token and hidden unit that a layer's backward pass needs: attention, gated MLP and norms."""


def choose_micro_rows(
    train: Train, *, batch_rows: int, processes: int, rows_per_pair: int, memory: int | None, states: int, row: int
) -> int:
    """Rows of a micro-batch for `train.micro_batch_size: auto`: one pair without a GPU, else as many as fit.

    Args:
        batch_rows: of an optimiser step; processes: of all nodes.
        memory: bytes of the smallest GPU; None without one.
        states: bytes of weights, gradients and optimiser on one GPU.
        row: bytes that the longest row takes.

    Returns:
        A divisor of a process's rows in a step, at least 1.
    """
    most = rows_per_pair
    if memory is not None and train.nodes == 1:  # the GPUs of other nodes are not seen from here
        most = min(MOST, int((USABLE * memory - states) // row))
    own = max(1, batch_rows // processes)
    return max(divisor for divisor in range(1, own + 1) if own % divisor == 0 and divisor <= max(1, most))


def state_bytes(train: Train, weights: int, processes: int) -> int:
    """Bytes of weights, gradients and optimiser state on one GPU, for docs/gpu.md and `icr plan` as well.

    Under DeepSpeed 16 bytes a weight are shared out: gradients in fp32 (4; configs/deepspeed/ sets `grad_accum_dtype`,
    DeepSpeed's own default in bf16 is 2), the master copy (4) and AdamW's moments (8). ZeRO-3 in fp32 has no master
    copy beside its weights.

    Args:
        weights: number of the model's weights.
    """
    width = 2 if train.precision == "bf16" else 4
    if train.lora is not None:
        return weights * width
    if train.deepspeed == "none":
        return weights * (8 if train.optimizer == "adafactor" else 16)
    if is_zero3(train.deepspeed):
        return weights * (18 if width == 2 else 16) // processes
    return weights * width + weights * 16 // processes


def row_bytes(train: Train, *, layers: int, hidden: int, tokens: int, sequences: int) -> int:
    """Bytes of activations of one row.

    Args:
        layers, hidden: the model's number of layers, and its width.
        tokens: of the row's longest sequence; sequences: in a row.
    """
    width = 2 if train.precision == "bf16" else 4
    kept = layers + WITHIN_LAYER if train.gradient_checkpointing else layers * WITHIN_LAYER
    return sequences * tokens * width * hidden * kept


def settle_micro_batch(spec: TrainSpec, family: Family[Objective], base: Path, processes: int) -> TrainSpec:
    """The training with a number for `train.micro_batch_size: auto`.

    Args:
        base: folder of the model that is trained.
        processes: of all nodes.
    """
    train = spec.train
    if train.micro_batch_size != "auto":
        return spec
    rows_per_pair = family.objective.rows_per_pair
    memory = gpu_memory()
    states = row = 0
    if memory is not None:
        from transformers import AutoConfig

        config = AutoConfig.from_pretrained(base, trust_remote_code=False).get_text_config()
        states = state_bytes(train, count_weights(base), processes)
        tokens = longest_row(spec.data, family.answers, context_length(str(base)))
        row = row_bytes(
            train,
            layers=int(config.num_hidden_layers),
            hidden=int(config.hidden_size),
            tokens=tokens,
            sequences=max(1, len(family.answers)),
        )
    rows = choose_micro_rows(
        train,
        batch_rows=train.batch_size * rows_per_pair,
        processes=processes,
        rows_per_pair=rows_per_pair,
        memory=memory,
        states=states,
        row=row,
    )
    return spec.model_copy(update={"train": train.model_copy(update={"micro_batch_size": rows})})


def gpu_memory() -> int | None:
    """Bytes of the smallest GPU of this machine, None without one."""
    import torch

    sizes = [torch.cuda.get_device_properties(n).total_memory for n in range(torch.cuda.device_count())]
    return min(sizes) if sizes else None


def count_weights(folder: Path) -> int:
    """Weights of a checkpoint, by the headers of its safetensors files."""
    from math import prod

    from safetensors import safe_open

    total = 0
    for path in folder.glob("*.safetensors"):
        with safe_open(path, "pt") as file:
            total += sum(prod(file.get_slice(name).get_shape()) for name in file.keys())  # noqa: SIM118
    return total
