"""An audit as a page: verdicts one by one, with both answers. It needs no script: its filters are style sheets."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.audit.people import Labels
from eval.audit.verdicts import Evaluated, Judged
from icr.base.fields import Fields
from icr.base.files import write_text
from icr.report.audit_table import WITH_WHOM, reasons_of
from icr.report.glance import glance_at_judge
from icr.report.page import environment
from icr.report.shown import Shown
from icr.report.transfer_choice import in_words

MOST = 400
"""Prompts of a language on the page; a browser shows some thousand of them well."""
FILTERS = {
    "flips": "another winner in the other order",
    "disputed": "people disagree",
    "wrong": "one answer in the wrong language",
    "unscored": "a verdict is missing",
}


def select(items: Sequence[Judged], number: int, people: dict[str, float]) -> list[Shown]:
    """A language's prompts: those that people dispute first, then those that flip, then the others in their order."""
    shown = [Shown(item, number, people.get(item.id)) for item in items if not item.identical]
    return sorted(shown, key=lambda of: (not of.disputed, not of.flips))[:MOST]


def render_audit(evaluated: Evaluated, result: Fields, labels: Labels | None = None) -> str:
    """The page."""
    languages = list(evaluated.languages)
    shown = {
        lang: select(evaluated.languages[lang], number, (labels or {}).get(lang, {}))
        for number, lang in enumerate(languages)
    }
    every = [of for items in shown.values() for of in items]
    there = {name: sum(name in of.marks.split() for of in every) for name in FILTERS}
    left = {
        lang: sum(not item.identical for item in evaluated.languages[lang]) - len(items)
        for lang, items in shown.items()
    }
    return (
        environment()
        .get_template("audit.html.j2")
        .render(
            result=result,
            tiles=glance_at_judge(result),
            reasons=[*reasons_of(result, in_words), *_identical(result)],
            languages=languages,
            shown=shown,
            filters=[(name, FILTERS[name], count) for name, count in there.items() if count],
            left={lang: count for lang, count in left.items() if count},
            agree=[
                (f"{name}_agree", title) for name, title in WITH_WHOM.items() if f"{name}_agree" in result["average"]
            ],
            kappas=[
                (f"{name}_kappa", title) for name, title in WITH_WHOM.items() if f"{name}_kappa" in result["average"]
            ],
            title=evaluated.folder.resolve().name,
        )
    )


def _identical(result: Fields) -> list[str]:
    text = "answers are identical to the baseline's: not asked, not here"
    return [
        f"{in_words(code)}: {row['identical']} {text}"
        for code, row in result["languages"].items()
        if row.get("identical")
    ]


def write_audit_page(path: Path, evaluated: Evaluated, result: Fields, labels: Labels | None = None) -> None:
    """Write the page, self-contained."""
    write_text(path, render_audit(evaluated, result, labels))
