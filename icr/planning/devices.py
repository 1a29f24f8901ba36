"""What a device computes and moves in a second: a small dated table of GPUs, and this machine's processor, measured."""

from __future__ import annotations

import os
import platform
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from icr.base.errors import UserError
from icr.engines.precision import Precision, has_bf16
from icr.work.devices import Gpu, find_gpus

DATE = "2026-11"
"""Of the table and of all constants of `icr.planning.formulas`. Observations of another date do not count."""
MIB = 2**20
SIDE = 1024
"""Rows and columns of the matrices that a processor is measured by."""
TRIES = 6
COPIED = 1 << 26
"""Bytes that a processor's memory is measured by."""


@dataclass(frozen=True)
class Device:
    """One GPU, or all processors of a machine."""

    name: str
    kind: Literal["gpu", "cpu"]
    memory: int
    """Bytes; of a processor, the machine's."""
    fp32: float
    """Operations a second."""
    bf16: float
    bandwidth: float
    """Bytes a second."""
    source: str
    """Where the figures are from, for people."""

    def flops(self, precision: Precision) -> float:
        """Operations a second."""
        return self.bf16 if precision == "bf16" else self.fp32


_SHEET = f"its data sheet, {DATE}"
GPUS = {
    "h100": Device("H100 SXM 80 GB", "gpu", 81_559 * MIB, 67e12, 989e12, 3.35e12, _SHEET),
    "h200": Device("H200 141 GB", "gpu", 143_771 * MIB, 67e12, 989e12, 4.8e12, _SHEET),
    "a100": Device("A100 SXM 80 GB", "gpu", 81_920 * MIB, 19.5e12, 312e12, 2.04e12, _SHEET),
    "4090": Device("RTX 4090 24 GB", "gpu", 24_564 * MIB, 82.6e12, 165e12, 1.01e12, _SHEET),
}
"""Dense operations, without sparsity; memory as nvidia-smi shows it. No figure here was measured by icr."""


def find_device(name: str | None, known: Callable[[str], Device | None] = lambda name: None) -> Device:
    """A GPU of the table; `cpu`; or by default what this machine has.

    Args:
        known: from a processor's name to what was measured of it before.

    Raises:
        UserError: the name, or this machine's GPU, is not in the table.
    """
    if name is None:
        gpus = find_gpus()
        return _match(gpus[0]) if gpus else find_device("cpu", known)
    if name == "cpu":
        here = name_processor()
        return known(here) or measure_processor(here)
    if name.lower() not in GPUS:
        raise UserError(f"the speed of {name} is not known", where="--gpu", do=f"name one of {', '.join(GPUS)}, cpu")
    return GPUS[name.lower()]


def _match(gpu: Gpu) -> Device:
    for name, device in GPUS.items():
        if name in gpu.name.lower():
            return Device(device.name, "gpu", gpu.total, device.fp32, device.bf16, device.bandwidth, device.source)
    do = f"plan for a similar one of {', '.join(GPUS)} (icr plan --gpu)"
    raise UserError(f"the speed of {gpu.name} is not known", where="this machine's GPU", do=do)


def count_gpus() -> int:
    """Devices of this machine: its GPUs, or 1 without any."""
    return max(1, len(find_gpus()))


def name_processor() -> str:
    """The processor's model and how many cores of it this process may use."""
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    info = Path("/proc/cpuinfo")
    lines = info.read_text(encoding="utf-8", errors="replace").splitlines() if info.is_file() else []
    models = (line.partition(":")[2].strip() for line in lines if line.startswith("model name"))
    return f"{next(models, platform.machine())}, {cores} cores"


def measure_processor(name: str) -> Device:
    """Matrix products of SIDE³ and a copy of COPIED bytes, the best of TRIES each: below a second."""
    import psutil
    import torch

    def measure(dtype: torch.dtype) -> float:
        left, right = torch.ones(SIDE, SIDE, dtype=dtype), torch.ones(SIDE, SIDE, dtype=dtype)
        return 2 * SIDE**3 / _best(lambda: torch.mm(left, right))

    fp32 = measure(torch.float32)
    source = torch.zeros(COPIED, dtype=torch.uint8)
    bandwidth = 2 * COPIED / _best(source.clone)  # read and written
    bf16 = measure(torch.bfloat16) if has_bf16() else fp32 / 100
    memory = psutil.virtual_memory().total + psutil.swap_memory().total
    when = f"measured here, {time.strftime('%Y-%m-%d')}"
    return Device(name, "cpu", memory, fp32, bf16, bandwidth, when)


def _best(work: Callable[[], object]) -> float:
    """Seconds of the fastest of TRIES, after one that warms up.

    They are the processor's, shared out to torch's threads, which all of the work is for: others may be at work on this
    machine, and a run is not planned for what they leave.
    """
    import torch

    seconds = []
    for _ in range(TRIES + 1):
        began = time.process_time()
        work()
        seconds.append((time.process_time() - began) / torch.get_num_threads())
    return min(seconds[1:])
