"""`icr rm translate`."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import Annotated

import typer

from icr.base.fields import Fields
from icr.commands.options import DryOption, JsonOption, OutOption, QuietOption, print_json, stderr, stdout
from icr.commands.translators import (
    AttemptsOption,
    BackendOption,
    BaseUrlOption,
    BudgetOption,
    ConcurrencyOption,
    EffortOption,
    ExtraBodyOption,
    PricesOption,
    RequestsOption,
    SystemOption,
    TimeoutOption,
    TokensOption,
    TranslatorOption,
    read_translator,
    say_expected,
    split_targets,
)


def translate(
    folder: Annotated[Path, typer.Argument(metavar="FOLDER", help="A folder of icr rm data.")],
    to: Annotated[str, typer.Option("--to", metavar="LANGS", help="Comma-separated ISO 639-1 codes, e.g. es,th,sw.")],
    out: OutOption,
    translator: TranslatorOption,
    from_: Annotated[
        str | None,
        typer.Option("--from", metavar="LANG", help="Language to translate from. Default: the only one in the folder."),
    ] = None,
    back: Annotated[
        bool, typer.Option("--back", help="Translate there and back: the rows keep their language.")
    ] = False,
    limit: Annotated[
        int | None, typer.Option("--limit", min=1, help="Use only the first N rows of each split.")
    ] = None,
    base_url: BaseUrlOption = None,
    budget: BudgetOption = None,
    prices: PricesOption = None,
    concurrency: ConcurrencyOption = 16,
    requests_per_minute: RequestsOption = None,
    tokens_per_minute: TokensOption = None,
    attempts: AttemptsOption = 6,
    timeout: TimeoutOption = 120.0,
    reasoning_effort: EffortOption = None,
    extra_body: ExtraBodyOption = None,
    system: SystemOption = None,
    backend: BackendOption = "auto",
    dry_run: DryOption = False,
    json_: JsonOption = False,
    quiet: QuietOption = False,
) -> None:
    """Translate preference data into other languages (silver data).

    A row whose prompt or any response fails a check is dropped and counted. Rerun the same command to resume.
    """
    from icr.base.files import read_object
    from icr.base.problems import Collector
    from icr.base.progress import Silent
    from icr.work.translating import run_translation
    from prompts.preferences.make import REPORT
    from prompts.preferences.translate import WORKER, DataJob, DataTask

    options: dict[str, object] = {
        "base_url": base_url,
        "concurrency": concurrency,
        "requests_per_minute": requests_per_minute,
        "tokens_per_minute": tokens_per_minute,
        "attempts": attempts,
        "timeout": timeout,
        "budget": budget,
        "prices": prices,
        "reasoning_effort": reasoning_effort,
        "system": system,
    }
    found = Collector()
    who = found.attempt(None, read_translator, translator, backend, options, extra_body)
    known = who or {"kind": "local", "model": "", "settings": {}, "backend": "auto"}  # to find what else is wrong
    job = DataJob.model_validate(
        {"folder": str(folder), "source": from_, "targets": split_targets(to), "out": str(out), "back": back,
         "limit": limit, **known}
    )  # fmt: skip
    task: DataTask | None = None
    if who is None:
        found.attempt(None, job.task)
    else:
        task = found.attempt(None, job.checked, dry=dry_run)
    found.raise_any()
    assert task is not None
    if dry_run:
        expected = task.estimate(job.translator(Silent(), dry=True))
        print_json(asdict(expected)) if json_ else print(say_expected(expected))
        return
    run_translation(job, WORKER, stderr())
    report = read_object(out / REPORT)
    if json_:
        print_json(report)
    else:
        _show(report, out)


def _show(report: Fields, out: Path) -> None:
    """What became of the rows, what it cost, and where the files are."""
    from icr.report.reward_models import data_table
    from prompts.preferences.make import DataReport, Tally
    from prompts.preferences.translate import DROPPED

    made_by, languages = report["translation"], {lang: Tally(**of) for lang, of in report["languages"].items()}
    made = {name: report[name] for name in DataReport.__dataclass_fields__ if name != "languages"}
    stdout().print(data_table(DataReport(**made, languages=languages)))
    for lang, tally in languages.items():
        if tally.left_out:
            print(f"{lang} dropped: " + ", ".join(f"{count} {reason}" for reason, count in tally.left_out.items()))
        if not tally.train:
            print(f"no training row is left in {lang}: try another translator")
    if cost := made_by["cost"]:
        tokens = f"{cost['prompt_tokens']} prompt and {cost['completion_tokens']} completion tokens"
        money = "" if cost["usd"] is None else f", ${cost['usd']:.2f}"
        print(f"{cost['calls']} answers of {made_by['translator']}: {tokens}{money}")
    for note in report["notes"]:
        print(f"note: {note}")
    if any(tally.left_out for tally in languages.values()):
        print(f"dropped, with reasons: {out / DROPPED}")
    print(f"{report['kind']}: {out}")
