"""The task of an experiment of `icr transfer`: what the policy is asked to do with an input, and what judges look at.

As in Wu et al. (arXiv 2404.12318, appendix G.1), the policy reads the instruction before the input, in supervised
fine-tuning, sampling and training. Reward models and judges read the input alone.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from importlib.resources import as_file, files
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from icr.base.conversation import dump_conversation, load_conversation, put_before
from icr.base.fields import Fields
from icr.base.files import write_table
from icr.config.schema import Judge
from icr.config.transfer import TransferConfig
from icr.experiments.sft import SftInputs
from icr.languages import english_name
from prompts.load import Prompt

INSTRUCTIONS: Mapping[str, str] = {
    "summarization": "Summarize the following text in {language}:",
    "dialog": "Below is a dialog between a human and an assistant in {language}. Write the assistant's next turn, in "
    "{language}.",
}
"""Task → the instruction, in English as there."""
JUDGES: Mapping[str, str] = {"summarization": "judge_summaries.yaml"}
"""Task → the file in `prompts/` that judges are asked with; for the others icr's own prompt for answers."""


def instruction(config: TransferConfig, lang: str) -> str:
    """What is put before an input; "" without a task."""
    return INSTRUCTIONS[config.task].format(language=english_name(lang)) if config.task != "none" else ""


def instructions(config: TransferConfig) -> dict[str, str]:
    """By target; none without a task."""
    targets = config.languages.targets if config.task != "none" else []
    return {target: instruction(config, target) for target in targets}


def task_setting(config: TransferConfig) -> Fields:
    """For the key of a step whose prompts are not among its inputs; none without a task, as there were none once."""
    return {"task": config.task} if config.task != "none" else {}


def instruct(config: TransferConfig, prompts: Sequence[Prompt]) -> list[Prompt]:
    """The prompts as the policy is asked them."""
    return [replace(p, messages=put_before(instruction(config, p.lang), p.messages)) for p in prompts]


def instruct_text(config: TransferConfig, lang: str, prompt: str) -> str:
    """The same of a prompt as tables hold it."""
    if config.task == "none":
        return prompt
    return dump_conversation(put_before(instruction(config, lang), load_conversation(prompt)))


def instruct_demonstrations(config: TransferConfig, inputs: SftInputs) -> SftInputs:
    """The demonstrations as the policy is trained on them."""
    if config.task == "none":
        return inputs
    train, validation = (
        [replace(one, prompt=instruct_text(config, one.lang, one.prompt)) for one in part]
        for part in (inputs.train, inputs.validation)
    )
    return replace(inputs, train=train, validation=validation)


def keep_inputs(config: TransferConfig, file: Path, prompts: Sequence[Prompt]) -> None:
    """Write the inputs alone into the column `prompt` of candidates, which reward models and judges read. What the
    policy was asked stays in `prompt_ids`."""
    if config.task == "none":
        return
    table, texts = pq.read_table(file), {p.id: p.text for p in prompts}
    bare = pa.array([texts[id] for id in table["prompt_id"].to_pylist()], pa.string())
    write_table(file, table.set_column(table.column_names.index("prompt"), table.schema.field("prompt"), bare))


def with_task(judge: Judge, task: str) -> Judge:
    """The judge with the task's prompt, unless it has one of its own or is a class."""
    if judge.template or judge.own or task not in JUDGES:
        return judge
    with as_file(files("prompts").joinpath(JUDGES[task])) as path:
        return judge.model_copy(update={"template": str(path)})
