"""The implicit reward of any two models as a row beside reward models: Eq. 12 on texts that somebody else wrote."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import pyarrow as pa

from eval.reward_models.accuracy import Score
from eval.reward_models.judged import JudgeRow, find_judge
from eval.reward_models.rows import RewardRow, Workplace, find_classifiers, refuse_twice
from eval.reward_models.scoring import SHARD, group_texts, short_name
from icr.base.content import hash_rows, hash_value, identify_model
from icr.base.problems import Collector
from icr.base.rundir import start_date
from icr.engines.check import find_folder
from icr.engines.models import check_same_vocabulary
from icr.engines.templates import Template
from icr.experiments.candidate_rewards import fill_logps, ratios_of, read_two_models
from icr.rounds.stages.measure import SEQUENCES
from icr.work.classify import PROMPTED
from icr.work.encode import EncodeAnswersTask
from icr.work.shards import cut_table

KEY = "--implicit"


@dataclass(frozen=True)
class ImplicitRow:
    """β·[log π_θ(y|x) − log π_ref(y|x)] (Eq. 12): a response given its own prompt, in the policy's chat template."""

    kind: ClassVar[str] = "implicit reward"
    name: str
    policy: str
    reference: str
    """Both located."""
    beta: float

    @property
    def models(self) -> Sequence[str]:
        return [self.policy, self.reference]

    def open(self, at: Workplace) -> ImplicitScorer:
        return ImplicitScorer(self, at)


@dataclass(frozen=True)
class ImplicitScorer:
    """The row at work."""

    row: ImplicitRow
    at: Workplace

    def scores(self, texts: Sequence[tuple[str, str]]) -> list[Score]:
        """As `TextScorer.scores`. The end of the turn is a token of the response, as in a sampled one."""
        row, at = self.row, self.at
        policy, reference = (at.folders[model] for model in row.models)
        check_same_vocabulary(policy, reference, f"{KEY} {row.policy},{row.reference}", DO)
        different = group_texts(texts)
        made_of = hash_rows([{"prompt": p, "response": r} for p, r in different])
        models = hash_value([identify_model(model) for model in row.models])
        folder = at.out / "scores" / f"implicit-{models[:16]}" / made_of[:16] / at.precision
        table = self._sequences(different, policy, folder / "tokens")
        values = [
            fill_logps(at.machine, folder / name, model, at.precision, table, f"scores: {row.name}, {name}")
            for name, model in (("policy", policy), ("reference", reference))
        ]
        known = dict(zip(different, ratios_of(values[0], values[1], row.beta), strict=True))
        return [known[text] for text in texts]

    def _sequences(self, texts: Sequence[tuple[str, str]], policy: str, folder: Path) -> pa.Table:
        """SEQUENCES of the texts, in their order."""
        task = EncodeAnswersTask(model=policy, template=Template(date=start_date(self.at.out)))
        columns = {"prompt": [prompt for prompt, _ in texts], "response": [response for _, response in texts]}
        shards = cut_table(pa.table(columns, schema=PROMPTED), SHARD)
        tables, _ = self.at.machine.fill(folder, task, shards, f"tokens: {self.row.name}")
        encoded = pa.concat_tables(tables)
        numbers = {prompt: str(number) for number, prompt in enumerate(dict.fromkeys(columns["prompt"]))}
        keys = {
            "prompt_id": [numbers[prompt] for prompt in columns["prompt"]],
            "lang": [""] * len(texts),
            "sample": list(range(len(texts))),
            "condition_ids": encoded["prompt_ids"],
            "token_ids": encoded["response_ids"],
        }
        return pa.table(keys).select(SEQUENCES.names).cast(SEQUENCES)


DO = "name two models with one tokenizer: what they say of the same tokens is subtracted"


def read_implicit(given: str, beta: float) -> ImplicitRow:
    """An `--implicit`: POLICY,REFERENCE.

    Raises:
        UserError, ConfigError: everything that is wrong with the models.
    """
    policy, reference = read_two_models(given, KEY)
    folders = [find_folder(model) for model in (policy, reference)]
    if all(folders):
        check_same_vocabulary(str(folders[0]), str(folders[1]), f"{KEY} {given}", DO)
    return ImplicitRow(f"implicit-{short_name(given.partition(',')[0].strip())}", policy, reference, beta)


def find_rows(
    models: Sequence[str], implicit: Sequence[str], beta: float, judges: Sequence[str], overrides: Sequence[str]
) -> tuple[list[RewardRow], list[JudgeRow]]:
    """Everything that a command is asked to measure, checked before anything is loaded.

    Args:
        models: reward models.
        implicit: POLICY,REFERENCE each.
        judges: of `--judge`; `overrides` are of `--set`.

    Raises:
        ConfigError: everything that is wrong.
    """
    found = Collector()
    rows: list[RewardRow] = [*found.attempt([], find_classifiers, models)]
    ratios = [found.attempt(None, read_implicit, given, beta) for given in implicit]
    rows += [row for row in ratios if row is not None]
    read = [found.attempt(None, find_judge, given, overrides) for given in judges]
    asked = [judge for judge in read if judge is not None]
    names = [row.name for row in rows] + [judge.name for judge in asked]
    found.attempt(None, _check_names, names, ", ".join([*models, *implicit, *judges]))
    found.raise_any()
    return rows, asked


def _check_names(names: Sequence[str], where: str) -> None:
    """Raises UserError where two rows have one name."""
    for place, name in enumerate(names):
        if name in names[:place]:
            raise refuse_twice(name, where)
