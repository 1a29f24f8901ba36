"""Best of n inside `icr transfer`: candidates per target once, scores per source, best answers, verdicts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.evaluate import key_of_judge
from eval.folders import cache_path, verdicts_folder
from eval.judges.asking import Judging as Asking
from eval.judges.asking import has_failed
from eval.reward_models.scoring import short_name
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import write_json
from icr.base.rundir import start_date
from icr.config.evaluation import Benchmark
from icr.config.transfer import TransferConfig, language_of
from icr.experiments.best_answers import RESULT, write_best
from icr.experiments.cells import Cell, Recorded
from icr.experiments.judged_candidates import judge_candidates
from icr.experiments.transfer_candidates import FIRST, TargetCandidates
from icr.experiments.transfer_plan import AlignInputs, Judging, ModelPlan
from icr.work.machine import Machine
from icr.work.steps import Step

XALPACA: Benchmark = "xalpaca"
WINS = "wins.json"
"""Of a judge and target: prompt id → its preference for each candidate over the first one."""


@dataclass(frozen=True)
class Alignment:
    """What the cells of best of n share."""

    config: TransferConfig
    run: Path
    inputs: AlignInputs
    machine: Machine

    @property
    def k(self) -> int:
        assert self.config.align is not None
        best = self.config.align.best_of_n
        return best.k or best.n

    @property
    def candidates(self) -> TargetCandidates:
        return TargetCandidates(self.config, self.run, self.inputs.policy, self.inputs.prompts, self.machine)

    def cells(self, models: Sequence[ModelPlan]) -> list[Cell]:
        """In an order in which they can be done: all samples, all scores, all best answers, all verdicts."""
        of, places = self.candidates, self.config.places
        both = [(model, place) for place in places for model in models if model.serves(language_of(place))]
        return [
            *(of.samples(place) for place in places),
            *(of.scores(model, place) for model, place in both),
            *(self._best(model, place) for model, place in both),
            *(self._verdicts(judge, model, place) for judge in self.inputs.judges for model, place in both),
            *(self._wins(judge, place) for judge in self._judges_of_all() for place in places),
        ]

    def _verdicts(self, judge: Judging, model: ModelPlan, place: str) -> Recorded:
        label, of = f"{model.source}-{place}", self.candidates
        generator = f"{short_name(self.inputs.policy)}-best-by-{model.name}"
        return of.verdicts(judge, f"best-{label}", label, language_of(place), generator)

    def _choosing(self, model: ModelPlan, place: str) -> Step:
        return Step("best", {"scores": self.candidates.scoring(model, place).key}, {"align.best_of_n.k": self.k})

    def _best(self, model: ModelPlan, place: str) -> Recorded:
        of, target = self.candidates, language_of(place)
        folder, scores = of.folder(f"best-{model.source}-{place}"), of.scores_name(model, place)

        def work(step: Step, machine: Machine) -> Fields:
            samples, scored = of.folder(of.samples_name(place)), of.folder(scores)
            found = write_best(folder, samples, scored, of.plan(place), of.reward(model), self.k)
            counts: Fields = found["languages"][target]
            if counts["without_answer"] == counts["prompts"]:
                what = f"no candidate in {target} has a score: all are longer than {model.name} reads"
                raise UserError(what, where="align.best_of_n", do="lower max_tokens, or raise reward_model.max_tokens")
            return counts

        files = (f"{target}.json", "answers.parquet", RESULT)
        holds = f"best answers in {target}"
        return Recorded(
            folder.name, folder, (scores,), self.machine, lambda: self._choosing(model, place), work, files, holds
        )

    def _judges_of_all(self) -> Sequence[Judging]:
        """Who compares every candidate."""
        assert self.config.align is not None
        return self.inputs.judges if self.config.align.judged == "all" else []

    def _wins(self, judge: Judging, place: str) -> Recorded:
        """What a judge says of all candidates in a place, which no source has a part in."""
        of, target = self.candidates, language_of(place)
        folder, samples = of.folder(f"wins-{judge.name}-{place}"), of.folder(of.samples_name(place))
        organic = of.folder(of.samples_name(target))

        def describe() -> Step:
            made = {
                "candidates": of.sampling(place).key,
                "judge": key_of_judge(judge.config, judge.models, XALPACA),
            }
            made |= {"baseline": of.sampling(target).key} if organic != samples else {}
            return Step("wins", made, {"judge.orders": judge.config.orders}, elsewhere={"judge": "judges"})

        def work(step: Step, machine: Machine) -> Fields:
            model = judge.models.get(judge.config.local_model or "")
            located = machine.folders({model}, None)[model] if model else None
            date = start_date(self.run)
            asked = Asking.of(judge.config, located, machine, step.key, cache_path(folder, XALPACA), date)
            baseline = organic / FIRST if organic != samples else None
            wins = judge_candidates(asked, samples, [target], baseline, folder, judge.config.orders)
            write_json(folder / WINS, wins)
            values = [value for of_prompt in wins[target].values() for value in of_prompt]
            return {"candidates": len(values), "unscored": sum(value is None for value in values)}

        again = lambda: has_failed(verdicts_folder(folder, XALPACA))  # noqa: E731
        holds = f"verdicts on candidates in {target}"
        needs = tuple(dict.fromkeys((samples.name, organic.name)))
        return Recorded(
            folder.name, folder, needs, self.machine, describe, work, (WINS,), holds, again, asks=judge.is_endpoint
        )
