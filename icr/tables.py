"""What a run says on the terminal: how its judged rounds did, and where it stands."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import asdict, dataclass
from typing import Any, Literal

import yaml
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from icr.errors import UserError
from icr.files import read_json
from icr.rundir import RunDir

STAGES = ("align", "sample", "score", "pair", "train", "judge")
State = Literal["done", "running", "interrupted", "failed", "waiting"]
NOTHING = "–"


@dataclass(frozen=True)
class StageStatus:
    """One planned stage of one round; `seconds` are those of work, over all interruptions."""

    round: int
    stage: str
    state: State
    seconds: float
    started: float | None = None
    finished: float | None = None


@dataclass(frozen=True)
class RunStatus:
    """Where a run stands. `next` is the first stage that is not done, None when all are."""

    run: str
    rounds: int
    rounds_done: int
    stages: list[StageStatus]
    next: StageStatus | None


def number(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A number as people read it; a dash for what is not known (None, NaN, infinite)."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    if not float(text.replace(",", "")):
        text = f"{0:.{digits}f}"  # neither -0.0 nor +0.0
    return text.replace("-", "−")


def significant(value: float | None, digits: int = 3) -> str:
    """A number of unknown size (α) with so many significant digits."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:#.{digits}g}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds in the unit that reads best."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def read_config(run: RunDir) -> dict[str, Any]:
    """The run's resolved config as plain data; {} when there is none yet.

    Plain, not `icr.config.Config`: a run of an older icr must stay readable.

    Raises:
        UserError: the file is no YAML mapping.
    """
    if not run.config.exists():
        return {}
    try:
        config = yaml.safe_load(run.config.read_text(encoding="utf-8"))
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        config = error
    if not isinstance(config, dict):
        raise UserError(
            "the run's config is no YAML mapping" + (f": {config}" if isinstance(config, Exception) else ""),
            where=str(run.config),
            do="restore the file from a backup, or from the config the run was started with",
        )
    return config


def section(config: dict[str, Any], name: str) -> dict[str, Any]:
    """A section of a plain config; {} when it is absent or null."""
    return config.get(name) or {}


def has_xalpaca(config: dict[str, Any]) -> bool:
    """Whether a plain config's run judges X-AlpacaEval, as it does unless its benchmarks are named."""
    return "xalpaca" in section(config, "judge").get("benchmarks", ["xalpaca"])


def summaries(run: RunDir) -> dict[int, dict[str, Any]]:
    """The judge's summary of each judged round."""
    return {r.number: read_json(r.summary) for r in run.rounds() if r.summary.exists()}


def gains(judged: dict[int, dict[str, Any]]) -> dict[str, float]:
    """Per language: win rate of the last judged round minus that of the first, in percentage points."""
    if len(judged) < 2:
        return {}
    first, last = (judged[n]["languages"] for n in (min(judged), max(judged)))
    pairs = {code: (first[code]["win_rate"], last[code]["win_rate"]) for code in last if code in first}
    return {code: after - before for code, (before, after) in pairs.items() if before is not None and after is not None}


def ordered_languages(config: dict[str, Any], found: Iterable[str]) -> list[str]:
    """The config's languages in its order, then others that lie in the run folder."""
    wanted = list(section(config, "prompts").get("languages") or [])
    return wanted + sorted(set(found) - set(wanted))


def _planned(run: RunDir, config: dict[str, Any]) -> list[tuple[int, str]]:
    """The stages that the config asks for, in order, and those that were run although it does not."""
    plan: list[tuple[int, str]] = []
    judge, rounds = section(config, "judge"), int(config.get("rounds") or 0)
    judged = judge.get("kind", "none") != "none" or "nlp" in (judge.get("benchmarks") or [])
    if not section(config, "models").get("policy") and config.get("alignment"):
        plan.append((0, "align"))
    if judged:
        plan.append((0, "judge"))
    for n in range(1, rounds + 1):
        plan += [(n, stage) for stage in ("sample", "score", "pair", "train")]
        if judged and (n % (judge.get("every") or 1) == 0 or n == rounds):
            plan.append((n, "judge"))
    met = [(r.number, stage) for r in run.rounds() for stage in r.record.stages]
    return sorted({*plan, *met}, key=lambda item: (item[0], STAGES.index(item[1])))


def run_status(run: RunDir, held: bool | None = None) -> RunStatus:
    """Where the run stands. `held`: whether a process holds the run's lock; when none does, what is marked
    running was interrupted.

    Raises:
        UserError: the config or a round's record cannot be read.
    """
    config = read_config(run)
    stages = []
    for n, stage in _planned(run, config):
        record = run.round(n).record.stages.get(stage)
        if record is None:
            stages.append(StageStatus(n, stage, "waiting", 0.0))
            continue
        state: State = "interrupted" if record.state == "running" and held is False else record.state
        stages.append(StageStatus(n, stage, state, record.seconds, record.started, record.finished))
    following = next((s for s in stages if s.state != "done"), None)
    numbers = {s.round for s in stages} - {0}
    done = sum(all(s.state == "done" for s in stages if s.round == n) for n in numbers)
    planned = int(config.get("rounds") or max(numbers, default=0))
    return RunStatus(run.path.resolve().name, planned, done, stages, following)


def status_json(run: RunDir, held: bool | None = None) -> dict[str, Any]:
    """`run_status` as plain data: {run, rounds, rounds_done, stages: [{round, stage, state, seconds, started,
    finished}], next}."""
    return asdict(run_status(run, held))


def status_table(run: RunDir, held: bool | None = None) -> Table:
    """Rounds × stages with state and seconds; the line below says what is next."""
    status = run_status(run, held)
    look = {
        "done": ("✓", "green"),
        "running": ("running", "cyan"),
        "interrupted": ("interrupted", "yellow"),
        "failed": ("failed", "red"),
        "waiting": ("waiting", "dim"),
    }
    shown = [stage for stage in STAGES if any(s.stage == stage for s in status.stages)]
    table = Table(title=Text(f"{status.run}: {status.rounds_done} of {status.rounds} rounds done"), box=box.SIMPLE_HEAD)
    table.add_column("round", justify="right")
    for stage in shown:
        table.add_column(stage, justify="right")
    table.add_column("total", justify="right")
    for n in sorted({s.round for s in status.stages}):
        cells = {s.stage: s for s in status.stages if s.round == n}
        row = [Text(str(n))]
        for stage in shown:
            if stage not in cells:
                row.append(Text(""))
                continue
            word, style = look[cells[stage].state]
            if cells[stage] == status.next and cells[stage].state == "waiting":
                word, style = "next", "bold"
            spent = f" {duration(cells[stage].seconds)}" if cells[stage].seconds else ""
            row.append(Text(word + spent, style=style))
        row.append(Text(duration(sum(s.seconds for s in cells.values()) or None)))
        table.add_row(*row)
    coming = status.next
    table.caption = f"next: {coming.stage} of round {coming.round}" if coming else "all rounds are done"
    return table


def _with_error(row: dict[str, Any], field: str) -> str:
    value, error = row.get(field), row.get(f"{field}_se")
    return number(value) + (f" ± {number(error)}" if value is not None and error is not None else "")


def share(value: float | None) -> str:
    """A share from 0 to 1 as a percentage."""
    return NOTHING if value is None else f"{number(100 * value, 0)} %"


def _results(judged: dict[int, dict[str, Any]], languages: list[str]) -> Table:
    """A row per language and round, the languages' averages last."""
    change = gains(judged)
    best = max(change, key=lambda code: change[code], default=None)
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("language", "round", "win rate\n± se", "LC\n± se", "mean\nlength", "right\nlanguage", "change"):
        table.add_column(name, justify="left" if name == "language" else "right", no_wrap=True)
    for code in [*languages, "average"]:
        rows = {n: s["average"] if code == "average" else s["languages"].get(code) for n, s in judged.items()}
        for n, row in rows.items():
            if not row:
                continue
            last = n == max(judged)
            gain = Text(number(change[code], 1, sign=True)) if last and code in change else Text("")
            winner = last and code == best and change[code] > 0
            if winner:
                gain.append(" ▲")
            cells = [code if n == min(rows) else "", str(n), _with_error(row, "win_rate")]
            cells += [_with_error(row, "lc_win_rate"), number(row.get("mean_length"), 0)]
            cells += [share(row.get("right_language")) if code != "average" else ""]
            table.add_row(*map(Text, cells), gain, style="bold green" if winner else ("" if last else "dim"))
        table.add_section()
    return table


def _sampled(run: RunDir, languages: list[str]) -> Table:
    """What there is to show without a judge: the responses sampled and the pairs made of them."""
    table = Table(box=box.SIMPLE_HEAD)
    for name in ("language", "round", "responses", "mean length", "pairs", "mean reward margin"):
        table.add_column(name, justify="left" if name == "language" else "right")
    for code in languages:
        for r in run.rounds():
            stages = r.record.stages
            sample, pair = (
                stages[s].counts.get("languages", {}).get(code, {}) if s in stages else {} for s in ("sample", "pair")
            )
            if sample or pair:
                cells = [code, str(r.number), number(sample.get("responses"), 0), number(sample.get("mean_length"), 0)]
                table.add_row(*cells, number(pair.get("pairs"), 0), number(pair.get("reward_margin"), 2))
        table.add_section()
    return table


def print_summary(run: RunDir, console: Console) -> None:
    """The results of every judged round per language; of a run without a judge, its responses and pairs."""
    config = read_config(run)
    judged = summaries(run)
    if not judged:
        why = "no round has been judged yet"
        if section(config, "judge").get("kind", "none") == "none":
            why = "this run has no judge (judge.kind: none)"
        elif not has_xalpaca(config):
            why = "xalpaca is not among judge.benchmarks; the report has the others"
        console.print(Text(f"No win rates: {why}."))
        counts = [s.counts.get("languages", {}) for r in run.rounds() for s in r.record.stages.values()]
        languages = ordered_languages(config, {code for languages in counts for code in languages})
        if counts:
            console.print(_sampled(run, languages))
        return
    languages = ordered_languages(config, {code for s in judged.values() for code in s["languages"]})
    console.print(_results(judged, languages))
    last = judged[max(judged)]
    if str(last.get("judge", "")).startswith("none"):
        console.print(Text("These are the baseline's own answers: the first comparison comes after round 1."))
        return
    sizes = [row["n"] for row in last["languages"].values()]
    held_out = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    # round 0 against itself is no measurement, and its zero errors no precision
    baseline_judged = not str(judged[min(judged)].get("judge", "")).startswith("none")
    own = "" if baseline_judged else " (its own rates are 50 by definition)"
    console.print(
        Text(
            f"Rates in percent against {last['baseline']}{own}, judged by {last['judge']} on {held_out} prompts per "
            "language; change: points of win rate since the first judged round, ▲ the largest; lengths in characters."
        )
    )
