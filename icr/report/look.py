"""What `icr rm look` shows: tables for the terminal, and a page."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from rich import box
from rich.table import Table

from icr.base.fields import Fields
from icr.base.files import write_text
from icr.report.numbers import number, share, significant
from icr.report.page import environment
from icr.report.plots import thinned

WORDS_SHOWN = 3
MOST_LAYERS = 9
FIGURES = (
    ("largest_share", "σ₁ / Σσ", 3),
    ("largest_share_centred", "σ₁ / Σσ, centred", 3),
    ("effective_rank", "Effective rank", 1),
    ("effective_rank_centred", "Effective rank, centred", 1),
    ("frobenius", "Distance to the base: relative Frobenius", 3),
    ("cosine", "Distance to the base: 1 − cosine", 4),
    ("cka", "Distance to the base: 1 − linear CKA", 4),
)
"""Column of the spaces, its name, digits."""


def look_tables(result: Fields) -> list[Table]:
    """What was looked at: words, the last layer, norms, features."""
    tables = []
    if "words" in result:
        tables.append(_words(result["words"]))
    if "spaces" in result:
        tables += [_spaces(result), _norms(result)]
    if "features" in result:
        tables.append(_features(result))
    return tables


def _table(title: str, left: Sequence[str], right: Sequence[str]) -> Table:
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    for name in left:
        table.add_column(name, no_wrap=True)
    for name in right:
        table.add_column(name, justify="right")
    return table


def _words(rows: Sequence[Fields]) -> Table:
    table = _table(
        "how far words explain the scores (R²)",
        ("model", ""),
        ("n", "words", "in\nsample", "held\nout", "length\nalone"),
    )
    table.add_column("raising / lowering")
    for row in rows:
        ends = (", ".join(word["word"] for word in row[side][:WORDS_SHOWN]) for side in ("raising", "lowering"))
        values = (number(row[name], 2) for name in ("r2", "r2_held_out", "r2_length"))
        table.add_row(row["model"], row["language"], str(row["n"]), str(row["words"]), *values, "\n".join(ends))
    return table


def _spaces(result: Fields) -> Table:
    layer = max(row["layer"] for row in result["spaces"])
    names = ("σ₁/Σσ", "centred", "effective\nrank", "found in\nothers")
    moved = ("Frobenius\nto base", "1−cos", "1−CKA") if result["base"] else ()
    table = _table(f"layer {layer}, {result['texts']} parallel texts", ("model", ""), (*names, *moved))
    for row in result["spaces"]:
        if row["layer"] != layer:
            continue
        ranks = number(row["effective_rank"], 1)
        cells = [number(row["largest_share"], 3), number(row["largest_share_centred"], 3), ranks]
        cells.append(share(mean_retrieval(result, row["model"], row["language"], layer)))
        cells += [number(row[name], 3) for name in ("frobenius", "cosine", "cka")] if result["base"] else []
        table.add_row(row["model"], row["language"], *cells)
    return table


def mean_retrieval(result: Fields, model: str, lang: str, layer: int) -> float | None:
    """How often a text's translation is found, on average over the other languages; None for a single language."""
    shares = [
        row["share"]
        for row in result["retrieval"]
        if (row["model"], row["layer"]) == (model, layer) and lang in (row["language"], row["other"])
    ]
    return sum(shares) / len(shares) if shares else None


def left_out_texts(result: Fields) -> list[str]:
    """What of the parallel texts was not looked at."""
    lines = [f"{result['left_out']} texts are not in all languages, left out"] if result.get("left_out") else []
    long = {row["model"]: row["too_long"] for row in result.get("spaces", []) if row["too_long"]}
    texts = result.get("texts")
    return lines + [
        f"{model}: {n} of {texts} texts are longer than a model reads, left out" for model, n in long.items()
    ]


def _norms(result: Fields) -> Table:
    table = _table("norms of token embeddings", ("model", ""), ("tokens", "mean", "sd", "median", "most distant"))
    for row in result["norms"]:
        apart = [
            (pair["distance"], pair["other"] if pair["language"] == row["language"] else pair["language"])
            for pair in result["norm_distances"]
            if pair["model"] == row["model"] and row["language"] in (pair["language"], pair["other"])
        ]
        far = "–" if not apart else f"{max(apart)[1]} ({significant(max(apart)[0])})"
        cells = (significant(row[name]) for name in ("mean", "sd", "p50"))
        table.add_row(row["model"], row["language"], str(row["tokens"]), *cells, far)
    return table


def _features(result: Fields) -> Table:
    numbers = ("n", "mean", "others", "mean", "t", "p", "p\n(Bonferroni)")
    table = _table(f"{result['column']} by features", ("feature", "source is"), numbers)
    for row in result["features"]:
        group = "as the target" if row["group"] == "same" else row["group"]
        cells = [str(row["n"]), number(row["mean"]), str(row["n_others"]), number(row["mean_others"])]
        cells += [number(row["t"], 2), number(row["p"], 4), number(row["p_bonferroni"], 4)]
        table.add_row(row["feature"], group, *cells)
    return table


def layer_tables(result: Fields) -> list[Fields]:
    """For the page: a table for each model and figure, languages × layers, of at most MOST_LAYERS layers."""
    tables = []
    for model in dict.fromkeys(row["model"] for row in result.get("spaces", [])):
        own = [row for row in result["spaces"] if row["model"] == model]
        languages = list(dict.fromkeys(row["language"] for row in own))
        layers = thinned(1 + max(row["layer"] for row in own), MOST_LAYERS)
        of = {(row["language"], row["layer"]): row for row in own}
        for name, title, digits in FIGURES:
            if result["base"] or name not in ("frobenius", "cosine", "cka"):
                rows = {lang: [number(of[lang, layer][name], digits) for layer in layers] for lang in languages}
                tables.append({"title": f"{model}: {title}", "layers": layers, "rows": rows})
        found = {lang: [share(mean_retrieval(result, model, lang, layer)) for layer in layers] for lang in languages}
        tables.append({"title": f"{model}: translations found", "layers": layers, "rows": found})
    return tables


def inside(look: Fields) -> list[Fields]:
    """A row for each model: R² of its scores from words, and its last layer's space, each as a mean over languages."""
    rows = []
    words, spaces = look.get("words", []), look.get("spaces", [])
    for model in dict.fromkeys(row["model"] for row in (*words, *spaces)):
        row: Fields = {"model": model, "r2": _mean([w["r2_held_out"] for w in words if w["model"] == model])}
        own = [of for of in spaces if of["model"] == model]
        layer = max((of["layer"] for of in own), default=None)
        last = [of for of in own if of["layer"] == layer]
        row |= {name: _mean([of[name] for of in last]) for name in ("largest_share", "frobenius", "cka")}
        rows.append(row)
    return rows


def _mean(values: list[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return sum(known) / len(known) if known else None


def write_look_page(result: Fields, out: Path) -> Path:
    """OUT/report.html."""
    template = environment().get_template("look.html.j2")
    page = template.render(
        look=result,
        layer_tables=layer_tables(result),
        left_out=left_out_texts(result),
        title=out.resolve().name,
    )
    write_text(out / "report.html", page)
    return out / "report.html"
