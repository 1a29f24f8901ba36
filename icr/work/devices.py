"""The GPUs that a command may use, as the driver of the cards says it: nothing is started on any of them."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from icr.base.errors import ConfigError, UserError
from icr.config.schema import Sampling
from icr.engines.open import choose_backend
from icr.engines.sizes import GIB, read_model_config

MIB = 2**20
SMALLEST_SHARE = 0.1
"""A smaller share of a GPU's memory is not worth proposing."""
ASK_SECONDS = 20


@dataclass(frozen=True)
class Gpu:
    """A card. Memory in bytes."""

    number: int
    """The driver's."""
    name: str
    total: int
    free: int
    users: tuple[str, ...] = ()
    """Processes on it, such as "python (pid 4711), 12.3 GiB"; empty also where the driver does not show them."""


def find_gpus(ask: Callable[[Sequence[str]], str] | None = None) -> list[Gpu]:
    """The cards of this machine that CUDA_VISIBLE_DEVICES leaves, in its order; none where their driver cannot be asked
    or parts of cards are named (MIG).

    Args:
        ask: runs nvidia-smi with these arguments.
    """
    ask = ask or _run_smi
    try:
        cards = _read(ask(["--query-gpu=index,uuid,name,memory.total,memory.free", *FORMAT]))
        users = _read(ask(["--query-compute-apps=gpu_uuid,pid,process_name,used_memory", *FORMAT]))
    except (OSError, subprocess.SubprocessError):
        return []
    found: dict[str, Gpu] = {}
    for number, uuid, name, total, free in cards:
        on_it = tuple(_describe(*rest) for of, *rest in users if of == uuid)
        if total.isdigit() and free.isdigit():
            found[uuid] = Gpu(int(number), name, int(total) * MIB, int(free) * MIB, on_it)
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    if visible is None:
        return list(found.values())
    chosen = []
    for name in filter(None, (part.strip() for part in visible.split(","))):
        match = [gpu for uuid, gpu in found.items() if uuid.startswith(name) or str(gpu.number) == name]
        if not match:
            break  # CUDA, too, leaves out what follows a name that it does not know
        chosen.append(match[0])
    return chosen


FORMAT = ("--format=csv,noheader,nounits",)


def _run_smi(arguments: Sequence[str]) -> str:
    return subprocess.run(
        ["nvidia-smi", *arguments], capture_output=True, text=True, check=True, timeout=ASK_SECONDS
    ).stdout


def _read(table: str) -> list[list[str]]:
    return [[cell.strip() for cell in line.split(",")] for line in table.splitlines() if line.strip()]


def _describe(pid: str, process: str, used: str) -> str:
    memory = f", {int(used) * MIB / GIB:.1f} GiB" if used.isdigit() else ""
    return f"{os.path.basename(process)} (pid {pid}){memory}"


def check_count(tensor_parallel: int, gpus: int) -> None:
    """Whether there are as many GPUs as an engine is to have; without any, an engine has none. Raises UserError."""
    if 0 < gpus < tensor_parallel:
        raise UserError(
            f"an engine needs {tensor_parallel} GPUs, but only {gpus} {'is' if gpus == 1 else 'are'} visible",
            where=f"sampling.tensor_parallel: {tensor_parallel}",
            do=f"set it to {gpus} or less, or make more GPUs visible (CUDA_VISIBLE_DEVICES)",
        )


def check_heads(tensor_parallel: int, model: str, where: str) -> None:
    """Whether vLLM can share out a model's attention heads to its GPUs. Raises UserError."""
    config = read_model_config(model) or {}
    heads = config.get("num_attention_heads")
    kv_heads = config.get("num_key_value_heads") or heads
    if not isinstance(heads, int) or not isinstance(kv_heads, int):
        return  # its config is not here
    fits = [n for n in range(1, heads + 1) if _shares_out(heads, kv_heads, n)]
    if tensor_parallel not in fits:
        raise UserError(
            f"{heads} attention heads ({kv_heads} of keys and values) cannot be split over {tensor_parallel} GPUs",
            where=f"sampling.tensor_parallel: {tensor_parallel}, {where}: {model}",
            do=f"set it to one of {', '.join(map(str, fits))}",
        )


def _shares_out(heads: int, kv_heads: int, gpus: int) -> bool:
    """Each GPU has as many heads; those of keys and values are shared out or copied."""
    return heads % gpus == 0 and (kv_heads % gpus == 0 or gpus % kv_heads == 0)


def check_memory(sampling: Sampling, gpus: Sequence[Gpu]) -> None:
    """Whether vLLM's share of each GPU's memory is free. Raises ConfigError, with every GPU where it is not."""
    if choose_backend(sampling.backend) != "vllm":
        return
    used = len(gpus) // sampling.tensor_parallel * sampling.tensor_parallel
    problems = [_explain(gpu, sampling.gpu_memory) for gpu in gpus[:used] if gpu.free < sampling.gpu_memory * gpu.total]
    if problems:
        raise ConfigError(problems)


def _explain(gpu: Gpu, asked: float) -> UserError:
    share = int(100 * gpu.free / gpu.total) / 100 - 0.01  # rounded down; the last hundredth is for what comes meanwhile
    lower = f", or set sampling.gpu_memory to {share:.2f} or less" if share >= SMALLEST_SHARE else ""
    users = f": {'; '.join(gpu.users)}" if gpu.users else ""
    return UserError(
        f"GPU {gpu.number} ({gpu.name}) has {gpu.free / GIB:.1f} of {gpu.total / GIB:.1f} GiB free, but the engine "
        f"asks for {asked * gpu.total / GIB:.1f} GiB; other processes use it{users}",
        where=f"sampling.gpu_memory: {asked}",
        do=f"end them, choose other GPUs with CUDA_VISIBLE_DEVICES{lower}",
    )
