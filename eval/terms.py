"""May two evaluations be subtracted? Only if they differ in the model alone; every other difference is named."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path

from eval.folders import benchmark_folder, summary_path
from eval.judges.wording import BUILT_IN
from icr.base.errors import UserError, some
from icr.base.fields import Fields
from icr.base.files import read_columns, read_json, read_object, read_rows
from icr.base.rundir import StageRecord
from icr.work.settings import USES
from icr.work.steps import show

COUNTS = ("judge.limit", "judge.mtbench.limit")
"""Settings that say how many items there are; the items that both have are compared."""
DECODING = ("judge.max_tokens", "judge.temperature", "judge.top_p", "judge.mtbench.max_tokens", "sampling.stop")
"""How the answers were written."""
INPUTS = ("judge model", "judge class", "references", "MT-Bench references")
"""How the inputs begin that have to be the same."""
SUMMARISED = {
    "judge": "judge",
    "address": "judge's address",
    "baseline": "baseline",
    "orders": "judge.orders",
    "template": "judge's template",
}
"""Key of a summary → what it is, for people."""


def check_terms(first: Path, second: Path, benchmark: str) -> None:
    """Refuse what cannot be subtracted.

    Raises:
        UserError: with every term that differs: judge and its revision or address, baseline, orders, template,
            decoding, references, and the texts of prompts and of the baseline.
    """
    one, two = (_terms(folder, benchmark) for folder in (first, second))
    differing = [f"{name}: {one[name]} and {two[name]}" for name in one if name in two and one[name] != two[name]]
    differing += _other_texts(first, second, benchmark)
    if not differing:
        return
    names = " and ".join(dict.fromkeys(line.partition(":")[0] for line in differing))
    lines = "".join(f"\n    {line}" for line in differing)
    raise UserError(
        f"these two differ in more than the model:{lines}",
        where=f"{first} and {second}",
        do=f"judge both with the same {names}",
    )


def read_summary_of(folder: Path, benchmark: str) -> Fields:
    """The summary; {} where there is none.

    Raises:
        UserError: it cannot be read.
    """
    path = summary_path(folder, benchmark)
    try:
        return read_object(path) if path.is_file() else {}
    except ValueError as error:
        do = "restore the file, or judge again into another folder"
        raise UserError(f"the summary cannot be read: {error}", where=str(path), do=do) from error


def show_judge(summary: Fields) -> str:
    """Who judged, and where or by which rule."""
    at = f" at {summary['address']}" if summary.get("address") else ""
    rule = f" ({summary['rule']})" if summary.get("rule") else ""
    return f"{summary.get('judge') or 'unknown'}{at}{rule}"


def describe_judge(summary: Fields) -> str:
    """`show_judge`, and with which prompt if it is not icr's own."""
    source = summary.get("template_source", BUILT_IN)
    prompt = f" with the prompt {source} ({summary['template']})" if source != BUILT_IN else ""
    return f"{show_judge(summary)}{prompt}"


def unjudged(summary: Fields) -> bool:
    """Whether these are the answers of round 0, which nobody judges."""
    return str(summary.get("judge", "")).startswith("none")


def _terms(folder: Path, benchmark: str) -> dict[str, str]:
    """Name → value, as far as it is known. Of round 0, which is not judged, only how its answers were written."""
    summary = read_summary_of(folder, benchmark)
    found = {title: str(summary[key]) for key, title in SUMMARISED.items() if summary.get(key)}
    found |= dict(_recorded(folder, benchmark))
    if not unjudged(summary):
        return found
    return {name: value for name, value in found.items() if name in DECODING}


def _recorded(folder: Path, benchmark: str) -> Iterator[tuple[str, str]]:
    record = _read_record(folder, benchmark)
    if record is None:
        return
    given = "answers" in record.inputs
    for key, value in record.settings.items():
        stages = USES.get(key, ())
        counts = f"judge/{benchmark}" in stages and (key.startswith("judge.") or key in DECODING)
        if counts and key not in COUNTS and not (given and key in DECODING):
            yield key, show(value)
    yield from ((name, value) for name, value in record.inputs.items() if name.startswith(INPUTS))


def _read_record(folder: Path, benchmark: str) -> StageRecord | None:
    """What the evaluation was made from; None where an older icr kept no record."""
    steps, round_ = folder / "steps.json", folder.resolve().parent / "round.json"
    try:
        found = read_json(steps).get(benchmark) if steps.is_file() else None
        if found is None and round_.is_file():
            found = read_json(round_)["stages"].get("judge")
        return StageRecord.model_validate(found) if found else None
    except (ValueError, KeyError, AttributeError):
        return None  # the commands that continue this evaluation name the file


def _other_texts(first: Path, second: Path, benchmark: str) -> Iterator[str]:
    """Items of one id whose prompt, reference or baseline's answer is another text in the other folder."""
    for name, read in (("prompts", _prompts), ("baseline's answers", _baseline), ("references", _references)):
        one, two = read(first, benchmark), read(second, benchmark)
        other = [f"{lang} {id}" for lang, id in one if one[lang, id] != two.get((lang, id), one[lang, id])]
        if other:
            yield f"{name}: {len(other)} of {len(one.keys() & two.keys())} are other texts ({some(other)})"


Texts = Mapping[tuple[str, str], object]
"""(language, id) → text."""


def _prompts(folder: Path, benchmark: str) -> Texts:
    files = sorted((benchmark_folder(folder, benchmark) / "answers").glob("*.parquet"))
    if benchmark == "xalpaca":
        columns = ["prompt_id", "prompt"]
        whole = [file for file in files if set(columns) <= set(read_columns(file))]
        return {(f.stem, row["prompt_id"]): row["prompt"] for f in whole for row in read_rows(f, columns)}
    columns = ["key", "turn", "prompt"]
    return {(f.stem, f"{row['key']} turn {row['turn']}"): row["prompt"] for f in files for row in read_rows(f, columns)}


def _baseline(folder: Path, benchmark: str) -> Texts:
    """Out of AlpacaEval's files, which have the texts that were compared; those of an older icr have no ids."""
    files = sorted((folder / "alpaca_eval").glob("*/annotations.json")) if benchmark == "xalpaca" else []
    rows = [(file.parent.name, row) for file in files for row in read_json(file)]
    return {(lang, str(row["id"])): row["output_1"] for lang, row in rows if "id" in row}


def _references(folder: Path, benchmark: str) -> Texts:
    """Where each turn's reference is from."""
    files = sorted((folder / "mtbench" / "verdicts").glob("*.parquet")) if benchmark == "mtbench" else []
    return {
        (f.stem, f"{row['key']} turn {row['turn']}"): row["reference"] or "none" for f in files for row in read_rows(f)
    }
