"""Optimiser, learning rate, warm-up and dropout of a training, against hand calculation."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import save_file
from transformers import AutoModelForCausalLM, GPT2Config, LlamaConfig

from icr.base.errors import UserError
from icr.config.schema import Train
from loops.checks import check_scheduler, check_train, dropout_settings
from loops.settings import trainer_settings, warmup_steps
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.training_runs import ROOT, make_spec, metrics, random_pairs, run_here, validations, weights


def rates(base: Path, folder: Path, steps: int, **settings: Any) -> list[float]:
    """The learning rates of a training of so many steps of one pair each, 1 at most."""
    settings = {"batch_size": 1, "micro_batch_size": 1, "learning_rate": 1e-3, **settings}
    spec = make_spec(folder, base, random_pairs(steps), **settings)
    run_here(spec)
    return [row["learning_rate"] / 1e-3 for row in metrics(spec)]


def test_linear_with_warmup_steps(base: Path, tmp_path: Path) -> None:
    """2 steps up to the full rate, then down to 0 after the sixth."""
    found = rates(base, tmp_path / "run", 6, scheduler="linear", warmup_steps=2)
    assert found == pytest.approx([0, 1 / 2, 1, 3 / 4, 2 / 4, 1 / 4])


def test_a_scheduler_with_arguments(base: Path, tmp_path: Path) -> None:
    """A cosine from 1 to a fifth: 0.2 + 0.8·(1 + cos πt)/2 at t = 0, 1/4, 1/2, 3/4."""
    found = rates(base, tmp_path / "run", 4, scheduler="cosine_with_min_lr", scheduler_arguments={"min_lr_rate": 0.2})
    assert found == pytest.approx([1, 0.2 + 0.4 * (1 + 0.5**0.5), 0.6, 0.2 + 0.4 * (1 - 0.5**0.5)])


def test_a_scheduler_that_follows_the_validation(base: Path, tmp_path: Path) -> None:
    """The rate is halved after each validation that is no better than the best one before."""
    arguments = {"factor": 0.5, "patience": 0}
    spec = make_spec(
        tmp_path / "run", base, random_pairs(9), scheduler="reduce_lr_on_plateau", scheduler_arguments=arguments,
        batch_size=1, micro_batch_size=1, learning_rate=3e-3, validation=3, validation_steps=1,
    )  # fmt: skip
    run_here(spec)
    expected, rate, best = [], 3e-3, math.inf
    for row in validations(spec):
        expected.append(rate)  # of the step that comes before this validation
        if row["loss"] < best * (1 - 1e-4):  # torch counts as better what is better by a ten-thousandth
            best = row["loss"]
        else:
            rate /= 2
    assert [row["learning_rate"] for row in metrics(spec)] == pytest.approx(expected)
    assert expected[-1] < expected[0]


def test_warmup() -> None:
    assert warmup_steps(Train(), 100) == 3 and warmup_steps(Train(), 33) == 0
    assert warmup_steps(Train(warmup_ratio=0.5), 7) == 3
    assert warmup_steps(Train(warmup_steps=5), 7) == 5 and warmup_steps(Train(warmup_steps=0), 100) == 0
    with pytest.raises(ValueError, match="both warmup_ratio and warmup_steps are set"):
        Train(warmup_ratio=0.1, warmup_steps=5)
    resolved = Train(warmup_steps=5)
    assert Train.model_validate(resolved.model_dump()) == resolved  # a resolved config has both keys


@pytest.mark.parametrize(
    ("settings", "what", "do"),
    [
        ({"scheduler": "consine"}, "unknown scheduler consine", "did you mean cosine?"),
        ({"scheduler": "xyz"}, "unknown scheduler xyz", "known: linear, cosine"),
        ({"scheduler": "reduce_lr_on_plateau"}, "there are no validation rows", "set train.validation"),
        ({"scheduler": "cosine_with_min_lr"}, "cannot be created", "arguments"),
        ({"scheduler": "warmup_stable_decay"}, "cannot be created", "arguments"),
        ({"scheduler_arguments": {"min_lr": 1e-8}}, "cosine cannot be created", "arguments"),
    ],
)
def test_schedulers_that_cannot_be(settings: dict[str, Any], what: str, do: str) -> None:
    with pytest.raises(UserError) as raised:
        check_scheduler(Train.model_validate(settings))
    assert what in raised.value.what and do in raised.value.do and raised.value.where


def test_every_scheduler_of_transformers_is_known() -> None:
    from transformers.trainer_utils import SchedulerType

    arguments = {
        "cosine_with_min_lr": {"min_lr_rate": 0.1},
        "cosine_warmup_with_min_lr": {"min_lr_rate": 0.1},
        "warmup_stable_decay": {"num_decay_steps": 10},
    }
    for kind in SchedulerType:
        check_scheduler(Train(scheduler=kind.value, validation=1, scheduler_arguments=arguments.get(kind.value, {})))


def test_adafactor(base: Path, tmp_path: Path) -> None:
    """The first step of arXiv 1804.04235 without relative step sizes: W − lr·U/max(1, rms(U)), U = G/√V̂, where V̂ is the
    outer product of row and column means of G² + ε divided by its mean. Gradients from a plain forward pass."""
    pairs = random_pairs(1)
    spec = make_spec(
        tmp_path / "run", base, pairs, optimizer="adafactor", learning_rate=1e-3, batch_size=1, micro_batch_size=1,
        scheduler="constant", max_grad_norm=1e9,
    )  # fmt: skip
    run_here(spec)
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    [pair] = pairs

    def logp(side: str) -> torch.Tensor:
        ids = torch.tensor([pair["prompt_ids"] + pair[side]])
        logps = model(ids).logits[0, :-1].log_softmax(-1).gather(-1, ids[0, 1:, None])[:, 0]
        return logps[len(pair["prompt_ids"]) - 1 :].sum()

    chosen, rejected = logp("chosen_ids"), logp("rejected_ids")
    margin = 0.1 * ((chosen - chosen.detach()) - (rejected - rejected.detach()))
    (-chosen / len(pair["chosen_ids"]) - torch.nn.functional.logsigmoid(margin)).backward()
    after = weights(spec.output)
    for name in ("model.layers.0.self_attn.q_proj.weight", "model.layers.1.mlp.down_proj.weight"):
        parameter = model.get_parameter(name)
        assert parameter.grad is not None
        square = parameter.grad.double() ** 2 + 1e-30
        rows, columns = square.mean(dim=1), square.mean(dim=0)
        update = parameter.grad.double() / (rows[:, None] * columns[None, :] / rows.mean()).sqrt()
        update /= max(1.0, float(update.square().mean().sqrt()))
        expected = parameter.detach().double() - 1e-3 * update
        torch.testing.assert_close(after[name].double(), expected, atol=2e-6, rtol=0)


def test_adafactor_resumes(base: Path, tmp_path: Path, monkeypatch: Any) -> None:
    from tests.loops.test_train_resume import run_until_checkpoint

    settings = {"optimizer": "adafactor", "epochs": 2, "save_steps": 2}
    unbroken = make_spec(tmp_path / "unbroken", base, random_pairs(8), **settings)
    run_here(unbroken)
    broken = make_spec(tmp_path / "broken", base, random_pairs(8), **settings)
    run_until_checkpoint(broken, monkeypatch)
    run_here(broken)
    a, b = weights(unbroken.output), weights(broken.output)
    assert metrics(broken) == metrics(unbroken) and all(torch.equal(a[name], b[name]) for name in a)


def test_dropout_settings() -> None:
    assert dropout_settings(LlamaConfig(), 0.1) == ["attention_dropout"]
    assert sorted(dropout_settings(GPT2Config(), 0.1)) == ["attn_pdrop", "embd_pdrop", "resid_pdrop"]


def test_dropout(tmp_path: Path, monkeypatch: Any) -> None:
    """The base's own is taken out, another is put in, the exported config keeps the base's, and a resumed training
    draws what an unbroken one does."""
    from tests.loops.test_train_resume import run_until_checkpoint

    plain, dropping = make_tiny_model(tmp_path / "plain"), make_tiny_model(tmp_path / "dropping")
    config = {**json.loads((dropping / "config.json").read_text()), "attention_dropout": 0.5}
    (dropping / "config.json").write_text(json.dumps(config))
    save_file(weights(plain), dropping / "model.safetensors", metadata={"format": "pt"})
    settings = {"epochs": 2, "save_steps": 2}
    without, removed, given, broken = (
        make_spec(tmp_path / name, base, random_pairs(8), **settings, dropout=dropout)
        for name, base, dropout in (
            ("without", plain, 0.0), ("removed", dropping, 0.0), ("given", plain, 0.5), ("broken", plain, 0.5),
        )
    )  # fmt: skip
    for spec in (without, removed, given):
        run_here(spec)
    assert metrics(removed) == metrics(without)
    assert json.loads((removed.output / "config.json").read_text())["attention_dropout"] == 0.5
    assert abs(metrics(given)[0]["loss/nll"] - metrics(without)[0]["loss/nll"]) > 1e-4  # 100 × the rounding
    run_until_checkpoint(broken, monkeypatch)
    run_here(broken)
    assert metrics(broken) == metrics(given)


def test_checkpoints_are_by_the_clock_unless_steps_are_given() -> None:
    from loops.data import Schedule

    schedule = Schedule(None, 250, 0, 25, 1, [], [], None, 0)
    settings = trainer_settings(Train(deepspeed="none", micro_batch_size=1), schedule, Path("x"))
    assert settings["save_strategy"] == "no" and "eval_strategy" not in settings
    validated = Schedule(None, 250, 0, 25, 1, [], [], "rows", 10)
    settings = trainer_settings(Train(deepspeed="none", micro_batch_size=1, save_steps=7), validated, Path("x"))
    assert (settings["save_strategy"], settings["save_steps"]) == ("steps", 7)
    assert (settings["eval_strategy"], settings["eval_steps"]) == ("steps", 2)


def test_specs_and_usual_settings_need_no_torch() -> None:
    """They are read by the driver, and by `icr validate`, which answers at once."""
    code = (
        "import sys\n"
        "from icr.config.schema import Train\n"
        "from loops.checks import check_train\n"
        "from loops.spec import TrainSpec\n"
        "check_train(Train())\n"
        "print(sorted({'torch', 'transformers', 'pyarrow', 'numpy'} & set(sys.modules)))\n"
    )
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_good_settings() -> None:
    check_train(Train(scheduler="constant", optimizer="adafactor", deepspeed="none", warmup_steps=3))
