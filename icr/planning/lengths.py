"""How long answers will be: as in earlier rounds, as in a probe, as in earlier runs, or as a table guesses."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq

from icr.base.rundir import RoundDir, RunDir
from icr.planning.formulas import capped_mean, uncapped_mean
from icr.planning.rates import Observation
from icr.planning.texts import Texts

GUESSED_CHARACTERS = 1_700
"""Of an answer: the mean of the paper's policies is 1,695 to 2,474 characters."""


@dataclass(frozen=True)
class Lengths:
    """Mean lengths of answers, by language."""

    uncapped: Mapping[str, float]
    """Tokens, before answers are cut off."""
    source: str
    """Where they are from, for people."""
    sampled: Mapping[str, float] | None = None
    """Tokens of a response as they were counted, where a round of this run has counted them."""
    answered: Mapping[str, float] | None = None
    """Tokens of an answer to a held-out prompt, likewise."""
    paired: Mapping[str, float] | None = None
    """Pairs for each prompt, likewise."""

    def response(self, lang: str, cap: int) -> float:
        """Mean tokens of a response of at most `cap` tokens."""
        if self.sampled and lang in self.sampled:
            return self.sampled[lang]
        return capped_mean(self.uncapped[lang], cap)

    def answer(self, lang: str, cap: int) -> float:
        """Mean tokens of an answer to a held-out prompt of at most `cap` tokens."""
        if self.answered and lang in self.answered:
            return self.answered[lang]
        return capped_mean(self.uncapped[lang], cap)

    def pairs(self, lang: str) -> float:
        """Pairs that a prompt gives; 1 where no round has said otherwise."""
        return self.paired.get(lang, 1.0) if self.paired else 1.0


def guess_lengths(texts: Texts) -> Lengths:
    """GUESSED_CHARACTERS in every language, in tokens as its prompts have them."""
    tokens = {lang: max(1.0, GUESSED_CHARACTERS * of.per_character) for lang, of in texts.prompts.items()}
    return Lengths(tokens, f"a guess of {GUESSED_CHARACTERS:,} characters in every language")


def lengths_of_runs(texts: Texts, observations: Sequence[Observation], cap: int) -> Lengths | None:
    """As in earlier runs of a model of this size with the same limit; None where there were none."""
    like = [o for o in observations if o.answers and o.limit == cap]
    if not like:
        return None
    mean = uncapped_mean(sum(o.tokens for o in like) / sum(o.answers for o in like), cap)
    return Lengths(dict.fromkeys(texts.prompts, mean), "earlier runs of a model of this size")


def probed_lengths(texts: Texts, tokens: Mapping[str, Sequence[int]], cap: int) -> Lengths:
    """As in a probe: the tokens of its responses by language. A language that it left out has the mean of all."""
    every = [n for of in tokens.values() for n in of]
    means = {lang: sum(tokens.get(lang) or every) / len(tokens.get(lang) or every) for lang in texts.prompts}
    uncapped = {lang: uncapped_mean(max(1.0, mean), cap) for lang, mean in means.items()}
    return Lengths(uncapped, f"a probe of {len(every)} prompts")


def read_lengths(run: RunDir, cap: int, number: int | None = None) -> Lengths | None:
    """As in the newest round of a run that has sampled, or in round `number`; None where none has.

    Args:
        cap: `sampling.max_tokens`.
    """
    rounds = [at for at in run.rounds() if number in (None, at.number)]
    sampled = [at for at in rounds if at.done("sample")]
    if not sampled:
        return None
    languages = sampled[-1].record.stages["sample"].counts.get("languages", {})
    means = {lang: of["tokens"] / max(1, of["responses"]) for lang, of in languages.items()}
    uncapped = {lang: uncapped_mean(max(1.0, mean), cap) for lang, mean in means.items()}
    found = Lengths(uncapped, f"round {sampled[-1].number} of this run", sampled=means)
    answers = [means for at in reversed(rounds) if (means := read_answers(at.judge / "answers"))]
    pairs = [of for at in reversed(rounds) if at.done("pair") and (of := _pairs(at))]
    return replace(found, answered=answers[0] if answers else None, paired=pairs[0] if pairs else None)


def read_answers(folder: Path) -> dict[str, float]:
    """Language → mean tokens of the answers in `folder`/LANG.parquet; {} where there are none."""
    found = {}
    for file in sorted(folder.glob("*.parquet")) if folder.is_dir() else ():
        tokens = pq.read_table(file, columns=["token_ids"])["token_ids"]
        found[file.stem] = float(pc.mean(pc.list_value_length(tokens)).as_py() or 0.0)
    return found


def _pairs(at: RoundDir) -> dict[str, float]:
    """Pairs for each prompt, from the counts of the stages sample and pair."""
    of_stage = at.record.stages["pair"].counts.get("languages", {})
    prompts = at.record.stages["sample"].counts.get("prompts", 0) / max(1, len(of_stage))
    return {lang: counts["pairs"] / max(1.0, prompts) for lang, counts in of_stage.items()}
