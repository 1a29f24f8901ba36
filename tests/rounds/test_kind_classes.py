"""What every reward kind is, whatever it computes: cheap to make, found by name, and asked instead of its name."""

from __future__ import annotations

import ast
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from icr.base.files import write_rows
from icr.pairs import find_candidates, pick_pair
from icr.rounds.stages.kinds import KINDS, Custom, find_kind, open_kind, samples_greedily
from icr.rounds.stages.score import score
from icr.rows import REWARDS, read_responses, read_rewards
from tests.conftest import TEXTS
from tests.helpers.kinds import use_translator

ROOT = Path(__file__).resolve().parents[2]


@pytest.mark.parametrize("kind", [*KINDS, "nowhere:Class"])
def test_making_a_kind_starts_nothing_and_writes_nothing(make_round: Any, kind: str) -> None:
    """Not even where it cannot work: the classifier and the class do not exist."""
    context = make_round("random")
    reward = context.config.reward.model_copy(update={"kind": kind, "model": "/nowhere"})
    context = replace(context, config=context.config.model_copy(update={"reward": reward}))
    before = sorted(context.run.path.rglob("*"))
    made = open_kind(context)
    assert type(made) is find_kind(kind) and made.checked == []
    assert context.machine.done == [] and sorted(context.run.path.rglob("*")) == before


def test_pairs_need_no_models(make_round: Any) -> None:
    """The stage "pair" works on the tables alone: scored once, a kind that was not measured makes the same pairs."""
    context = make_round("cross-lingual")
    score(context)
    done = list(context.machine.done)
    results = open_kind(context).pairs()
    assert context.machine.done == done == ["conditions", "logps"]
    for lang, result in results.items():
        responses = read_responses(context.round.responses / f"{lang}.parquet")
        groups = find_candidates(responses, read_rewards(context.round.rewards / f"{lang}.parquet"))
        for pair in result.pairs:
            chosen, rejected = pick_pair(groups[pair["prompt_id"]])
            assert (pair["chosen_sample"], pair["rejected_sample"]) == (
                chosen.response["sample"],
                rejected.response["sample"],
            )
        assert len(result.pairs) == len(groups) == 6


def test_lidr_goes_the_way_of_every_kind(make_round: Any, tiny_pair: Any, monkeypatch: Any) -> None:
    """Its record has what the others' have, its rows no reward, and its pairs are its own."""
    use_translator(monkeypatch, tiny_pair)
    context = make_round("lidr")
    counts = score(context)
    assert (counts["kind"], counts["precision"], counts["flips"], counts["responses"]) == ("lidr", None, None, 18)
    kind = open_kind(context)
    scored = kind.reward("es")
    assert scored.length_penalty is None and {row["reward"] for row in scored.rows} == {None}
    assert [row["sample"] for row in scored.rows] == [0] * 6  # of three samples, the model's own answer
    pairs = kind.pairs()
    assert list(pairs) == list(TEXTS) and all(result.counts["reward_margin"] is None for result in pairs.values())
    assert {row["chosen_sample"] for row in pairs["es"].pairs} == {None}


def test_one_kind_samples_greedily() -> None:
    assert [kind for kind in [*KINDS, "module:Class"] if samples_greedily(kind)] == ["lidr"]
    assert find_kind("module:Class") is Custom


def test_that_is_known_without_torch() -> None:
    code = (
        "import sys; from icr.rounds.stages.kinds import samples_greedily; assert samples_greedily('lidr');"
        "sys.exit(sorted({'torch', 'transformers', 'vllm'} & set(sys.modules)) or 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stderr


def test_nobody_else_asks_for_a_kind_by_its_name() -> None:
    """`lidr` as a string is in the registry of kinds and in the schema; and where sampling is decided or planned."""
    sampling = {"icr/rounds/window.py", "icr/work/settings.py", "icr/planning/work.py"}
    found = {
        str(file.relative_to(ROOT))
        for top in ("icr", "loops", "prompts", "eval")
        for file in (ROOT / top).rglob("*.py")
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8")))
        if isinstance(node, ast.Constant) and node.value == "lidr"
    }
    assert found - sampling == {"icr/config/schema.py", "icr/rounds/stages/kinds.py"}


def test_pairs_follow_the_rewards_on_disk(make_round: Any) -> None:
    """Of the tables on disk, not of what the kind remembers: a reward that is turned around turns its pair around."""
    context = make_round("random")
    score(context)
    kind = open_kind(context)
    first = {row["prompt_id"]: row for row in kind.pairs()["es"].pairs}
    path = context.round.rewards / "es.parquet"
    write_rows(path, [row | {"reward": -(row["reward"] or 0.0)} for row in read_rewards(path)], REWARDS)
    second = {row["prompt_id"]: row for row in kind.pairs()["es"].pairs}
    assert all(second[id]["chosen_sample"] == first[id]["rejected_sample"] for id in first)
