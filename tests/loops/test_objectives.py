"""Objectives by name: the built-in ones, one of a user's own, and those that cannot be."""

from __future__ import annotations

import shutil
import sys
from pathlib import Path
from typing import Any

import pytest

from icr.base.errors import UserError
from loops.dpo import DPO
from loops.objective import load_objective, make_objective
from tests.helpers.training_runs import ROOT, largest_difference, make_spec, metrics, random_pairs, run_here


@pytest.mark.parametrize("by_file", [True, False])
def test_objective_of_a_user(base: Path, tmp_path: Path, monkeypatch: Any, by_file: bool) -> None:
    """examples/ipo.py, copied outside the package.

    It is IPO, and in the first step Δ = 0, so its loss is (1/(2·0.1))² = 25.
    """
    shutil.copy(ROOT / "examples" / "ipo.py", tmp_path / "my_ipo.py")
    monkeypatch.chdir(tmp_path)
    name = "my_ipo.py:IPO" if by_file else "my_ipo:IPO"
    monkeypatch.delitem(sys.modules, "my_ipo", raising=False)
    spec = make_spec(tmp_path / "run", base, random_pairs(4), name)
    assert run_here(spec)["objective"] == name
    [row] = metrics(spec)
    assert row["loss"] == pytest.approx(25, rel=1e-5)
    assert row["distance"] == pytest.approx(-5, rel=1e-5)
    assert largest_difference(base, spec.output) > 1e-4


BROKEN = """
from loops.objective import PairObjective

class Empty(PairObjective):
    pass

class Stranger:
    pass

class Mean(PairObjective):
    def loss(self, logps):
        return logps.policy_chosen.mean(), {}

class Fails(PairObjective):
    def loss(self, logps):
        return {}["margin"]

class Alone(PairObjective):
    def loss(self, logps):
        return logps.policy_chosen

class Number(PairObjective):
    def loss(self, logps):
        return 0.5, {}

class Text(PairObjective):
    def loss(self, logps):
        return logps.policy_chosen, {"margin": "large"}

class Detached(PairObjective):
    def loss(self, logps):
        return logps.policy_chosen.detach(), {}

class OwnArguments(Mean):
    def __init__(self, tau):
        pass
"""


@pytest.mark.parametrize(
    ("name", "what", "do"),
    [
        ("dop", "unknown objective dop", "did you mean dpo"),
        ("broken:Nothing", "has no class Nothing", "Empty, Stranger, Mean"),
        ("broken:Stranger", "not an objective", "PairObjective"),
        ("broken:Empty", "Empty lacks loss", "add the method"),
        ("broken:OwnArguments", "OwnArguments cannot be created", "beta and nll_weight"),
        ("absent_module:X", "ModuleNotFoundError", "python -c"),
        ("absent.py:X", "absent.py not found", "check the name"),
        ("typo:X", "line 1 of", "check the name"),
    ],
)
def test_objectives_that_cannot_be(tmp_path: Path, monkeypatch: Any, name: str, what: str, do: str) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    (tmp_path / "typo.py").write_text("class X(:\n")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "broken", raising=False)
    monkeypatch.setattr(sys, "path", [p for p in sys.path if not p.startswith(str(tmp_path.parent))])
    with pytest.raises(UserError) as raised:
        make_objective(name, beta=0.1, nll_weight=1.0)
    assert what in raised.value.what and do in raised.value.do and raised.value.where


@pytest.mark.parametrize(
    ("name", "what"),
    [
        ("Mean", r"the loss of Mean\.loss has shape \(\)"),
        ("Fails", r"Fails\.loss failed: KeyError: 'margin'"),
        ("Alone", r"Alone\.loss failed: "),
        ("Number", r"the loss of Number\.loss is a float"),
        ("Text", r"margin of Text\.loss is a str"),
        ("Detached", "the loss of Detached does not depend on the policy"),
    ],
)
def test_a_loss_that_is_none(base: Path, tmp_path: Path, monkeypatch: Any, name: str, what: str) -> None:
    (tmp_path / "broken.py").write_text(BROKEN)
    monkeypatch.chdir(tmp_path)
    spec = make_spec(tmp_path / "run", base, random_pairs(4), f"broken.py:{name}")
    with pytest.raises(UserError, match=what):
        run_here(spec)


def test_built_in_objectives() -> None:
    assert load_objective("dpo") is DPO
    assert load_objective("kto").__name__ == "KTO"
