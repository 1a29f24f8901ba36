"""The kinds of reward that ship, and the one that a custom class is."""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property, partial
from typing import TYPE_CHECKING, ClassVar

import numpy as np
import pyarrow as pa

from icr.base.errors import UserError
from icr.config.schema import Config
from icr.engines.precision import Precision
from icr.lidr import OWN as OWN_ANSWER
from icr.lidr import Sides, others, pick_own
from icr.lidr import build_pairs as build_lidr_pairs
from icr.pairs import PairResult
from icr.reward_table import ScoredLanguage, measure_length
from icr.rewards import Score, random_reward, score_plainly, score_ratios
from icr.rounds.stages.classified import Classified
from icr.rounds.stages.kind import RewardKind, list_keys
from icr.rounds.stages.measure import (
    CustomTask,
    LogpsTask,
    Scored,
    read_conditions,
    read_sequences,
    read_texts,
)
from icr.rounds.stages.own_reward import OWN
from icr.rounds.stages.translate import translate_responses
from icr.rows import Response, read_rewards

if TYPE_CHECKING:
    from icr.rounds.context import Context


class LogRatio(RewardKind):
    """Eq. 9 and Eq. 12: β·[log π_θ(y|·) − log π_ref(y|·)]; the worker conditions as `icr.rewards.condition` says.

    A response that is longer than a model's context together with its condition, which may be longer than the prompt
    that it answers, has no reward and is dropped.
    """

    has_precision = True
    needs_reference = True
    reasons: ClassVar[tuple[str, ...]] = ("too_long",)

    @classmethod
    def describe(cls, config: Config) -> str:
        how = "in English" if config.reward.kind == "cross-lingual" else "in each language"
        return f"asking the English-aligned model, {how}, which answers it prefers: β·log(π_θ/π_ref)"

    def measure(self) -> dict[str, object]:
        facts = super().measure()
        initial = self.context.config.reward.reference == "initial"
        reference = self.context.reference if initial else self.context.previous
        rows = self._rows()
        for name, model in (("policy", self.context.policy), ("reference", reference)):
            self._pass(name, partial(self._make_task, model), rows, self._table)
        return facts | {"reference": self.context.name_of(reference)}

    def _make_task(self, model: str, precision: Precision) -> LogpsTask:
        config = self.context.config
        return LogpsTask(
            model=model,
            precision=precision,
            batch_tokens=config.reward.batch_tokens,
        )

    def _rows(self) -> list[Scored]:
        """What is scored: the responses."""
        return [*self.read_all()]

    def _table(self, rows: Sequence[Scored]) -> pa.Table:
        return read_sequences(self.context, self._conditions, rows)

    @cached_property
    def _conditions(self) -> dict[tuple[str, str], list[int]]:
        return read_conditions(self.context, self.context.config.reward.kind)

    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        policy, reference = (
            np.asarray(self._measured(name, responses, again), np.float64) for name in ("policy", "reference")
        )
        scored = score_ratios(policy, reference, self.context.config.reward.beta)
        too_long = np.isnan(policy) | np.isnan(reference)  # a score that was measured is finite
        return [Score(dropped="too_long") if out else score for out, score in zip(too_long, scored, strict=True)]


class Translated(LogRatio):
    """Eq. 13 and 14: the log-ratio of y's English translation, given x^en. English responses are scored as they are;
    a response without translation has no reward and is dropped."""

    reasons = ("translation", "too_long")

    @classmethod
    def describe(cls, config: Config) -> str:
        return "translating the answers, then asking the English-aligned model which it prefers"

    def measure(self) -> dict[str, object]:
        counts = translate_responses(self.context, [(lang, "en") for lang in others(self.context.languages)])
        self._failed = {
            (row["prompt_id"], lang, row["sample"])
            for lang in others(self.context.languages)
            for row in self.read_translations(lang, "en")
            if row["failed"] is not None
        }
        return super().measure() | {"translations": counts}

    def _rows(self) -> list[Scored]:
        """English responses, and the translations of the others."""
        rows: list[Scored] = [*self.read_responses("en")]
        for lang in others(self.context.languages):
            rows += [row for row in self.read_translations(lang, "en") if row["failed"] is None]
        return rows

    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        failed = [key in self._failed for key in list_keys(responses)]
        kept = [response for response, out in zip(responses, failed, strict=True) if not out]
        rest = iter(super().scores(kept, lang, again=again))
        return [Score(dropped="translation") if out else next(rest) for out in failed]


class Random(RewardKind):
    """The control: a number from a hash, which knows nothing of the response."""

    scale = "uniform in [0, 1)"
    needs_english = False

    @classmethod
    def describe(cls, config: Config) -> str:
        return "random rewards: the control"

    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        seed, number = self.context.config.sampling.seed, self.context.round.number
        return score_plainly([random_reward(seed, number, lang, r["prompt_id"], r["sample"]) for r in responses])


class Custom(RewardKind):
    """A custom class."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self.scale = context.config.reward.kind

    @classmethod
    def check(cls, config: Config) -> None:
        OWN.load(config.reward.kind)

    def measure(self) -> dict[str, object]:
        facts = super().measure()
        name = self.context.config.reward.kind
        self._pass("custom", lambda _: CustomTask(reward=name), self.read_all(), partial(read_texts, self.context))
        return facts

    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        return score_plainly(self._measured("custom", responses, again))


class Lidr(RewardKind):
    """The LIDR baseline: no rewards, but pairs of an own answer and a translation (icr/lidr.py has the rule)."""

    greedy = True
    scale = None

    @classmethod
    def describe(cls, config: Config) -> str:
        return "translating between English and the other languages: no reward is used"

    @classmethod
    def check(cls, config: Config) -> None:
        if not others(config.prompts.languages):
            raise UserError(
                "reward.kind lidr needs at least one language besides en",
                where="prompts.languages",
                do="add a language, or use another reward.kind",
            )

    def measure(self) -> dict[str, object]:
        return super().measure() | {"translations": translate_responses(self.context, self._ways(), [OWN_ANSWER])}

    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        return [Score()] * len(responses)

    def reward(self, lang: str) -> ScoredLanguage:
        """Own answers alone: which of them a filter takes out."""
        return self._reward(pick_own(self.read_responses(lang)), lang)

    def pairs(self) -> dict[str, PairResult]:
        """The pairs of each language, from the translations and from what filters took out."""
        languages, config = self.context.languages, self.context.config.reward
        own = {lang: pick_own(self.read_responses(lang)) for lang in languages}
        sides = Sides()
        for lang, target in self._ways():
            rewards = read_rewards(self.context.round.rewards / f"{lang}.parquet")
            taken_out = {row["prompt_id"] for row in rewards if row["dropped"]}
            sides.add(own[lang], taken_out, lang, target, self.read_translations(lang, target))
        return {
            lang: build_lidr_pairs(
                sides,
                own[lang],
                others(languages) if lang == "en" else ["en"],
                lambda text, token_ids: measure_length(text, token_ids, config),
            )
            for lang in languages
        }

    def _ways(self) -> list[tuple[str, str]]:
        """What is translated: (from, to)."""
        return [way for lang in others(self.context.languages) for way in ((lang, "en"), ("en", lang))]


KINDS: dict[str, type[RewardKind]] = {
    "cross-lingual": LogRatio,
    "multilingual": LogRatio,
    "translate": Translated,
    "model": Classified,
    "random": Random,
    "lidr": Lidr,
}


def find_kind(name: str) -> type[RewardKind]:
    """The class of a `reward.kind`; every other name is a custom reward's."""
    return KINDS.get(name, Custom)


def open_kind(context: Context) -> RewardKind:
    """The round's reward kind; nothing is started yet."""
    return find_kind(context.config.reward.kind)(context)


def check_kind(config: Config) -> None:
    """Find what is wrong with a reward kind before anything is loaded.

    Raises:
        UserError: `model` without a model or with one that is not a classifier; `lidr` in English alone; a custom class
            that cannot be imported or has no `rewards`.
    """
    find_kind(config.reward.kind).check(config)


def describe_kind(config: Config) -> str:
    """What scoring with this reward kind does, in a line."""
    return find_kind(config.reward.kind).describe(config)


def needs_english(config: Config) -> bool:
    """Whether the reward reads English prompts; without it no language needs them."""
    return find_kind(config.reward.kind).needs_english


def compares_models(config: Config) -> bool:
    """Whether the reward compares the policy with the reference, which must then be two models."""
    return find_kind(config.reward.kind).needs_reference


def samples_greedily(name: str) -> bool:
    """Whether a `reward.kind` takes one greedy response a prompt and ignores `sampling`'s n, temperature and top_p."""
    return find_kind(name).greedy


def scores_policy(name: str) -> bool:
    """Whether a `reward.kind` is made of log-probs under the policy."""
    return issubclass(find_kind(name), LogRatio)
