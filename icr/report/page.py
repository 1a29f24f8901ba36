"""The report of a run: one self-contained HTML file, made from what the run folder holds so far.

The same folder gives the same bytes: the page has no time stamp.
"""

from __future__ import annotations

import base64
import functools
import hashlib
import math
from collections.abc import Callable, Sequence
from importlib import resources
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from eval.terms import describe_judge
from icr.base.fields import Fields
from icr.base.files import write_text
from icr.base.rundir import RunDir
from icr.config.plain import has_xalpaca, section
from icr.report import plots
from icr.report.evaluation_tables import panel_lines
from icr.report.findings import baseline_name, findings
from icr.report.glance import glance
from icr.report.measured import Measured, measure
from icr.report.numbers import duration, listed, number, share, significant, together
from icr.report.remarks import remarks, words
from icr.report.results import Language, Results, Round, collect, interval, reward_name, scale_words
from icr.report.samples import Article, choices_of, read_articles
from icr.report.status import BEAT, SILENCE, continue_command
from icr.report.terminal import gains
from icr.report.transfer_choice import in_words
from icr.rounds.plan import STAGES

REFRESH = 30
"""Seconds after which the page of an unfinished run loads itself again."""
LONGEST_TEXT = 6000
"""Characters of a text on the page; the rest is only in the run folder."""
CONTROLS = {i: 0x2400 + i for i in range(32) if chr(i) not in "\t\n"} | {0x7F: 0x2421, 0x202D: 0xFFFD, 0x202E: 0xFFFD}
"""Control characters to their visible pictures: HTML cannot write them; and overrides of the direction, which would
turn the page's own words around."""
CURVES = (
    ("loss", ("loss", "loss/dpo", "loss/nll"), "The loss, which training lowers, and its terms."),
    (
        "log-probability (nats)",
        ("logps/chosen", "logps/rejected"),
        "Mean log-probability of the chosen and the rejected responses under the policy in training.",
    ),
    (
        "implicit reward",
        ("rewards/margins", "rewards/chosen", "rewards/rejected"),
        "β times the policy's log-probability over the training reference's; the margin between them should grow.",
    ),
    ("KL estimate (nats)", ("kl",), "KTO's estimate of how far the policy has moved from the training reference."),
)
"""Training figures: axis label, the columns of metrics.jsonl drawn as far as they are there, and the caption."""


def _clean(value: object) -> object:
    """What the page prints: texts of models and users without control characters, all else as it is."""
    return value.translate(CONTROLS) if isinstance(value, str) and not isinstance(value, Markup) else value


def _text(text: str) -> dict[str, str | int]:
    """A text cut for the page: its beginning, the text, and how many characters are left out."""
    kept = text[:LONGEST_TEXT]
    return {"head": kept[:280], "body": kept, "size": len(text), "cut": len(text) - len(kept)}


def _by_round(
    results: Results,
    row_of: Callable[[Round, Language], tuple[float, float, float] | None],
    label: str | None,
    alt: str,
) -> Markup | None:
    """A value per language and round; `row_of` gives (value, low, high), or None where there is none.

    Args:
        label: of the axis; None of a rate in percent: then one little plot a language, with a line at 50.
    """
    series, names = [], []
    for language in results.languages:
        points = [(r.number, point) for r in results.rounds if (point := row_of(r, language))]
        if points:
            rounds, (values, low, high) = [n for n, _ in points], zip(*(p for _, p in points), strict=True)
            series.append(plots.Series(language.slot, rounds, list(values), list(low), list(high)))
            names.append(language.name)
    if not series:
        return None
    return Markup(plots.by_round(series, label, alt) if label else plots.small_multiples(series, names, 50, alt))


def _rate(name: str) -> Callable[[Round, Language], tuple[float, float, float] | None]:
    def row_of(r: Round, language: Language) -> tuple[float, float, float] | None:
        row = r.judged(language.code)
        if r.is_baseline and row:
            return 50.0, 50.0, 50.0  # by definition
        bounds = interval(row, name)
        return (row[name], *bounds) if bounds else None

    return row_of


def _answer_length(r: Round, language: Language) -> tuple[float, float, float] | None:
    mean = r.judged(language.code).get("mean_length")
    return None if mean is None else (mean, mean, mean)


def _sampled_length(r: Round, language: Language) -> tuple[float, float, float] | None:
    low, middle, high = r.sampled.get(language.code, (None, None, None))
    return None if low is None or middle is None or high is None else (middle, low, high)


def _finite(values: Sequence[object]) -> list[float]:
    return [float(v) if isinstance(v, (int, float)) else math.nan for v in values]


def _training(r: Round) -> list[tuple[str, Markup]]:
    """(caption, figure) of what the objective recorded."""
    drawn = []
    for label, columns, caption in CURVES:
        lines = [(c, _finite([row.get(c) for row in r.metrics])) for c in columns if any(c in row for row in r.metrics)]
        lines = [(name, values) for name, values in lines if any(map(math.isfinite, values))]
        if lines:
            alt = f"{label} per optimiser step of round {r.number}"
            drawn.append((caption, Markup(plots.training([row["step"] for row in r.metrics], lines, label, alt))))
    return drawn


def _figures(results: Results, unit: str) -> dict[str, object]:
    names = {language.code: language for language in results.languages}
    sweeps, histograms, training = {}, {}, {}
    for r in results.rounds:
        fits = [
            (names[c].slot, fit["curve"], fit["alpha"], fit["gap"]) for c, fit in r.lengths.items() if fit.get("curve")
        ]
        if fits:
            sweeps[r.number] = Markup(plots.sweep(fits, unit, f"length gap against alpha in round {r.number}"))
        margins = [(x.slot, x.name, r.margins[x.code]) for x in results.languages if r.margins.get(x.code)]
        if margins:
            histograms[r.number] = Markup(plots.margins(margins, f"reward margins of the pairs of round {r.number}"))
        if r.metrics:
            training[r.number] = _training(r)
    compared = bool(results.compared)
    return {
        "win_rate": compared and _by_round(results, _rate("win_rate"), None, "win rate per round and language"),
        "lc_win_rate": compared
        and _by_round(results, _rate("lc_win_rate"), None, "length-controlled win rate per round and language"),
        "answers": _by_round(
            results, _answer_length, "mean length (characters)", "answer length per round and language"
        ),
        "sampled": _by_round(
            results, _sampled_length, f"length ({unit})", "sampled response length per round and language"
        ),
        "sweeps": sweeps,
        "margins": histograms,
        "training": training,
    }


@functools.cache
def read_script(name: str) -> tuple[Markup, str]:
    """A script of ours, and its hash for the page's policy: no other script runs, whatever a text contains."""
    text = resources.files("icr.report").joinpath("templates", name).read_text(encoding="utf-8")
    digest = base64.b64encode(hashlib.sha256(text.encode()).digest()).decode()
    return Markup(text), f"sha256-{digest}"


def environment() -> Environment:
    """Templates with escaping on, and the filters that they use."""
    environment = Environment(
        loader=PackageLoader("icr.report"),
        autoescape=True,
        finalize=_clean,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.globals |= {
        "palette": plots.PALETTE,
        "heat_light": [light for light, _ in plots.HEAT],
        "heat_dark": [dark for _, dark in plots.HEAT],
    }
    environment.filters |= {
        "number": number,
        "significant": significant,
        "duration": duration,
        "share": share,
        "cut": _text,
        "words": words,
        "judged_by": describe_judge,
        "panel": panel_lines,
        "listed": listed,
        "together": together,
        "in_words": in_words,
    }
    return environment


def _columns(rows: Sequence[Fields]) -> list[str]:
    """The keys that occur in any of the rows' `dropped`, in order of appearance."""
    return list(dict.fromkeys(key for row in rows for key in row.get("dropped", {})))


def render(results: Results, measured: Measured | None = None, articles: Sequence[Article] = ()) -> str:
    """The page."""
    measured = measured or Measured()
    script, script_hash = read_script("keep.js")
    fits = [fit for r in results.rounds for fit in r.lengths.values()]
    unit = fits[-1]["unit"] if fits else section(results.config, "reward").get("length_unit", "characters")
    scored = [r.of("score", x.code) for r in results.rounds for x in results.languages]
    paired = [r.of("pair", x.code) for r in results.rounds for x in results.languages]
    losses = {r.number: _finite([row.get("loss", 0.0) for row in r.metrics]) for r in results.rounds}
    bad_steps = {n: sum(not math.isfinite(v) for v in values) for n, values in losses.items()}
    unscored = [
        (language, r.number, reason, count)
        for language in results.languages
        for r in results.rounds
        for reason, count in r.judged(language.code).get("reasons", {}).items()
    ]
    return (
        environment()
        .get_template("report.html.j2")
        .render(
            run=results,
            glyphs=plots.GLYPHS,
            articles=articles,
            groups=choices_of(articles).groups,
            findings=findings(results),
            tiles=glance(results, measured),
            script=script,
            script_hash=script_hash,
            refresh=REFRESH if results.status.next else None,
            beat=BEAT,
            silence=SILENCE,
            resume=continue_command(results.name),
            baseline_name=baseline_name,
            gains=gains({r.number: r.summary for r in results.judged if r.summary is not None}),
            interval=interval,
            figures=_figures(results, unit),
            unit=unit,
            scale=scale_words(fits),
            reward_name=reward_name(section(results.config, "reward")),
            judge=section(results.config, "judge"),
            has_xalpaca=has_xalpaca(results.config),
            reward=section(results.config, "reward"),
            response_drops=_columns(scored),
            pair_drops=_columns(paired),
            bad_steps=bad_steps,
            unscored=unscored,
            remarks=remarks(results),
            stages=[stage for stage in STAGES if any(s.stage == stage for s in results.status.stages)],
            long_training=any(len(r.metrics) > plots.MOST_POINTS for r in results.rounds),
            most_points=plots.MOST_POINTS,
            measured=measured,
            codes=[*((x.code, x.name) for x in results.languages), ("average", "Average")],
            labels={x.code: x.name for x in results.languages} | {"average": "Average"},
        )
    )


def write_report(run: RunDir, note: Callable[[str], None] | None = None, results: Results | None = None) -> Path:
    """Write RUN/report.html from what the run folder holds, and return its path.

    Args:
        note: gets a line for each damaged file. The page names them, too.
        results: what `collect` has read of this run just now.

    Raises:
        UserError: the run's config or a round's record cannot be read.
    """
    results, measured = results or collect(run), measure(run)
    articles = read_articles(run, results)
    results.missing.extend(measured.missing)
    if note is not None:
        for line in results.missing:
            if "cannot be read" in line:
                note(line)
    write_text(run.report, render(results, measured, articles))
    return run.report
