"""`icr prompts`: make and check parallel prompts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from icr.base.errors import UserError
from icr.commands.options import OUTPUT, DryOption, JsonOption, QuietOption, print_json, stderr
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

if TYPE_CHECKING:
    from prompts.audit import Tally
    from prompts.translator import TranslateJob

prompts_app = typer.Typer(
    name="prompts",
    help="Translate, check or split prompts.",
    no_args_is_help=True,
    rich_markup_mode=None,
)

PromptsArgument = Annotated[
    Path, typer.Argument(metavar="FOLDER", help="A folder of LANG.jsonl files, including en.jsonl.")
]


@prompts_app.command()
def translate(
    to: Annotated[str, typer.Option("--to", metavar="LANGS", help="Comma-separated ISO 639-1 codes, e.g. es,th,sw.")],
    source: Annotated[
        str,
        typer.Option(
            metavar="SOURCE", help="A folder with en.jsonl; a jsonl, json, csv, parquet or txt file; or hf:org/name."
        ),
    ],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER",
            file_okay=False,
            help="Output folder; gets one LANG.jsonl per language.",
            rich_help_panel=OUTPUT,
        ),
    ],
    translator: TranslatorOption,
    from_: Annotated[str, typer.Option("--from", metavar="LANG", help="Language of the source; only en.")] = "en",
    base_url: BaseUrlOption = None,
    limit: Annotated[int | None, typer.Option(min=1, help="Use only the first N prompts.")] = None,
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
    """Translate English prompts. Every translation is checked; rerun the same command to resume."""
    from icr.base.files import read_json
    from icr.base.progress import Silent
    from icr.work.translating import run_translation
    from prompts.translate import REPORT
    from prompts.translator import TranslateJob

    if from_ != "en":
        raise UserError(f"prompts are translated from English, not from {from_!r}", where="--from",
                        do="name English prompts: those of all languages are joined with them")  # fmt: skip
    who = read_translator(
        translator,
        backend,
        {
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
        },
        extra_body,
    )
    job = TranslateJob.model_validate(
        {"source": source, "targets": split_targets(to), "out": str(out), "limit": limit, **who}
    )
    asks = job.task().asks  # names every problem of the source here, where all of them can be shown
    expected = job.translator(Silent(), dry=True).estimate(asks)
    if dry_run:
        print_json(asdict(expected)) if json_ else print(say_expected(expected))
        return
    run_translation(job, "prompts.translator", stderr())
    if json_:
        print_json(read_json(out / REPORT))
    else:
        _show(out, job)


@prompts_app.command()
def check(
    folder: PromptsArgument,
    json_: JsonOption = False,
) -> None:
    """Check every prompt against its English original. Nothing is changed, and the exit code is 0 whatever it finds."""
    from prompts.audit import audit

    result = audit(folder)
    if json_:
        print_json(result.as_json(folder))
        return
    _print_tallies(result.tallies, "fine", result.missing)
    if result.passed_over:
        print(f"skipped (file name is not a language code): {', '.join(result.passed_over)}")
    if result.found:
        print("--json lists every prompt with a finding")


@prompts_app.command()
def split(
    folder: PromptsArgument,
    held_out: Annotated[int, typer.Option("--held-out", min=1, help="Prompts to keep out of the training.")],
    out: Annotated[
        Path,
        typer.Option(
            metavar="FOLDER", file_okay=False, help="Output folder; gets train/ and heldout/.", rich_help_panel=OUTPUT
        ),
    ],
    seed: Annotated[int, typer.Option(help="Seed of the choice of held-out prompts.")] = 42,
    json_: JsonOption = False,
) -> None:
    """Keep some prompts for judging, the same ones in all languages. Nothing is overwritten."""
    from prompts.split import HELDOUT, TRAIN, split_prompts

    made = split_prompts(folder, held_out, out, seed)
    if json_:
        print_json(asdict(made))
        return
    for name, sizes in ((TRAIN, made.train), (HELDOUT, made.heldout)):
        print(f"{out / name}: " + ", ".join(f"{lang} {size}" for lang, size in sizes.items()))
    if made.repeated:
        print(f"not held out, as their text stands under two ids: {made.repeated} prompts")
    if made.skipped:
        print(f"skipped (file name is not a language code): {', '.join(made.skipped)}")
    print(f"to use them: --set prompts.path={out / TRAIN} --set judge.prompts={out / HELDOUT}")


def _show(out: Path, job: TranslateJob) -> None:
    """What became of every prompt, what it cost, and where the files are."""
    from icr.base.files import read_json
    from prompts.audit import Tally
    from prompts.translate import DROPPED, REPORT

    report = read_json(out / REPORT)
    tallies = {lang: Tally.of_json(report["languages"][lang], "kept") for lang in dict.fromkeys(job.targets)}
    _print_tallies(tallies, "kept")
    left_out = report["english"]["left_out"]
    if left_out:
        print("English prompts left out: " + ", ".join(f"{count} {reason}" for reason, count in left_out.items()))
    for lang, tally in tallies.items():
        if not tally.fine:
            print(f"no prompt is left in {lang}: take it out of prompts.languages, or try another translator")
    if cost := report["cost"]:
        tokens = f"{cost['prompt_tokens']} prompt and {cost['completion_tokens']} completion tokens"
        money = "" if cost["usd"] is None else f", ${cost['usd']:.2f}"
        print(f"{cost['calls']} answers of {job.kind}: {job.model}: {tokens}{money}")
    if any(tally.reasons for tally in tallies.values()):
        print(f"dropped, with reasons: {out / DROPPED}")
    print(f"report: {out / REPORT}")


def _print_tallies(tallies: dict[str, Tally], fine: str, missing: dict[str, int] | None = None) -> None:
    """A row per language: how many prompts are fine, and why the others are not."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    absent = missing if missing and any(missing.values()) else None
    table = Table(box=box.SIMPLE_HEAD)
    table.add_column("language", no_wrap=True)
    for name in ("prompts", fine, "language\nunknown", *(["not\ntranslated"] if absent else [])):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column(f"not {fine}")
    for lang, tally in tallies.items():
        numbers = [tally.prompts, tally.fine, tally.undetermined, *([absent[lang]] if absent else [])]
        why = ", ".join(f"{count} {reason}" for reason, count in tally.reasons.most_common())
        table.add_row(lang, *(str(n) if n else "–" for n in numbers), why or "–")
    Console().print(table)
