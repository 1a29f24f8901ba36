"""The reward kind of explicit reward models."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from icr.base.errors import UserError
from icr.base.problems import Collector
from icr.base.shown import show_path
from icr.config.schema import Config, reward_models
from icr.engines.classifier import SCALE as LOGIT
from icr.engines.classifier import check_classifier
from icr.engines.templates import Template
from icr.rewards import Score, score_plainly
from icr.rounds.stages.kind import RewardKind
from icr.rounds.stages.measure import read_texts
from icr.rows import Response
from icr.work.classify import ClassifyTask


class Classified(RewardKind):
    """R_n: the logit of a sequence classifier, given x^ℓ; a text longer than it reads has no reward and is dropped.

    One classifier scores all languages, or each its own.
    """

    has_precision = True
    needs_english = False
    scale = LOGIT
    reasons = ("too_long",)

    @classmethod
    def describe(cls, config: Config) -> str:
        return "a reward model scores the answers"

    @classmethod
    def check(cls, config: Config) -> None:
        if not config.reward.model:
            raise UserError(
                "the reward model is missing",
                where="reward.model",
                do="name a sequence classifier there, or use another reward.kind",
            )
        languages = config.prompts.languages
        models = reward_models(config.reward, languages)
        if without := [lang for lang in languages if lang not in models]:
            do = "add one for each language of prompts.languages, or name one for all"
            raise UserError(f"no reward model for {', '.join(without)}", where="reward.model", do=do)
        found = Collector()
        for model in dict.fromkeys(models.values()):
            found.attempt("", check_classifier, model)
        found.raise_any()

    def measure(self) -> dict[str, object]:
        facts = super().measure()
        config, context = self.context.config, self.context
        models = reward_models(config.reward, context.languages)
        located = {model: check_classifier(model) for model in dict.fromkeys(models.values())}
        folders = context.machine.folders(set(located.values()), None)
        for model, found in located.items():
            self._classify(folders[found], [lang for lang, name in models.items() if name == model])
        shown = {lang: show_path(located[model], context.run.path) for lang, model in models.items()}
        return facts | {"model": next(iter(shown.values())) if isinstance(config.reward.model, str) else shown}

    def _classify(self, model: str, languages: Sequence[str]) -> None:
        """One classifier on the responses of the languages that it scores."""
        batch_tokens, template = self.context.config.reward.batch_tokens, Template(date=self.context.template.date)
        self._pass(
            self._name(languages[0]),
            lambda precision: ClassifyTask(
                model=model, template=template, precision=precision, batch_tokens=batch_tokens
            ),
            [row for lang in languages for row in self.read_responses(lang)],
            partial(read_texts, self.context),
        )

    def _name(self, lang: str) -> str:
        """Of the pass that scores a language: `classifier`, or with the first language of those that share one."""
        reward = self.context.config.reward
        if not isinstance(reward.model, dict):
            return "classifier"
        models = reward_models(reward, self.context.languages)
        return f"classifier-{next(other for other, model in models.items() if model == models[lang])}"

    def scores(self, responses: Sequence[Response], lang: str, *, again: bool = False) -> list[Score]:
        return score_plainly(self._measured(self._name(lang), responses, again), missing="too_long")
