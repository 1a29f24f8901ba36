"""Fine-tuning inside `icr transfer`: a policy for every target, on its own demonstrations, on translated ones, or on
its own after a round trip through another language.

Wu et al. (arXiv 2404.12318) ask by this what alignment loses where a language has no demonstrations of its own; the
round trip separates what translation does to a text from what another language does.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.fields import Fields
from icr.base.problems import Collector, key_elsewhere, keys_behind
from icr.base.progress import Silent
from icr.config.sft import SftConfig
from icr.config.transfer import TransferConfig, TransferSft, language_of, side_of
from icr.endpoint.prices import Estimate
from icr.experiments.cells import Cell, Recorded
from icr.experiments.sft import RESULT, check_sft, do_sft
from icr.experiments.training import describe_training
from icr.experiments.transfer_task import instruct_demonstrations, task_setting
from icr.experiments.transfer_translate import describe_translation, plan_job, translation_cell
from icr.work.machine import Machine
from icr.work.steps import Step
from prompts.preferences.translate import DataJob

ELSEWHERE = {"sft.data": "data", "sft.template_arguments": "align.template_arguments"}
"""Keys of `icr sft` that are not at `sft.KEY`."""


@dataclass(frozen=True)
class FineTuning:
    """The cells that make the policies."""

    config: TransferConfig
    machine: Machine

    @property
    def sft(self) -> TransferSft:
        assert self.config.sft is not None
        return self.config.sft

    def cells(self) -> list[Cell]:
        """All translations, then all trainings."""
        translations = [
            self._translation(place) for place in self.config.places if plan_demonstrations(self.config, place)
        ]
        return [*translations, *(self._training(place) for place in self.config.places)]

    def _translation(self, place: str) -> Recorded:
        job = plan_demonstrations(self.config, place)
        assert job is not None
        describe = lambda: describe_translation(self.config, job)  # noqa: E731
        return translation_cell(job, f"sft-{place}", self.machine, describe)

    def jobs(self) -> list[DataJob]:
        """The translations of demonstrations."""
        return [job for place in self.config.places if (job := plan_demonstrations(self.config, place)) is not None]

    def estimate(self, names: Sequence[str]) -> Estimate:
        """The requests of the translations among these cells; nothing is sent."""
        total = Estimate(0, 0, 0, 0, 0.0)
        for job in self.jobs():
            if Path(job.out).parent.name in names:
                total += job.task().estimate(job.translator(Silent(), dry=True))
        return total

    def _training(self, place: str) -> Recorded:
        config, job = plan_sft(self.config, place), plan_demonstrations(self.config, place)
        folder = Path(config.run or "")

        def describe() -> Step:
            step = describe_training(config, config.base)
            settings: Fields = {f"sft.{key}": value for key, value in step.settings.items()}
            return Step("sft", step.inputs, settings | task_setting(self.config), elsewhere=ELSEWHERE)

        def work(step: Step, machine: Machine) -> Fields:
            inputs = check_sft(config, clustered=self.config.clustered)
            return do_sft(folder, config, instruct_demonstrations(self.config, inputs), machine)

        needs = () if job is None else (Path(job.out).parent.name,)
        holds = f"a policy fine-tuned in {language_of(place)}"
        files = "model", RESULT
        return Recorded(folder.name, folder, needs, self.machine, describe, work, files, holds)


def plan_demonstrations(config: TransferConfig, place: str) -> DataJob | None:
    """The translation that makes a place's demonstrations; None where people wrote them."""
    target, side = language_of(place), side_of(place)
    if side == "organic":
        return None
    assert config.sft is not None and config.sft.pivot is not None
    back, pivot = side == "back-translated", config.sft.pivot
    path = (target, pivot, target) if back else (pivot, target)
    out = Path(config.run or "").resolve() / "steps" / f"demonstrations-{'-'.join(path)}" / "data"
    job = plan_job(config, config.demonstrations, out, path[0], path[1])
    return job.model_copy(update={"back": back, "demonstrations": True})


def plan_sft(config: TransferConfig, place: str) -> SftConfig:
    """The training of a place's policy, as `icr sft` has it."""
    assert config.sft is not None and config.align is not None
    job = plan_demonstrations(config, place)
    return SftConfig.model_validate(
        {
            "run": str(Path(config.run or "").resolve() / "steps" / f"sft-{place}"),
            "base": config.align.policy or config.base,
            "chat_template": config.align.chat_template,
            "template_arguments": config.align.template_arguments,
            "data": {
                "path": config.demonstrations if job is None else job.out,
                "languages": [language_of(place)],
                "limit": config.data.limit,
            },
            "max_tokens": config.sft.max_tokens,
            "best": config.sft.best,
            "train": config.sft.train.model_dump(exclude_unset=True),
        }
    )


def check_fine_tuning(config: TransferConfig) -> None:
    """Raises ConfigError: everything that is wrong with demonstrations, trainings and the translator."""
    found, check = Collector(), keys_behind("sft.", ("train", "max_tokens"), check_sft)
    for key, users in (("chat_template", "align.chat_template"), ("data.languages", "languages.targets")):
        check = key_elsewhere(key, users, check)
    for place in config.places:
        job = plan_demonstrations(config, place)
        if job is None:
            found.attempt(None, check, plan_sft(config, place), clustered=config.clustered)
        else:
            found.attempt(None, job.checked)
    found.raise_any()
