"""Before the first step the policy's log-probs are the reference's: one model, computed in one way."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from icr.base.errors import UserError
from icr.config.schema import Lora, Train
from icr.engines.sizes import measure_checkpoint
from loops import train as training
from loops.data import reference_numerics, write_training_data
from loops.disk import estimate_disk, folder_size
from loops.dpo import DPO
from loops.families import family_of
from loops.numerics import training_numerics
from loops.objective import has_plain_reference, make_objective
from loops.spec import TrainSpec
from loops.start import check_start, describe_start
from tests.helpers import training_runs
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.training_runs import ROOT, events, make_spec, metrics, random_pairs, run_here

LORA = {"rank": 32, "alpha": 8}
BOUND = {"fp32": 1e-5, "bf16": 0.004}
"""Nats a token. bf16's is half of what references make that are rounded to bf16 themselves."""
KEEPING = (
    "import sys, loops.train as t; t.delete_work = lambda spec: None; sys.argv[1:] = [{spec!r}]; sys.exit(t.main())"
)
"""A training that leaves its checkpoint."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Large enough for its weights to be nearly all of a checkpoint, and deep enough for bf16 to round visibly."""
    return make_tiny_model(tmp_path_factory.mktemp("wide"), hidden_size=128, layers=4, vocab_size=512)


def spec_of(folder: Path, model: Path, objective: str = "dpo", **settings: Any) -> TrainSpec:
    """Two steps, with a checkpoint between them; all answers but the first pair's are long."""
    pairs = random_pairs(4)
    for number, pair in enumerate(pairs):
        pair["chosen_ids"] = pair["chosen_ids"] * (1 + 3 * number)
        pair["rejected_ids"] = pair["rejected_ids"] * (1 + 4 * number)
    return make_spec(folder, model, pairs, objective, batch_size=2, save_steps=1, **settings)


def check(spec: TrainSpec, counts: dict[str, Any]) -> None:
    """The gap is rounding, and the first loss is that of equal models: log 2 and the NLL, or KTO's mean of 1 − σ(0)."""
    start, bound = counts["start"], BOUND[spec.train.precision]
    assert start["gap_per_token"] < bound and start["reward_gap"] == pytest.approx(0.1 * start["gap"])
    first = metrics(spec)[0]
    assert not any(name.startswith("start") for name in first)
    if spec.objective == "dpo":
        # the gaps of a pair's two answers move its margin by no more than their sum
        assert first["loss/dpo"] == pytest.approx(math.log(2), abs=2 * start["reward_gap"] + 1e-6)
        assert first["loss"] == pytest.approx(first["loss/dpo"] + first["loss/nll"], rel=1e-6)
    else:
        assert first["loss"] == pytest.approx(0.5, abs=start["reward_gap"] + 0.01)


@pytest.fixture
def _keeps(monkeypatch: pytest.MonkeyPatch) -> None:
    """Trainings of this process leave their checkpoint, too."""
    monkeypatch.setattr(training, "delete_work", lambda spec: None)


@pytest.mark.usefixtures("_keeps")
@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize(("objective", "lora"), [("dpo", None), ("dpo", LORA), ("kto", None)])
def test_without_deepspeed(model: Path, tmp_path: Path, precision: str, objective: str, lora: Any) -> None:
    spec = spec_of(tmp_path, model, objective, precision=precision, lora=lora)
    counts = run_here(spec)
    check(spec, counts)
    assert not [event for event in events(spec) if event["event"] == "note"]
    assert json.loads((spec.work / "start.json").read_text()) == counts["start"]
    assert_estimated(spec)


@pytest.mark.parametrize("deepspeed", ["zero2", "zero3"])
def test_under_deepspeed(model: Path, tmp_path: Path, deepspeed: str) -> None:
    """Its checkpoint is as large as was estimated, too."""
    spec = spec_of(tmp_path, model, precision="bf16", deepspeed=deepspeed)
    code = KEEPING.format(spec=str(tmp_path / "spec.json"))
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    check(spec, json.loads((spec.work / "counts.json").read_text()))
    assert_estimated(spec)


@pytest.mark.usefixtures("_keeps")
def test_adafactors_checkpoint_is_as_small_as_was_estimated(model: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, model, optimizer="adafactor")
    run_here(spec)
    assert_estimated(spec)


def assert_estimated(spec: TrainSpec) -> None:
    size = measure_checkpoint(spec.model)
    assert size is not None
    needs = estimate_disk(spec.train, size)
    [checkpoint] = (spec.work / "checkpoints").iterdir()
    assert folder_size(checkpoint) == pytest.approx(needs.checkpoint, rel=0.15)
    assert (spec.output / "model.safetensors").stat().st_size == pytest.approx(needs.export, rel=0.05)


def test_a_reference_in_bf16_weights_is_another_than_the_trainers(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What was wrong: the trainer keeps weights and residuals in fp32, the reference was scored in bf16 throughout."""
    right = run_here(spec_of(tmp_path / "right", model, precision="bf16"))["start"]
    monkeypatch.setattr(training_runs, "training_numerics", lambda train: "bf16")
    wrong = run_here(spec_of(tmp_path / "wrong", model, precision="bf16"))["start"]
    assert right["gap"] < 0.2 * wrong["gap"]


def test_what_numerics_a_training_has() -> None:
    assert training_numerics(Train(precision="fp32", deepspeed="none")) == "fp32"
    assert training_numerics(Train(precision="bf16", deepspeed="none")) == "autocast"
    assert training_numerics(Train(precision="bf16", deepspeed="none", lora=Lora())) == "bf16"
    assert training_numerics(Train(precision="bf16", deepspeed="zero2")) == "bf16"
    assert training_numerics(Train(precision="fp32", deepspeed="zero3")) == "fp32"


def test_the_data_file_says_how_its_reference_was_scored(tmp_path: Path) -> None:
    """With another train.deepspeed at a restart the log-probs are no longer those of the training."""
    objective = make_objective("dpo", beta=0.1, nll_weight=1.0)
    rows = objective.dataset(random_pairs(1), [-1.0, -2.0])
    write_training_data(tmp_path / "new.parquet", rows, family_of(objective).columns, "autocast")
    write_training_data(tmp_path / "old.parquet", rows, family_of(objective).columns)
    assert reference_numerics(tmp_path / "new.parquet") == "autocast"
    assert reference_numerics(tmp_path / "old.parquet") is None


def test_a_reference_that_is_another_model_is_refused(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_runs, "reference_logps", lambda base, requests, numerics: [-9.0] * len(requests))
    spec = spec_of(tmp_path / "run", model)
    with pytest.raises(UserError, match="nats a token apart, although they are one model"):
        run_here(spec)
    assert any("more than rounding usually makes" in event["text"] for event in events(spec) if "text" in event)
    assert not spec.output.exists()


def test_dropout_is_not_taken_for_a_difference(model: Path, tmp_path: Path) -> None:
    spec = spec_of(tmp_path, model, lora={**LORA, "dropout": 0.5})
    assert "start" not in run_here(spec)


def test_an_objective_with_log_probs_of_its_own_is_not_compared() -> None:
    class Own(DPO):
        def reference_requests(self, pairs: Any, *, seed: int = 0) -> Any:
            return []

    assert has_plain_reference(DPO(beta=1, nll_weight=0)) and not has_plain_reference(Own(beta=1, nll_weight=0))


def test_what_is_said_of_a_gap() -> None:
    assert describe_start({"gap": 1.0, "gap_per_token": 0.01, "reward_gap": 0.1}) is None
    text = describe_start({"gap": 30.0, "gap_per_token": 0.1, "reward_gap": 3.0})
    assert text is not None and "30.00 nats a sequence" in text and "0.100 a token" in text
    check_start({"gap": 30.0, "gap_per_token": 0.1, "reward_gap": 3.0})
    with pytest.raises(UserError):
        check_start({"gap": 300.0, "gap_per_token": 1.0, "reward_gap": 30.0})
