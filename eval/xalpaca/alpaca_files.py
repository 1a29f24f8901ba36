"""AlpacaEval's own files, written from an evaluation: alpaca_eval's tools read them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Sequence
from pathlib import Path

from eval.xalpaca.answers import Answer, Baseline, read_answers
from eval.xalpaca.items import read_items
from eval.xalpaca.pairwise import VerdictRow
from icr.base.fields import Fields
from icr.base.files import read_rows, write_json

DATASET = "x_alpacaeval"


def write_alpaca_files(out: Path, baseline: Baseline, generator: str, baseline_name: str, judge: str) -> None:
    """`out`/alpaca_eval/LANG/model_outputs.json and annotations.json, from answers and verdicts in `out`.

    An annotation an item, as AlpacaEval has it, so that its own tools give the same rates: output_1 is the baseline's
    and output_2 the model's, whatever the judge saw first; preference is 1 where the baseline wins, 2 where the model
    does, between them a weighted one or the mean over both orders, and null when unscored. `icr_orders` has what the
    judge said in each order.
    """
    for lang, answers in read_answers(out / "answers").items():
        folder = out / "alpaca_eval" / lang
        outputs = [model_output(a, generator) for a in answers]
        write_json(folder / "model_outputs.json", outputs)
        verdicts: list[VerdictRow] = read_rows(out / "verdicts" / f"{lang}.parquet")
        preferences = read_items(verdicts).preferences
        orders = _orders(verdicts)
        annotations = [
            {
                "id": _public_id(a.id),
                "instruction": a.instruction,
                "output_1": baseline[lang][a.id],
                "generator_1": baseline_name,
                "dataset": DATASET,
                "output_2": a.text,
                "generator_2": generator,
                "annotator": judge,
                "preference": 1.0 + preferences[a.id] if a.id in preferences else None,
                "icr_orders": orders.get(a.id, []),
            }
            for a in answers
        ]
        write_json(folder / "annotations.json", annotations)


def model_output(answer: Answer, generator: str, dataset: str = DATASET) -> Fields:
    """An answer as AlpacaEval's model_outputs.json has it."""
    return {
        "dataset": dataset,
        "id": _public_id(answer.id),
        "instruction": answer.instruction,
        "output": answer.text,
        "generator": generator,
    }


def _orders(verdicts: Sequence[VerdictRow]) -> dict[str, list[Fields]]:
    """Prompt id → its orders, as the judge saw them."""
    found: defaultdict[str, list[Fields]] = defaultdict(list)
    for row in verdicts:
        preference = None if row["preference"] is None else 1.0 + row["preference"]
        found[row["prompt_id"]].append(
            {"order": row["order"], "preference": preference, "raw_completion": row["raw"], "reason": row["reason"]}
        )
    return found


def _public_id(id: str) -> int | str:
    """Numbers stay numbers, as the public files have them; 01 is not a number, as 1 may be another item."""
    return int(id) if id.isdecimal() and str(int(id)) == id else id
