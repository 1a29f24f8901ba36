"""Setups of a plan without any files: Llama-3-8B on GPUs of the table, with the paper's numbers of prompts."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from icr.config.load import make_config
from icr.config.schema import Config
from icr.engines.sizes import CheckpointSize
from icr.planning.devices import GPUS, Device
from icr.planning.facts import LIKE_LLAMA, ModelFacts, Shape
from icr.planning.lengths import Lengths
from icr.planning.setup import Setup
from icr.planning.texts import OfLanguage, Texts
from icr.rounds.context import Inputs

LLAMA = Shape(*LIKE_LLAMA[8.0e9])
PARAMETERS = 8_030_261_248
LLAMA_8B = ModelFacts(CheckpointSize(PARAMETERS, 2 * PARAMETERS, LLAMA.matrices()), LLAMA, "a test")
LANGUAGES = ("en", "es", "ru", "de", "fr")


def of_language(prompts: int = 3000, tokens: float = 200, condition: float = 200) -> OfLanguage:
    return OfLanguage(prompts, tokens, condition, characters=760, bytes=760, per_character=1 / 3.8)


def made_config(**changes: Any) -> Config:
    """The paper's run; keyword arguments are merged into whole sections."""
    config: dict[str, Any] = {
        "models": {"policy": "org/policy", "reference": "org/reference"},
        "prompts": {"path": "prompts", "languages": list(LANGUAGES)},
        "judge": {"kind": "none"},
    }
    for key, value in changes.items():
        config[key] = {**config.get(key, {}), **value} if isinstance(value, dict) else value
    return make_config(config)


def made_setup(
    device: Device = GPUS["h100"],
    devices: int = 8,
    facts: ModelFacts = LLAMA_8B,
    prompts: int = 3000,
    heldout: int = 805,
    alignment: Sequence[tuple[int, int, int]] = (),
    **changes: Any,
) -> Setup:
    texts = Texts(
        prompts={lang: of_language(prompts) for lang in LANGUAGES},
        heldout={lang: of_language(heldout) for lang in LANGUAGES},
        alignment=alignment,
    )
    inputs = Inputs([], [], [], "policy", "reference", None)
    return Setup(made_config(**changes), inputs, texts, facts, facts, device, devices)


LENGTHS = Lengths(dict.fromkeys(LANGUAGES, 450.0), "a test")
"""450 tokens, before answers are cut off."""
