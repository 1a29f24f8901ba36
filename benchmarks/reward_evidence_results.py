"""What the evidence on reward models shows: tables in Markdown, JSON, and two heat maps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from rich.console import Console

from benchmarks.planted import KINDS, kind_of
from benchmarks.reward_evidence_runs import LANGUAGES, SOURCE, Evidence, held_out
from benchmarks.transfer_results import table
from eval.reward_models.bootstrap import draw_weights, mean_interval
from eval.reward_models.ranks import rank_sources, ranking_agreement
from eval.reward_models.rows import find_classifiers, open_workplace
from eval.reward_models.scoring import Measured, measure_known, score_rows
from icr.base.errors import UserError
from icr.base.files import atomic_path, read_json, write_text
from prompts.preferences.make import load_data

OTHERS = [lang for lang in LANGUAGES if lang != SOURCE]
Models = Mapping[str, Mapping[str, Measured]]
"""Model → language → what was measured of it."""


def measure_others(evidence: Evidence) -> Models:
    """The English models of the planted preference, on its validation rows; the matrix's own one is not scored again,
    because its scores are where `icr transfer` keeps them."""
    models = {SOURCE: evidence.english("planted"), **evidence.others()}
    data = load_data(evidence.work / "planted", "planted")
    out = evidence.run("planted") / "steps" / "accuracy"
    rows, held = find_classifiers([str(model) for model in models.values()]), data.validation
    with open_workplace(rows, out, Console(stderr=True)) as at:
        found = [measure_known(score_rows(row.open(at), data.kind, held), data.kind, held, data.train) for row in rows]
    return dict(zip(models, found, strict=True))


def read_matrix(evidence: Evidence, name: str) -> dict[str, Any]:
    """What `icr transfer` has found."""
    found: dict[str, Any] = read_json(evidence.run(name) / "tables" / "transfer.json")
    return found


def matrix_table(cells: Sequence[Mapping[str, Any]], value: str, digits: int, below: Mapping[str, str]) -> str:
    """Sources × targets with intervals.

    Args:
        value: the figure, such as accuracy.
        below: heading of a further row → the figure that it has of each target.
    """
    by = {(cell["source"], cell["target"]): cell for cell in cells}
    rows = [
        [source, *(show(by[source, target][value], by[source, target][f"{value}_interval"], digits)
                   for target in LANGUAGES)]
        for source in LANGUAGES
    ]  # fmt: skip
    for heading, name in below.items():
        rows.append([heading, *(show(by[LANGUAGES[0], target][name], None, digits) for target in LANGUAGES)])
    return table(["trained on", *LANGUAGES], rows)


def show(value: float | None, interval: Sequence[float] | None, digits: int = 1) -> str:
    """A figure with its interval; a dash where there is none."""
    if value is None:
        return "–"
    text = f"{value:.{digits}f}"
    return text if interval is None else f"{text} [{interval[0]:.{digits}f}, {interval[1]:.{digits}f}]"


def above_length(cells: Sequence[Mapping[str, Any]]) -> dict[str, list[str]]:
    """Source → the other languages in which it is above length alone with its whole interval."""
    return {
        source: [
            cell["target"] for cell in cells
            if cell["source"] == source != cell["target"] and (cell["above_length_interval"] or [0])[0] > 0
        ]
        for source in LANGUAGES
    }  # fmt: skip


def by_kind(evidence: Evidence, models: Models) -> str:
    """How often the English model and the control are right, by what was done to the text, in English and elsewhere."""
    rows = held_out(evidence.work, "planted")
    lines = []
    for kind in KINDS:
        line: list[object] = [kind]
        for name in (SOURCE, "control"):
            for languages in ([SOURCE], OTHERS):
                rights, groups = [], []
                for lang in languages:
                    of_lang = [row for row in rows if row["lang"] == lang]
                    for row, right in zip(of_lang, models[name][lang].right, strict=True):
                        if kind_of(row) == kind and np.isfinite(right):
                            rights.append(100 * float(right))
                            groups.append(row["group"])
                line.append(show(float(np.mean(rights)), mean_interval(rights, draw_weights(groups))))
        lines.append([*line, len(groups)])
    head = ["what is wrong", "en", "other five", "control, en", "control, other five", "pairs of the five"]
    return table(head, lines)


def curve_table(evidence: Evidence, models: Models) -> str:
    """Accuracy by the number of English pairs, the control beside it."""
    size = evidence.size
    of = {f"{n}": models[f"pairs-{n}"] for n in size.curve} | {f"{size.texts}": models[SOURCE]}
    of[f"{size.texts}, coins"] = models["control"]
    rows = []
    for name, measured in of.items():
        rights = np.concatenate([measured[lang].right for lang in OTHERS])
        groups = [group for lang in OTHERS for group in measured[lang].groups]
        mean = show(100 * float(rights.mean()), mean_interval(100 * rights, draw_weights(groups)))
        rows.append([name, *(show(measured[lang].figures["accuracy"], measured[lang].figures["accuracy_interval"])
                             for lang in LANGUAGES), mean])  # fmt: skip
    return table(["English pairs", *LANGUAGES, "other five"], rows)


def mean_auc(found: Sequence[Mapping[str, Any]]) -> list[list[float]]:
    """Sources × targets, the mean over the seeds."""
    values = [[[_cell(one, source, target)["auc"] for target in LANGUAGES] for source in LANGUAGES] for one in found]
    mean: list[list[float]] = np.mean(np.array(values, dtype=np.float64), axis=0).tolist()
    return mean


def _cell(found: Mapping[str, Any], source: str, target: str) -> Mapping[str, Any]:
    wanted = (source, target)
    return next(cell for cell in found["cells"] if (cell["source"], cell["target"]) == wanted)


DISTANCES = ("frobenius", "cosine", "cka")
SHARES = ("largest_share", "largest_share_centred")


def look_table(look: Mapping[str, Any]) -> str:
    """Of every model in its last layer: distances to the base and shares of σ₁, the mean over the parallel texts'
    languages; how often a translation is found; and its rank by the first distance, 1 the nearest."""
    last = max(row["layer"] for row in look["spaces"])
    models = list(dict.fromkeys(row["model"] for row in look["spaces"]))

    def mean(table: str, model: str, name: str) -> float:
        rows = [row for row in look[table] if (row["model"], row["layer"]) == (model, last)]
        return float(np.mean([row[name] for row in rows]))

    found = {model: [mean("spaces", model, name) for name in (*DISTANCES, *SHARES)] for model in models}
    nearest = sorted(models, key=lambda model: found[model][0])
    rows = [
        [model, nearest.index(model) + 1, *(f"{value:.3f}" for value in of),
         f"{100 * mean('retrieval', model, 'share'):.0f}"]
        for model, of in found.items()
    ]  # fmt: skip
    head = ["model", "rank", "Frobenius to base", "1−cos", "1−CKA", "σ₁/Σσ", "centred", "translations found, %"]
    return table(head, rows)


def orders(values: Any) -> str:
    """Ranks of the sources per target, and Kendall's τ of each target's order with English's."""
    ranks = rank_sources(values)
    rows = [[source, *map(str, ranks[n])] for n, source in enumerate(LANGUAGES)]
    english = [[row[LANGUAGES.index(SOURCE)]] * len(LANGUAGES) for row in values]
    rows.append([f"τ with {SOURCE}'s order", *(f"{tau:.2f}" for tau in ranking_agreement(values, english))])
    return table(["rank of", *LANGUAGES], rows)


def mean_tau(values: Any, beside: Any) -> float:
    """Kendall's τ of two matrices, mean over targets."""
    return float(np.nanmean(ranking_agreement(values, beside)))


def put_into(page: Path, tables: Mapping[str, Sequence[str]]) -> None:
    """Put each part's tables where a page has `<!-- PART -->` … `<!-- end -->`, in place of what stands there.

    Raises:
        UserError: the page has no such place.
    """
    text = page.read_text(encoding="utf-8")
    for name, parts in tables.items():
        before, mark, rest = text.partition(f"<!-- {name} -->\n")
        _, end, after = rest.partition("<!-- end -->")
        if not (mark and end):
            do = f"write the lines <!-- {name} --> and <!-- end --> where the tables belong"
            raise UserError(f"no place for the tables of {name}", where=str(page), do=do)
        text = before + mark + "\n\n".join(parts) + "\n" + end + after
    write_text(page, text)


def plot(path: Path, planted: Any, labels: Any) -> None:
    """Two heat maps, sources × targets."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    panels = [("planted preference: accuracy in percent", planted, 50.0, 100.0, 0),
              ("people's answers: AUC", labels, 0.4, 0.8, 2)]  # fmt: skip
    panels = [panel for panel in panels if panel[1] is not None]
    figure, places = plt.subplots(1, len(panels), figsize=(4.6 * len(panels), 4), layout="constrained", squeeze=False)
    for axes, (title, values, low, high, digits) in zip(places[0], panels, strict=True):
        axes.imshow(values, cmap="Blues", vmin=low, vmax=high)
        axes.set(title=title, xlabel="measured in", ylabel="trained on")
        axes.set_xticks(range(len(LANGUAGES)), LANGUAGES)
        axes.set_yticks(range(len(LANGUAGES)), LANGUAGES)
        for row, line in enumerate(np.asarray(values)):
            for column, value in enumerate(line):
                dark = (value - low) / (high - low) > 0.6
                axes.text(
                    column, row, f"{value:.{digits}f}", ha="center", va="center", color="white" if dark else "black"
                )
    with atomic_path(path) as tmp:
        figure.savefig(tmp, format=path.suffix[1:], dpi=150)
    plt.close(figure)
