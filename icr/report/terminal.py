"""A run's output on the terminal: the results of its judged rounds."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import suppress

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from eval.clusters import FEWEST
from eval.folders import read_summary
from eval.terms import describe_judge
from icr.base.fields import Fields
from icr.base.rundir import RoundDir, RunDir
from icr.config.plain import has_xalpaca, ordered_languages, read_config, section
from icr.report.measured import marks
from icr.report.numbers import number, share


def summaries(run: RunDir) -> dict[int, Fields]:
    """The judge's summary of each judged round. A damaged one is left out; the report names it."""
    return {r.number: summary for r in run.rounds() for summary in _read(r)}


def _read(at: RoundDir) -> Iterator[Fields]:
    if at.summary.exists():
        with suppress(ValueError):
            yield read_summary(at.summary)


def gains(judged: dict[int, Fields]) -> dict[str, float]:
    """Per language, and for the average: win rate of the last judged round minus that of the first, in points."""
    if len(judged) < 2:
        return {}
    first, last = (judged[n]["languages"] | {"average": judged[n]["average"]} for n in (min(judged), max(judged)))
    pairs = {code: (first[code]["win_rate"], last[code]["win_rate"]) for code in last if code in first}
    return {code: after - before for code, (before, after) in pairs.items() if before is not None and after is not None}


def _with_error(row: Fields, field: str) -> str:
    value, error = row.get(field), row.get(f"{field}_se")
    return number(value) + (f" ± {number(error)}" if value is not None and error is not None else "")


def _results(judged: dict[int, Fields], languages: list[str], marked: dict[str, str]) -> Table:
    """A row per language and round, the languages' averages last."""
    change = gains(judged)
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
            mark = marked.get(code) if last and code in change else None
            if mark:
                gain.append(f" {mark}")
            cells = [code if n == min(rows) else "", str(n), _with_error(row, "win_rate")]
            cells += [_with_error(row, "lc_win_rate"), number(row.get("mean_length"), 0)]
            cells += [share(row.get("right_language")) if code != "average" else ""]
            table.add_row(*map(Text, cells), gain, style="bold" if mark else ("" if last else "dim"))
        table.add_section()
    return table


def _sampled(run: RunDir, languages: list[str]) -> Table:
    """The results without a judge: the responses sampled and the pairs made from them."""
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


def _too_few(prompts: int) -> str:
    return f" (fewer than {FEWEST} prompts of a language have no interval)" if prompts < FEWEST else ""


def _without_lc(judged: dict[int, Fields]) -> str:
    """Why a length-controlled rate is missing, each reason once."""
    places: dict[str, dict[int, list[str]]] = {}
    for at_round, summary in judged.items():
        for code, row in [*summary["languages"].items(), ("average", summary["average"])]:
            reason = row.get("why", {}).get("lc_win_rate")
            if reason:
                places.setdefault(reason, {}).setdefault(at_round, []).append(code)
    lines = (
        (reason, "; ".join(f"{', '.join(codes)} in round {number}" for number, codes in at.items()))
        for reason, at in places.items()
    )
    return "".join(f"\nNo LC for {where}: {reason}." for reason, where in lines)


def print_summary(run: RunDir, console: Console) -> None:
    """The results of every judged round per language; of a run without a judge, its responses and pairs."""
    config = read_config(run)
    judged = summaries(run)
    if not judged:
        why = "no round has been judged yet"
        if section(config, "judge").get("kind", "none") == "none":
            why = "this run has no judge (judge.kind: none)"
        elif not has_xalpaca(config):
            why = "xalpaca is not in judge.benchmarks; the report has the other benchmarks"
        console.print(Text(f"No win rates: {why}."))
        counts = [s.counts.get("languages", {}) for r in run.rounds() for s in r.record.stages.values()]
        languages = ordered_languages(config, {code for languages in counts for code in languages})
        if counts:
            console.print(_sampled(run, languages))
        return
    languages = ordered_languages(config, {code for s in judged.values() for code in s["languages"]})
    console.print(_results(judged, languages, marks({n: run.round(n).judge for n in judged})))
    last = judged[max(judged)]
    if str(last.get("judge", "")).startswith("none"):
        console.print(Text("These are the baseline's own answers. The first comparison comes after round 1."))
        return
    sizes = [row["n"] for row in last["languages"].values()]
    held_out = f"{min(sizes)}" if min(sizes) == max(sizes) else f"{min(sizes)} to {max(sizes)}"
    # round 0 against itself is no measurement, and its zero errors no precision
    baseline_judged = not str(judged[min(judged)].get("judge", "")).startswith("none")
    own = "" if baseline_judged else " (its own rates are 50 by definition)"
    console.print(
        Text(
            f"Rates in percent against {last['baseline']}{own}, judged by {describe_judge(last)} on {held_out} "
            "prompts per language; change: points of win rate since the first judged round, ▲ or ▼ where its 95 % "
            f"interval excludes 0{_too_few(min(sizes))}; lengths in characters.{_without_lc(judged)}"
        )
    )
