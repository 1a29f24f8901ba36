"""Steps that know their inputs: what is done, what no longer matches, what another run has already done.

A step's key is a hash of what it is made from and of the settings that its result depends on. A step is done when its
record says so and the record's key is the step's.
"""

from __future__ import annotations

import heapq
import json
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

from icr.base.content import canonical_json, hash_value
from icr.base.errors import UserError
from icr.base.rundir import StageRecord
from icr.work.display import Ended

DONE_WORDS = {
    "align": "aligned",
    "sample": "sampled",
    "score": "scored",
    "pair": "paired",
    "train": "trained",
    "judge": "judged",
}
"""What a step has done to the round that it belongs to."""


@dataclass(frozen=True)
class Step:
    """One piece of work, by what it is made from."""

    name: str
    """OWNER/KIND, such as `round-1/sample`. The owner is not part of the key, so that rounds and runs can share."""
    inputs: Mapping[str, str] = field(default_factory=dict)
    """What it is made from, by a name that users understand → the key of another step, or a content hash."""
    settings: Mapping[str, object] = field(default_factory=dict)
    """Config key → plain JSON value: all that the result depends on besides the inputs."""
    after: tuple[str, ...] = ()
    """Steps that have to be done first; those whose keys are inputs need not be named."""
    elsewhere: Mapping[str, str] = field(default_factory=dict)
    """Config key or section → where the user's file has it, for messages: `train` at `reward_model.train`."""

    @property
    def kind(self) -> str:
        """The name without its owner: `sample`, `judge/xalpaca`."""
        return self.name.partition("/")[2] or self.name

    @property
    def title(self) -> str:
        """The name for users: `round 1 sample`."""
        return self.name.replace("round-", "round ").replace("/", " ")

    @property
    def key(self) -> str:
        """sha256 in hex of kind, inputs and settings."""
        return hash_value([self.kind, self.inputs, self.settings])


Record = StageRecord

Records = Mapping[str, Record]
"""Step name → record."""


class Graph:
    """Steps in an order in which they can be done: the given one, where that is such an order."""

    def __init__(self, steps: Iterable[Step]) -> None:
        """Raises ValueError for two steps of one name, an unknown name in `after`, and circles."""
        given = list(steps)
        names = [step.name for step in given]
        if len(set(names)) < len(names):
            raise ValueError(f"two steps have one name: {sorted(n for n in set(names) if names.count(n) > 1)}")
        if unknown := {n for step in given for n in step.after} - set(names):
            raise ValueError(f"steps come after ones that are not there: {sorted(unknown)}")
        makers: dict[str, str] = {}
        for step in given:
            makers.setdefault(step.key, step.name)
        self._before: dict[str, tuple[str, ...]] = {
            step.name: (*step.after, *(makers[value] for value in step.inputs.values() if value in makers))
            for step in given
        }
        self.steps: tuple[Step, ...] = tuple(self._sort(given))

    def _sort(self, given: Sequence[Step]) -> Iterable[Step]:
        sorter = TopologicalSorter(self._before)
        try:
            sorter.prepare()
        except CycleError as error:
            raise ValueError(f"steps wait for each other: {' → '.join(error.args[1])}") from error
        places = {step.name: place for place, step in enumerate(given)}
        ready: list[int] = []
        while sorter.is_active():
            for name in sorter.get_ready():
                heapq.heappush(ready, places[name])
            step = given[heapq.heappop(ready)]
            yield step
            sorter.done(step.name)

    def pending(self, records: Records) -> list[Step]:
        """The steps that are not done, in order. Raises ValueError as `is_done`."""
        return [step for step in self.steps if not is_done(step, records.get(step.name))]

    def missing(self, name: str, records: Records) -> list[Step]:
        """What has to be done before the step `name` and is not, in order. Raises ValueError as `is_done`."""
        wanted, found = [name], set[str]()
        while wanted:
            new = set(self._before[wanted.pop()]) - found
            found |= new
            wanted += new
        return [step for step in self.pending(records) if step.name in found]

    def ready(self, name: str, records: Records) -> bool:
        """Whether the step `name` can be done now. Raises ValueError as `is_done`."""
        return not self.missing(name, records)


def is_done(step: Step, record: Record | None) -> bool:
    """Whether the step's result is there.

    Raises:
        ValueError: a finished record is of another key; `adopt` and `check_finished` come first.
    """
    if record is None or record.state != "done":
        return False
    if record.key != step.key:
        raise ValueError(f"the finished step {step.name} has another key than its record")
    return True


def stamp(step: Step, record: StageRecord) -> Record:
    """The record with what the step is made from."""
    made = {"key": step.key, "inputs": dict(step.inputs), "settings": dict(step.settings)}
    return Record.model_validate(record.model_dump() | made)


@contextmanager
def recorded(record: StageRecord, save: Callable[[], None]) -> Iterator[None]:
    """Keep in a step's record how the work ends that is done meanwhile, and how long it took. Work that is interrupted
    has not failed: it stays `running`, as where the process is killed."""
    began = time.monotonic()
    try:
        yield
        record.state = "done"
    except Ended:
        raise
    except Exception:
        record.state = "failed"
        raise
    finally:
        record.finished = time.time()
        record.seconds += time.monotonic() - began
        save()


def adopt(step: Step, record: StageRecord, old_settings: Mapping[str, object]) -> Record:
    """A record without key, with what is known of how it was made; a record with one as it is.

    Its settings are the old ones, so `check_finished` and `stale` treat it as any other: where they are the step's, the
    record has the step's key. Of its inputs nothing is known; they are taken to be the step's.

    Args:
        old_settings: the step's, by the config that the run was started with.
    """
    if record.key:
        return record
    return stamp(replace(step, settings=old_settings), record)


def check_finished(steps: Iterable[Step], records: Records, config: Path) -> None:
    """Refuse a run whose finished steps were made from other inputs or with other settings than the present ones.

    Args:
        records: all of them with keys, see `adopt`.
        config: RUN/config.yaml.

    Raises:
        UserError: one for all such steps. What only follows from another step's change is named without details.
    """
    lines: list[str] = []
    follow: list[str] = []
    remade: set[str] = set()  # keys of steps whose results would now be others
    for step in Graph(steps).steps:
        record = records.get(step.name)
        done = record is not None and record.state == "done"
        changes = _find_changes(step, record, _since_done(step), remade) if record is not None and done else []
        follows = not remade.isdisjoint(step.inputs.values())
        if changes:
            lines += [f"    {step.title}", *(f"        {change}" for change in changes)]
        elif follows and done:
            follow.append(step.title)
        if changes or follows:
            remade.add(step.key)
    if lines:
        if follow:
            lines.append(f"    and the steps made from these: {', '.join(follow)}")
        changed = "\n".join(lines)
        raise UserError(
            f"finished steps of this run were made with other settings or files:\n{changed}",
            where=str(config),
            do=_ways_out(config.parent, records),
        )


def stale(step: Step, record: Record) -> list[str]:
    """In words, what changed since an unfinished step was started; its partial work is then of no use.

    Raises:
        ValueError: the record has no key, see `adopt`.
    """
    return _find_changes(step, record, f"{step.title} was started")


def find_done(key: str, others: Mapping[str, Records]) -> tuple[str, str] | None:
    """(run, step name) of a finished step with this key, whose files are those that a step of this key makes.

    Args:
        others: run → its records.
    """
    for run, records in others.items():
        for name, record in records.items():
            if record.state == "done" and record.key == key:
                return run, name
    return None


def show(value: object) -> str:
    """A setting's value in one line, about as in YAML."""
    if value is None:
        return "not set"
    if isinstance(value, str) and value and value.isprintable():
        return value
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(show, value))}]"
    return json.dumps(value, ensure_ascii=False)


def _find_changes(step: Step, record: Record, since: str, remade: Collection[str] = ()) -> list[str]:
    """What a record's step was made from and the step now is not, a line each.

    Args:
        since: when the record was made.
        remade: inputs that are not looked at: keys of steps that are listed themselves.
    """
    if not record.key:
        raise ValueError(f"the record of {step.name} has no key")
    if record.key == step.key:
        return []
    lines = []
    for key in {**record.settings, **step.settings}:
        old, new = ({key: settings[key]} if key in settings else {} for settings in (record.settings, step.settings))
        if canonical_json(old) != canonical_json(new):
            lines.append(f"{_find_key(key, step)}: {_show_used(old, key)} → {_show_used(new, key)}")
    others = False
    for name in {**record.inputs, **step.inputs}:
        before, now = record.inputs.get(name), step.inputs.get(name)
        if before != now and now in remade:
            others = True
        elif before != now and None in (before, now):
            lines.append(f"{'new' if before is None else 'gone'} since {since}: the {name}")
        elif before != now:
            # hub ids say themselves what they are; other inputs are known by hashes, which say nothing to people
            commits = f": {before} → {now}" if before and now and "/" in before and "/" in now else ""
            lines.append(f"the {name} changed since {since}{commits}")
    return lines or ([] if others else ["made by another version of icr, which did this step differently"])


def _find_key(key: str, step: Step) -> str:
    """A key as the user's file has it."""
    for ours, theirs in step.elsewhere.items():
        if key == ours or key.startswith(f"{ours}."):
            return theirs + key.removeprefix(ours)
    return key


def _show_used(settings: Mapping[str, object], key: str) -> str:
    return show(settings[key]) if key in settings else "not used"


def _since_done(step: Step) -> str:
    owner, _, kind = step.name.partition("/")
    word = DONE_WORDS.get(kind.partition("/")[0])
    return f"{owner.replace('-', ' ')} was {word}" if word else f"{step.title} was done"


def _ways_out(run: Path, records: Records) -> str:
    ends = [name.removeprefix("round-").partition("/") for name, r in records.items() if r.state == "done"]
    trained = [int(number) for number, _, kind in ends if kind in ("align", "train") and number.isdigit()]
    start = f"start a new run from a finished round (--from {run}/round-{max(trained)} --run NEW), " if trained else ""
    return f"restore the old value or file, {start}or use another --run folder"
