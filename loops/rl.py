"""One training against a reward model, from data file to model: `loops.rloo`'s equations in TRL's trainer.

Killed at any moment and started again, it continues from its last complete checkpoint, on a CPU to exactly the same
weights.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

from icr.base.errors import UserError
from icr.base.files import read_json, write_json
from icr.base.progress import EventFile
from icr.engines.templates import Template
from loops.best import Best
from loops.checkpoints import Checkpoints, result_settings
from loops.checks import check_optimizer, check_scheduler
from loops.data import HELD, Schedule, Split, order_passes
from loops.families import Family
from loops.finish import export_or_save
from loops.micro_batch import choose_micro_rows, count_weights, gpu_memory, row_bytes, state_bytes
from loops.objective import Objective
from loops.rl_spec import STEP_SETTINGS, RLSpec
from loops.settings import base_folder, load_model, lora_config, micro_rows, trainer_settings
from loops.sft import SFT
from loops.sft_family import SFTFamily
from loops.train import delete_work, prepare_work, start_over

if TYPE_CHECKING:
    from transformers import PreTrainedModel, TrainerCallback
    from trl.trainer.rloo_config import RLOOConfig

    from loops.rloo_trainer import Measure, Reward, RLOOTrainer


def train_policy(spec: RLSpec, events: EventFile, measure: Measure) -> dict[str, object]:
    """Train, or continue training, and write the model; called on every rank. Returns the counts.

    The model is the policy after the last measured step whose KL is at most `max_kl`.

    Args:
        measure: makes figures of the held-out samples of a step, `kl` and `reward_with_kl` among them.

    Raises:
        UserError: settings that do not fit together, too little GPU memory, values that are not finite, a KL that is
            above `max_kl` whenever it is measured.
    """
    from loops.rl_callbacks import KeepWithin

    processes = int(os.environ.get("WORLD_SIZE", "1"))
    first = int(os.environ.get("RANK", "0")) == 0
    counts_file = spec.work / "counts.json"
    if spec.output.exists() and counts_file.exists():
        if first:
            delete_work(spec)
        finished: dict[str, object] = read_json(counts_file)
        return finished
    settings = result_settings(spec) | {name: getattr(spec, name) for name in STEP_SETTINGS}
    checkpoints, best = Checkpoints(spec.work / "checkpoints", processes, settings), Best(spec.work / "best")
    family: Family[Objective] = SFTFamily(SFT(beta=0.0, nll_weight=0.0))  # a plain language model goes in and out
    base = base_folder(spec.model)
    spec = settle_micro_batch(spec, base, processes)
    schedule = lay_out_prompts(spec, processes)
    obstacle, resume = checkpoints.obstacle(), checkpoints.newest()
    if first:
        prepare_work(spec, checkpoints, best)
    trainer = build_trainer(spec, family, base, schedule, checkpoints, events, measure, fresh=resume is None)
    trainer.accelerator.wait_for_everyone()  # every rank has looked at the checkpoints
    if obstacle and first:
        start_over(spec, checkpoints, events, obstacle)
    if best.score is not None and best.score["step"] > (0 if resume is None else checkpoints.steps_done()):
        best.forget(delete=first)  # it is of steps that will be done again
    write = partial(export_or_save, spec, trainer, base, family)
    trainer.add_callback(KeepWithin(spec.max_kl, best, write))
    trainer.train(resume_from_checkpoint=str(resume) if resume else None)
    if best.score is None:
        raise UserError(
            f"the KL to the SFT model was above {spec.max_kl:g} nats per sequence at the first measurement",
            where="max_kl, heldout.every, train.learning_rate",
            do="lower train.learning_rate or heldout.every, or raise max_kl or reward.beta",
        )
    counts = _count(spec, schedule, processes, trainer.state.global_step, best.score["step"])
    if first:
        write_json(counts_file, counts)
        best.move_to(spec.output)
    trainer.accelerator.wait_for_everyone()
    if first:
        delete_work(spec)
    return counts


def _count(spec: RLSpec, schedule: Schedule, processes: int, stopped: int, step: int) -> dict[str, object]:
    return {
        "prompts": schedule.rows,
        "steps": stopped,
        "planned_steps": schedule.steps,
        "step": step,
        "stopped_by_kl": stopped < schedule.steps or step < stopped,
        "samples": stopped * spec.train.batch_size * spec.n,
        "backend": spec.backend,
        "processes": processes,
        "deepspeed": spec.train.deepspeed,
        "precision": spec.train.precision,
        "micro_batch_size": micro_rows(spec.train),
    }


def settle_micro_batch(spec: RLSpec, base: Path, processes: int) -> RLSpec:
    """The training with a number of samples for `train.micro_batch_size: auto`; without a GPU, those of one prompt.

    Of a GPU's memory, policy, reference, vLLM and the reward models have their share first.
    """
    train = spec.train
    if train.micro_batch_size != "auto":
        return spec
    memory, states, row = gpu_memory(), 0, 0
    if memory is not None:
        from transformers import AutoConfig

        width, weights = 2 if train.precision == "bf16" else 4, count_weights(base)
        states = state_bytes(train, weights, processes) + (0 if train.lora else weights * width)
        states += sum(count_weights(base_folder(model)) * width for model in spec.rewards.values())
        states += int(memory * spec.gpu_memory) if spec.backend == "vllm" else 0
        config = AutoConfig.from_pretrained(base, trust_remote_code=False).get_text_config()
        longest = max(map(len, pq.read_table(spec.data)["prompt_ids"].to_pylist())) + spec.max_tokens
        layers, hidden = int(config.num_hidden_layers), int(config.hidden_size)
        row = row_bytes(train, layers=layers, hidden=hidden, tokens=longest, sequences=1)
    rows = choose_micro_rows(
        train,
        batch_rows=train.batch_size * spec.n,
        processes=processes,
        rows_per_pair=spec.n,
        memory=memory,
        states=states,
        row=row,
    )
    return spec.model_copy(update={"train": train.model_copy(update={"micro_batch_size": rows})})


def lay_out_prompts(spec: RLSpec, processes: int) -> Schedule:
    """The prompts in training order: passes, each shuffled for itself and joined, in whole batches.

    Raises:
        UserError: there are fewer prompts than one batch has, or a batch cannot be split.
    """
    train = spec.train
    check_optimizer(train)
    check_scheduler(train)
    accumulation = Split(train.batch_size * spec.n, micro_rows(train), processes).accumulation()
    table = pq.read_table(spec.data)
    table = table.filter(pa.array(~np.array(table[HELD].to_pylist())))
    order = order_passes(table.num_rows, train.epochs, train.seed)
    steps = len(order) // train.batch_size
    if not steps:
        raise UserError(
            f"{len(order)} prompts to train on are fewer than a batch of {train.batch_size}",
            where="train.batch_size, train.epochs",
            do="lower train.batch_size, or give more prompts or epochs",
        )
    order = order[: steps * train.batch_size]
    return Schedule(
        table=table.take(pa.array(order)),
        rows=table.num_rows,
        dropped_too_long=0,
        steps=steps,
        accumulation=accumulation,
        epochs=[step * train.batch_size / table.num_rows for step in range(steps + 1)],
        tokens=[],
        validation=None,
        validation_rows=0,
    )


def build_trainer(
    spec: RLSpec,
    family: Family[Objective],
    base: Path,
    schedule: Schedule,
    checkpoints: Checkpoints,
    events: EventFile,
    measure: Measure,
    *,
    fresh: bool,
) -> RLOOTrainer:
    """Model, reward models, data and settings, put into the trainer."""
    from transformers import PrinterCallback

    from icr.engines.models import read_tokenizer
    from icr.engines.stops import find_stops
    from loops.callbacks import MetricsFile, SaveByTime
    from loops.rl_callbacks import HeldOutSteps, Samples
    from loops.rloo_trainer import RLOOTrainer

    train = spec.train
    tokenizer = read_tokenizer(str(base))
    file = str(spec.chat_template) if spec.chat_template else None
    Template(file=file, arguments=spec.template_arguments).apply(tokenizer)
    stops = find_stops(tokenizer, str(base))
    args = _arguments(spec, schedule, checkpoints.path, list(stops.ids), fresh=fresh)
    if train.deepspeed != "none":
        import deepspeed

        deepspeed.init_distributed(auto_mpi_discovery=False)  # ZeRO-3 shares out the weights while they are loaded
    callbacks: list[TrainerCallback] = [Samples(events), MetricsFile(spec.work / "metrics.jsonl")]
    if train.save_steps is None:
        callbacks.append(SaveByTime(train.save_minutes))
    held = pq.read_table(spec.data)
    try:
        trainer = RLOOTrainer(
            spec=spec,
            schedule=schedule,
            checkpoints=checkpoints,
            model=cast("PreTrainedModel", load_model(train.model_copy(update={"lora": None}), base, family)),
            lora=lora_config(train, family),
            args=args,
            tokenizer=tokenizer,
            stops=stops,
            rewards=load_rewards(spec),
            heldout=held.filter(held[HELD]).to_pylist(),
            measure=measure,
            callbacks=callbacks,
        )
    except ValueError as error:  # of TRL's own checks
        raise UserError(str(error), where="train, sampling", do="correct the setting") from error
    trainer.remove_callback(PrinterCallback)
    trainer.add_callback(HeldOutSteps(spec.every, lambda: trainer.kl > spec.max_kl))
    return trainer


def _arguments(spec: RLSpec, schedule: Schedule, folder: Path, stops: list[int], *, fresh: bool) -> RLOOConfig:
    """Our settings in TRL's words. Raises UserError."""
    from trl.trainer.rloo_config import RLOOConfig

    vllm = spec.backend == "vllm"
    longest = max(map(len, pq.read_table(spec.data)["prompt_ids"].to_pylist())) + spec.max_tokens
    settings = trainer_settings(spec.train, schedule, folder) | {
        "eval_on_start": fresh,
        "num_generations": spec.n,
        "num_generations_eval": spec.samples,
        "max_completion_length": spec.max_tokens,
        "temperature": 1.0,
        "top_p": 1.0,
        "shuffle_dataset": False,  # the schedule is shuffled
        "beta": spec.beta or 1.0,  # TRL loads no reference at 0, and KL is measured at any β
        "use_vllm": vllm,
        "vllm_mode": "colocate",
        "vllm_gpu_memory_utilization": spec.gpu_memory,
        "vllm_max_model_length": longest,
        "vllm_enable_sleep_mode": True,
        "generation_kwargs": {"stop_token_ids": stops} if vllm else None,
        "disable_dropout": True,
    }
    settings.pop("train_sampling_strategy")
    try:
        return RLOOConfig(**settings)
    except ValueError as error:
        raise UserError(str(error), where="train, sampling", do="correct the setting") from error


def load_rewards(spec: RLSpec) -> Mapping[str, Reward]:
    """The reward models, each in memory once, reading conversations as `icr.engines.classifier` does everywhere."""
    from icr.engines.classifier import Classifier
    from loops.adapter import without_deepspeed

    def load(model: str) -> Reward:
        with without_deepspeed():  # whole, also where ZeRO-3 shares out the policy
            classifier = Classifier(model, spec.reward_precision, spec.batch_tokens)
        return lambda prompts, responses: classifier.logits(list(zip(prompts, responses, strict=True)))

    loaded = {model: load(model) for model in sorted(set(spec.rewards.values()))}
    return {name: loaded[model] for name, model in spec.rewards.items()}
