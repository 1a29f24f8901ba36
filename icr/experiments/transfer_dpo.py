"""DPO inside `icr transfer`: every reward model pairs the policy's own answers to a target's prompts, and the policy is
trained on the pairs.

This is how Hong et al. (arXiv 2410.18027) align with a reward model of another language. The pair of a prompt is its
best and its worst answer (Eq. 10); the policy that gave them is the reference of DPO (Eq. 11).
"""

from __future__ import annotations

import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.content import hash_file, identify_model
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_rows, write_rows
from icr.base.shown import show_path
from icr.config.load import flatten
from icr.config.schema import Reward
from icr.config.transfer import TransferConfig, language_of
from icr.config.transfer_align import TransferDpo
from icr.experiments.best_answers import CandidateScore
from icr.experiments.candidates import TOO_LONG
from icr.experiments.cells import Cell, Recorded
from icr.experiments.transfer_candidates import TargetCandidates
from icr.experiments.transfer_plan import AlignInputs, ModelPlan
from icr.experiments.transfer_task import instruct_text
from icr.experiments.transfer_trained import TrainedPolicies
from icr.pairs import PairResult, build_pairs
from icr.reward_table import reward_language
from icr.rewards import Score
from icr.rounds.stages.train import PairTraining, train_on_pairs
from icr.rows import PAIRS, Response
from icr.work.machine import Machine
from icr.work.settings import OPERATIONAL, USES
from icr.work.steps import Step
from loops.spec import CardFacts

METHOD = "Aligned by DPO on its base's own answers: the best and the worst of each prompt by a reward model."
LOGITS = "logits of a reward model"
"""What the rewards measure."""
OWN = ("prompts", "prompt_limit", "allow_overlap", "train")
"""Keys of `align.dpo` that do not decide which pairs are made of scored answers."""


@dataclass(frozen=True)
class Preference:
    """What the cells of DPO share."""

    config: TransferConfig
    run: Path
    inputs: AlignInputs
    machine: Machine

    @property
    def dpo(self) -> TransferDpo:
        assert self.config.align is not None and self.config.align.dpo is not None
        return self.config.align.dpo

    @property
    def candidates(self) -> TargetCandidates:
        """The answers that are trained on."""
        made = self.config, self.run, self.inputs.policy, self.inputs.training, self.machine
        return TargetCandidates(*made, training=True)

    def cells(self, models: Sequence[ModelPlan]) -> list[Cell]:
        """In an order in which they can be done: samples, scores, trainings, answers, verdicts."""
        of, places = self.candidates, self.config.trained_places(self.dpo)
        both = [(model, place) for place in places for model in models if model.serves(language_of(place))]
        return [
            *(of.samples(place) for place in places),
            *(of.scores(model, place) for model, place in both),
            *(self._training(model, place) for model, place in both),
            *TrainedPolicies("dpo", self.config, self.run, self.inputs, self.machine).cells(both),
        ]

    def _step(self, model: ModelPlan, place: str) -> Step:
        """What a trained policy depends on."""
        of = self.candidates
        inputs = {"scores": of.scoring(model, place).key, "policy": identify_model(of.policy_of(place))}
        template = of.plan(place).chat_template
        if template:
            inputs["chat template"] = hash_file(Path(template))
        settings: Fields = {f"align.dpo.{k}": v for k, v in self.dpo.model_dump(exclude=set(OWN)).items()}
        settings |= {f"align.dpo.train.{k}": v for k, v in flatten(self.dpo.train).items() if _decides(f"train.{k}")}
        return Step("dpo", inputs, settings)

    def _training(self, model: ModelPlan, place: str) -> Recorded:
        of, target = self.candidates, language_of(place)
        folder, scores = of.folder(f"dpo-{model.source}-{place}"), of.scores_name(model, place)

        def work(step: Step, machine: Machine) -> Fields:
            made, dropped = self._pair(model, place)
            write_rows(folder / "pairs.parquet", made.pairs, PAIRS)
            config, policy = of.plan(place), of.policy_of(place)
            facts = CardFacts(
                method=METHOD,
                tag="dpo",
                languages=[target],
                pairs=len(made.pairs),
                base=show_path(policy, self.run),
                reference=model.name,
            )
            job = PairTraining(
                objective="dpo",
                train=self.dpo.train,
                model=machine.folders({policy}, config.chat_template)[policy],
                pairs=folder / "pairs.parquet",
                output=folder / "model",
                work=folder,
                key=step.key,
                shard_size=config.sampling.shard_size,
                batch_tokens=Reward().batch_tokens,
                chat_template=config.chat_template,
                template_arguments=config.template_arguments,
                facts=facts,
                name=folder.name,
            )
            counts = train_on_pairs(machine, job)
            shutil.rmtree(folder / "reference", ignore_errors=True)
            return {**made.counts, "left_out": dropped, "training": counts}

        holds = f"a policy aligned in {target}"
        step = lambda: self._step(model, place)  # noqa: E731
        return Recorded(folder.name, folder, (scores,), self.machine, step, work, ("pairs.parquet", "model"), holds)

    def _pair(self, model: ModelPlan, place: str) -> tuple[PairResult, Fields]:
        """Best and worst answer of every prompt, and how many answers were left out for which reason."""
        of, target = self.candidates, language_of(place)
        responses: list[Response] = read_rows(of.folder(of.samples_name(place)) / f"{target}.parquet")
        scored: list[CandidateScore] = read_rows(of.folder(of.scores_name(model, place)) / f"{target}.parquet")
        found = {(row["prompt_id"], row["sample"]): row["score"] for row in scored}
        values = [found[row["prompt_id"], row["sample"]] for row in responses]
        scores = [Score(value, dropped=TOO_LONG if value is None else None) for value in values]
        names = {"length_penalty", "drop_truncated", "drop_wrong_language"}
        settings = Reward.model_validate(self.dpo.model_dump(include=names))
        rewarded = reward_language(responses, scores, settings, target, scale=LOGITS, reasons=[TOO_LONG])
        made = build_pairs(responses, rewarded.rows)
        if not made.pairs:
            why = ", ".join(f"{n} {reason.replace('_', ' ')}" for reason, n in made.counts["dropped"].items() if n)
            do = "raise align.best_of_n.temperature or n; the answers have to differ"
            raise UserError(f"no prompt in {target} gives a pair ({why})", where="align.best_of_n", do=do)
        for pair in made.pairs:
            pair["prompt"] = instruct_text(self.config, target, pair["prompt"])  # as asked, as its prompt_ids are
        return made, dict(rewarded.counts["dropped"])


def _decides(key: str) -> bool:
    """Whether the trained policy depends on a key of `train`."""
    return USES.get(key) != (OPERATIONAL,)
