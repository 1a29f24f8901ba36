"""The results of a run so far: its folder read into types, for the report; also of unfinished and damaged runs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TypeVar, cast

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import yaml
from scipy.special import stdtrit

from eval.clusters import FEWEST, PERCENT, wilson
from eval.folders import read_summary
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_object
from icr.base.lock import is_held
from icr.base.metrics import Metrics, read_metrics
from icr.base.rundir import RoundDir, RunDir
from icr.base.shown import hide_paths
from icr.config.plain import has_xalpaca, ordered_languages, read_config, section
from icr.languages import english_name
from icr.report.status import RunStatus, run_status
from icr.reward_table import PenaltyFacts
from icr.rewards import LOG_RATIO
from icr.work.runner import Counts

LOG_RATIOS = ("cross-lingual", "multilingual", "translate")
"""Reward kinds that are β times a log-ratio."""
T = TypeVar("T")


@dataclass(frozen=True)
class Language:
    code: str
    name: str
    slot: int
    """Which colour and marker the language has, in every figure."""


@dataclass
class Round:
    """The results of one round; empty where it has not got so far."""

    number: int
    counts: dict[str, Counts] = field(default_factory=dict)
    """By stage, as in round.json."""
    summary: Fields | None = None
    lengths: dict[str, PenaltyFacts] = field(default_factory=dict)
    sampled: dict[str, tuple[float, float, float]] = field(default_factory=dict)
    """Quartiles of the sampled responses' lengths."""
    margins: dict[str, list[float]] = field(default_factory=dict)
    metrics: list[Metrics] = field(default_factory=list)

    @property
    def is_baseline(self) -> bool:
        """Its answers are what the others are compared with, so its 50 % is a definition and no measurement."""
        return self.summary is not None and str(self.summary.get("judge", "")).startswith("none")

    def judged(self, code: str) -> Fields:
        """The summary's row of a language, or of the `average`."""
        if self.summary is None:
            return {}
        row: Fields = self.summary["average"] if code == "average" else self.summary["languages"].get(code, {})
        return row

    def of(self, stage: str, code: str) -> Fields:
        """A language's counts of a stage."""
        row: Fields = self.counts.get(stage, {}).get("languages", {}).get(code, {})
        return row


@dataclass
class Results:
    name: str
    config: Fields
    config_text: str
    policy: str
    """π_θ⁰, as the config names it."""
    reference: str
    """π_I, as the config names it."""
    languages: list[Language]
    rounds: list[Round]
    status: RunStatus
    versions: dict[str, list[str]]
    """Each package's versions, in order of appearance: more than one when the run went on after an update."""
    missing: list[str]

    @property
    def judged(self) -> list[Round]:
        return [r for r in self.rounds if r.summary is not None]

    @property
    def compared(self) -> list[Round]:
        """The rounds whose answers a judge has seen."""
        return [r for r in self.judged if not r.is_baseline]


def interval(row: Fields, name: str) -> tuple[float, float] | None:
    """95 % interval of a rate in percent; None where the summary has none.

    A summary of an older icr has errors alone. One language's interval follows from them and its `n` items; that of an
    average does not, as those errors took the languages as independent.
    """
    if f"{name}_interval" in row:
        found = row[f"{name}_interval"]
        return (found[0], found[1]) if found else None
    value, error, n = row.get(name), row.get(f"{name}_se"), row.get("n", 0)
    if value is None or not error or n < FEWEST or "unscored" not in row:
        return None
    return wilson(value, error, float(stdtrit(n - 1, 0.975)), n, PERCENT)


class _Reader:
    """Reads a file of the run, or records in `missing` why the page does not have it."""

    def __init__(self, run: RunDir) -> None:
        self.run, self.missing = run, list[str]()

    def read(self, path: Path, reader: Callable[[Path], T], expected: bool) -> T | None:
        name = path.relative_to(self.run.path).as_posix()
        if not path.exists():
            if expected:
                self.missing.append(f"{name} is missing, although its stage is done.")
            return None
        try:
            return reader(path)
        except (OSError, ValueError, KeyError, pa.ArrowException) as error:
            self.missing.append(f"{name} cannot be read: {error}")
            return None


def _quartiles(path: Path) -> tuple[float, float, float] | None:
    lengths = pq.read_table(path, columns=["length"])["length"].to_numpy()
    if not len(lengths):
        return None
    low, middle, high = (float(q) for q in np.quantile(lengths, [0.25, 0.5, 0.75]))
    return low, middle, high


def _margins(path: Path) -> dict[str, list[float]]:
    table = pq.read_table(path, columns=["lang", "chosen_reward", "rejected_reward"])
    margins: dict[str, list[float]] = {}
    for row in table.to_pylist():
        of_lang = margins.setdefault(row["lang"], [])
        if row["chosen_reward"] is not None:  # LIDR's pairs have no rewards
            of_lang.append(row["chosen_reward"] - row["rejected_reward"])
    return margins


def _read_round(at: RoundDir, reader: _Reader, *, win_rates: bool) -> Round:
    stages = at.record.stages
    done = {name for name, record in stages.items() if record.state == "done"}
    languages = sorted({lang for record in stages.values() for lang in record.counts.get("languages", {})})
    found = Round(at.number, {name: record.counts for name, record in stages.items()})
    found.summary = reader.read(at.summary, read_summary, win_rates and "judge" in done)
    found.lengths = reader.read(at.lengths, read_object, "score" in done) or {}
    found.margins = reader.read(at.pairs, _margins, "pair" in done) or {}
    found.metrics = reader.read(at.train / "metrics.jsonl", read_metrics, "train" in done) or []
    for lang in languages:
        quartiles = reader.read(at.rewards / f"{lang}.parquet", _quartiles, "score" in done)
        if quartiles is not None:
            found.sampled[lang] = quartiles
    return found


def _unfinished(status: RunStatus) -> list[str]:
    """A line per round that is not done: "Round 1: train is not finished; not run yet: judge."."""
    words = {"waiting": "not run yet: {}", "running": "{} is not finished", "failed": "{} failed"}
    lines = []
    for n in sorted({s.round for s in status.stages}):
        stages = {state: [s.stage for s in status.stages if (s.round, s.state) == (n, state)] for state in words}
        parts = [words[state].format(", ".join(names)) for state, names in reversed(stages.items()) if names]
        if parts:
            lines.append(f"Round {n}: {'; '.join(parts)}.")
    return lines


def _name(code: str) -> str:
    try:
        return english_name(code)
    except UserError:  # a code that this version does not know is still a column of the results
        return code


def collect(run: RunDir) -> Results:
    """Read everything the page shows.

    Raises:
        UserError: the config or a round's record cannot be read. Other damaged files are named on the page.
    """
    config = cast(Fields, hide_paths(read_config(run), run.path))  # the page is for other people's eyes as well
    held = is_held(run.lock) if run.lock.exists() else None
    status, reader = run_status(run, held), _Reader(run)
    models = section(config, "models")
    rounds = [_read_round(at, reader, win_rates=has_xalpaca(config)) for at in run.rounds()]
    found = {lang for r in rounds for lang in [*r.lengths, *r.margins, *r.sampled]}
    found |= {lang for r in rounds if r.summary for lang in r.summary["languages"]}
    codes = ordered_languages(config, found)
    versions: dict[str, dict[str, None]] = {}
    for at in run.rounds():
        for record in at.record.stages.values():
            for package, version in record.versions.items():
                versions.setdefault(package, {})[version] = None
    return Results(
        name=status.run,
        config=config,
        config_text=_show_config(run, config),
        policy=models.get("policy")
        or ("the reference, aligned on English pairs" if config.get("alignment") else "unknown"),
        reference=models.get("reference") or "unknown",
        languages=[Language(code, _name(code), slot) for slot, code in enumerate(codes)],
        rounds=rounds,
        status=status,
        versions={package: list(seen) for package, seen in sorted(versions.items())},
        missing=[*_unfinished(status), *reader.missing],
    )


def _show_config(run: RunDir, config: Fields) -> str:
    """The config without this machine's folders, and the comments on what has changed since."""
    if not run.config.exists():
        return ""
    comments = [line for line in run.config.read_text(encoding="utf-8").splitlines() if line.startswith("#")]
    shown = yaml.safe_dump(config, sort_keys=False, allow_unicode=True)
    return shown + "".join(f"{hide_paths(line, run.path)}\n" for line in comments)


def reward_name(reward: Fields) -> str:
    """The kind, with what it takes: β of a log-ratio, or the classifier's name."""
    kind = str(reward.get("kind") or "cross-lingual")
    if kind == "model":
        model = reward.get("model")
        each = ", ".join(f"{lang} {name}" for lang, name in model.items()) if isinstance(model, dict) else model
        return f"{kind}: {each}"
    return f"{kind}, β = {reward.get('beta', 0.1)}" if kind in LOG_RATIOS else kind


def scale_words(fits: Sequence[PenaltyFacts]) -> str:
    """What the rewards measure before their length penalty, in words."""
    scale = str(fits[-1].get("scale", LOG_RATIO)) if fits else LOG_RATIO
    return "β · (policy log-probability − reference log-probability)" if scale == LOG_RATIO else scale
