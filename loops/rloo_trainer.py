"""TRL's RLOO trainer, which brings the loop of sampling and steps, with the equations of `loops.rloo` in it.

Samples are drawn at temperature 1 and top-p 1, so that their log-probs are those of what they were drawn from.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any, cast

import torch
from accelerate.utils import broadcast_object_list, gather, gather_object
from datasets import Dataset
from peft import LoraConfig, PeftModel
from torch import Tensor
from torch.nn import Module
from transformers import GenerationConfig, PreTrainedModel, PreTrainedTokenizerBase, TrainerCallback
from trl.models.utils import disable_gradient_checkpointing
from trl.trainer import rloo_trainer as trl_rloo

from icr.base.conversation import Conversation, load_conversation
from icr.base.errors import UserError
from icr.engines.base import Completion, Stops, request_seed
from icr.engines.stops import read_answer
from loops.batches import Batch, Row
from loops.checkpoints import Checkpoints
from loops.data import Schedule
from loops.families import pad_sequences
from loops.rl_spec import DRIVER, HeldOutSample, RLSpec
from loops.rloo import leave_one_out, penalize, rloo_loss
from loops.saving import Checkpointed
from loops.trainers import add_head, head_logps

if TYPE_CHECKING:
    from trl.trainer.rloo_config import RLOOConfig

INPUTS = ("input_ids", "attention_mask", "answer_mask")
Reward = Callable[[Sequence[Conversation], Sequence[str]], list[float | None]]
"""Prompts and responses → r(x, y) of each; None: longer than the reward model can read."""
Measure = Callable[[int, list[HeldOutSample]], dict[str, float]]
"""Step and samples → figures of them; called on the first rank."""


class RLOOTrainer(Checkpointed, trl_rloo.RLOOTrainer):
    """Trains a policy against a reward model, from and relative to π_SFT."""

    def __init__(
        self,
        *,
        spec: RLSpec,
        schedule: Schedule,
        checkpoints: Checkpoints,
        model: PreTrainedModel,
        lora: LoraConfig | None,
        args: RLOOConfig,
        tokenizer: PreTrainedTokenizerBase,
        stops: Stops,
        rewards: Mapping[str, Reward],
        heldout: Sequence[Row],
        measure: Measure,
        callbacks: list[TrainerCallback],
    ) -> None:
        """
        Args:
            model: π_SFT, loaded; its folder is where the reference is loaded from.
            rewards: DRIVER's and others'.
            heldout: rows of held-out prompts.
        """
        self.spec, self.schedule, self.checkpoints = spec, schedule, checkpoints
        self.stops, self.rewards, self.heldout, self.measure = stops, dict(rewards), list(heldout), measure
        self.kl = 0.0
        """Of the last step's samples, in nats a sequence."""
        # generate() would take from here whatever it is not given: penalties, a time limit, forced tokens
        model.generation_config = GenerationConfig(eos_token_id=list(stops.ids))  # type: ignore[no-untyped-call]
        super().__init__(
            model=model,
            reward_funcs=self._reward,
            args=args,
            train_dataset=Dataset.from_list(schedule.table.select(["prompt", "prompt_ids"]).to_pylist()),
            processing_class=tokenizer,
            callbacks=callbacks,
            peft_config=lora,
        )
        base = self.model.get_base_model() if isinstance(self.model, PeftModel) else self.model
        add_head(cast(PreTrainedModel, base))

    @property
    def policy(self) -> PreTrainedModel:
        """π, or peft's model around it."""
        return cast(PreTrainedModel, self.model)

    def _send_telemetry(self) -> None:
        """Nothing is sent."""

    def create_model_card(self, *args: object, **kwargs: object) -> None:
        """The card is written with the model."""

    def _reward(self, prompts: Sequence[Conversation], completions: Sequence[str], **_: object) -> list[float | None]:
        """r(x, y), as TRL calls it. Raises UserError for a reward that is not finite."""
        return self._scores(DRIVER, prompts, completions)

    def _scores(self, name: str, prompts: Sequence[Conversation], responses: Sequence[str]) -> list[float | None]:
        values = self.rewards[name](prompts, responses)
        wrong = [value for value in values if value is not None and not math.isfinite(value)]
        if wrong:
            raise UserError(
                f"{len(wrong)} of {len(values)} rewards are not finite numbers ({wrong[0]})",
                where=f"reward model {name}: {self.spec.rewards[name]}",
                do="check its weights, or set reward.precision to fp32",
            )
        return values

    def _tokenize_prompts(self, prompts: list[list[int]]) -> tuple[list[list[int]], None, dict[str, object]]:
        """Prompts are token ids already."""
        return prompts, None, {}

    def read(self, ids: Sequence[int]) -> tuple[str, Completion]:
        """The response in a sample's tokens, as `icr.work.sampling` reads it."""
        ended = bool(ids) and ids[-1] in self.stops.ids
        completion = Completion(list(ids), "stop" if ended else "length")
        return read_answer(self._tokenizer, completion, self.stops).strip(), completion

    def _log_ratios(self, prompts: Sequence[Sequence[int]], answers: Sequence[Sequence[int]]) -> tuple[Batch, Tensor]:
        """Samples padded on the right, and log π(y|x) − log π_SFT(y|x) of each, of shape (B,), in fp64.

        Raises:
            UserError: one is not finite.
        """
        ids, attention, answer = pad_sequences(list(zip(prompts, answers, strict=True)))
        device = self.accelerator.device
        batch = {name: t.to(device) for name, t in zip(INPUTS, (ids, attention, answer), strict=True)}
        size = self.args.per_device_train_batch_size
        ratios = []
        checkpointing = cast("dict[str, Any] | None", self.args.gradient_checkpointing_kwargs)
        with torch.no_grad(), disable_gradient_checkpointing(self.policy, checkpointing):
            for start in range(0, len(ids), size):
                part = {name: values[start : start + size] for name, values in batch.items()}
                ratios.append(self._logps(self.policy, part).double() - self._reference_logps(part).double())
        found = torch.cat(ratios)
        if self.any_rank(not bool(found.isfinite().all())):
            raise UserError(
                f"the KL to the SFT model became {float(found.sum())} at step {self.state.global_step}",
                where="train.learning_rate, train.precision",
                do="lower learning_rate, or set train.precision: fp32",
            )
        return batch, found

    def _logps(self, model: Module, batch: Batch) -> Tensor:
        """log π(y|x), sums over the samples' tokens, of shape (B,)."""
        width = int(batch["attention_mask"].sum(dim=1).max())
        ids, attention, answer = (batch[name][:, :width] for name in INPUTS)
        with self.accelerator.autocast():
            return head_logps(model, ids, attention, ids.masked_fill(answer == 0, -100))

    def _reference_logps(self, batch: Batch) -> Tensor:
        """log π_SFT(y|x): by a model of its own or, of an adapter, by the model without it."""
        if self.ref_model is not None:
            return self._logps(self.ref_model, batch)
        adapted = self.accelerator.unwrap_model(self.model)
        with adapted.disable_adapter():
            return self._logps(self.policy, batch)

    def _generate_and_score_completions(self, inputs: list[dict[str, Any]]) -> Batch:
        """Samples of the policy as it is, and the advantage of each (`loops.rloo`)."""
        prompts, answers, _ = self._generate([row["prompt_ids"] for row in inputs])
        texts = [self.read(ids)[0] for ids in answers]
        batch, ratios = self._log_ratios(prompts, answers)
        conversations = [load_conversation(row["prompt"]) for row in inputs]
        rewards = self._calculate_rewards(inputs, conversations, texts, answers)[:, 0].double()  # of all ranks
        all_ratios, lengths = gather(ratios), gather(batch["answer_mask"].sum(dim=1))
        values = penalize(rewards, all_ratios, self.spec.beta)
        advantages = leave_one_out(values.view(-1, self.spec.n)).flatten()
        self.kl = float(all_ratios.mean())
        self._note(rewards, values, advantages, float(all_ratios.sum() / lengths.sum()))
        own = slice(self.accelerator.process_index * len(inputs), (self.accelerator.process_index + 1) * len(inputs))
        return {**batch, "advantages": advantages[own].float()}

    def _note(self, rewards: Tensor, values: Tensor, advantages: Tensor, kl_per_token: float) -> None:
        """Metrics of a step's samples. Raises UserError if the reward model could read none of them."""
        known = ~rewards.isnan()
        if not known.any():
            raise UserError(
                f"the reward model can read none of the {len(rewards)} samples of a step: they are too long for it",
                where=f"reward.model: {self.spec.rewards[DRIVER]}",
                do="lower sampling.max_tokens, use shorter prompts, or a reward model that reads more",
            )
        found = {
            "reward": float(rewards[known].mean()),
            "reward_with_kl": float(values[known].mean()),
            "kl": self.kl,
            "kl_per_token": kl_per_token,
            "advantages": float(advantages.abs().mean()),
            "unscored": float((~known).double().mean()),
        }
        for name, value in found.items():
            self._metrics["train"][name].append(value)

    def _compute_loss(self, model: Module, inputs: Batch) -> Tensor:
        return rloo_loss(self._logps(model, inputs), inputs["advantages"]).mean()

    def evaluate(self, *args: object, **kwargs: object) -> dict[str, float]:
        """Measure samples of the held-out prompts; each figure under `eval_…`."""
        samples = self.sample_heldout()
        figures = [self.measure(self.state.global_step, samples) if self.is_world_process_zero() else {}]
        broadcast_object_list(figures)
        found = {f"eval_{name}": value for name, value in figures[0].items()}
        self.log(dict(found))
        self.control = self.callback_handler.on_evaluate(self.args, self.state, self.control, found)
        return found

    def sample_heldout(self) -> list[HeldOutSample]:
        """Samples of every held-out prompt with all that is measured of them, on every rank.

        What is drawn depends on the seed, the step and the number of ranks, and the training's own draws stay as they
        would be without it.
        """
        asked = [(row, sample) for row in self.heldout for sample in range(self.spec.samples)]
        ranks, rank = self.accelerator.num_processes, self.accelerator.process_index
        each = math.ceil(len(asked) / ranks)
        own = (asked + asked[:1] * (each * ranks - len(asked)))[rank * each : (rank + 1) * each]
        size = self.args.per_device_train_batch_size * self.args.gradient_accumulation_steps
        devices = [torch.cuda.current_device()] if torch.cuda.is_available() else []
        training = self.policy.training
        self.policy.eval()  # type: ignore[no-untyped-call]
        found: list[HeldOutSample] = []
        with torch.random.fork_rng(devices):
            torch.manual_seed(request_seed(self.args.seed, self.state.global_step, "", "held-out", rank))
            for start in range(0, each, size):
                found += self._measure(own[start : start + size])
        self.policy.train(training)
        self._metrics["eval"].clear()
        return list(gather_object(found)[: len(asked)])

    def _measure(self, asked: Sequence[tuple[Row, int]]) -> list[HeldOutSample]:
        prompts, answers, _ = self._generate([row["prompt_ids"] for row, _ in asked])
        read = [self.read(ids) for ids in answers]
        _, ratios = self._log_ratios(prompts, answers)
        conversations, texts = [load_conversation(row["prompt"]) for row, _ in asked], [text for text, _ in read]
        scores = {name: self._scores(name, conversations, texts) for name in self.rewards}
        return [
            HeldOutSample(
                prompt_id=row["prompt_id"],
                lang=row["lang"],
                sample=sample,
                prompt=row["prompt"],
                response=text,
                tokens=len(completion.token_ids),
                finish_reason="stop" if completion.finish_reason == "stop" else "length",
                log_ratio=ratio,
                scores={name: values[number] for name, values in scores.items()},
            )
            for number, ((row, sample), (text, completion), ratio) in enumerate(
                zip(asked, read, ratios.tolist(), strict=True)
            )
        ]

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if not math.isfinite(logs.get("loss", 0.0)):
            raise UserError(
                f"the loss became {logs['loss']} at step {self.state.global_step}",
                where="train.learning_rate, train.precision",
                do="lower learning_rate, or set train.precision: fp32",
            )
        # all passes are one epoch to the Trainer; users count passes over the prompts
        self.state.epoch = self.schedule.epochs[self.state.global_step]
        super().log(logs, start_time)
