"""`icr rl`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icr.commands.options import (
    JsonOption,
    OutRunOption,
    QuietOption,
    TrainSetOption,
    load_checked,
    print_json,
    stderr,
    stdout,
)


def rl(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file (docs/rl.md), or the name of a recipe.")],
    run: OutRunOption = None,
    set_: TrainSetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Train a policy against a reward model (RLOO).

    Rerun the same command to resume.
    """
    from icr.config.rl import RLConfig
    from icr.experiments.rl import train_rl
    from icr.experiments.rl_heldout import read_measurements
    from icr.experiments.rl_inputs import check_rl
    from icr.report.rl import describe_rl, rl_table

    found = load_checked(RLConfig, config, set_, run, check_rl)
    result = train_rl(found, stderr())
    if json_:
        print_json(result)
        return
    folder = Path(found.run or "")
    stdout().print(rl_table(read_measurements(folder)))
    for line in describe_rl(result, found.max_kl):
        print(line)
    print(f"model: {folder / 'model'}")
