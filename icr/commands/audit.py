"""`icr judge audit`: the judge itself, measured by its verdicts."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icr.commands.options import OUTPUT, JsonOption, QuietOption, SetOption, print_json, stderr, stdout


def audit(
    folder: Annotated[
        Path, typer.Argument(metavar="EVALUATION", help="The --out of icr judge xalpaca, or RUN/round-N/judge.")
    ],
    human: Annotated[
        Path | None,
        typer.Option("--human", metavar="CSV", help="People's labels: columns id or index, lang, preference or label."),
    ] = None,
    repeats: Annotated[int, typer.Option("--repeats", min=0, max=20, help="Ask the judge N more times.")] = 0,
    sample: Annotated[int, typer.Option("--sample", min=1, help="Prompts per language that are asked again.")] = 50,
    page: Annotated[
        Path | None,
        typer.Option(
            "--page",
            metavar="FILE",
            help="Also write an HTML page of the verdicts, with both answers.",
            rich_help_panel=OUTPUT,
        ),
    ] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Measure a judge's biases and its agreement with people.

    Biases are of position, length and language. Also says how often the judge agrees with itself.
    """
    from eval.audit.people import read_labels
    from eval.audit.summary import audit as audited
    from eval.audit.verdicts import read_evaluation
    from icr.base.files import write_json
    from icr.report.audit_table import audit_tables

    evaluated = read_evaluation(folder)
    labels = read_labels(human, evaluated.languages) if human else None
    again = None
    if repeats:
        from eval.audit.repeats import ask_again

        again = ask_again(evaluated, repeats, sample, set_ or [], stderr())
    result = audited(evaluated, labels, again)
    write_json(folder / "audit" / "summary.json", result)
    if page:
        from icr.report.audit_page import write_audit_page

        write_audit_page(page, evaluated, result, labels)
    if json_:
        print_json(result)
        return
    stdout().print(audit_tables(result))
    print(f"\nfigures: {folder / 'audit' / 'summary.json'}" + (f"\npage: {page}" if page else ""))
