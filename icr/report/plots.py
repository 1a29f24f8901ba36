"""The report's figures: matplotlib drawings as inline SVG that takes its colours from the page.

The SVG names no fixed colour: ink, grid and the languages' colours are CSS variables, so one drawing serves light, dark
and print. The same data gives the same bytes.
"""

from __future__ import annotations

import functools
import html
import io
import pickle
import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import ParamSpec

import matplotlib.style
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

# (on white, on black). Any two differ by 13 or more in CIELAB, in normal sight and under simulated protanopia,
# deuteranopia and tritanopia; the first are Okabe and Ito's.
PALETTE = (
    ("#0072b2", "#3a9ae6"),
    ("#d55e00", "#e8641e"),
    ("#009e73", "#25b083"),
    ("#cc79a7", "#e0a0c8"),
    ("#701414", "#f4e2b8"),
    ("#8500ff", "#8566ff"),
    ("#0a148f", "#b8eb00"),
    ("#471f52", "#ff005c"),
    ("#8f7aff", "#14eb66"),
)
MARKERS = ("o", "s", "^", "D", "v", "P", "X", "<", ">")
GLYPHS = ("●", "■", "▲", "◆", "▼", "✚", "✖", "◀", "▶")
HEAT = (
    (("#edf4fb", "#10151c"), ("#1c2530", "#e7e8ea")),
    (("#d3e5f6", "#10151c"), ("#1f3347", "#e7e8ea")),
    (("#b0d0ee", "#10151c"), ("#234460", "#e7e8ea")),
    (("#86b6e3", "#10151c"), ("#2a5a86", "#ffffff")),
    (("#5f9ad3", "#10151c"), ("#5f9fd9", "#10151c")),
    (("#1f62a7", "#ffffff"), ("#90c1ee", "#10151c")),
    (("#0d3c6e", "#ffffff"), ("#c9e2fa", "#10151c")),
)
"""Steps of a heat map from low to high, on white and on black: (cell, its text). The higher, the farther from paper."""
HEAT_STEPS = len(HEAT)
INK, MUTED, GRID = "#111111", "#777777", "#dddddd"
VARIABLES = {INK: "currentColor", MUTED: "var(--muted)", GRID: "var(--grid)"} | {
    light: f"var(--s{slot})" for slot, (light, _) in enumerate(PALETTE)
}
STYLE: dict[str, object] = {
    "svg.fonttype": "none",  # text stays text: small, sharp, and in the page's own font
    "svg.hashsalt": "icr",
    "text.parse_math": False,
    "font.size": 10,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.edgecolor": MUTED,
    "axes.labelcolor": INK,
    "axes.grid": True,
    "axes.grid.axis": "y",
    "axes.axisbelow": True,
    "grid.color": GRID,
    "grid.linewidth": 0.8,
    "text.color": INK,
    "xtick.color": MUTED,
    "ytick.color": MUTED,
    "xtick.labelcolor": INK,
    "ytick.labelcolor": INK,
    "legend.frameon": False,
    "lines.linewidth": 1.5,
    "lines.markersize": 5,
}
WIDTH, HEIGHT = 5.0, 3.1
"""Inches; 360 units of the drawing, about a phone's width, so that text is never scaled down to nothing."""
MOST_POINTS = 160
MOST_DRAWN = 200
"""Figures of one kind that a process keeps."""


@dataclass(frozen=True)
class Series:
    """A language's value per round, with an interval where it is known."""

    slot: int
    rounds: list[int]
    values: list[float]
    low: list[float]
    high: list[float]


def colour(slot: int) -> str:
    return PALETTE[slot % len(PALETTE)][0]


def marker(slot: int) -> str:
    return MARKERS[slot % len(MARKERS)]


def line_style(slot: int) -> str:
    """Languages beyond the palette share a colour with an earlier one, and get a dashed line."""
    return "-" if slot < len(PALETTE) else "--"


def _inline(svg: str, alt: str) -> str:
    """matplotlib's SVG file as an element of a page: no XML head, no fixed size, no group ids, short numbers."""
    svg = svg[svg.index("<svg") :]
    box = re.search(r'viewBox="([^"]*)"', svg)
    assert box is not None
    label = html.escape(alt, quote=True)
    svg = re.sub(r"<svg[^>]*>", f'<svg viewBox="{box[1]}" role="img" aria-label="{label}">', svg, count=1)
    svg = re.sub(r"\s*<metadata>.*?</metadata>", "", svg, flags=re.DOTALL)
    svg = re.sub(r"\s*<defs>\s*<style.*?</defs>", "", svg, flags=re.DOTALL)
    svg = re.sub(r'<g id="[^"]*">', "<g>", svg)  # figure_1, axes_1, …: the same in every drawing of the page
    svg = re.sub(r"font: ([\d.]+)px [^;\"]*", r"font-size: \1px", svg)
    svg = re.sub(r"<!--.*?-->\s*", "", svg, flags=re.DOTALL)
    svg = re.sub(r' d="[^"]*"', lambda path: re.sub(r"(\.\d)\d+", r"\1", path[0]), svg)
    for fixed, variable in VARIABLES.items():
        svg = svg.replace(fixed, variable)
    return re.sub(r">\s+<", "><", svg)


def _draw(paint: Callable[[Figure], None], alt: str, height: float = HEIGHT, width: float = WIDTH) -> str:
    with matplotlib.style.context(STYLE, after_reset=True):
        figure = Figure(figsize=(width, height), layout="constrained")
        paint(figure)
        file = io.StringIO()
        metadata = {"Date": None, "Creator": None, "Format": None, "Type": None}
        figure.savefig(file, format="svg", transparent=True, metadata=metadata)
    return _inline(file.getvalue(), alt)


P = ParamSpec("P")


def _drawn_once(draw: Callable[P, str]) -> Callable[P, str]:
    """The page of a run is written after every stage, mostly with figures that it had before."""
    drawn: dict[bytes, str] = {}

    @functools.wraps(draw)
    def find_or_draw(*args: P.args, **kwargs: P.kwargs) -> str:
        key = pickle.dumps((args, kwargs))
        if key not in drawn:
            if len(drawn) == MOST_DRAWN:
                drawn.clear()
            drawn[key] = draw(*args, **kwargs)
        return drawn[key]

    return find_or_draw


def thinned(count: int, most: int = MOST_POINTS) -> list[int]:
    """At most so many of the positions 0 … count-1, evenly spread, with the first and the last."""
    if count <= most:
        return list(range(count))
    return [int(i) for i in np.unique(np.linspace(0, count - 1, most).round().astype(int))]


def binned(values: Sequence[float], most: int = MOST_POINTS) -> tuple[list[float], list[float]]:
    """Means of neighbours, at most so many, and where they lie: (positions, means). Non-finite values are left out."""
    array = np.asarray(values, dtype=float)
    positions, means = [], []
    for part in np.array_split(np.arange(len(array)), min(most, len(array)) or 1):
        part = part[np.isfinite(array[part])]
        if len(part):
            positions.append(float(part.mean()))
            means.append(float(array[part].mean()))
    return positions, means


@_drawn_once
def by_round(
    series: Sequence[Series],
    label: str,
    alt: str,
) -> str:
    """A value per round and language, side by side with its interval."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for i, line in enumerate(series):
            shift = (i - (len(series) - 1) / 2) * min(0.09, 0.6 / len(series))
            x = [n + shift for n in line.rounds]
            whiskers = [
                [max(v - bottom, 0) for v, bottom in zip(line.values, line.low, strict=True)],
                [max(top - v, 0) for v, top in zip(line.values, line.high, strict=True)],
            ]
            shade = colour(line.slot)
            axes.errorbar(x, line.values, whiskers, fmt="none", color=shade, elinewidth=1.2, capsize=2, alpha=0.75)
            axes.plot(x, line.values, color=shade, marker=marker(line.slot), linestyle=line_style(line.slot), zorder=3)
        rounds = sorted({n for line in series for n in line.rounds})
        axes.set_xticks(rounds, [f"round {n}" if len(rounds) < 6 else str(n) for n in rounds])
        axes.set_xlim(rounds[0] - 0.45, rounds[-1] + 0.45)
        axes.set_ylabel(label)

    return _draw(paint, alt)


@_drawn_once
def small_multiples(series: Sequence[Series], names: Sequence[str], reference: float, alt: str) -> str:
    """A rate per round, one little plot a language on one scale: many languages do not lie over one another.

    Args:
        names: of the languages, for each series.
        reference: a level to compare with.
    """
    columns = 2 if len(series) == 4 else min(3, len(series))
    rows = -(-len(series) // columns)
    values = [v for line in series for v in (*line.low, *line.high)]
    span = (max(min(values) - 3, 0), min(max(values) + 3, 100))
    rounds = sorted({n for line in series for n in line.rounds})

    def paint(figure: Figure) -> None:
        grid = figure.subplots(rows, columns, sharex=True, sharey=True, squeeze=False).ravel()
        for axes in grid[len(series) :]:
            axes.set_visible(False)
        for axes, line, name in zip(grid, series, names, strict=False):
            axes.axhline(reference, color=MUTED, linewidth=1, linestyle=(0, (4, 3)), zorder=1)
            shade = colour(line.slot)
            axes.fill_between(line.rounds, line.low, line.high, color=shade, alpha=0.16, linewidth=0)
            axes.vlines(line.rounds, line.low, line.high, color=shade, linewidth=1.2, alpha=0.75)
            axes.plot(
                line.rounds,
                line.values,
                color=shade,
                marker=marker(line.slot),
                linestyle=line_style(line.slot),
                zorder=3,
            )
            axes.set_title(name, fontsize=10, loc="left", pad=4)
            axes.set_ylim(*span)
            axes.set_xlim(rounds[0] - 0.3, rounds[-1] + 0.3)
            axes.xaxis.set_major_locator(MaxNLocator(4, integer=True))
            axes.tick_params(labelbottom=True)
        figure.supxlabel("round", fontsize=10)

    return _draw(paint, alt, height=0.4 + 1.35 * rows)


@_drawn_once
def sweep(curves: Sequence[tuple[int, Sequence[Sequence[float]], float, float]], unit: str, alt: str) -> str:
    """Length gap of chosen and rejected against α: (slot, [[α, gap], …], the chosen α, its gap) per language."""

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        axes.axhline(0, color=MUTED, linewidth=1)
        for slot, curve, alpha, gap in curves:
            points = np.asarray([curve[i] for i in thinned(len(curve))], dtype=float).reshape(-1, 2)
            axes.plot(points[:, 0], points[:, 1], color=colour(slot), linestyle=line_style(slot), alpha=0.85)
            axes.plot([alpha], [gap], color=colour(slot), marker=marker(slot), markersize=7, zorder=4)
        axes.xaxis.set_major_locator(MaxNLocator(6))
        axes.set_xlabel(f"α (reward per {unit.removesuffix('s')})")
        axes.set_ylabel(f"mean length gap ({unit})")

    return _draw(paint, alt)


@_drawn_once
def margins(values: Sequence[tuple[int, str, Sequence[float]]], alt: str) -> str:
    """A histogram of reward margins per language, one above the other on one scale: (slot, name, margins)."""
    everything = np.concatenate([np.asarray(v, dtype=float) for _, _, v in values])
    # the farthest half percent would squeeze all others into a few bars; it is counted in the last one
    top = float(np.quantile(everything, 0.995)) or 1.0
    edges = np.linspace(0.0, top, 33)

    def paint(figure: Figure) -> None:
        rows = figure.subplots(len(values), 1, sharex=True, squeeze=False)
        for axes, (slot, name, margin) in zip(rows[:, 0], values, strict=True):
            counts, _ = np.histogram(np.clip(margin, 0, top), edges)
            axes.stairs(counts, edges, fill=True, color=colour(slot), alpha=0.75)
            axes.axvline(float(np.median(margin)), color=INK, linewidth=1.2)
            axes.set_yticks([])
            axes.grid(False)
            axes.spines["left"].set_visible(False)
            axes.set_ylabel(name, rotation=0, ha="right", va="center")
            axes.set_xlim(0, top)
            last: Axes = rows[-1, 0]
            if axes is not last:
                axes.tick_params(bottom=False)
        rows[-1, 0].set_xlabel("chosen reward − rejected reward")

    return _draw(paint, alt, height=0.8 + 0.46 * len(values))


@_drawn_once
def training(steps: Sequence[float], lines: Sequence[tuple[str, Sequence[float]]], label: str, alt: str) -> str:
    """Up to three quantities of one training over its steps: the first drawn full, the others broken."""
    looks = ((INK, "-"), (MUTED, "--"), (MUTED, ":"))

    def paint(figure: Figure) -> None:
        axes = figure.add_subplot()
        for (name, values), (shade, style) in zip(lines, looks, strict=False):
            positions, means = binned(values)
            at = np.interp(positions, np.arange(len(steps)), np.asarray(steps, dtype=float))
            dot = "o" if len(means) == 1 else ""
            axes.plot(at, means, color=shade, linestyle=style, marker=dot, label=name.rpartition("/")[2])
        axes.xaxis.set_major_locator(MaxNLocator(6, integer=True))
        axes.set_xlabel("optimiser step")
        axes.set_ylabel(label)
        if len(lines) > 1:
            figure.legend(loc="outside upper left", ncols=len(lines), fontsize=9)

    return _draw(paint, alt, height=2.5, width=4.1)
