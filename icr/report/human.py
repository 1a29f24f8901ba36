"""What `icr human` shows: the page on which people vote, and the table of what they say."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

from markupsafe import Markup
from rich import box
from rich.table import Table

from eval.human import Shown
from icr.base.content import hash_value
from icr.base.fields import Fields
from icr.base.files import write_text
from icr.report.numbers import between, number, share
from icr.report.page import environment
from icr.report.transfer_choice import in_words


def write_vote_page(path: Path, pairs: Sequence[Shown]) -> None:
    """One file that works without a network: it knows the pairs, and not whose answers they are."""
    rows = [{"pair": p.pair, "lang": p.lang, "prompt": p.prompt, "A": p.first, "B": p.second} for p in pairs]
    shown = [{**row, "language": in_words(row["lang"])} for row in rows]
    data = json.dumps(shown, ensure_ascii=False).replace("<", "\\u003c")  # nothing in a text ends the script
    template = environment().get_template("human.html.j2")
    page = template.render(data=Markup(data), store=hash_value(rows)[:16], count=len(rows))
    write_text(path, page)


def people_table(result: Fields) -> Table:
    """Win rates by people, a row a language."""
    title = f"{result['model']} against {result['baseline']}, by {len(result['raters'])} people"
    table = Table(box=box.SIMPLE_HEAD, title=title, title_justify="left")
    table.add_column("")
    for name in ("prompts", "win rate", "95 %"):
        table.add_column(name, justify="right")
    for lang, row in result["languages"].items():
        table.add_row(lang, str(row["n"]), number(row["win_rate"]), between(row["win_rate_interval"]))
    average = result["average"]
    table.add_section()
    table.add_row("average", "", number(average["win_rate"]), between(average["win_rate_interval"]))
    return table


def describe_agreement(result: Fields) -> list[str]:
    """Among people, and with each judge."""
    people = result["people"]
    lines = ["no two people voted on one pair, so that their agreement is not known"]
    if people["share"] is not None:
        alike, alpha = share(people["share"]), number(people["alpha"], 2)
        lines = [f"people agree on {alike} of {people['pairs']} pairs of votes; α {alpha}"]
    for judge, found in result["judges"].items():
        lines.append(f"{judge} agrees with people on {share(found['share'])} of {found['n']} prompts")
    return lines
