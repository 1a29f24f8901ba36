"""Every block of YAML, JSON and Python in the docs does what the page says of it; test_docs.py has the commands."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from eval.judges.prompts import read_prompts
from icr.base.yaml_text import parse_yaml
from icr.config.load import make_config, make_section
from icr.config.reward_model import RewardModelConfig
from icr.config.rl import RLConfig
from icr.config.schema import Config
from icr.config.sft import SftConfig
from icr.config.transfer import TransferConfig
from icr.config.values import Section
from tests.commands.test_docs import PAGES
from tests.commands.test_examples import SHOWN
from tests.helpers.fake_run import build

Block = tuple[str, str]
"""Page and number, e.g. reward.md 1, and the text."""


def blocks(language: str) -> list[Block]:
    found = []
    for page in PAGES:
        text = page.read_text(encoding="utf-8")
        bodies = re.findall(rf"^```{language}\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
        found += [(f"{page.name} {number}", body) for number, body in enumerate(bodies, 1)]
    return found


def test_no_block_is_of_another_kind() -> None:
    for page in PAGES:
        opened = re.findall(r"^```(\w*)$", page.read_text(encoding="utf-8"), re.MULTILINE)
        assert set(opened) <= {"", "text", "yaml", "json", "python"}, page.name
        assert len(opened) % 2 == 0, page.name


COMPLETE: dict[str, Any] = {
    "models": {"policy": "org/aligned", "reference": "org/sft"},
    "prompts": {"path": "prompts", "languages": ["en", "es"]},
}
"""What a block that shows one section of a config stands beside."""


def kind_of(keys: set[str]) -> type[Section] | None:
    """The config that a block's keys belong to; None: the prompts of a judge."""
    transfer = {"reward_model", "align"} & keys
    kinds = {
        "xalpaca": None,
        "best": SftConfig,
        "align": TransferConfig,
        "policy": RLConfig,
        "base": TransferConfig if transfer else RewardModelConfig,
    }
    return next((kind for key, kind in kinds.items() if key in keys), Config)


@pytest.mark.parametrize(("place", "text"), blocks("yaml"), ids=[place for place, _ in blocks("yaml")])
def test_yaml(place: str, text: str, tmp_path: Path) -> None:
    data = parse_yaml(text, place).data
    assert isinstance(data, dict)
    kind = kind_of({str(key) for key in data})
    if kind is None:
        (file := tmp_path / "prompts.yaml").write_text(text, encoding="utf-8")
        assert read_prompts(file).keys() >= data.keys()
    elif kind is Config:
        assert make_config({**COMPLETE, **data})
    else:
        beside = parse_yaml(dict(blocks("yaml"))["transfer-matrix.md 1"], place).data if kind is TransferConfig else {}
        assert make_section(kind, {**beside, **data})


@pytest.mark.parametrize(("place", "text"), blocks("json"), ids=[place for place, _ in blocks("json")])
def test_json(place: str, text: str) -> None:
    try:
        assert json.loads(text)
    except ValueError:  # a line for each object
        assert all(isinstance(json.loads(line), dict) for line in text.splitlines())


def test_every_block_of_python_is_run() -> None:
    elsewhere = {f"{page} 1" for page in SHOWN} | {f"plugins.md {n}" for n in range(1, 4)}  # test_plugins.py
    assert {place for place, _ in blocks("python")} == elsewhere | {"audit.md 1", "run-folder.md 1"}


def test_the_judge_with_known_faults() -> None:
    names: dict[str, Any] = {}
    exec(dict(blocks("python"))["audit.md 1"], names)
    short, long = "Ein kurzer Satz über das Wetter von heute.", "- **eins**\n- zwei\n" + "Und noch ein Satz. " * 8
    rows = [{"lang": "de", "first": a, "second": b} for a, b in ((short, short), (long, short), (short, long))]
    same, better, worse = names["Loud"]().preferences(rows)  # of the first answer
    assert same == pytest.approx(0.6) and better == pytest.approx(0.73, abs=0.01)
    assert worse == pytest.approx(1.2 - better)


def test_pairs_as_messages(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, own_data_cache: None) -> None:
    monkeypatch.chdir(tmp_path)
    build(tmp_path / "runs" / "a")
    names: dict[str, Any] = {}
    exec(dict(blocks("python"))["run-folder.md 1"], names)
    row = names["pairs"][0]
    assert row["prompt"][0]["role"] == "user" and row["chosen"][0]["role"] == "assistant"
