"""`--probe N`: how long a model's responses are, by having it answer N prompts once."""

from __future__ import annotations

from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING

import pyarrow as pa

from icr.engines.open import EngineSettings
from icr.engines.templates import Template
from icr.planning.lengths import Lengths, probed_lengths
from icr.planning.plan import Known
from icr.rounds.window import bound_window
from icr.work.machine import Machine
from icr.work.sampling import PROMPTS, SampleTask
from icr.work.shards import cut_table

if TYPE_CHECKING:
    from rich.console import Console

    from prompts.load import Prompt

SHARD = 128


def pick_prompts(prompts: list[Prompt], count: int) -> list[Prompt]:
    """`count` of them: of each language in turn, evenly spread over its prompts."""
    languages = list(dict.fromkeys(p.lang for p in prompts))
    picked: list[Prompt] = []
    for place, lang in enumerate(languages):
        own = [p for p in prompts if p.lang == lang]
        wanted = min(len(own), count // len(languages) + (place < count % len(languages)))
        picked += [own[i * len(own) // wanted] for i in range(wanted)]
    return picked


def probe_lengths(known: Known, count: int, console: Console) -> Lengths:
    """Sample one response to each of `count` prompts, by the policy, or by π_I where the policy is still to be made.

    Raises:
        UserError, StageFailed: as a run's stage sample: the model cannot be had or does not fit.
    """
    config, inputs = known.config, known.inputs
    settings = config.sampling
    with TemporaryDirectory() as folder:
        machine = Machine(Path(folder), console, (), settings.tensor_parallel, settings.gpu_memory)
        try:
            name = inputs.policy or inputs.reference
            model = machine.folders([name], config.models.chat_template)[name]
            window = bound_window(config, inputs, [model])
            task = SampleTask(
                model=model,
                template=Template(file=config.models.chat_template, arguments=config.models.template_arguments),
                stop=tuple(settings.stop),
                engine=EngineSettings.of(settings, window, gpu=machine.gpus > 0),
                n=1,
                temperature=settings.temperature,
                top_p=settings.top_p,
                max_tokens=settings.max_tokens,
                seed=settings.seed,
                round=0,
            )
            picked = pick_prompts(inputs.prompts, count)
            rows = [{"prompt_id": p.id, "lang": p.lang, "prompt": p.text} for p in picked]
            shards = cut_table(pa.Table.from_pylist(rows, schema=PROMPTS), SHARD)
            tables = [table for _, table in machine.work(task, shards, "probe")]
        finally:
            machine.stop()
    found: dict[str, list[int]] = {}
    for row in (row for table in tables for row in table.to_pylist()):
        found.setdefault(row["lang"], []).append(len(row["token_ids"]))
    return probed_lengths(known.texts, found, settings.max_tokens)
