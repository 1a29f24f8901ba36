"""`python -m icr.commands.worker JOB.json INDEX EVENTS`: heavy work, in a process that gives its memory back."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

from eval.tasks import agreement, mtbench_answers, mtbench_verdicts, nlp, verdicts
from icr.base.process import die_with_parent, reported
from icr.base.progress import EventFile
from icr.rounds.stages.measure import classify, custom, logps
from icr.rounds.stages.train import alignment, requests
from icr.work.job import Job
from icr.work.sampling import sample


def prepare(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """Make every model a folder that transformers and vLLM load."""
    from icr.engines.models import materialise

    folders = {}
    for done, name in enumerate(job.models):
        events.progress(done, len(job.models))
        folders[name] = materialise(name, job.config.models.chat_template)
    events.progress(len(job.models), len(job.models))
    return {"folders": folders}


def translate(job: Job, index: int, events: EventFile) -> dict[str, Any]:
    """The policy translates responses."""
    from icr.rounds.stages.translate import translate

    return translate(job, index, events)


TASKS = {
    "prepare": prepare,
    "alignment": alignment,
    "sample": sample,
    "answers": sample,
    "translate": translate,
    "logps": logps,
    "classify": classify,
    "custom": custom,
    "requests": requests,
    "verdicts": verdicts,
    "agreement": agreement,
    "mtbench-answers": mtbench_answers,
    "mtbench-verdicts": mtbench_verdicts,
    "nlp": nlp,
}


def main() -> int:
    die_with_parent()
    job_path, index, events_path = sys.argv[1:]
    events = EventFile(Path(events_path))

    def work() -> dict[str, Any]:
        job = Job.model_validate_json(Path(job_path).read_text(encoding="utf-8"))
        return TASKS[job.task](job, int(index), events)

    return reported(work, events)


if __name__ == "__main__":
    sys.exit(main())
