"""The scores of reward models: what `icr rm train`, `eval` and `bench` have in common."""

from __future__ import annotations

import hashlib
import shutil
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import NamedTuple, Protocol, TypeVar, cast

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
from icr.base.files import read_rows, write_rows
from icr.engines.check import check_model, find_folder
from icr.engines.classifier import check_classifier
from icr.engines.precision import Precision
from icr.engines.templates import Template
from icr.work.classify import TEXTS, ClassifyTask
from icr.work.machine import Machine
from icr.work.shards import cut_table
from prompts.preferences.make import Rows
from prompts.preferences.rows import Kind, PairRow, RatingRow

R = TypeVar("R", PairRow, RatingRow)
SHARD = 512
"""Texts."""
BATCH_TOKENS = 16384
KEPT = pa.schema([("text", pa.string()), ("value", pa.float64())])
"""Scores in a scorer's folder; a text by its digest, a null one is too long."""


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


class TextScorer(Protocol):
    """Whatever gives responses a score, at work."""

    def scores(self, texts: Sequence[tuple[str, str]]) -> list[Score]:
        """One number for each (prompt as tables hold it, response); None: too long to be read.

        Raises:
            UserError, StageFailed: as `Machine.fill`.
        """


@dataclass(frozen=True)
class Scorer:
    """A reward model at work."""

    machine: Machine
    model: str
    """A folder."""
    precision: Precision
    folder: Path
    """Scores are kept there, by what is scored: a text is not scored again, whatever it is asked for with."""
    name: str = "reward model"
    """For the user."""

    def scores(self, texts: Sequence[tuple[str, str]]) -> list[Score]:
        """The logit of each (prompt as tables hold it, response); each different text is read once.

        Raises:
            UserError, StageFailed: as `Machine.fill`.
        """
        different = group_texts(texts)
        known = self._read_kept()
        missing = [text for text in different if _digest(*text) not in known]
        if missing:
            known |= self._score(missing)
        return [known[_digest(*text)] for text in texts]

    def _read_kept(self) -> dict[str, Score]:
        """Digest of a text → its score, of all that were scored before."""
        found: dict[str, Score] = {}
        for file in sorted(self.folder.glob(f"*/{self.precision}.parquet")):
            found |= {row["text"]: row["value"] for row in read_rows(file)}
        return found

    def _score(self, texts: Sequence[tuple[str, str]]) -> dict[str, Score]:
        """The same of texts that were not; they are kept."""
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
            for number, (prompt, response) in enumerate(texts)
        ]
        task = ClassifyTask(
            model=self.model, template=Template(), precision=self.precision, batch_tokens=BATCH_TOKENS
        )  # fmt: skip
        place = self.folder / hash_rows([{"prompt": p, "response": r} for p, r in texts])[:16] / self.precision
        shards = cut_table(pa.Table.from_pylist(rows, schema=TEXTS), SHARD)
        tables, _ = self.machine.fill(place, task, shards, f"scores: {self.name}")
        values = [value for table in tables for value in table["value"].to_pylist()]
        found: dict[str, Score] = dict(zip((_digest(*text) for text in texts), values, strict=True))
        kept = [{"text": text, "value": value} for text, value in found.items()]
        write_rows(place.with_suffix(".parquet"), kept, KEPT)
        shutil.rmtree(place)
        return found


def _digest(prompt: str, response: str) -> str:
    return hashlib.sha256(f"{prompt}\x1f{response}".encode()).hexdigest()[:32]


def group_texts(texts: Sequence[tuple[str, str]]) -> list[tuple[str, str]]:
    """Each different (prompt, response) once; those of one prompt side by side, so that it may be computed once."""
    by_prompt: defaultdict[str, dict[str, None]] = defaultdict(dict)
    for prompt, response in texts:
        by_prompt[prompt][response] = None
    return [(prompt, response) for prompt, responses in by_prompt.items() for response in responses]


class Measured(NamedTuple):
    """One model on the rows of one language."""

    figures: Fields
    """Of `eval.reward_models.accuracy`."""
    right: Floats
    """Of each row; NaN without a score."""
    groups: list[str]


Known = Mapping[tuple[str, str], Score]
"""(prompt, response) → its score."""


def measure(scorer: TextScorer, kind: Kind, rows: Rows, train: Rows) -> dict[str, Measured]:
    """Accuracy beside baselines, by language.

    Args:
        rows: what is measured on.
        train: for the baselines.
    """
    return measure_known(score_rows(scorer, kind, rows), kind, rows, train)


def score_rows(scorer: TextScorer, kind: Kind, rows: Rows) -> Known:
    """The score of every response of the rows."""
    if kind == "pairs":
        pairs = cast(list[PairRow], rows)
        texts = [(row["prompt"], row["chosen"]) for row in pairs] + [(row["prompt"], row["rejected"]) for row in pairs]
    else:
        texts = [(row["prompt"], row["response"]) for row in cast(list[RatingRow], rows)]
    return dict(zip(texts, scorer.scores(texts), strict=True))


def measure_known(known: Known, kind: Kind, rows: Rows, train: Rows) -> dict[str, Measured]:
    """As `measure`, of scores that are known."""
    if kind == "pairs":
        return _measure_pairs(known, cast(list[PairRow], rows), cast(list[PairRow], train))
    found, trained = {}, cast(list[RatingRow], train)
    for lang, ratings in by_language(cast(list[RatingRow], rows)).items():
        scores = [known[row["prompt"], row["response"]] for row in ratings]
        figures = measure_ratings(ratings, scores, [row for row in trained if row["lang"] == lang])
        found[lang] = Measured(figures, rights_of_ratings(ratings, scores), [row["group"] for row in ratings])
    return found


def _measure_pairs(known: Known, rows: list[PairRow], train: list[PairRow]) -> dict[str, Measured]:
    found = {}
    for lang, pairs in by_language(rows).items():
        scores = [(known[row["prompt"], row["chosen"]], known[row["prompt"], row["rejected"]]) for row in pairs]
        figures = measure_pairs(pairs, scores, [row for row in train if row["lang"] == lang])
        found[lang] = Measured(figures, rights_of_pairs(scores), [row["group"] for row in pairs])
    return found


def by_language(rows: Sequence[R]) -> dict[str, list[R]]:
    """The rows of each language, in order; languages by their codes."""
    found: defaultdict[str, list[R]] = defaultdict(list)
    for row in rows:
        found[row["lang"]].append(row)
    return dict(sorted(found.items()))
