"""`icr transfer`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icr.base.errors import UserError
from icr.commands.options import (
    ClusterOption,
    JsonOption,
    OutRunOption,
    QuietOption,
    TransferSetOption,
    load_checked,
    print_json,
    stderr,
    stdout,
)


def transfer(
    experiment: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file (docs/transfer-matrix.md).")],
    run: OutRunOption = None,
    only: Annotated[
        str, typer.Option("--only", metavar="PATTERN", help="Run only the steps whose names match, such as 'rm-e*'.")
    ] = "*",
    cluster: ClusterOption = None,
    dry_run: Annotated[bool, typer.Option("--dry-run", help="List the steps and what is done. Run nothing.")] = False,
    set_: TransferSetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Find which source language serves which target language.

    Trains a reward model on each source and measures all of them in every target language.

    Rerun the same command to resume. Languages and judges may be added to the file: only their steps are run.
    """
    from icr.config.transfer import TransferConfig
    from icr.experiments.transfer import check_transfer, list_transfer, run_transfer
    from icr.report.transfer import transfer_tables, write_transfer_page
    from icr.report.transfer_align import describe_work

    changes = {} if cluster is None else {"cluster.address": cluster}
    config = load_checked(TransferConfig, experiment, set_, run, check_transfer, changes)
    if config.run is None:
        raise UserError("no output folder is named", where="run", do="add --run FOLDER, or `run: FOLDER` to the file")
    if dry_run:
        states, counts = list_transfer(config, stderr())
        if json_:
            print_json({"steps": states, "work": counts})
            return
        width = 2 + max(map(len, states))
        for name, state in states.items():
            print(f"{name:<{width}}{state}")
        print(describe_work(config, counts))
        return
    result, failed = run_transfer(config, only, stderr())
    page = write_transfer_page(result, Path(config.run))
    if json_:
        print_json(result)
    else:
        stdout().print(transfer_tables(result))
        print(f"\npage: {page}")
    if failed:
        name, error = next(iter(failed.items()))
        raise UserError(
            f"{len(failed)} steps failed: {', '.join(failed)}\n  {name}: {error}",
            where=config.run,
            do="rerun the same command to try them again; the results of the others are above",
        )
