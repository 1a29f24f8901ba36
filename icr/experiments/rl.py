"""`icr rl`: a policy trained by RLOO against a reward model, of its own or of another language."""

from __future__ import annotations

import importlib.util
import shutil
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pyarrow as pa

from eval.clusters import Estimate
from icr.base.conversation import dump_conversation, put_before
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json, write_json, write_text
from icr.base.shown import show_path
from icr.config.load import dump_config
from icr.config.rl import UNUSED, RLConfig
from icr.config.schema import Train
from icr.engines.check import check_located, find_folder
from icr.engines.classifier import check_classifier
from icr.engines.context import context_length
from icr.engines.sizes import measure_checkpoint
from icr.engines.templates import Template
from icr.experiments.rl_heldout import compare_steps, read_measurements, read_samples
from icr.experiments.rl_inputs import RLInputs, check_rl, describe_rl, plain_train
from icr.experiments.training import train_once
from icr.work.classify import PROMPTED
from icr.work.encode import EncodeAnswersTask
from icr.work.machine import Machine
from icr.work.shards import cut_table
from icr.work.steps import Step
from loops.data import HELD, write_training_data
from loops.disk import check_disk, estimate_disk, folder_size
from loops.rl_spec import DRIVER, RLSpec
from loops.spec import CardFacts

if TYPE_CHECKING:
    from rich.console import Console

CONFIG, RESULT = "config.yaml", "rl.json"
METHOD = (
    "Trained by RLOO (arXiv 2402.14740): the reward of its own answers under a reward model, less β times their\n"
    "log-ratio to the model that it was trained from."
)
LEAVES = (
    "tokens", "data.parquet", "dropped.json", "metrics.jsonl", "heldout.jsonl", "heldout", "counts.json", "checkpoints",
    "best", "model", "adapter", "restarted.json", RESULT,
)  # fmt: skip
"""What a training leaves in RUN."""
SHARD = 2048
"""Prompts that a worker reads at a time."""


def train_rl(config: RLConfig, console: Console) -> Fields:
    """Train, or go on with the training.

    Returns:
        What RUN/rl.json has: `training`, the counts; `prompts` and `too_long` by language; `first` and `last`, the
        measurements before the first step and of the policy in RUN/model; `rise`, by how much each reward model's
        scores differ between the two.

    Raises:
        ConfigError: everything that is wrong with config, prompts and models.
        UserError: the folder is in use, or holds a training of other files or with other settings; the KL is above its
            bound from the first measurement on; a value is not finite.
        StageFailed: a worker or the training failed.
    """
    inputs = check_rl(config)
    run = Path(config.run or "").resolve()

    def describe() -> Step:
        return describe_rl(config, inputs)

    def work(machine: Machine) -> Fields:
        return do_rl(run, config, inputs, machine)

    return train_once(run, console, describe, work, RESULT, LEAVES)


def do_rl(run: Path, config: RLConfig, inputs: RLInputs, machine: Machine) -> Fields:
    """The training's work in the folder `run`, on a machine that others may use as well; returns its counts."""
    write_text(run / CONFIG, dump_config(config, run))
    counts = _train(run, config, inputs, machine)
    write_json(run / RESULT, summarize(run, inputs, counts))
    return counts


def summarize(run: Path, inputs: RLInputs, counts: Mapping[str, object]) -> Fields:
    """What RUN/rl.json has, see `train_rl`."""
    rows = {row["step"]: row for row in read_measurements(run)}
    last = int(str(counts["step"]))
    rise = compare_steps(read_samples(run, 0), read_samples(run, last))
    shown = {
        name: Counter(p.lang for p in part) for name, part in (("train", inputs.train), ("heldout", inputs.heldout))
    }
    return {
        "training": dict(counts),
        "prompts": {name: dict(of) for name, of in shown.items()},
        "first": rows[0],
        "last": rows[last],
        "rise": {name: _show(of) for name, of in rise.items()},
    }


def _show(of: Estimate) -> Fields:
    return {"mean": of.value, "se": of.se, "low": of.low, "high": of.high, "prompts": of.n}


def _train(run: Path, config: RLConfig, inputs: RLInputs, machine: Machine) -> Fields:
    """Tokens, then the training; returns its counts."""
    names = {inputs.policy, *inputs.rewards.values()}
    folders = machine.folders(names, config.chat_template)
    base = Path(folders[inputs.policy])
    if find_folder(inputs.policy) is None:
        check_located(str(base), "policy")
    rewards = {name: folders[model] for name, model in inputs.rewards.items()}
    for name, folder in rewards.items():  # a hub id may have come just now
        check_classifier(folder, "reward.model" if name == DRIVER else f"heldout.reward_models.{name}")
    train = plain_train(config.train)
    train = train.model_copy(update={"precision": machine.precision(train.precision)})
    data, dropped, size = run / "data.parquet", run / "dropped.json", measure_checkpoint(str(base))
    if size is not None and not (run / "model").exists():
        kept = train.model_copy(update={"validation": 1})  # as there, the best policy so far is kept beside the last
        check_disk(estimate_disk(kept, size), run, folder_size(run / "checkpoints") + folder_size(run / "best"))
    if not (run / "model").exists() and not (data.is_file() and dropped.is_file()):
        write_json(dropped, _write_data(run, config, inputs, base, machine))
    spec = RLSpec(
        model=str(base),
        data=data,
        output=run / "model",
        work=run,
        events=Path(),
        objective="rloo",
        train=train,
        chat_template=Path(config.chat_template) if config.chat_template else None,
        template_arguments=config.template_arguments,
        facts=_describe(run, config, inputs),
        beta=config.reward.beta,
        n=config.sampling.n,
        max_tokens=config.sampling.max_tokens,
        backend=_choose_backend(config.sampling.backend, machine, train),
        gpu_memory=config.sampling.gpu_memory,
        rewards=rewards,
        reward_precision=machine.precision(config.reward.precision),
        batch_tokens=config.reward.batch_tokens,
        every=config.heldout.every,
        samples=config.heldout.samples,
        max_kl=config.max_kl,
    )
    counts = machine.train(spec, "training (RLOO)", run.name)
    return {**counts, "too_long": read_json(dropped)}


def _describe(run: Path, config: RLConfig, inputs: RLInputs) -> CardFacts:
    reward = show_path(inputs.rewards[DRIVER], run)
    return CardFacts(
        method=f"{METHOD}\nReward model: {reward}, β {config.reward.beta:g}.",
        tag="rloo",
        objective="RLOO",
        languages=config.prompts.languages,
        base=show_path(inputs.policy, run),
        settings={
            "sampling": config.sampling.model_dump(mode="json"),
            "train": plain_train(config.train).model_dump(mode="json", exclude=set(UNUSED)),
        },
    )


def _choose_backend(asked: str, machine: Machine, train: Train) -> Literal["vllm", "transformers"]:
    """`auto` is vLLM on a GPU, where it is installed. Raises UserError for vLLM without a GPU."""
    there, gpus = importlib.util.find_spec("vllm") is not None, machine.training_gpus(train)
    if asked == "vllm" and not (gpus and there):
        what = "vLLM is not installed" if gpus else "vLLM beside a training needs a GPU"
        raise UserError(what, where="sampling.backend: vllm", do="set sampling.backend to auto or transformers")
    if asked == "auto" and gpus and not there:
        machine.note_once("vLLM is not installed: sampling with transformers' generate, which is several times slower")
    return "vllm" if asked != "transformers" and gpus and there else "transformers"


def _write_data(
    run: Path, config: RLConfig, inputs: RLInputs, base: Path, machine: Machine
) -> dict[str, dict[str, int]]:
    """The training's data file. Returns, by part and language, the prompts that are too long: in the policy's context
    they leave less room than `sampling.max_tokens`.

    Raises:
        UserError: no prompt to train on, or none that is held out, is short enough.
    """
    prompts = [(p, False) for p in inputs.train] + [(p, True) for p in inputs.heldout]
    template = Template(file=config.chat_template, arguments=config.template_arguments)
    asked = [dump_conversation(put_before(inputs.instructions.get(p.lang, ""), p.messages)) for p, _ in prompts]
    columns = {"prompt": asked, "response": [""] * len(prompts)}
    shards = cut_table(pa.table(columns, schema=PROMPTED), SHARD)
    tables, _ = machine.fill(run / "tokens", EncodeAnswersTask(model=str(base), template=template), shards, "tokens")
    ids = [row for table in tables for row in table["prompt_ids"].to_pylist()]
    context = context_length(str(base))
    long: dict[str, Counter[str]] = {}
    rows = []
    for (prompt, held), prompt_ids in zip(prompts, ids, strict=True):
        if len(prompt_ids) + config.sampling.max_tokens > context:
            long.setdefault("heldout" if held else "train", Counter())[prompt.lang] += 1
        else:
            named = {"prompt_id": prompt.id, "lang": prompt.lang, "prompt": prompt.text}
            rows.append({**named, HELD: held, "prompt_ids": prompt_ids})
    for held, name in ((False, "training"), (True, "held-out")):
        if not any(row[HELD] is held for row in rows):
            what = f"no {name} prompt leaves room for {config.sampling.max_tokens} tokens in a context of {context}"
            raise UserError(what, where="sampling.max_tokens", do="lower it, or use a policy with more context")
    write_training_data(run / "data.parquet", rows, {"lang": pa.string(), "prompt": pa.string()})
    shutil.rmtree(run / "tokens")
    return {name: dict(counts) for name, counts in long.items()}
