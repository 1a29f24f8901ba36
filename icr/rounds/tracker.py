"""`train.report_to`: a run folder is one run of an experiment tracker, from its first stage to its last.

The driver reads what the stages have written and passes it on, also while a training goes on. So the trainings, which
are processes of their own, need no tracker. Trackers are reached through transformers' callbacks for them.
"""

from __future__ import annotations

import os
import sys
import threading
import uuid
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, cast

from icr.base.fields import Fields
from icr.base.files import read_json, read_object, write_json
from icr.base.metrics import Metrics, read_metrics
from icr.base.rundir import RoundDir, RunDir, Stage, StageRecord
from icr.base.shown import hide_paths
from icr.config.schema import Config

if TYPE_CHECKING:
    from transformers import TrainerCallback, TrainerControl, TrainerState, TrainingArguments

EVERY = 15.0
"""Seconds between two looks at a training that goes on."""
RATES = ("win_rate", "lc_win_rate")
STAGES: tuple[Stage, ...] = ("sample", "score", "pair", "train", "judge")


class Tracker:
    """Sends what is new in a run folder. What was sent is in RUN/tracker.json, so a resumed run sends nothing twice."""

    def __init__(self, run: RunDir, config: Config, note: Callable[[str], None], *, live: bool = True) -> None:
        """Nothing is opened before the first value, and nothing at all if `train.report_to` is none.

        Args:
            live: whether values are sent as they come; otherwise all are sent by `close`.
        """
        self._run, self._config, self._note, self._live = run, config, note, live
        names = [name.strip() for name in config.train.report_to.split(",")]
        self._names = [name for name in names if name not in ("", "none")]
        self._callbacks: list[TrainerCallback] = []
        self._lock, self._ended = threading.Lock(), threading.Event()
        self._watcher = threading.Thread(target=self._watch, daemon=True)
        if self._names:
            self._file = run.path / "tracker.json"
            self._sent: Fields = read_json(self._file) if self._file.exists() else {"id": uuid.uuid4().hex[:8]}
            if live:
                self._watcher.start()

    def update(self) -> None:
        """Send what the stages have written since the last call. A tracker that fails never ends a run."""
        with self._lock:
            if not self._names or not self._live:
                return
            try:
                self._send_new()
            except Exception as error:  # of any package, network or half-written file
                self._names = []
                self._note(f"{self._config.train.report_to} gets no more values: {type(error).__name__}: {error}")

    def close(self) -> None:
        """Send the rest, and end the tracker's run."""
        self._ended.set()
        self._live = True
        self.update()
        try:
            for callback in self._callbacks:
                callback.on_train_end(*self._state, model=None)
            if self._callbacks and (wandb := sys.modules.get("wandb")) is not None:
                wandb.finish()  # its callback leaves the run open, and another run folder may follow in this process
        except Exception as error:
            self._note(f"{self._config.train.report_to} did not end its run: {type(error).__name__}: {error}")
        self._callbacks = []

    def _watch(self) -> None:
        while not self._ended.wait(EVERY):
            self.update()

    def _send_new(self) -> None:
        stages = self._sent.setdefault("stages", {})
        before = 0  # optimiser steps of all rounds before
        for at in self._run.rounds():
            records, last = at.record.stages, before
            for stage in STAGES:
                if stage == "train":  # or English alignment
                    last += self._send_training(at, before)
                    continue
                record, name = records.get(stage), f"{at.number}/{stage}"
                if record and record.state == "done" and stages.get(name) != record.finished:
                    self._log(last if stage == "judge" else before, at.number, describe_stage(at, stage, record))
                    stages[name] = record.finished
            before = last
        if self._callbacks:
            write_json(self._file, self._sent)

    def _send_training(self, at: RoundDir, before: int) -> int:
        """The new lines of a training, also of its validations. Returns its steps so far."""
        steps, last = self._sent.setdefault("steps", {}), 0
        for file, prefix in (("metrics.jsonl", ""), ("validation.jsonl", "eval_")):
            name = f"{at.number}/{file}"
            for row in read_metrics(path) if (path := at.train / file).exists() else []:
                last = max(last, int(row["step"]))
                if row["step"] > steps.get(name, 0):
                    values = {f"{prefix}{key}": value for key, value in row.items() if key not in ("step", "epoch")}
                    self._log(before + int(row["step"]), at.number, values)
                    steps[name] = row["step"]
        return last

    def _log(self, step: int, number: int, values: Mapping[str, float]) -> None:
        if not values:
            return
        if not self._callbacks:
            self._open()
        args, state, control = self._state
        state.global_step = step
        for callback in self._callbacks:
            callback.on_log(args, state, control, logs={**values, "round": number}, model=None)

    def _open(self) -> None:
        from transformers import TrainerControl, TrainerState, TrainingArguments
        from transformers.integrations import get_reporting_integration_callbacks  # type: ignore[attr-defined]

        shown = cast(Fields, hide_paths(self._config.model_dump(mode="json"), self._run.path))

        class Arguments(TrainingArguments):
            """What trackers record as the settings: the config of the run, without paths."""

            def to_dict(self) -> Fields:
                return shown

        name = f"{self._run.path.name}-{self._sent['id']}"
        folder = str(self._run.path / "tracker")
        args = Arguments(output_dir=folder, run_name=name, project="icr", report_to="none", use_cpu=True)
        self._state: tuple[TrainingArguments, TrainerState, TrainerControl] = args, TrainerState(), TrainerControl()
        ours = {
            "TENSORBOARD_LOGGING_DIR": folder,
            "WANDB_RUN_ID": self._sent["id"],
            "WANDB_RESUME": "allow",
            "WANDB_PROJECT": "icr",
        }
        with _environment({key: value for key, value in ours.items() if key not in os.environ}):
            callbacks = [kind() for kind in get_reporting_integration_callbacks(self._names)]  # type: ignore[no-untyped-call]
            for callback in callbacks:
                callback.on_train_begin(*self._state, model=None)
        self._callbacks = callbacks


@contextmanager
def _environment(values: Mapping[str, str]) -> Iterator[None]:
    """Trackers read these while they start; a later run folder has others."""
    os.environ.update(values)
    try:
        yield
    finally:
        for name in values:
            os.environ.pop(name, None)


def describe_stage(at: RoundDir, stage: Stage, record: StageRecord) -> Metrics:
    """The figures of a finished stage, by name and language: `alpha/es`. What begins with `eval_` is the judge's."""
    values: dict[str, object] = {}
    if stage == "judge":
        if at.summary.exists():
            summary = read_object(at.summary)
            for lang, row in [*summary["languages"].items(), ("average", summary["average"])]:
                values |= _judged(lang, row)
    else:
        for lang, row in record.counts.get("languages", {}).items():
            values |= {f"{name}/{lang}": value for name, value in _counted(stage, row).items()}
    if stage == "score" and at.lengths.exists():
        values |= {f"alpha/{lang}": fit["alpha"] for lang, fit in read_object(at.lengths).items()}
    return {name: float(value) for name, value in values.items() if isinstance(value, int | float)}


def _judged(lang: str, row: Fields) -> dict[str, object]:
    found: dict[str, object] = {}
    for rate in RATES:
        low, high = row.get(f"{rate}_interval") or (None, None)
        found |= {
            f"eval_{rate}/{lang}": row.get(rate),
            f"eval_{rate}_low/{lang}": low,
            f"eval_{rate}_high/{lang}": high,
        }
    return found | {f"eval_{name}/{lang}": row.get(name) for name in ("mean_length", "right_language", "truncated")}


def _counted(stage: Stage, row: Fields) -> dict[str, object]:
    """Of one language. Shares are of its responses."""
    total = row.get("responses") or 1
    if stage == "sample":
        return {"mean_length": row.get("mean_length"), "truncated_share": row.get("truncated", 0) / total}
    if stage == "score":
        dropped = sum(row.get("dropped", {}).values())
        return {"dropped_share": dropped / total, "wrong_language_share": row.get("wrong_language", 0) / total}
    return {name: row.get(name) for name in ("pairs", "reward_margin", "chosen_length", "rejected_length")}
