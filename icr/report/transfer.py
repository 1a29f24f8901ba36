"""What `icr transfer` shows: on the terminal, as tables, and as one page with a heat map."""

from __future__ import annotations

from pathlib import Path

from rich import box
from rich.console import Group, RenderableType
from rich.table import Table
from rich.text import Text

from icr.base.fields import Fields
from icr.base.files import write_text
from icr.experiments.transfer_look import FOLDER as LOOK
from icr.report.look import inside, look_tables, write_look_page
from icr.report.numbers import between, number
from icr.report.page import environment
from icr.report.transfer_align import conclude_gains, curves, gain_tables, say_order
from icr.report.transfer_choice import choose, describe, heat_bounds, heat_step, scale_of, summarise
from icr.report.transfer_variants import DIFFERENCES, side_rows, side_tables, variant_rows, variant_tables

NOTHING: Fields = {"judges": {}, "rl": [], "orders": [], "same_order": [], "waiting": {}, "failed": {}}
"""Of an experiment without `align`, or without RLOO."""


def conclude(result: Fields) -> list[str]:
    """A sentence for each target: the source to take, and which others may be as good."""
    lines = []
    for target, of in result["targets"].items():
        line = say_order(of, target, "take")
        lines.append(line + (_beside_length(result, of["order"][0], target) if len(of["order"]) > 1 else ""))
    return lines


def _beside_length(result: Fields, source: str, target: str) -> str:
    """A warning where the best model is not better than length alone."""
    cell = next(c for c in result["cells"] if (c["source"], c["target"]) == (source, target))
    above = cell["above_length_interval"]
    if above is None or above[0] > 0:
        return ""
    return f" It is not clearly better than length alone ({number(cell['length'])})."


def transfer_tables(result: Fields) -> RenderableType:
    """Accuracy of each source in each target, the ranks, and what can be concluded."""
    targets = list(result["targets"])
    table = Table(box=box.SIMPLE_HEAD, caption_justify="left")
    table.add_column("trained on")
    for target in targets:
        table.add_column(target, justify="right", no_wrap=True)
    by = {(cell["source"], cell["target"]): cell for cell in result["cells"]}
    for source in result["sources"]:
        cells = []
        for target in targets:
            cell, ranks = by.get((source, target)), result["targets"][target].get("ranks", {})
            if cell is None:
                cells.append("–")
                continue
            rank = f" ({ranks[source]})" if source in ranks else ""
            cells.append(f"{number(cell['accuracy'])}{rank}\n{between(cell['accuracy_interval'])}")
        table.add_row(source, *cells)
    length = {t: next((c["length"] for c in result["cells"] if c["target"] == t), None) for t in targets}
    table.add_section()
    table.add_row("length alone", *(number(length[target]) for target in targets), style="dim")
    table.caption = "accuracy in percent with 95 % intervals over prompts; in brackets the source's rank; chance is 50"
    lines = [*conclude(result), *conclude_gains(result), *(f"{name}: no model" for name in result["missing"])]
    lines += [f"{name}: not run, it waits for {need}" for name, need in result.get("waiting", {}).items()]
    lines += [f"{name}: not run (--only)" for name in result.get("left", [])]
    looks = look_tables(result["look"]) if "look" in result else []
    tables = [*variant_tables(result), *side_tables(result), *gain_tables(result), *looks]
    return Group(table, *tables, Text("\n".join(lines)))


def _by_place(result: Fields) -> dict[tuple[str, str], Fields]:
    """(source, target) → its cell; one without figures where a model is not measured in a language."""
    found = {(cell["source"], cell["target"]): cell for cell in result["cells"]}
    every = [(source, target) for source in result["sources"] for target in result["targets"]]
    return {place: found.get(place, {"accuracy": None}) for place in every}


def write_transfer_page(result: Fields, run: Path) -> Path:
    """RUN/report.html."""
    choices = choose(result)
    template = environment().get_template("transfer.html.j2")
    page = template.render(
        result={**NOTHING, **result},
        cells=_by_place(result),
        choices=choices,
        summary=summarise(choices),
        scale=scale_of(choices),
        gains=conclude_gains(result),
        curves=curves(result),
        variants=variant_rows(result),
        differences=DIFFERENCES,
        sides=side_rows(result),
        places=result.get("places", list(result["targets"])),
        own=[row for row in result.get("increase", []) if row["source"] == row["scored_by"]],
        describe=describe,
        heat_step=heat_step,
        heat_bounds=heat_bounds,
        inside=inside(result["look"]) if "look" in result else [],
        look=LOOK,
        title=run.name,
    )
    if "look" in result:
        write_look_page(result["look"], run / LOOK)
    write_text(run / "report.html", page)
    return run / "report.html"
