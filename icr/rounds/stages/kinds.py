"""Every kind of reward behind one interface: heavy work in worker processes first, then scores of any responses.

`reward.kind: lidr` is none of these: it makes pairs without a reward (icr/lidr.py).
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from icr.base.errors import UserError
from icr.config.schema import Config
from icr.engines.classifier import SCALE as LOGIT
from icr.engines.classifier import check_classifier
from icr.engines.precision import Precision
from icr.reward_table import Scores
from icr.rewards import random_reward
from icr.rounds.stages.own_reward import OWN
from icr.rounds.stages.translate import read_translations, translate_responses
from icr.rows import Row
from icr.work.job import Pass

if TYPE_CHECKING:
    from icr.rounds.context import Context


Key = tuple[str, str, int]
"""(prompt id, language, sample)"""


class RewardKind(ABC):
    """A kind of reward, at work on one round. `reward.length_penalty` comes off afterwards, for every kind alike."""

    has_precision: ClassVar[bool] = False
    """Whether a model's forward pass decides, which a bf16 run checks on a few prompts in fp32."""

    def __init__(self, context: Context) -> None:
        """Do the heavy work, or what is left of it."""
        self.context = context
        self.precision: Precision | None = None
        self.checked: list[tuple[str, str]] = []
        """(prompt id, language) of the prompts that are scored again in fp32."""
        if self.has_precision:
            self.precision = context.runner.precision(context.config.reward.precision)
            self.checked = _spread(context) if self.precision == "bf16" else []
        self.facts: dict[str, Any] = {"kind": context.config.reward.kind, "precision": self.precision}
        """What the round's record says of the scoring."""

    @abstractmethod
    def scores(self, responses: Sequence[Row], lang: str, *, again: bool = False) -> Scores:
        """The rewards of RESPONSES rows of one language; `again`: from the fp32 pass, of `checked` prompts alone."""

    def _run(self, task: str, models: dict[str, str], label: str) -> None:
        """Measure the round by each of `models` (pass name → model), and the checked prompts in fp32, too."""
        precision = self.precision or "fp32"
        shared = self.context.shared
        passes = [
            Pass(name=name, model=model, precision=precision, folder=shared(name)) for name, model in models.items()
        ]
        if self.checked:
            passes += [
                Pass(
                    name=f"{name}-fp32", model=model, precision="fp32", only=self.checked, folder=shared(f"{name}-fp32")
                )
                for name, model in models.items()
            ]
        job = self.context.job(task=task, passes=passes)
        if any(job.scoring(part).of_worker(0, 1) for part in passes):
            self.context.runner.work(job, label, spread=True)
        self._values: dict[str, dict[Key, float | None]] = {
            part.name: {(r["prompt_id"], r["lang"], r["sample"]): r["value"] for r in job.scoring(part).rows()}
            for part in passes
        }

    def _measured(self, name: str, responses: Sequence[Row], again: bool) -> list[float | None]:
        values = self._values[f"{name}-fp32" if again else name]
        return [values[key] for key in _keys(responses)]


class LogRatio(RewardKind):
    """Eq. 9 and Eq. 12: β·[log π_θ(y|·) − log π_ref(y|·)]; the worker conditions as `icr.rewards.condition` says."""

    has_precision = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        initial = context.config.reward.reference == "initial"
        reference = context.reference if initial else context.previous
        self.facts["reference"] = reference
        self._run("logps", {"policy": context.policy, "reference": reference}, "log-probs")

    def scores(self, responses: Sequence[Row], lang: str, *, again: bool = False) -> Scores:
        policy, reference = (
            np.asarray(self._measured(name, responses, again), np.float64) for name in ("policy", "reference")
        )
        return Scores.implicit(policy, reference, self.context.config.reward.beta)


class Translated(LogRatio):
    """Eq. 13 and 14: the log-ratio of y's English translation, given x^en. English responses are scored as they are;
    a response without translation has no reward and is dropped."""

    REASON = "translation"

    def __init__(self, context: Context) -> None:
        others = [lang for lang in context.languages if lang != "en"]
        counts = translate_responses(context, [(lang, "en") for lang in others])
        self._failed = {
            (prompt_id, lang, sample)
            for lang in others
            for (prompt_id, sample), row in read_translations(context.round, lang, "en").items()
            if row["failed"] is not None
        }
        super().__init__(context)
        self.facts["translations"] = counts

    def scores(self, responses: Sequence[Row], lang: str, *, again: bool = False) -> Scores:
        failed = [key in self._failed for key in _keys(responses)]
        kept = super().scores([r for r, out in zip(responses, failed, strict=True) if not out], lang, again=again)

        def spread(values: Sequence[float | None]) -> list[float | None]:
            rest = iter(values)
            return [None if out else next(rest) for out in failed]

        return Scores(
            spread(kept.rewards),
            spread(kept.policy_logps),
            spread(kept.reference_logps),
            [self.REASON if out else None for out in failed],
            reasons=(self.REASON,),
        )


class Classified(RewardKind):
    """R_n: the logit of a sequence classifier, given x^ℓ; a text longer than it reads has no reward and is dropped."""

    has_precision = True

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        model = check_classifier(context.config.reward.model or "")
        self.facts["model"] = model
        self._run("classify", {"classifier": model}, "classifier")

    def scores(self, responses: Sequence[Row], lang: str, *, again: bool = False) -> Scores:
        return Scores.plain(self._measured("classifier", responses, again), LOGIT, "too_long")


class Random(RewardKind):
    """The control: a number from a hash, which knows nothing of the response."""

    def scores(self, responses: Sequence[Row], lang: str, *, again: bool = False) -> Scores:
        seed, number = self.context.config.sampling.seed, self.context.round.number
        rewards = [random_reward(seed, number, lang, r["prompt_id"], r["sample"]) for r in responses]
        return Scores.plain(rewards, "uniform in [0, 1)")


class Custom(RewardKind):
    """A user's own class."""

    def __init__(self, context: Context) -> None:
        super().__init__(context)
        self._run("custom", {"custom": ""}, "own reward")

    def scores(self, responses: Sequence[Row], lang: str, *, again: bool = False) -> Scores:
        return Scores.plain(self._measured("custom", responses, again), self.context.config.reward.kind)


KINDS: dict[str, type[RewardKind]] = {
    "cross-lingual": LogRatio,
    "multilingual": LogRatio,
    "translate": Translated,
    "model": Classified,
    "random": Random,
}


def open_kind(context: Context) -> RewardKind:
    """The round's reward kind, its heavy work done."""
    return KINDS.get(context.config.reward.kind, Custom)(context)


def check_kind(config: Config) -> None:
    """What of a reward kind can be known to be wrong before anything is loaded.

    Raises:
        UserError: `model` without a model or with one that is no classifier; `lidr` in English alone; a class of the
            user's own that cannot be imported or has no `rewards`.
    """
    kind, model = config.reward.kind, config.reward.model
    if kind == "model":
        if not model:
            raise UserError(
                "there is no reward model",
                where="reward.model",
                do="name a sequence classifier there, or take another reward.kind",
            )
        check_classifier(model)
    elif kind == "lidr":
        if set(config.prompts.languages) <= {"en"}:
            raise UserError(
                "LIDR makes its pairs between English and another language, and there is none",
                where="prompts.languages",
                do="add one, or take another reward.kind",
            )
    elif kind not in KINDS:
        OWN.load(kind)


def _keys(responses: Sequence[Row]) -> list[Key]:
    return [(r["prompt_id"], r["lang"], r["sample"]) for r in responses]


def _spread(context: Context) -> list[tuple[str, str]]:
    """Evenly spread prompts on which bf16 is compared with fp32."""
    every = context.inputs.prompts
    wanted = min(context.config.reward.flip_check, len(every))
    return [(p.id, p.lang) for p in (every[i * len(every) // wanted] for i in range(wanted))]
