"""The best of k candidates under one reward: answers for judges, and what they are worth for every k."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from eval.best_of_k import summarise_best
from eval.reward_models.scoring import short_name
from eval.xalpaca.alpaca_files import model_output
from eval.xalpaca.answers import Answer
from icr.base.conversation import load_conversation
from icr.base.fields import Fields
from icr.base.files import read_rows, write_json, write_rows
from icr.best_of_n import choose_best
from icr.config.best_of_n import BestOfNConfig
from icr.rows import make_schema

if TYPE_CHECKING:
    from icr.experiments.candidate_rewards import CandidateReward

RESULT = "best_of_k.json"


class CandidateScore(TypedDict):
    """A candidate under a reward: LANG.parquet of a folder of scores."""

    prompt_id: str
    lang: str
    sample: int
    score: float | None
    """None: there is none, and `dropped` says why."""
    tokens: int
    """Of the response, as sampled."""
    dropped: str | None


class BestAnswer(TypedDict):
    """The chosen candidate of a prompt: answers.parquet."""

    prompt_id: str
    lang: str
    sample: int
    prompt: str
    response: str
    finish_reason: str
    score: float


SCORES, ANSWERS = make_schema(CandidateScore), make_schema(BestAnswer)
Scored = Mapping[str, Sequence[float | None]]
"""Prompt id → the score of each candidate, by sample."""


def write_best(
    folder: Path, samples: Path, scores: Path, config: BestOfNConfig, reward: CandidateReward, k: int
) -> Fields:
    """`folder`: answers.parquet and LANG.json with the best of the first k candidates, and best_of_k.json.

    A prompt none of whose first k candidates has a score has no answer, which `languages` counts.

    Args:
        samples, scores: folders with LANG.parquet of the candidates and of their scores under the reward.

    Returns:
        The content of best_of_k.json.
    """
    source = Path(config.prompts.path).name
    generator = f"{short_name(config.model)}-best-of-{k}"
    scored: dict[str, Scored] = {}
    every: list[BestAnswer] = []
    facts: dict[str, Fields] = {}
    for lang in config.prompts.languages:
        scored[lang] = read_scores(scores / f"{lang}.parquet")
        chosen = _choose(samples / f"{lang}.parquet", scored[lang], k)
        write_json(folder / f"{lang}.json", [model_output(_answer(row), generator, source) for row in chosen])
        every += chosen
        values = [value for of_prompt in scored[lang].values() for value in of_prompt]
        facts[lang] = {
            "prompts": len(scored[lang]),
            "candidates": len(values),
            "too_long": sum(value is None for value in values),
            "without_answer": len(scored[lang]) - len(chosen),
        }
    write_rows(folder / "answers.parquet", every, ANSWERS)
    result: Fields = {
        "model": config.model,
        "reward": reward.given,
        "n": config.sampling.n,
        "k": k,
        "languages": facts,
        "best_of_k": summarise_best(scored, config.sampling.n, k),
    }
    write_json(folder / RESULT, result)
    return result


def read_scores(file: Path) -> Scored:
    """The scores of a table of SCORES."""
    rows: list[CandidateScore] = read_rows(file)
    found: defaultdict[str, list[float | None]] = defaultdict(list)
    for row in sorted(rows, key=lambda row: row["sample"]):  # stable: the prompts stay in their order
        found[row["prompt_id"]].append(row["score"])
    return found


def _choose(file: Path, scored: Scored, k: int) -> list[BestAnswer]:
    """The best of the first k candidates of each prompt."""
    places = {id: choose_best(scores, k) for id, scores in scored.items()}
    rows: list[BestAnswer] = read_rows(file, ["prompt_id", "lang", "sample", "prompt", "response", "finish_reason"])
    found = []
    for row in rows:
        if row["sample"] == places[row["prompt_id"]]:
            score = scored[row["prompt_id"]][row["sample"]]
            assert score is not None  # one without is not chosen
            found.append(BestAnswer(**{**row, "score": score}))
    return found


def _answer(row: BestAnswer) -> Answer:
    prompt = load_conversation(row["prompt"])
    return Answer(row["prompt_id"], prompt, row["response"], row["finish_reason"] == "length")
