"""Prompts, English pairs, models, answers and tables that are not what they should be."""

from __future__ import annotations

import gzip
import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

from tests.malformed.bench import Bench, Case

ONE = '{"id": "p1", "instruction": "Name three animals."}\n'
GOOD = {"prompt": "Name three animals.", "chosen": "Cat, dog and cow.", "rejected": "No."}
JUDGED = "preference,len_model,len_baseline,index\n"
ROWS = "0.9,120,100,0\n0.4,80,100,1\n0.7,150,90,2\n0.2,60,110,3\n"


def prompts(name: str, content: str | bytes, *says: str, lang: str = "es", code: int = 2) -> Case:
    """A folder of prompts in which one file has this content."""

    def make(bench: Bench) -> list[object]:
        return ["validate", bench.config({"prompts.path": str(bench.parallel(**{lang: content}))})]

    return Case(f"prompts: {name}", make, says, code)


def table(name: str, content: str | bytes, *says: str, suffix: str = "jsonl", code: int = 2) -> Case:
    """One table of prompts."""

    def make(bench: Bench) -> list[object]:
        return ["validate", bench.config({"prompts.path": str(bench.write(f"t.{suffix}", content))})]

    return Case(f"prompts: {name}", make, says, code)


def pairs(name: str, content: str | bytes, *says: str) -> Case:
    def make(bench: Bench) -> list[object]:
        alignment = f"{{pairs: {bench.write('pairs.jsonl', content)}}}"
        return ["validate", bench.config({"models.policy": "", "alignment": alignment})]

    return Case(f"pairs: {name}", make, ("pairs.jsonl", *says))


def model(name: str, change: Callable[[Path], object], *says: str) -> Case:
    """The policy is a copy of a good model, changed."""

    def make(bench: Bench) -> list[object]:
        folder = shutil.copytree(bench.policy, bench.folder / "m")
        change(folder)
        return ["validate", bench.config({"models.policy": str(folder)})]

    return Case(f"model: {name}", make, says)


def answers(name: str, content: str | bytes, *says: str) -> Case:
    """A baseline's answers in Spanish."""

    def make(bench: Bench) -> list[object]:
        ids = [f"p{n}" for n in range(11, 15)]
        bench.write("base/en.json", json.dumps([{"id": id, "output": "x"} for id in ids]))
        bench.write("base/es.json", content)
        judge = {"judge.kind": "local", "judge.model": str(bench.reference), "judge.prompts": str(bench.heldout)}
        return ["validate", bench.config({**judge, "judge.baseline": str(bench.folder / "base")})]

    return Case(f"answers: {name}", make, says)


def judged(name: str, content: str | bytes, *says: str, suffix: str = "csv", code: int = 2) -> Case:
    """`icr lc` on a table."""
    named = (f"t.{suffix}",) if code else ()
    return Case(f"table: {name}", lambda b: ["lc", b.write(f"t.{suffix}", content)], (*named, *says), code)


def beside(name: str, option: str, content: str | bytes, *says: str) -> Case:
    """`icr lc` on a good table, with another beside it."""

    def make(bench: Bench) -> list[object]:
        return ["lc", bench.write("t.csv", JUDGED + ROWS), option, bench.write("other.csv", content)]

    return Case(f"table: {name}", make, ("other.csv", *says))


def cases() -> Iterator[Case]:
    yield from of_prompts()
    yield from of_pairs()
    yield from of_models()
    yield from of_answers()
    yield from of_tables()


def of_prompts() -> Iterator[Case]:
    yield prompts("not JSON", ONE + "{\n", "es.jsonl:2", "not JSON")
    yield prompts("not an object", ONE + "[1]\n", "es.jsonl:2", "not a JSON object")
    yield prompts("no id", '{"instruction": "?"}\n', "es.jsonl:1", "without id")
    yield prompts("an empty id", '{"id": "", "instruction": "?"}\n', "es.jsonl:1", "without id")
    yield prompts("an id twice", ONE + ONE, "es.jsonl:2", "id p1 appears twice")
    yield prompts("no English partner", '{"id": "p9", "instruction": "?"}\n', "es.jsonl:1", "id p9 has no English")
    yield prompts("no instruction", '{"id": "p1"}\n', "es.jsonl:1", "instruction")
    yield prompts("a blank instruction", '{"id": "p1", "instruction": " "}\n', "es.jsonl:1", "p1")
    yield prompts("an instruction that is a number", '{"id": "p1", "instruction": 3}\n', "es.jsonl:1")
    yield prompts("messages that are a text", '{"id": "p1", "messages": "?"}\n', "es.jsonl:1", "messages")
    yield prompts("no messages", '{"id": "p1", "messages": []}\n', "es.jsonl:1", "messages")
    yield prompts(
        "an unknown role", '{"id": "p1", "messages": [{"role": "poet", "content": "?"}]}\n', "es.jsonl:1", "poet"
    )
    yield prompts("a message without text", '{"id": "p1", "messages": [{"role": "user"}]}\n', "es.jsonl:1", "content")
    yield prompts(
        "an answer at the end",
        json.dumps({"id": "p1", "messages": [{"role": "user", "content": "?"}, {"role": "assistant", "content": "!"}]}),
        "es.jsonl:1",
        "assistant",
    )
    yield prompts("Latin-1", ONE.encode() + '{"id": "p2", "instruction": "¿Qué?"}\n'.encode("latin-1"), "es.jsonl:2")
    yield prompts("only blank lines", "\n \n\n", "no prompts in es")
    yield prompts("only blank lines in English", "\n\n", "no prompts in en", lang="en")
    yield table("a table without languages", ONE, "t.jsonl:1", "without `lang`")
    yield table("a table in which lang is a number", '{"id": 1, "lang": 5, "instruction": "?"}\n', "t.jsonl:1", "lang")
    yield table("a table in another language", '{"id": 1, "lang": "fr", "instruction": "?"}\n', "no prompts in en")
    yield table("not parquet", "hello", "t.parquet", "not a parquet file", suffix="parquet")
    yield table("an empty table", "", "no prompts in en")
    yield table("JSON that is cut off", '[{"id": 1', "t.json:1", suffix="json")
    yield Case(
        "prompts: no such folder",
        lambda bench: ["validate", bench.config({"prompts.path": "./nowhere"})],
        ("folder", "nowhere not found", "prompts.path"),
    )
    yield Case(
        "prompts: an empty folder",
        lambda bench: ["validate", bench.config({"prompts.path": str(bench.write("p/x", "").parent)})],
        ("no prompts in en", "en.jsonl not found"),
    )


def of_pairs() -> Iterator[Case]:
    good = json.dumps(GOOD) + "\n"
    yield pairs("empty", "", "no pairs")
    yield pairs("not JSON", good + "{\n", ":2", "not JSON")
    yield pairs("no rejected", good + json.dumps({**GOOD, "rejected": None}), ":2", "rejected")
    yield pairs("a blank answer", json.dumps({**GOOD, "chosen": " "}), ":1", "chosen")
    yield pairs("numbers", json.dumps({**GOOD, "chosen": 1}), ":1", "chosen")
    yield pairs("the same answer twice", json.dumps({**GOOD, "rejected": GOOD["chosen"]}), ":1", "the same text")
    yield pairs("Latin-1", good.replace("cow", "pájaro").encode("latin-1").replace(b"\\u00e1", b"\xe1"), ":1", "UTF-8")
    yield pairs("a list", "[1, 2]\n", ":1")
    yield Case(
        "pairs: no such file",
        lambda bench: ["validate", bench.config({"models.policy": "", "alignment": "{pairs: none.jsonl}"})],
        ("none.jsonl not found", "alignment.pairs"),
    )
    yield Case(
        "pairs: a folder",
        lambda bench: ["validate", bench.config({"models.policy": "", "alignment": f"{{pairs: {bench.prompts}}}"})],
        ("alignment.pairs", "not found"),
    )
    yield Case(
        "pairs: none are named",
        lambda bench: ["validate", bench.config({"models.policy": "", "alignment": "{limit: 3}"})],
        ("`alignment.pairs` is missing",),
    )


def of_models() -> Iterator[Case]:
    yield model("no config", lambda folder: (folder / "config.json").unlink(), "no config.json", "models.policy")
    yield model("no weights", lambda folder: (folder / "model.safetensors").unlink(), "no safetensors weights")
    yield model(
        "a missing shard",
        lambda folder: (
            (folder / "model.safetensors").unlink(),
            (folder / "model.safetensors.index.json").write_text('{"weight_map": {"a": "model-1.safetensors"}}'),
        ),
        "model-1.safetensors",
        "models.policy",
    )


def of_answers() -> Iterator[Case]:
    yield answers("not a list", '{"id": "p11", "output": "x"}', "es.json", "not a JSON array")
    yield answers("not JSON", "[\n{", "es.json:2")
    yield answers("not objects", "[1]", "es.json, element 1")
    yield answers("no output", '[{"id": "p11"}]', "es.json, element 1", "output")
    yield answers("neither id nor instruction", '[{"output": "x"}]', "es.json, element 1", "neither id nor")
    yield answers("Latin-1", '[{"id": "p11", "output": "á"}]'.encode("latin-1"), "es.json", "UTF-8")
    yield answers("twice", '[{"id": "p11", "output": "x"}, {"id": "p11", "output": "y"}]', "p11", "more than once")
    yield answers("some are missing", '[{"id": "p11", "output": "x"}]', "p12", "es")


def of_tables() -> Iterator[Case]:
    yield judged("empty", "", "column preference")
    yield judged("no rows", JUDGED, "no rows")
    yield judged("a missing column", "preference,len_model\n0.5,10\n", "len_baseline")
    yield judged("a text", JUDGED + "good,10,10,0\n", "t.csv:2", "preference", "'good'")
    yield judged("NaN", JUDGED + ROWS + "nan,10,10,9\n", "t.csv:6", "preference")
    yield judged("beyond 1", JUDGED + "1.4,10,10,0\n", "t.csv:2", "1.4")
    yield judged("a negative length", JUDGED + "0.4,-10,10,0\n", "t.csv:2", "len_model")
    yield judged("an endless length", JUDGED + "0.4,inf,10,0\n", "t.csv:2", "len_model")
    yield judged("an index twice", JUDGED + ROWS + "0.4,10,10,0\n", "t.csv:6", "index 0")
    yield judged("an empty index", JUDGED + "0.4,10,10,\n", "t.csv:2", "index")
    yield judged("two models", "model," + JUDGED + "a,0.4,1,1,0\nb,0.4,1,1,1\n", "2 models", "column model")
    yield judged("too many cells", JUDGED + "0.4,10,10,0,7\n", "line 2")
    yield judged("not UTF-8", JUDGED.encode() + b"\xff\xfe\n", "cannot be read")
    yield judged("not gzip", JUDGED, "cannot be read", suffix="csv.gz")
    yield judged(
        "gzip that is cut off", gzip.compress((JUDGED + ROWS * 50).encode())[:-20], "cannot be read", suffix="csv.gz"
    )
    yield judged("not parquet", "hello", "cannot be read", suffix="parquet")
    yield judged("nothing is scored", JUDGED + ",10,10,0\n,10,10,1\n")
    yield judged("a BOM", b"\xef\xbb\xbf" + (JUDGED + ROWS).encode(), "win rate", code=0)
    yield Case("table: no such file", lambda bench: ["lc", bench.folder / "none.csv"], ("none.csv", "file not found"))
    yield Case("table: a folder", lambda bench: ["lc", bench.folder], ("file not found",))
    yield beside("difficulties without a column", "--difficulty", "index,hard\n0,1\n", "difficulty")
    yield beside("difficulties that are texts", "--difficulty", "index,difficulty\n0,hard\n", "other.csv:2", "'hard'")
    yield beside("gamed pairs without a model", "--gamed", JUDGED + ROWS, "model")
    yield Case(
        "table: difficulties of other instructions",
        lambda b: ["lc", b.write("t.csv", JUDGED + ROWS), "--difficulty", b.write("d.csv", "index,difficulty\n0,1\n")],
        ("1", "difficult"),
    )
