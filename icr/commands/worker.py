"""`python -m icr.commands.worker CHANNEL DEPTH`: a worker of the local pool, with the tasks of all rooms."""

from __future__ import annotations

from collections.abc import Mapping

from eval.judges import answering
from eval.mtbench import sampling as mtbench_sampling
from eval.mtbench import writing
from eval.nlp import measuring
from icr.rounds.stages import measure, train, translate
from icr.work import classify, encode, prepare, represent, sampling
from icr.work.pool import Task
from icr.work.probe import EngineProbeTask, ProbeTask
from icr.work.resident import Resident
from icr.work.serve import Function, serve

REGISTERED: tuple[tuple[type[Task], Function[Resident]], ...] = (
    (prepare.PrepareTask, prepare.prepare),
    (ProbeTask, measure.score_probe),
    (EngineProbeTask, measure.ask_engine),
    (sampling.SampleTask, sampling.sample),
    (translate.TranslateTask, translate.translate),
    (measure.EncodeConditionsTask, measure.encode_conditions),
    (measure.LogpsTask, measure.sum_logps),
    (classify.ReadTask, classify.read),
    (classify.ClassifyTask, classify.classify),
    (encode.EncodeAnswersTask, encode.encode_answers),
    (represent.RepresentTask, represent.represent),
    (measure.CustomTask, measure.call_custom),
    (train.EncodeTask, train.encode_pairs),
    (train.ReferenceTask, train.score_requests),
    (answering.AskTask, answering.ask),
    (answering.AskLocalTask, answering.ask_local),
    (mtbench_sampling.AnswerTask, mtbench_sampling.answer_questions),
    (writing.WriteTask, writing.write),
    (writing.WriteLocalTask, writing.write_local),
    (measuring.PlanTask, measuring.plan),
    (measuring.FetchTask, measuring.fetch),
    (measuring.MeasureTask, measuring.measure),
)
TASKS: Mapping[str, tuple[type[Task], Function[Resident]]] = {task.name: (task, work) for task, work in REGISTERED}
"""Registered name → payload class and function. What is heavy is imported inside the functions."""


def main() -> None:
    serve(TASKS, Resident())


if __name__ == "__main__":
    main()
