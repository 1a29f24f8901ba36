"""Shared fixtures. Nothing here, nor in any test, reaches beyond this machine."""

from __future__ import annotations

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"

TEXTS = {
    "en": "Name {n} animals that live in the sea.",
    "es": "Nombra {n} animales que viven en el mar.",
    "ru": "Назовите {n} животных, которые живут в море.",
}


def write_prompts(folder: Path, ids: range) -> Path:
    """Parallel prompts in three languages."""
    folder.mkdir(parents=True, exist_ok=True)
    for lang, text in TEXTS.items():
        lines = [json.dumps({"id": f"p{n}", "instruction": text.format(n=n)}, ensure_ascii=False) for n in ids]
        (folder / f"{lang}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """π_I, and a π_θ⁰ a little away from it: two tiny folders with one tokenizer."""
    import torch
    from safetensors.torch import load_file, save_file

    from tests.tiny_models import make_tiny_model

    root = tmp_path_factory.mktemp("models")
    reference = make_tiny_model(root / "reference", context=2048)
    policy = make_tiny_model(root / "policy", context=2048)
    weights = load_file(policy / "model.safetensors")
    noise = torch.Generator().manual_seed(1)
    moved = {k: w + 0.02 * torch.randn(w.shape, generator=noise) for k, w in weights.items()}
    save_file(moved, policy / "model.safetensors", metadata={"format": "pt"})
    return policy, reference


@pytest.fixture(scope="session")
def tiny_config(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """Writes a config of a small run on the tiny models; keyword arguments replace whole sections or keys."""
    policy, reference = tiny_pair
    root = tmp_path_factory.mktemp("prompts")
    train, heldout = write_prompts(root / "train", range(1, 7)), write_prompts(root / "heldout", range(11, 15))

    def write(folder: Path, **changes: Any) -> Path:
        config: dict[str, Any] = {
            "run": str(folder / "run"),
            "rounds": 2,
            "models": {"policy": str(policy), "reference": str(reference)},
            "prompts": {"path": str(train), "languages": ["en", "es", "ru"]},
            "sampling": {"backend": "transformers", "n": 4, "max_tokens": 12, "shard_size": 6},
            "reward": {"precision": "fp32"},
            "train": {
                "learning_rate": 1e-3,
                "batch_size": 4,
                "precision": "fp32",
                "deepspeed": "none",
                "gradient_checkpointing": False,
                "save_steps": 2,
            },
            "judge": {"kind": "local", "model": str(reference), "prompts": str(heldout), "max_tokens": 12},
        }
        for key, value in changes.items():
            if isinstance(value, dict):
                config[key] = {**config.get(key, {}), **value}
            else:
                config[key] = value
        folder.mkdir(parents=True, exist_ok=True)
        path = folder / "config.yaml"
        path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
        return path

    return write


@pytest.fixture
def make_round(tiny_config: Callable[..., Path], tiny_pair: tuple[Path, Path], tmp_path: Path) -> Callable[..., Any]:
    """Makes `tests.kinds.make_context` of a reward kind; keyword arguments are keys of `reward`."""
    from tests.kinds import ALPHA, make_context

    def made(kind: str, folder: str = "a", samples: int = 3, previous: Path | None = None, **reward: Any) -> Any:
        settings = {"kind": kind, "length_penalty": ALPHA, "precision": "fp32", **reward}
        return make_context(tmp_path / folder, tiny_config, tiny_pair, samples, previous, reward=settings)

    return made
