"""What is wrong with a run's settings, known from the config and from names and small files alone."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

from icr.base.content import cache_root
from icr.base.errors import UserError
from icr.config.schema import Config
from icr.rounds.context import Inputs


def find_faults(config: Config) -> Iterator[UserError]:
    """What a run cannot begin with."""
    if config.run is not None:
        yield from check_output(Path(config.run), "run")
    judges = [judge.model for judge in config.judge.each.values()]
    if any(name and name.endswith(".gguf") for name in (config.models.policy, config.models.reference, *judges)):
        yield from check_output(cache_root(), "ICR_CACHE, else .cache in the home folder: converted models go there")


def find_notes(config: Config, inputs: Inputs) -> Iterator[str]:
    """What a run can go on with, and its user should know."""
    yield from _compare_with_context(config, inputs.policy or inputs.reference)


def check_output(folder: Path, where: str) -> Iterator[UserError]:
    """Whether a folder can be made, or written into."""
    path = folder
    try:
        while not path.exists() and path != path.parent:
            path = path.parent
    except OSError as error:
        yield UserError(f"not a usable path: {error.strerror}", where=f"{where}: {folder}", do="use a shorter one")
        return
    if str(folder).startswith("~"):  # else it has been resolved
        yield UserError(f"user not found: {folder.parts[0]}", where=where, do="write the path of the folder in full")
    elif not path.is_dir():
        what = f"{path} is a file, not a folder"
        yield UserError(what, where=where, do="name another folder, or move the file away")
    elif not os.access(path, os.W_OK | os.X_OK):
        yield UserError(f"no permission to write into {path}", where=where, do="choose a folder that you can write to")


def _compare_with_context(config: Config, model: str) -> Iterator[str]:
    """An answer may be as long as the context. A hub id's config is not looked at."""
    context = _positions(Path(model) / "config.json")
    if context is None:
        return
    asked = {"sampling.max_tokens": config.sampling.max_tokens}
    judge = config.judge
    if judge.kind != "none" and "xalpaca" in judge.benchmarks:
        asked["judge.max_tokens"] = judge.max_tokens
    if judge.kind != "none" and "mtbench" in judge.benchmarks and judge.mtbench is not None:
        asked["judge.mtbench.max_tokens"] = judge.mtbench.max_tokens
    for key, tokens in asked.items():
        if tokens >= context:
            yield f"{key} is {tokens:,}, but the model's context has {context:,} tokens: long answers are cut off there"


def _positions(file: Path) -> int | None:
    """`max_position_embeddings` of a config.json; None where it does not say. What is wrong with the file is said by
    those who need it."""
    try:
        config = json.loads(file.read_text(encoding="utf-8"))
        found = (config.get("text_config") or config).get("max_position_embeddings")
    except (OSError, ValueError, AttributeError):
        return None
    return found if isinstance(found, int) else None
