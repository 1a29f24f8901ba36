"""AlpacaEval's own files, written from an evaluation: alpaca_eval's tools read them."""

from __future__ import annotations

from pathlib import Path

from eval.xalpaca.answers import Baseline, read_answers
from eval.xalpaca.pairwise import VerdictRow
from icr.base.files import read_rows, write_json

DATASET = "x_alpacaeval"


def write_alpaca_files(out: Path, baseline: Baseline, generator: str, baseline_name: str, judge: str) -> None:
    """`out`/alpaca_eval/LANG/model_outputs.json and annotations.json, from answers and verdicts in `out`.

    An annotation a judged order: output_1 is the baseline's and output_2 the model's, whatever the judge saw first;
    preference is 1 where the baseline wins, 2 where the model does, between them a weighted one, and null when
    unscored. `icr_order` tells the orders of one item apart.
    """
    for lang, answers in read_answers(out / "answers").items():
        folder = out / "alpaca_eval" / lang
        texts = {a.id: a for a in answers}
        outputs = [
            {
                "dataset": DATASET,
                "id": _public_id(a.id),
                "instruction": a.instruction,
                "output": a.text,
                "generator": generator,
            }
            for a in answers
        ]
        write_json(folder / "model_outputs.json", outputs)
        verdicts: list[VerdictRow] = read_rows(out / "verdicts" / f"{lang}.parquet")
        annotations = [
            {
                "instruction": texts[row["prompt_id"]].instruction,
                "output_1": baseline[lang][row["prompt_id"]],
                "generator_1": baseline_name,
                "dataset": DATASET,
                "output_2": texts[row["prompt_id"]].text,
                "generator_2": generator,
                "annotator": judge,
                "preference": None if row["preference"] is None else 1.0 + row["preference"],
                "raw_completion": row["raw"],
                "icr_order": row["order"],
            }
            for row in verdicts
        ]
        write_json(folder / "annotations.json", annotations)


def _public_id(id: str) -> int | str:
    """Numbers stay numbers, as the public files have them."""
    return int(id) if id.isdecimal() else id
