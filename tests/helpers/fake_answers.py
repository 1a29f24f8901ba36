"""Answers to the held-out prompts of an invented run, with texts that are hard to show among them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from icr.base.files import write_json

LONG_WORD = "Donaudampfschifffahrtsgesellschaft" * 8
THAI = "วาฬเป็นสัตว์เลี้ยงลูกด้วยนมที่อาศัยอยู่ในทะเลและต้องขึ้นมาหายใจบนผิวน้ำเป็นระยะ" * 3


def answers_of(lang: str, at: int, ids: Sequence[str], question: str, hostile: str) -> list[dict[str, Any]]:
    """A round's answers, as rows of a table; the first three are hard to show."""
    hard = (hostile, LONG_WORD, THAI) if at else ()
    texts = [*hard, *(f"({lang}) {at}: {question}" for _ in ids)]
    same = {"lang": lang, "sample": 0, "prompt": question, "token_ids": [1], "finish_reason": "stop"}
    return [{"prompt_id": id, "response": text, **same} for id, text in zip(ids, texts, strict=False)]


def write_compared(judge: Path, lang: str, answers: Sequence[Mapping[str, Any]]) -> None:
    """The baseline's answers, in AlpacaEval's file."""
    rows = [{"id": row["prompt_id"], "output_1": f"({lang}) 0: {row['prompt']}"} for row in answers]
    write_json(judge / "alpaca_eval" / lang / "annotations.json", rows)
