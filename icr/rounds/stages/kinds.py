"""Every kind of reward behind one interface: heavy work in worker processes first, then scores of any responses."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Sequence
from functools import partial
from typing import TYPE_CHECKING, ClassVar, TypeVar

import numpy as np
import pyarrow as pa

from icr.base.errors import UserError
from icr.config.schema import Config
from icr.engines.classifier import SCALE as LOGIT
from icr.engines.classifier import check_classifier
from icr.engines.precision import Precision
from icr.lidr import OWN as OWN_ANSWER
from icr.lidr import Sides, others, pick_own
from icr.lidr import build_pairs as build_lidr_pairs
from icr.pairs import PairResult, build_pairs
from icr.reward_table import ScoredLanguage, measure_length, reward_language
from icr.rewards import LOG_RATIO, Score, random_reward, score_plainly, score_ratios
from icr.rounds.stages.measure import (
    ClassifyTask,
    CustomTask,
    Key,
    LogpsTask,
    Scored,
    measure,
    read_sequences,
    read_texts,
)
from icr.rounds.stages.own_reward import OWN
from icr.rounds.stages.translate import file_name, translate_responses
from icr.rows import Response, Translation, read_responses, read_rewards, read_translations
from icr.work.pool import Task

if TYPE_CHECKING:
    from icr.rounds.context import Context


T = TypeVar("T", bound=Scored)
MakeTask = Callable[[Precision], Task]


class RewardKind(ABC):
    """A kind of reward, at work on one round. Making one starts nothing; `measure` comes before `scores` and `reward`.

    The length penalty of Eq. 15 comes off after `scores`, for every kind alike.
    """

    greedy: ClassVar[bool] = False
    """Whether it takes one greedy response a prompt, whatever `sampling` says."""
    has_precision: ClassVar[bool] = False
    """Whether a model's forward pass decides, which a bf16 run checks on a few prompts in fp32."""
    scale: str | None = LOG_RATIO
    """What the rewards measure, for lengths.json. None: it gives no rewards."""
    reasons: ClassVar[tuple[str, ...]] = ()
    """Why it may be unable to reward a response."""

    def __init__(self, context: Context) -> None:
        self.context = context
        self.precision: Precision | None = None
        self.checked: list[tuple[str, str]] = []
        """(prompt id, language) of the prompts that are scored again in fp32; known once `measure` is done."""
        self._values: dict[str, dict[Key, float | None]] = {}

    @classmethod  # noqa: B027 - most kinds have nothing to check
    def check(cls, config: Config) -> None:
        """What can be known to be wrong before anything is loaded. Raises UserError."""

    def measure(self) -> dict[str, object]:
        """Do the heavy work, or what is left of it. Returns what the round's record says of it."""
        if self.has_precision:
            self.precision = self.context.machine.precision(self.context.config.reward.precision)
            self.checked = _spread(self.context) if self.precision == "bf16" else []
        return {"kind": self.context.config.reward.kind, "precision": self.precision}

    @abstractmethod
    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        """One score a response, all of language `lang`; `again`: from the fp32 pass, of `checked` prompts alone."""

    def reward(self, lang: str) -> ScoredLanguage:
        """The rewards of one language's responses, their penalty taken off."""
        return self._reward(self.read_responses(lang), lang)

    def pairs(self) -> dict[str, PairResult]:
        """The pairs of each language, once its rewards are in the round's folder: best and worst (Eq. 10)."""
        rewards = self.context.round.rewards
        return {
            lang: build_pairs(self.read_responses(lang), read_rewards(rewards / f"{lang}.parquet"))
            for lang in self.context.languages
        }

    def read_responses(self, lang: str) -> list[Response]:
        """The round's responses in one language."""
        return read_responses(self.context.round.responses / f"{lang}.parquet")

    def read_all(self) -> list[Response]:
        """The responses of all languages."""
        return [row for lang in self.context.languages for row in self.read_responses(lang)]

    def read_translations(self, lang: str, target: str) -> list[Translation]:
        """Translations of the round's responses in `lang`."""
        return read_translations(self.context.round.translations / f"{file_name(lang, target)}.parquet")

    def _reward(self, responses: Sequence[Response], lang: str) -> ScoredLanguage:
        scores, config = self.scores(responses, lang), self.context.config.reward
        return reward_language(responses, scores, config, lang, scale=self.scale, reasons=self.reasons)

    def _pass(
        self, name: str, make_task: MakeTask, rows: Sequence[T], table: Callable[[Sequence[T]], pa.Table]
    ) -> None:
        """Measure rows once, and those of the checked prompts in fp32 as well.

        Args:
            name: of the pass, and of its values for `_measured`.
            make_task: from a precision to the workers' task.
            table: from rows to the task's table.
        """
        task, label = make_task(self.precision or "fp32"), f"{self.context.config.reward.kind} reward: {name}"
        self._values[name] = measure(self.context, name, task, table(rows), label)
        if self.checked:
            checked = set(self.checked)
            again = [row for row in rows if (row["prompt_id"], row["lang"]) in checked]
            again_name = f"{name}-fp32"
            self._values[again_name] = measure(self.context, again_name, make_task("fp32"), table(again), label)

    def _measured(self, name: str, responses: Sequence[Response], again: bool) -> list[float | None]:
        values = self._values[f"{name}-fp32" if again else name]
        return [values[key] for key in _keys(responses)]


class LogRatio(RewardKind):
    """Eq. 9 and Eq. 12: β·[log π_θ(y|·) − log π_ref(y|·)]; the worker conditions as `icr.rewards.condition` says."""

    has_precision = True

    def measure(self) -> dict[str, object]:
        facts = super().measure()
        initial = self.context.config.reward.reference == "initial"
        reference = self.context.reference if initial else self.context.previous
        rows = self._rows()
        for name, model in (("policy", self.context.policy), ("reference", reference)):
            self._pass(name, partial(self._make_task, model), rows, self._table)
        return facts | {"reference": reference}

    def _make_task(self, model: str, precision: Precision) -> LogpsTask:
        config = self.context.config
        return LogpsTask(
            model=model,
            tokenizer=self.context.policy,
            chat_template=config.models.chat_template,
            precision=precision,
            batch_tokens=config.reward.batch_tokens,
        )

    def _rows(self) -> list[Scored]:
        """What is scored: the responses."""
        return [*self.read_all()]

    def _table(self, rows: Sequence[Scored]) -> pa.Table:
        return read_sequences(self.context, self.context.config.reward.kind, rows)

    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        policy, reference = (
            np.asarray(self._measured(name, responses, again), np.float64) for name in ("policy", "reference")
        )
        return score_ratios(policy, reference, self.context.config.reward.beta)


class Translated(LogRatio):
    """Eq. 13 and 14: the log-ratio of y's English translation, given x^en. English responses are scored as they are;
    a response without translation has no reward and is dropped."""

    reasons = ("translation",)

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
        failed = [key in self._failed for key in _keys(responses)]
        kept = [response for response, out in zip(responses, failed, strict=True) if not out]
        rest = iter(super().scores(kept, lang, again=again))
        return [Score(dropped="translation") if out else next(rest) for out in failed]


class Classified(RewardKind):
    """R_n: the logit of a sequence classifier, given x^ℓ; a text longer than it reads has no reward and is dropped."""

    has_precision = True
    scale = LOGIT
    reasons = ("too_long",)

    @classmethod
    def check(cls, config: Config) -> None:
        if not config.reward.model:
            raise UserError(
                "there is no reward model",
                where="reward.model",
                do="name a sequence classifier there, or take another reward.kind",
            )
        check_classifier(config.reward.model)

    def measure(self) -> dict[str, object]:
        facts = super().measure()
        model = check_classifier(self.context.config.reward.model or "")
        batch_tokens = self.context.config.reward.batch_tokens
        self._pass(
            "classifier",
            lambda precision: ClassifyTask(model=model, precision=precision, batch_tokens=batch_tokens),
            self.read_all(),
            partial(read_texts, self.context),
        )
        return facts | {"model": model}

    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        return score_plainly(self._measured("classifier", responses, again), missing="too_long")


class Random(RewardKind):
    """The control: a number from a hash, which knows nothing of the response."""

    scale = "uniform in [0, 1)"

    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        seed, number = self.context.config.sampling.seed, self.context.round.number
        return score_plainly([random_reward(seed, number, lang, r["prompt_id"], r["sample"]) for r in responses])


class Custom(RewardKind):
    """A user's own class."""

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
    def check(cls, config: Config) -> None:
        if not others(config.prompts.languages):
            raise UserError(
                "reward.kind lidr needs at least one language besides en",
                where="prompts.languages",
                do="add a language, or take another reward.kind",
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
    """What of a reward kind can be known to be wrong before anything is loaded.

    Raises:
        UserError: `model` without a model or with one that is not a classifier; `lidr` in English alone; a custom class
            that cannot be imported or has no `rewards`.
    """
    find_kind(config.reward.kind).check(config)


def samples_greedily(name: str) -> bool:
    """Whether a `reward.kind` takes one greedy response a prompt, whatever `sampling` says."""
    return find_kind(name).greedy


def _keys(responses: Sequence[Response]) -> list[Key]:
    return [(r["prompt_id"], r["lang"], r["sample"]) for r in responses]


def _spread(context: Context) -> list[tuple[str, str]]:
    """Evenly spread prompts on which bf16 is compared with fp32."""
    every = context.inputs.prompts
    wanted = min(context.config.reward.flip_check, len(every))
    return [(p.id, p.lang) for p in (every[i * len(every) // wanted] for i in range(wanted))]
