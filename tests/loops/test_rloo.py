"""RLOO's reward, advantage, loss and KL: by hand, in fp64, and beside TRL's own."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch
import trl
from torch import Tensor

from icr.base.errors import UserError
from icr.base.progress import EventFile
from icr.config.schema import Train
from loops import rl
from loops.checkpoints import Checkpoints
from loops.data import HELD, write_training_data
from loops.families import Family
from loops.rl import build_trainer, lay_out_prompts, settle_micro_batch
from loops.rl_spec import RLSpec
from loops.rloo import leave_one_out, penalize, rloo_loss
from loops.sft import SFT
from loops.sft_family import SFTFamily
from tests.helpers.independent import Model

NAN = math.nan


def test_two_prompts_with_four_samples_by_hand() -> None:
    rewards = torch.tensor([1.0, 2.0, 3.0, 6.0, -1.0, 0.0, 0.0, 1.0], dtype=torch.float64)
    log_ratios = torch.tensor([0.0, 10.0, -10.0, 20.0, 5.0, 0.0, 0.0, -5.0], dtype=torch.float64)
    values = penalize(rewards, log_ratios, 0.1)
    assert values.tolist() == pytest.approx([1.0, 1.0, 4.0, 4.0, -1.5, 0.0, 0.0, 1.5])
    advantages = leave_one_out(values.view(2, 4))
    # 1 − (1 + 4 + 4)/3 = −2; 4 − (1 + 1 + 4)/3 = 2; −1.5 − 1.5/3 = −2; 0 − 0
    assert advantages[0].tolist() == pytest.approx([-2.0, -2.0, 2.0, 2.0])
    assert advantages[1].tolist() == pytest.approx([-2.0, 0.0, 0.0, 2.0])


def test_samples_that_could_not_be_read_teach_nothing() -> None:
    found = leave_one_out(torch.tensor([[1.0, NAN, 3.0, NAN], [5.0, NAN, NAN, NAN], [NAN] * 4]))
    assert found.tolist() == [[-2.0, 0.0, 2.0, 0.0], [0.0] * 4, [0.0] * 4]


def test_the_gradient_is_that_of_the_expected_reward() -> None:
    """Over a policy with three answers, all of them as often as they are drawn: the gradient of E[R]."""
    logits = torch.tensor([0.2, -0.3, 0.5], dtype=torch.float64, requires_grad=True)
    values = torch.tensor([1.0, 0.0, 2.0], dtype=torch.float64)
    p = logits.softmax(0)
    (p @ values).backward()
    exact, logits.grad = logits.grad, None
    loss = rloo_loss(logits.log_softmax(0), values - 0.7)  # any baseline
    (loss * p.detach()).sum().backward()
    assert exact is not None and logits.grad is not None
    assert torch.allclose(-logits.grad, exact)
    assert not rloo_loss(logits.detach(), values.requires_grad_()).requires_grad


PROMPTS = ("Name a sea.", "What is the capital of France?")
ANSWERS = ("Paris", "the whale", "a river in the mountains", "story", "Paris", "octopus", "sea", "list of seas")


@pytest.fixture
def trainer(base: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """On two prompts with four samples each, which are always the same; the policy is not its reference any more."""
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    model = Model(base)
    ids = [model.tokenizer(ask(prompt), add_special_tokens=False)["input_ids"] for prompt in PROMPTS]
    rows = [
        {"prompt_id": f"p{n}", "lang": "en", "prompt": prompt, HELD: held, "prompt_ids": ids[n]}
        for held in (False, True)
        for n, prompt in enumerate(PROMPTS)
    ]
    text = {"lang": rl.pa.string(), "prompt": rl.pa.string()}
    write_training_data(tmp_path / "data.parquet", rows, text)
    train = Train(batch_size=2, micro_batch_size=4, deepspeed="none", precision="fp32", gradient_checkpointing=False)
    spec = RLSpec(
        model=str(base), data=tmp_path / "data.parquet", output=tmp_path / "model", work=tmp_path,
        events=tmp_path / "events", train=train, beta=0.3, n=4, max_tokens=8, backend="transformers", gpu_memory=0.3,
        rewards={"reward": "none"}, reward_precision="fp32", batch_tokens=100, every=1, samples=1, max_kl=9.0,
    )  # fmt: skip
    monkeypatch.setattr(rl, "load_rewards", lambda spec: {"reward": lambda _, texts: [float(len(t)) for t in texts]})
    spec = settle_micro_batch(spec, base, 1)
    schedule, checkpoints = lay_out_prompts(spec, 1), Checkpoints(tmp_path / "checkpoints", 1)
    family: Family[Any] = SFTFamily(SFT(beta=0.0, nll_weight=0.0))
    events = EventFile(tmp_path / "events")
    made = build_trainer(spec, family, base, schedule, checkpoints, events, lambda step, _: {}, fresh=True)
    with torch.no_grad():
        for number, weight in enumerate(made.model.parameters()):
            weight += 0.02 * torch.randn(weight.shape, generator=torch.Generator().manual_seed(number))
    answers = [[*model.tokenizer(text)["input_ids"], model.tokenizer.eos_token_id] for text in ANSWERS]

    def generate(prompts: list[Any]) -> tuple[list[list[int]], list[list[int]], list[str]]:
        return [list(ids[n // 4]) for n in range(8)], [list(a) for a in answers], list(ANSWERS)

    monkeypatch.setattr(made, "_generate", generate)
    made.model.train()  # as in a step: TRL looks at it
    made.answers, made.independent = answers, model
    return made


def ask(prompt: str) -> str:
    return f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n"


def asked(trainer: Any) -> list[dict[str, Any]]:
    by_prompt = {row["prompt"]: row for row in trainer.train_dataset}
    return [by_prompt[PROMPTS[n // 4]] for n in range(8)]


def log_ratios(trainer: Any, tmp_path: Path) -> Tensor:
    """log π − log π_SFT of the eight samples in fp64, one sequence at a time."""
    trainer.model.save_pretrained(tmp_path / "moved")
    trainer.independent.tokenizer.save_pretrained(tmp_path / "moved")
    moved = Model(tmp_path / "moved")
    pairs = [(PROMPTS[n // 4], ids) for n, ids in enumerate(trainer.answers)]
    return torch.tensor([moved.logp(p, ids) - trainer.independent.logp(p, ids) for p, ids in pairs])


def test_advantages_are_the_equations_in_fp64_and_trls(trainer: Any, tmp_path: Path) -> None:
    ratios = log_ratios(trainer, tmp_path)
    assert ratios.abs().max() > 0.5
    found = trainer._generate_and_score_completions(asked(trainer))
    rewards = torch.tensor([float(len(text)) for text in ANSWERS])
    expected = leave_one_out((rewards - 0.3 * ratios).view(2, 4)).flatten()
    assert found["advantages"].tolist() == pytest.approx(expected.tolist(), abs=1e-3)
    assert trainer.kl == pytest.approx(float(ratios.mean()), abs=1e-4)
    lengths = sum(map(len, trainer.answers))
    metrics = trainer._metrics["train"]
    assert metrics["kl_per_token"] == [pytest.approx(float(ratios.sum()) / lengths, abs=1e-5)]
    assert metrics["reward"] == [pytest.approx(float(rewards.mean()))]
    theirs = trl.RLOOTrainer._generate_and_score_completions(trainer, asked(trainer))
    assert theirs["advantages"].tolist() == pytest.approx(expected.tolist(), abs=1e-3)


def test_a_step_follows_the_advantages_whatever_the_micro_batches(trainer: Any, tmp_path: Path) -> None:
    """The gradient against fp64, and against TRL's own loss, whose ratio is 1 on samples of the policy as it is."""
    whole = trainer._generate_and_score_completions(asked(trainer))
    trainer.model.save_pretrained(tmp_path / "moved")
    trainer.independent.tokenizer.save_pretrained(tmp_path / "moved")
    exact = Model(tmp_path / "moved")
    total = torch.zeros((), dtype=torch.float64)
    for n, ids in enumerate(trainer.answers):
        prompt = exact.tokenizer(ask(PROMPTS[n // 4]), add_special_tokens=False)["input_ids"]
        logps = exact.model(torch.tensor([prompt + ids])).logits[0].log_softmax(-1)
        own = sum(logps[len(prompt) - 1 + k, token] for k, token in enumerate(ids))
        total = total - whole["advantages"][n].double() * own / 8
    total.backward()
    parts = [{name: values[k : k + 4] for name, values in whole.items()} for k in (0, 4)]
    for part in parts:
        (trainer._compute_loss(trainer.model, part) / 2).backward()
    gradients = [weight.grad.clone() for weight in trainer.model.parameters()]
    for weight, mine in zip(exact.model.parameters(), gradients, strict=True):
        assert torch.allclose(weight.grad.float(), mine, atol=1e-4, rtol=1e-3)
    trainer.model.zero_grad()
    theirs = trl.RLOOTrainer._generate_and_score_completions(trainer, asked(trainer))
    assert theirs["old_logps"].isfinite().all()
    assert torch.allclose(theirs["advantages"], whole["advantages"], atol=1e-3)


def test_values_that_are_not_finite_end_the_training(trainer: Any) -> None:
    trainer.rewards["reward"] = lambda _, texts: [math.inf, *[0.0] * (len(texts) - 1)]
    with pytest.raises(UserError, match="1 of 8 rewards are not finite") as caught:
        trainer._generate_and_score_completions(asked(trainer))
    assert "reward.precision" in caught.value.do
    trainer.rewards["reward"] = lambda _, texts: [None] * len(texts)
    with pytest.raises(UserError, match="read none of the 8 samples"):
        trainer._generate_and_score_completions(asked(trainer))
    with torch.no_grad():
        next(trainer.model.parameters()).fill_(NAN)
    with pytest.raises(UserError, match="the KL to the SFT model became nan") as caught:
        trainer._generate_and_score_completions(asked(trainer))
    assert "train.learning_rate" in caught.value.where
