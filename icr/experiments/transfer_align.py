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
from icr.config.transfer import TransferConfig
from icr.experiments.best_answers import RESULT, write_best
from icr.experiments.cells import Cell, Recorded
from icr.experiments.judged_candidates import judge_candidates
from icr.experiments.transfer_candidates import TargetCandidates
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
        of, targets = self.candidates, self.config.languages.targets
        both = [(model, target) for target in targets for model in models if model.serves(target)]
        generator = f"{short_name(self.inputs.policy)}-best-by"
        return [
            *(of.samples(target) for target in targets),
            *(of.scores(model, target) for model, target in both),
            *(self._best(model, target) for model, target in both),
            *(
                of.verdicts(judge, f"best-{m.source}-{target}", f"{m.source}-{target}", target, f"{generator}-{m.name}")
                for judge in self.inputs.judges
                for m, target in both
            ),
            *(self._wins(judge, target) for judge in self._judges_of_all() for target in targets),
        ]

    def _choosing(self, model: ModelPlan, target: str) -> Step:
        return Step("best", {"scores": self.candidates.scoring(model, target).key}, {"align.best_of_n.k": self.k})

    def _best(self, model: ModelPlan, target: str) -> Recorded:
        of = self.candidates
        folder, scores = of.folder(f"best-{model.source}-{target}"), of.scores_name(model, target)

        def work(step: Step) -> Fields:
            samples, places = of.folder(of.samples_name(target)), of.folder(scores)
            found = write_best(folder, samples, places, of.plan(target), of.reward(model), self.k)
            counts: Fields = found["languages"][target]
            if counts["without_answer"] == counts["prompts"]:
                what = f"no candidate in {target} has a score: all are longer than {model.name} reads"
                raise UserError(what, where="align.best_of_n", do="lower max_tokens, or raise reward_model.max_tokens")
            return counts

        files = (f"{target}.json", "answers.parquet", RESULT)
        holds = f"best answers in {target}"
        return Recorded(folder.name, folder, (scores,), lambda: self._choosing(model, target), work, files, holds)

    def _judges_of_all(self) -> Sequence[Judging]:
        """Who compares every candidate."""
        assert self.config.align is not None
        return self.inputs.judges if self.config.align.judged == "all" else []

    def _wins(self, judge: Judging, target: str) -> Recorded:
        """What a judge says of all candidates in a target, which no source has a part in."""
        of = self.candidates
        folder, samples = of.folder(f"wins-{judge.name}-{target}"), of.folder(of.samples_name(target))

        def describe() -> Step:
            made = {
                "candidates": of.sampling(target).key,
                "judge": key_of_judge(judge.config, judge.models, XALPACA),
            }
            return Step("wins", made, {"judge.orders": judge.config.orders})

        def work(step: Step) -> Fields:
            model = judge.models.get(judge.config.local_model or "")
            located = self.machine.folders({model}, None)[model] if model else None
            date = start_date(self.run)
            asked = Asking.of(judge.config, located, self.machine, step.key, cache_path(folder, XALPACA), date)
            wins = judge_candidates(asked, samples, [target], None, folder, judge.config.orders)
            write_json(folder / WINS, wins)
            values = [value for of_prompt in wins[target].values() for value in of_prompt]
            return {"candidates": len(values), "unscored": sum(value is None for value in values)}

        again = lambda: has_failed(verdicts_folder(folder, XALPACA))  # noqa: E731
        holds = f"verdicts on candidates in {target}"
        return Recorded(folder.name, folder, (samples.name,), describe, work, (WINS,), holds, again)
