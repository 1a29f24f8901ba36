"""The card of a reward model: its data, its languages, and its accuracy beside baselines."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

import yaml

from icr.base.fields import Fields
from icr.base.files import write_text
from icr.base.shown import hide_paths
from icr.config.load import flatten
from icr.config.reward_model import RewardModelConfig

TAG = "reward-model"
METHOD = {
    "pairwise": "A reward model (Bradley–Terry): a sequence classifier whose one logit is the reward of a response.",
    "pointwise": "A reward model (cross-entropy on ratings): a sequence classifier whose one logit is the reward.",
}
HEAD = "| language | n | accuracy | interval | length baseline | majority | chance |"


def write_reward_card(
    folder: Path, config: RewardModelConfig, loss: str, languages: Mapping[str, Fields], result: Fields
) -> None:
    """`README.md` of the model."""
    head = {"library_name": "transformers", "tags": [TAG, loss], "language": list(languages)}
    training = result["training"]
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", "# Reward model", "", METHOD[loss], ""]
    lines += [
        "It reads a conversation in its chat template, the response last; an encoder reads prompt and response as two",
        "texts. The raw logit counts: no sigmoid.",
        "",
        f"- trained from: {hide_paths(config.base, folder.parent)}",
        f"- rows trained on: {training['rows']}, in {training['steps']} optimiser steps",
        f"- too long, left out: {sum(sum(of.values()) for of in training['too_long'].values())}",
        "",
        "## Accuracy on held-out groups (percent)",
        "",
        HEAD,
        "|---|---|---|---|---|---|---|",
    ]
    lines += [_line(lang, found) for lang, found in languages.items()]
    settings = {key: hide_paths(value, folder.parent) for key, value in flatten(config).items() if key != "run"}
    lines += ["", "## Settings", "", "```yaml", yaml.safe_dump(settings, sort_keys=False).strip(), "```"]
    write_text(folder / "README.md", "\n".join(lines) + "\n")


def _line(lang: str, found: Fields) -> str:
    interval = found.get("accuracy_interval")
    between = "–" if interval is None else f"{interval[0]:.1f}–{interval[1]:.1f}"
    cells = (found.get(name) for name in ("length", "majority", "chance"))
    numbers = " | ".join("–" if value is None else f"{value:.1f}" for value in cells)
    return f"| {lang} | {found['n']} | {_number(found.get('accuracy'))} | {between} | {numbers} |"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.1f}"
