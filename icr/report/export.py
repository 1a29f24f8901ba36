"""A round in the forms of other tools: the model with its whole card for the hub, pairs for TRL and LLaMA-Factory,
answers for AlpacaEval."""

from __future__ import annotations

import filecmp
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import yaml

from eval.folders import read_summary
from icr.base.conversation import Conversation, load_conversation
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import atomic_folder, read_rows
from icr.base.hub import read_hub_id
from icr.base.rundir import RoundDir, RunDir
from icr.report.findings import baseline_name
from icr.report.numbers import number, share
from icr.report.results import interval
from icr.report.status import continue_command
from icr.rows import Pair

ROLES = {"system": "system", "user": "human", "assistant": "gpt"}
"""Roles as LLaMA-Factory's sharegpt form has them."""


def export_trl(at: RoundDir, out: Path) -> int:
    """`pairs.jsonl` in TRL's conversational form of preferences, prompt and answers as messages; how many."""
    rows = [
        {
            "id": pair["prompt_id"],
            "lang": pair["lang"],
            "prompt": load_conversation(pair["prompt"]),
            "chosen": [{"role": "assistant", "content": pair["chosen"]}],
            "rejected": [{"role": "assistant", "content": pair["rejected"]}],
        }
        for pair in _pairs(at)
    ]
    with atomic_folder(out) as tmp:
        lines = (json.dumps(row, ensure_ascii=False) for row in rows)
        (tmp / "pairs.jsonl").write_text("".join(f"{line}\n" for line in lines), encoding="utf-8")
    return len(rows)


def export_llama_factory(at: RoundDir, out: Path) -> int:
    """`pairs.json` in LLaMA-Factory's sharegpt form of preferences, and the `dataset_info.json` that describes it."""

    def turn(role: str, text: str) -> dict[str, str]:
        return {"from": ROLES[role], "value": text}

    rows = []
    for pair in _pairs(at):
        prompt: Conversation = load_conversation(pair["prompt"])
        system = "".join(m["content"] for m in prompt if m["role"] == "system")
        rows.append(
            {
                "conversations": [turn(m["role"], m["content"]) for m in prompt if m["role"] != "system"],
                "chosen": turn("assistant", pair["chosen"]),
                "rejected": turn("assistant", pair["rejected"]),
                "system": system,
            }
        )
    columns = {"messages": "conversations", "chosen": "chosen", "rejected": "rejected", "system": "system"}
    info = {"icr": {"file_name": "pairs.json", "ranking": True, "formatting": "sharegpt", "columns": columns}}
    with atomic_folder(out) as tmp:
        for name, value in (("pairs.json", rows), ("dataset_info.json", info)):
            (tmp / name).write_text(json.dumps(value, ensure_ascii=False, indent=1) + "\n", encoding="utf-8")
    return len(rows)


def export_alpaca_eval(at: RoundDir, out: Path) -> int:
    """`LANG.json`, the answers to the held-out prompts in AlpacaEval's form; how many languages."""
    files = sorted((at.judge / "alpaca_eval").glob("*/model_outputs.json"))
    if at.number == 0:
        raise UserError(
            "round 0 is what the others are compared with, and was not compared itself",
            where=str(at.path),
            do=f"name a later round, such as {at.path.parent}/round-1",
        )
    if not files:
        raise UserError(
            "this round has no answers to held-out prompts",
            where=str(at.judge),
            do=f"judge it first: icr judge --run {at.path.parent} --round {at.number}",
        )
    with atomic_folder(out) as tmp:
        for file in files:
            shutil.copyfile(file, tmp / f"{file.parent.name}.json")
    return len(files)


def trained_model(at: RoundDir) -> Path:
    """The folder of the model that a round trained. Raises UserError where there is none."""
    if at.is_given:
        run = at.path.parent
        start = RunDir(run).first_models().get("policy", "another model")
        raise UserError(
            f"round 0 of this run is {start}, which was not trained here",
            where=str(at.path),
            do=f"name a later round, such as {run}/round-1",
        )
    return at.find_model()


def write_card(at: RoundDir, *, license_: str | None, data_license: str | None) -> tuple[str, list[str]]:
    """The whole model card: base model, licence, languages, results with intervals; and what it does not know.

    Args:
        license_: the card's `license`, an identifier of the hub such as apache-2.0.
        data_license: that of the prompts, and of the English pairs if there are any.
    """
    model, run = trained_model(at), RunDir(at.path.parent)
    names = dict.fromkeys(run.first_models().values())
    bases = [name for name in names if read_hub_id(name) and not (run.path / name).is_dir()]  # not round-0/model
    facts: Fields = {"base_model": [base.partition("@")[0] for base in bases], "license": license_}
    unknown = [key for key, value in {**facts, "data license": data_license}.items() if not value]
    data = f"\nLicence of the prompts and pairs: {data_license}\n" if data_license else ""
    _, head, body = (model / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    known = {key: value for key, value in facts.items() if value}
    metadata = yaml.safe_dump({**yaml.safe_load(head), **known, "pipeline_tag": "text-generation"}, sort_keys=False)
    return f"---\n{metadata}---\n{body}{data}{_results(at)}", unknown


def export_model(at: RoundDir, out: Path, card: str) -> None:
    """The model's folder with `card` from `write_card`."""
    with atomic_folder(out) as tmp:
        shutil.copytree(trained_model(at), tmp, dirs_exist_ok=True)
        (tmp / "README.md").write_text(card, encoding="utf-8")


def is_exported(at: RoundDir, out: Path, card: str) -> bool:
    """Whether `export_model` has written `out` before, from this model and card: then a push is repeated."""
    model, there = _files(trained_model(at)), _files(out)
    if model.keys() != there.keys() or there["README.md"].read_text(encoding="utf-8") != card:
        return False
    return all(filecmp.cmp(model[name], there[name]) for name in model if name != "README.md")  # by size and time first


def _files(folder: Path) -> dict[str, Path]:
    """Name → file of a folder; none where there is no folder. `.cache` is what an upload may leave."""
    found = {str(file.relative_to(folder)): file for file in folder.rglob("*") if file.is_file()}
    return {name: file for name, file in found.items() if not name.startswith(".cache")}


def _results(at: RoundDir) -> str:
    """Win rates per language, for the card."""
    if not at.summary.is_file():
        return ""
    summary = read_summary(at.summary)
    if str(summary.get("judge", "")).startswith("none"):
        return ""
    lines = [
        f"\n## Results\n\nWin rates in percent against {baseline_name(summary)}, judged by "
        f"{summary['judge']}, with 95 % intervals over prompts.\n",
        "| language | prompts | win rate | length-controlled | right language |",
        "|---|---|---|---|---|",
    ]
    for name, row in {**summary["languages"], "average": summary["average"]}.items():
        cells = [name, number(row.get("n"), 0), *(_rate(row, key) for key in ("win_rate", "lc_win_rate"))]
        lines.append(f"| {' | '.join([*cells, share(row.get('right_language'))])} |")
    return "\n".join(lines) + "\n"


def _rate(row: Fields, name: str) -> str:
    bounds = interval(row, name)
    return number(row.get(name)) + (f" [{number(bounds[0])}, {number(bounds[1])}]" if bounds else "")


def _pairs(at: RoundDir) -> Iterator[Pair]:
    if not at.pairs.is_file():
        raise UserError(f"{at.path} has no pairs", do=f"make them first: {continue_command(str(at.path.parent))}")
    yield from read_rows(at.pairs)


FORMS: dict[str, Callable[[RoundDir, Path], int]] = {
    "trl": export_trl,
    "llama-factory": export_llama_factory,
    "alpaca-eval": export_alpaca_eval,
}
