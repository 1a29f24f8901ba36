"""The card of a trained model: how it was made."""

from __future__ import annotations

import re
from pathlib import Path

import yaml

from loops.spec import CardFacts


def write_model_card(folder: Path, facts: CardFacts) -> None:
    """`README.md`: how this model was made."""
    languages, pairs = facts.languages, facts.pairs
    head: dict[str, object] = {
        "library_name": "transformers",
        "tags": [facts.tag, str(facts.objective)],
    }
    if languages:
        head["language"] = languages
    title = "a trained model" if facts.round is None else f"round {facts.round}"
    lines = ["---", yaml.safe_dump(head, sort_keys=False).strip(), "---", "", f"# icr, {title}", ""]
    lines += [facts.method, ""]
    rows = {
        "trained from": facts.base and re.sub(r"^round-(\d+)/model$", r"the model of round \1", facts.base),
        "reference of the reward": facts.reference,
        "objective": facts.objective,
    }
    lines += [f"- {label}: {value}" for label, value in rows.items() if value is not None]
    if isinstance(pairs, dict):
        lines.append(f"- pairs: {sum(pairs.values())}")
    elif pairs is not None:
        lines.append(f"- pairs: {pairs}")
    if languages and (facts.alpha or isinstance(pairs, dict)):
        lines += ["", f"| language | pairs | α (reward per {facts.length_unit.removesuffix('s')}) |", "|---|---|---|"]
        for language in languages:
            count = pairs.get(language, 0) if isinstance(pairs, dict) else ""
            lines.append(f"| {language} | {count} | {_number(facts.alpha.get(language))} |")
    if facts.settings:
        lines += ["", "## Settings", "", "```yaml", yaml.safe_dump(facts.settings, sort_keys=False).strip(), "```"]
    (folder / "README.md").write_text("\n".join(lines) + "\n", encoding="utf-8")


def _number(value: float | None) -> str:
    return "" if value is None else f"{value:.6g}"
