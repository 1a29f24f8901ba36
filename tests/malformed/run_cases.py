"""Run folders and evaluation folders that somebody or something has damaged."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.malformed.bench import Bench, Case


def damaged(name: str, command: str, file: str, content: str | bytes, *says: str, code: int = 2) -> Case:
    """A command on a finished run in which one file has other content."""

    def make(bench: Bench) -> list[object]:
        run = bench.finished()
        bench.write(f"done/{file}", content)
        return [*command.split(), run]

    return Case(f"{command}: {name}", make, says or (file,), code)


def edited(name: str, command: str, file: str, edit: Callable[[dict[str, object]], object], *says: str) -> Case:
    """Likewise, with a JSON file changed."""

    def make(bench: Bench) -> list[object]:
        run = bench.finished()
        path = Path(run, file)
        value = json.loads(path.read_text())
        edit(value)
        path.write_text(json.dumps(value))
        return [*command.split(), run]

    return Case(f"{command}: {name}", make, says or (file,))


def on_run(name: str, arguments: Callable[[Path], list[object]], *says: str, code: int = 2) -> Case:
    return Case(name, lambda bench: arguments(bench.finished()), says, code)


def cases() -> Iterator[Case]:
    for command in ("status", "report"):
        yield Case(
            f"{command}: no such folder",
            lambda b, c=command: [c, b.folder / "none"],
            ("none", "not a run folder", "does not exist"),
        )
        yield damaged("a config that is no YAML", command, "config.yaml", "a: [", "config.yaml", "backup")
        yield damaged("a record that is no JSON", command, "round-1/round.json", '{"round"')
    command = "status"
    yield on_run("best: a round for its run", lambda run: ["best", run / "round-1"], "not a run folder", "inside a run")
    yield on_run(
        "export: a run for its round",
        lambda run: ["export", run, "--to", "trl", "--out", run / "x"],
        "not a round of a run", "name one of its rounds",
    )  # fmt: skip
    yield Case("status: a file", lambda b: ["status", b.write("f", "")], ("f is not a run folder",))
    yield Case("status: an empty folder", lambda b: ["status", b.folder], ("is not a run folder",))
    yield damaged("a config that is a list", command, "config.yaml", "- a\n", "config.yaml")
    yield damaged("a config with a key twice", command, "config.yaml", "rounds: 1\nrounds: 2\n", "`rounds`")
    yield damaged("a section that is a text", command, "config.yaml", "judge: local\n", "`judge`", "config.yaml")
    yield damaged("languages that are a text", command, "config.yaml", "prompts: {languages: en}\n", "languages")
    yield damaged("rounds that are a text", command, "config.yaml", "rounds: two\n", "rounds", "config.yaml")
    yield damaged("benchmarks that are a number", command, "config.yaml", "judge: {benchmarks: 3}\n", "benchmarks")
    yield damaged("a config of zeros", command, "config.yaml", b"\0" * 50, "config.yaml")
    yield damaged("a record that is a list", command, "round-1/round.json", "[]")
    yield damaged("a record of zeros", command, "round-1/round.json", b"\0" * 50)
    yield damaged("a record of another file", command, "round-1/round.json", '{"stages": {"sample": 3}}')
    yield edited(
        "a stage that there is not", command, "round-1/round.json",
        lambda record: record["stages"].update(stir=record["stages"]["sample"]),  # type: ignore[attr-defined,index]
        "stir", "round-1/round.json",
    )  # fmt: skip
    yield Case("report: damaged files", _damage, ("round-1/judge/summary.json", "pairs.parquet", "lengths.json"), 0)
    yield damaged("a summary that is a list", "report", "round-1/judge/summary.json", "[]", code=0)
    yield on_run(
        "sample: models that are gone", lambda run: ["sample", "--run", run, "--round", "1"], "models.reference"
    )
    yield Case("train: no run", lambda b: ["train", "--run", b.folder, "--round", "1"], ("is not a run folder",))
    yield Case("judge: no run", lambda b: ["judge", "--run", b.folder, "--round", "1"], ("is not a run folder",))
    yield Case(
        "iterate: from a folder that is no round",
        lambda bench: ["iterate", "--from", bench.folder, "--run", bench.folder / "new"],
        ("not a round of a run", "--from"),
    )
    yield on_run("iterate: from a round without --run", _started, "--from", "add --run")
    yield on_run(
        "iterate: from a round that is not there",
        lambda run: ["iterate", "--from", run / "round-7", "--run", run / "new"],
        "has no round-7", "round-2", "--from",
    )  # fmt: skip
    yield on_run(
        "iterate: from a round whose model is gone",
        lambda run: ["iterate", "--from", _started(run)[2].parent / "round-2", "--run", run / "new"],  # type: ignore[attr-defined]
        "the model of round 2 is gone", "backup",
    )  # fmt: skip
    yield Case(
        "iterate: a run that is not there",
        lambda bench: ["iterate", "--run", bench.folder / "none"],
        ("none is not a run", "--run", "add --config"),
    )
    yield Case(
        "iterate: from a folder that is not there",
        lambda bench: ["iterate", "--from", bench.folder / "none" / "round-1", "--run", bench.folder / "new"],
        ("none", "--from"),
    )
    yield Case(
        "iterate: a run that is a file",
        lambda bench: ["iterate", "--config", bench.config(), "--run", bench.write("f", "")],
        ("f is a file", "run"),
    )
    yield Case(
        "iterate: a run below a file",
        lambda bench: ["iterate", "--config", bench.config(), "--run", bench.write("f", "") / "x"],
        ("f is a file", "run"),
    )
    yield Case(
        "iterate: a lock that is a folder",
        lambda b: ["iterate", "--config", b.config(), "--run", b.write("r/.lock/x", "").parent.parent],
        (".lock",),
    )
    yield Case(
        "accuracy: no run",
        lambda bench: ["judge", "accuracy", "--run", bench.folder, "--round", "1", "--judge", "local:x/y"],
        ("is not a run folder",),
    )
    yield Case(
        "diff: no evaluation",
        lambda bench: ["judge", "diff", bench.folder / "a", bench.folder / "b"],
        ("/a not found", "check the path"),
    )
    for command, where in (("audit", "round-1"), ("diff", "")):
        yield on_run(
            f"{command}: a folder that has evaluations",
            lambda run, c=command, w=where: ["judge", c, run / w, *([run / "round-1/judge"] if c == "diff" else [])],
            "do:    name ", f"{where or 'round-2'}/judge\n",
        )  # fmt: skip
    yield Case(
        "audit: no such folder",
        lambda bench: ["judge", "audit", bench.folder / "none"],
        ("none not found",),
    )
    yield on_run(
        "diff: a benchmark that is not there",
        lambda run: ["judge", "diff", run / "round-1/judge", run / "round-2/judge", "--benchmark", "nlp"],
        "nlp", "--benchmark",
    )  # fmt: skip
    yield on_run(
        "diff: an evaluation of other items",
        lambda run: ["judge", "diff", run / "round-1/judge", _fewer(run / "round-2/judge")],
        "round-2/judge",
    )


def _damage(bench: Bench) -> list[object]:
    run = bench.finished()
    for name, content in {"judge/summary.json": "{", "pairs.parquet": "PAR1", "lengths.json": "{"}.items():
        Path(run, "round-1", name).write_text(content)
    Path(run, "round-1", "train", "metrics.jsonl").write_text('{"loss": 1')  # as of a training that still writes
    return ["report", run]


def _started(run: Path) -> list[object]:
    """From a round that has a model."""
    (run / "round-1" / "model").mkdir(exist_ok=True)
    (run / "round-0" / "model.json").write_text('{"policy": "a/b", "reference": "a/c"}')
    return ["iterate", "--from", run / "round-1"]


def _fewer(folder: Path) -> Path:
    """An evaluation of which one language is broken."""
    (folder / "verdicts" / "en.parquet").write_bytes(b"PAR1")
    return folder
