"""`icr compare`."""

from __future__ import annotations

from typing import Annotated

import typer

from icr.base.errors import UserError
from icr.commands.options import (
    ConfigArgument,
    JsonOption,
    OutOption,
    QuietOption,
    SetOption,
    print_json,
    stderr,
    stdout,
)


def compare(
    config: ConfigArgument,
    vary: Annotated[
        list[str],
        typer.Option(
            "--vary",
            metavar="KEY=VALUES",
            help="A config key and its values, e.g. train.beta=0.1,0.2. May be repeated: every combination is run.",
        ),
    ],
    out: OutOption,
    rounds: Annotated[int | None, typer.Option(min=1, help="Number of rounds of each variant.")] = None,
    set_: SetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Run variants of a config and compare them. Work that they share is done once."""
    from icr.base.outputs import refuse_other_files
    from icr.config.load import find_config
    from icr.experiments.compare import compare as compared
    from icr.experiments.compare import make_variants
    from icr.experiments.variants import run_variants
    from icr.report.compare_tables import compare_tables, write_page

    refuse_other_files(out, "variants", where="--out")
    changes = {} if rounds is None else {"rounds": rounds}
    variants = make_variants(find_config(config), vary, out, set_ or [], changes)
    failed = run_variants(variants, out, stderr())
    result = compared(variants, out)
    page = write_page(result, out)
    if json_:
        print_json(result)
    else:
        stdout().print(compare_tables(result))
        print(f"\npage: {page}")
    if failed:
        name, error = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} of {len(variants)} variants did not finish: {', '.join(failed)}\n  {name}: {error}",
            where=str(out),
            do="rerun the same command to try them again; the results of the others are above",
        )
