"""`icr best-of-n`: the best of n candidates under any reward, and what it is worth for every k."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import Annotated

import typer

from icr.commands.options import (
    OUTPUT,
    DryOption,
    JsonOption,
    LanguagesOption,
    QuietOption,
    SetOption,
    print_forecast,
    print_json,
    split_codes,
    stderr,
    stdout,
)


def best_of_n(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The model to sample: hub id, folder or .gguf file.")],
    reward: Annotated[
        list[str],
        typer.Option(
            "--reward",
            metavar="REWARD",
            help="A reward model (folder or hub id), or the log-ratio of two models: cross-lingual:POLICY,REFERENCE or "
            "multilingual:POLICY,REFERENCE. May be repeated.",
        ),
    ],
    prompts: Annotated[
        str, typer.Option("--prompts", metavar="PROMPTS", help="Folder of LANG.jsonl, one table, or hf:org/name.")
    ],
    languages: LanguagesOption,
    out: Annotated[
        Path,
        typer.Option(
            "--out",
            metavar="FOLDER",
            file_okay=False,
            help="Output folder. Rerun to resume, or with another --reward.",
            rich_help_panel=OUTPUT,
        ),
    ],
    n: Annotated[int, typer.Option("--n", help="Candidates per prompt.")] = 64,
    k: Annotated[
        int | None, typer.Option("--k", metavar="K", help="The answers are the best of the first K. Default: n.")
    ] = None,
    limit: Annotated[int | None, typer.Option("--limit", min=1, help="Use only the first N prompts.")] = None,
    judge: Annotated[
        list[str] | None,
        typer.Option(
            "--judge",
            help="Compare all candidates with the baseline: local:MODEL, openai:MODEL, module:Class. May be repeated.",
        ),
    ] = None,
    baseline: Annotated[
        Path | None,
        typer.Option("--baseline", help="Folder of LANG.json or LANG.jsonl answers. Default: the first candidates."),
    ] = None,
    set_: SetOption = None,
    dry_run: DryOption = False,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Sample n answers per prompt and take the best of k.

    Answers are sampled once and scored under each reward.
    """
    from icr.base.outputs import refuse_other_files
    from icr.base.problems import Collector, load_and_check
    from icr.config.best_of_n import BestOfNConfig
    from icr.config.load import make_section, resolve_paths
    from icr.experiments.best_of_n import CONFIG, check_best_of_n, estimate_best_of_n
    from icr.experiments.best_of_n import best_of_n as run
    from icr.experiments.judged_candidates import find_judges
    from icr.report.best_of_n import best_table, describe_missing, describe_samples, wins_table

    refuse_other_files(out, CONFIG, where="--out")
    data: dict[str, object] = {
        "model": model,
        "prompts": {"path": prompts, "languages": split_codes(languages), "limit": limit},
        "sampling": {"n": n},
    }
    resolve_paths(data, Path.cwd())
    of_judges = [override for override in set_ or [] if override.startswith("judge.")]
    others = [override for override in set_ or [] if override not in of_judges]
    problems = Collector()
    judging = problems.attempt(None, find_judges, judge or [], of_judges, baseline)
    load, check = partial(make_section, BestOfNConfig, data, others), partial(check_best_of_n, rewards=reward, k=k)
    config = problems.attempt(None, load_and_check, load, check)
    if config is not None and judging is None:
        problems.attempt(None, check, config)  # to say all that is wrong at once
    problems.raise_any()
    assert config is not None and judging is not None
    if dry_run:
        print_forecast(estimate_best_of_n(config, reward, k, out.resolve(), judging), json_)
        return
    result = run(config, reward, k, out.resolve(), stderr(), judging)
    if json_:
        print_json(result)
        return
    for line in describe_samples(result["samples"]):
        print(line)
    for name, found in result["rewards"].items():
        stdout().print(best_table(name, found))
        for line in describe_missing(name, found):
            print(line)
        for judged_by, wins in found.get("win_rates", {}).items():
            stdout().print(wins_table(name, judged_by, wins))
            if unscored := [f"{lang} {count}" for lang, count in wins["unscored"].items() if count]:
                print(f"candidates unscored by {judged_by}: {', '.join(unscored)}")
        print(f"the best of {found['k']}: {out / 'best' / name}")
