"""English preference pairs, which align a model in English."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from icr.base.errors import ConfigError, UserError
from prompts.load import json_objects

ALIGNMENT_KEYS = ("prompt", "chosen", "rejected")


def read_alignment(path: str) -> list[dict[str, str]]:
    """English preference pairs: jsonl of `prompt`, `chosen`, `rejected`.

    Raises:
        ConfigError: every bad line.
    """
    problems: list[UserError] = []
    pairs: list[dict[str, Any]] = []
    if not Path(path).is_file():
        raise UserError(f"there is no file {path}", where="alignment.pairs", do="check the path")
    for where, value in json_objects(Path(path), problems):
        pair = {k: value.get(k) for k in ALIGNMENT_KEYS} if isinstance(value, dict) else {}
        if not pair or not all(isinstance(text, str) and text.strip() for text in pair.values()):
            example = json.dumps(dict.fromkeys(ALIGNMENT_KEYS, "…"), ensure_ascii=False)
            what, do = "a pair without prompt, chosen and rejected texts", f"write {example}"
            problems.append(UserError(what, where=where, do=do))
        elif pair["chosen"] == pair["rejected"]:
            problems.append(UserError("chosen and rejected are the same text", where=where, do="remove the line"))
        else:
            pairs.append(pair)
    if not problems and not pairs:
        problems.append(UserError("no pairs in the file", where=path, do="add at least one pair"))
    if problems:
        raise ConfigError(problems[:20])
    return pairs
