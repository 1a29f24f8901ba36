"""The scores of reward models: what `icr rm train`, `eval` and `bench` have in common."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, cast

import pyarrow as pa

from eval.reward_models.accuracy import (
    Score,
    measure_pairs,
    measure_ratings,
    rights_of_pairs,
    rights_of_ratings,
)
from eval.reward_models.bootstrap import Floats
from icr.base.content import hash_rows
from icr.base.fields import Fields
from icr.engines.check import check_model, find_folder
from icr.engines.classifier import check_classifier
from icr.engines.precision import Precision
from icr.engines.templates import Template
from icr.work.classify import TEXTS, ClassifyTask
from icr.work.machine import Machine
from icr.work.shards import cut_table
from prompts.preferences.make import Rows
from prompts.preferences.rows import Kind, PairRow, RatingRow

SHARD = 512
"""Texts."""
BATCH_TOKENS = 16384


def short_name(model: str) -> str:
    """A model for tables and file names: the last part of its name; of RUN/model, the run's."""
    path = Path(model)
    return path.resolve().parent.name if path.name == "model" and path.is_dir() else path.name


def locate_reward_model(model: str, key: str) -> str:
    """The folder or hub id of a reward model, checked as far as its files are on this machine.

    Args:
        key: the option or argument that names it, for messages.

    Raises:
        UserError, ConfigError: everything that is wrong.
    """
    located = check_classifier(model, key)
    folder = find_folder(located)
    if folder is not None:
        check_model(folder, key, auto_class="AutoModelForSequenceClassification")
    return located


@dataclass(frozen=True)
class Scorer:
    """A reward model at work."""

    machine: Machine
    model: str
    """A folder."""
    precision: Precision
    folder: Path
    """Scores are kept there, by what is scored: the same texts are not scored again."""
    name: str = "reward model"
    """For the user."""

    def scores(self, texts: Sequence[tuple[str, str]]) -> list[Score]:
        """The logit of each (prompt as tables hold it, response); each different text is read once.

        Raises:
            UserError, StageFailed: as `Machine.fill`.
        """
        different = list(dict.fromkeys(texts))
        rows = [
            {
                "prompt_id": str(number),
                "lang": "",
                "sample": 0,
                "prompt": prompt,
                "english": "",
                "response": response,
                "token_ids": [],
                "finish_reason": "stop",
            }
            for number, (prompt, response) in enumerate(different)
        ]
        task = ClassifyTask(
            model=self.model, template=Template(), precision=self.precision, batch_tokens=BATCH_TOKENS
        )  # fmt: skip
        place = self.folder / hash_rows([{"prompt": p, "response": r} for p, r in different])[:16] / self.precision
        shards = cut_table(pa.Table.from_pylist(rows, schema=TEXTS), SHARD)
        tables, _ = self.machine.fill(place, task, shards, f"scores: {self.name}")
        values = [value for table in tables for value in table["value"].to_pylist()]
        known = dict(zip(different, values, strict=True))
        return [known[text] for text in texts]


class Measured(NamedTuple):
    """One model on the rows of one language."""

    figures: Fields
    """Of `eval.reward_models.accuracy`."""
    right: Floats
    """Of each row; NaN without a score."""
    groups: list[str]


def measure(scorer: Scorer, kind: Kind, rows: Rows, train: Rows) -> dict[str, Measured]:
    """Accuracy beside baselines, by language.

    Args:
        rows: what is measured on.
        train: for the baselines.
    """
    languages = sorted({row["lang"] for row in rows})
    if kind == "pairs":
        return _measure_pairs(scorer, cast(list[PairRow], rows), cast(list[PairRow], train), languages)
    ratings, known = cast(list[RatingRow], rows), cast(list[RatingRow], train)
    scores = scorer.scores([(row["prompt"], row["response"]) for row in ratings])
    found = {}
    for lang in languages:
        own = [n for n, row in enumerate(ratings) if row["lang"] == lang]
        of_lang, of_scores = [ratings[n] for n in own], [scores[n] for n in own]
        figures = measure_ratings(of_lang, of_scores, [row for row in known if row["lang"] == lang])
        found[lang] = Measured(figures, rights_of_ratings(of_lang, of_scores), [row["group"] for row in of_lang])
    return found


def _measure_pairs(
    scorer: Scorer, rows: list[PairRow], train: list[PairRow], languages: Sequence[str]
) -> dict[str, Measured]:
    chosen = [(row["prompt"], row["chosen"]) for row in rows]
    rejected = [(row["prompt"], row["rejected"]) for row in rows]
    scores = scorer.scores([*chosen, *rejected])
    both = list(zip(scores[: len(rows)], scores[len(rows) :], strict=True))
    found = {}
    for lang in languages:
        own = [n for n, row in enumerate(rows) if row["lang"] == lang]
        of_lang, of_scores = [rows[n] for n in own], [both[n] for n in own]
        figures = measure_pairs(of_lang, of_scores, [row for row in train if row["lang"] == lang])
        found[lang] = Measured(figures, rights_of_pairs(of_scores), [row["group"] for row in of_lang])
    return found
