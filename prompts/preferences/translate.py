"""`icr rm translate`: preference data into other languages. A row is one unit: a part that fails drops all of it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from pathlib import Path
from typing import NamedTuple, cast

from icr.base.content import hash_file
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_json, write_json
from icr.base.problems import Collector
from icr.base.progress import Reporter
from icr.endpoint.endpoint import Ask, Endpoint
from icr.endpoint.prices import Cost, Estimate
from icr.languages import english_name
from prompts.preferences.demonstrations import keep_demonstrations
from prompts.preferences.make import REPORT, TRAIN, VALIDATION, PreferenceData, describe_data, load_data, write_parts
from prompts.preferences.reading import Reading
from prompts.preferences.rows import PairRow
from prompts.preferences.units import Unit, make_row, make_unit, move
from prompts.translate import WORK, write_lines
from prompts.translator import Translator, TranslatorJob, serve

WORKER = "prompts.preferences.translate"
"""The module of the worker process."""
DROPPED, MADE = "translation_dropped.jsonl", "made.json"
"""What was dropped, with reasons; in the translator's folder: what the tables were made from."""


class Ways(NamedTuple):
    """What is translated into what."""

    source: str
    targets: Sequence[str]
    back: bool
    """Into the language and back."""

    def path(self, target: str) -> tuple[str, ...]:
        return (self.source, target, self.source) if self.back else (self.source, target)


class DataJob(TranslatorJob):
    """A whole `icr rm translate`."""

    folder: str
    source: str | None
    """The language that is translated. None: the only one that the folder has."""
    targets: list[str]
    back: bool
    limit: int | None
    """First rows of each split."""
    demonstrations: bool = False
    """Only what shows how to answer: of pairs the chosen responses, of ratings those with label 1."""

    def task(self) -> DataTask:
        return DataTask(self)

    def checked(self, *, dry: bool = False) -> DataTask:
        """The task. Raises ConfigError: everything that is wrong with the data, the languages and the translator."""
        found = Collector()
        found.attempt(None, self.check, dry=dry)
        task = found.attempt(None, self.task)
        found.raise_any()
        assert task is not None
        return task


class DataTask:
    """The rows of one language of a folder of `icr rm data`, to be translated into others."""

    def __init__(self, job: DataJob) -> None:
        """Reads the folder.

        Raises:
            ConfigError: everything that is wrong: no folder of preference data, languages, an `out` with other data.
        """
        found, self.job, folder = Collector(), job, Path(job.folder)
        data = found.attempt(None, load_data, folder, "FOLDER")
        targets: list[str] = found.attempt([], _check_targets, job.targets)
        source = found.attempt("", _choose_source, job.source, targets, data)
        found.attempt(None, self._check_new)
        found.raise_any()
        assert data is not None
        data = keep_demonstrations(data) if job.demonstrations else data
        self.data, self.out, self.ways = data, Path(job.out), Ways(source, targets, job.back)
        self.made: Fields = {
            "training data": hash_file(folder / TRAIN), "validation data": hash_file(folder / VALIDATION),
            "--from": source, "--back": job.back, "--limit": job.limit, "--translator": job.name,
        }  # fmt: skip
        self.made |= {"demonstrations": True} if job.demonstrations else {}
        self._refuse_loss()
        self.units = [
            make_unit(row, split, self.ways.path(target))
            for target in targets
            for split, rows in enumerate((data.train, data.validation))
            for row in [row for row in rows if row["lang"] == source][: job.limit]
        ]

    def _check_new(self) -> None:
        """Raises UserError where `out` has files that this command did not write."""
        out = Path(self.job.out)
        if (out / WORK / MADE).is_file() or not out.is_dir():
            return
        if names := sorted(path.name for path in out.iterdir() if path.name != WORK):
            what = f"the folder has files that were not written by this command: {', '.join(names)}"
            raise UserError(what, where=f"--out: {out}", do="choose another folder with --out")

    def _refuse_loss(self) -> None:
        """Raises UserError where tables of other data or settings, or of more languages, would be overwritten."""
        file = self.out / WORK / MADE
        if not file.is_file():
            return
        where, other, made = f"--out: {self.out}", "choose another folder with --out", read_json(file)
        changed = [f"    {name}: {made.get(name)} → {now}" for name, now in self.made.items() if made.get(name) != now]
        if changed:
            lines = "\n".join(changed)
            what = f"the folder was made from other data or with other settings:\n{lines}"
            raise UserError(what, where=where, do=f"restore the old values, or {other}")
        if lost := [lang for lang in made["languages"] if lang not in self.ways.targets]:
            what = f"the folder has translations that would be lost: {', '.join(lost)}"
            raise UserError(what, where=where, do=f"add these languages to --to, or {other}")

    def estimate(self, translator: Translator) -> Estimate:
        """The requests of all ways. A text that is not translated yet counts on the way back as long as it is now."""
        total, units = Estimate(0, 0, 0, 0, 0.0), self.units
        for _ in range(len(self.ways.path("")) - 1):
            total += translator.estimate([ask for unit in units for ask in unit.asks])
            units = [moved for unit in units if (moved := _expect(unit, translator)).dropped is None]
        return total

    def translate(self, translator: Translator, progress: Callable[[int, int], None]) -> tuple[list[Unit], list[Ask]]:
        """All units at the end of their ways, dropped ones included, and everything that was asked."""
        units, every, came = self.units, list[Ask](), 0
        ways = len(self.ways.path("")) - 1
        for way in range(ways):
            going = [n for n, unit in enumerate(units) if unit.dropped is None]
            asks = [ask for n in going for ask in units[n].asks]
            total = len(every) + len(asks) * (ways - way)

            def done(more: int, total: int = total) -> None:
                nonlocal came
                came += more
                progress(came, total)

            answers = iter(translator.ask(asks, done))
            every += asks
            units = [unit if unit.dropped else move(unit, answers) for unit in units]
        return units, every

    def write(self, units: Sequence[Unit], cost: Cost | None) -> Fields:
        """Both tables, what was dropped, and the report, which comes last: without it the folder is none of data.

        Args:
            cost: of all answers, including those of earlier commands; None for a local model.

        Returns:
            The report.
        """
        reading = Reading(Path(self.job.folder).resolve().name)
        for unit in units:
            reading.rows[unit.lang] += 1
            if unit.dropped:
                reading.leave_out(unit.lang, unit.dropped)
        parts = tuple(
            cast(list[PairRow], [make_row(unit) for unit in units if unit.split == split and not unit.dropped])
            for split in (0, 1)
        )
        report = describe_data(self.data.kind, [reading], (parts[0], parts[1]), Counter(), self.data.report.get("seed"))
        (self.out / REPORT).unlink(missing_ok=True)
        write_json(self.out / WORK / MADE, self.made | {"languages": list(self.ways.targets)})
        write_parts(self.out, self.data.kind, (parts[0], parts[1]))
        write_lines(self.out / DROPPED, [_describe_dropped(unit) for unit in units if unit.dropped])
        spent = None if cost is None else {name: getattr(cost, name) for name in COSTS}
        about = {"from": self.ways.source, "to": list(self.ways.targets), "back": self.ways.back,
                "translator": self.job.name, "cost": spent}  # fmt: skip
        result: Fields = {**asdict(report), "translation": about}
        write_json(self.out / REPORT, result)
        return result


TEXTS = ("prompt", "chosen", "rejected", "response")
COSTS = ("calls", "prompt_tokens", "completion_tokens", "usd")


def _check_targets(codes: Sequence[str]) -> list[str]:
    targets = list(dict.fromkeys(codes))
    for code in targets:
        english_name(code)
    if not targets:
        raise UserError("no language to translate into", where="--to", do="name languages, such as --to es,th,sw")
    return targets


def _choose_source(given: str | None, targets: Sequence[str], data: PreferenceData | None) -> str:
    """The language that is translated. Raises UserError where the data does not have it or it is a target."""
    there = sorted({row["lang"] for row in [*data.train, *data.validation]}) if data else []
    if given is None and len(there) > 1:
        do = f"name one with --from: {', '.join(there)}"
        raise UserError(f"the data has {len(there)} languages", where="--from", do=do)
    source = given or next(iter(there), "")
    if data and source not in there:
        do = f"name one of {', '.join(there)}" if there else "name a folder with rows"
        raise UserError(f"the data has no rows in {source}", where="--from", do=do)
    if source in targets:
        do = f"remove {source} from --to, or name another --from"
        raise UserError(f"the rows are already in {english_name(source)}", where="--to", do=do)
    return source


def _expect(unit: Unit, translator: Translator) -> Unit:
    """The unit in its next language, as far as its answers are known; else with the texts of now."""
    if unit.hops + 2 >= len(unit.path):
        return unit
    replies = [reply for ask in unit.asks if (reply := translator.find(ask)) is not None]
    if len(replies) == len(unit.parts):
        return move(unit, iter(replies))
    return replace(unit, hops=unit.hops + 1)


def _describe_dropped(unit: Unit) -> Fields:
    return {
        "id": unit.row["id"],
        "lang": unit.lang,
        "path": list(unit.path[: unit.hops + 1]),
        "reason": unit.dropped,
        "detail": unit.detail,
        "original": {
            name: unit.row.get(name) for name in ("prompt", "chosen", "rejected", "response") if name in unit.row
        },
        "translation": [{"part": part.name, "text": part.text} for part in unit.parts],
    }


def run(job: DataJob, reporter: Reporter) -> None:
    """The worker's task: ask, check, and write the folder."""
    task, translator = job.task(), job.translator(reporter)
    units, asks = task.translate(translator, reporter.progress)
    task.write(units, translator.cost_of(asks) if isinstance(translator, Endpoint) else None)


if __name__ == "__main__":
    import sys

    sys.exit(serve(DataJob, run))
