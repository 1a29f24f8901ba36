"""`icr sft`."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from icr.commands.options import JsonOption, OutRunOption, QuietOption, TrainSetOption, load_checked, print_json, stderr


def sft(
    config: Annotated[str, typer.Argument(metavar="CONFIG", help="A YAML file (docs/sft.md), or a recipe's name.")],
    run: OutRunOption = None,
    set_: TrainSetOption = None,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Fine-tune a language model on demonstrations.

    Rerun the same command to resume.
    """
    from icr.config.sft import SftConfig
    from icr.experiments.sft import check_sft, train_sft

    found = load_checked(SftConfig, config, set_, run, check_sft)
    result = train_sft(found, stderr())
    if json_:
        print_json(result)
        return
    training = result["training"]
    best = training["validation"]
    shown = ", ".join(f"{lang} {count}" for lang, count in result["languages"].items())
    print(f"{training['rows']} demonstrations ({shown}), {training['steps']} steps")
    loss = f"validation loss {best['loss']:.4f} nats a token"
    if "rouge_l" in best:
        print(f"highest ROUGE-L {best['rouge_l']:.4f} after step {best['step']}, of {best['answered']} greedy answers")
        print(f"{loss} there, on {best['rows']} rows")
    else:
        print(f"lowest {loss} after step {best['step']}, on {best['rows']} rows")
    for part, counts in training["too_long"].items():
        print(f"too long, left out ({part}): " + ", ".join(f"{lang} {count}" for lang, count in counts.items()))
    print(f"model: {Path(found.run or '') / 'model'}")
