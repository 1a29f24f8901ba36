from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr.base.conversation import dump_conversation
from icr.base.errors import ConfigError, UserError
from prompts.load import load_prompts
from prompts.preferences.english import read_alignment
from tests.conftest import write_prompts


def put(folder: Path, lang: str, *lines: str | bytes) -> None:
    folder.mkdir(exist_ok=True)
    (folder / f"{lang}.jsonl").write_bytes(b"\n".join(x if isinstance(x, bytes) else x.encode() for x in lines))


def row(id: object, text: str) -> str:
    return json.dumps({"instruction_id": id, "instruction": text})


def problems(folder: Path, *languages: str) -> str:
    with pytest.raises(ConfigError) as caught:
        load_prompts(str(folder), list(languages))
    return str(caught.value)


def test_languages_are_joined_by_id_whatever_the_order_of_lines(tmp_path: Path) -> None:
    put(tmp_path, "en", row("a", "one"), row("b", "two"), row("c", "three"))
    put(tmp_path, "es", row("c", "tres"), row("a", "uno"))
    found = [(p.id, p.lang, p.text, dump_conversation(p.english)) for p in load_prompts(str(tmp_path), ["en", "es"])]
    assert found == [
        ("a", "en", "one", "one"),
        ("a", "es", "uno", "one"),
        ("b", "en", "two", "two"),
        ("c", "en", "three", "three"),
        ("c", "es", "tres", "three"),
    ]


def test_limit_counts_english_prompts(tmp_path: Path) -> None:
    found = load_prompts(str(write_prompts(tmp_path, range(9))), ["en", "es", "ru"], limit=2)
    assert [(p.id, p.lang) for p in found] == [(i, lang) for i in ("p0", "p1") for lang in ("en", "es", "ru")]


def test_a_limit_that_leaves_a_language_nothing_is_told(tmp_path: Path) -> None:
    put(tmp_path, "en", row("a", "one"), row("b", "two"), row("c", "three"))
    put(tmp_path, "es", row("c", "tres"))
    assert len(load_prompts(str(tmp_path), ["en", "es"], limit=3)) == 4
    with pytest.raises(UserError, match="none of the first 2 prompts exists in es"):
        load_prompts(str(tmp_path), ["en", "es"], limit=2)


def test_every_defect_is_named_by_file_and_line(tmp_path: Path) -> None:
    put(tmp_path, "en", row("a", "one"), row("b", "two"), row("a", "again"))
    put(
        tmp_path,
        "es",
        row("a", "uno"),
        "{broken",
        json.dumps({"instruction": "sin id"}),
        json.dumps({"id": "b"}),
        row("b", "   "),
        row("z", "nadie"),
        "[1]",
    )
    text = problems(tmp_path, "en", "es")
    for what, where in [
        ("id a appears twice", "en.jsonl:3 and"),
        ("not JSON", "es.jsonl:2"),
        ("without id", "es.jsonl:3"),
        ("without `instruction`", "es.jsonl:4"),
        ("instruction of id b is empty", "es.jsonl:5"),
        ("id z has no English partner", "es.jsonl:6"),
        ("not a JSON object", "es.jsonl:7"),
    ]:
        assert what in text and where in text, what
    assert text.startswith("7 problems")


def test_a_faulty_english_prompt_is_not_blamed_on_its_translations(tmp_path: Path) -> None:
    put(tmp_path, "en", row("a", "one"), '{"id": "b", "instruction": two}')
    put(tmp_path, "es", row("a", "uno"), row("b", "dos"), row("c", " "))
    text = problems(tmp_path, "en", "es")
    assert text.startswith("2 problems") and "en.jsonl:2" in text and "instruction of id c is empty" in text
    rows = [{"id": 1, "lang": "en"}, {"id": 1, "lang": "es", "instruction": "uno"}]
    (tmp_path / "t.json").write_text(json.dumps(rows))
    with pytest.raises(ConfigError, match=r"1 problem .*\n.*without `instruction`"):
        load_prompts(str(tmp_path / "t.json"), ["en", "es"])


def test_bytes_that_are_not_utf8(tmp_path: Path) -> None:
    put(tmp_path, "en", row("a", "one"), b'{"id": "b", "instruction": "caf\xe9"}')
    text = problems(tmp_path, "en")
    assert "not UTF-8" in text and "en.jsonl:2" in text


def test_empty_and_absent_files(tmp_path: Path) -> None:
    put(tmp_path, "en", "")
    text = problems(tmp_path, "en", "sw")
    assert "sw.jsonl not found" in text
    put(tmp_path, "sw", "")
    assert "no prompts in en" in problems(tmp_path, "en", "sw")


def test_many_defects_are_capped_and_counted(tmp_path: Path) -> None:
    put(tmp_path, "en", *["{"] * 30)
    assert "… and 10 more such problems" in problems(tmp_path, "en")


def test_tables(tmp_path: Path) -> None:
    rows = [
        {"id": 1, "lang": "en", "instruction": "one"},
        {"id": 1, "lang": "de", "instruction": "eins"},
        {"id": 1, "lang": "fr", "instruction": "un"},
    ]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "t.parquet")
    (tmp_path / "t.jsonl").write_text("\n".join(map(json.dumps, rows)))
    for name in ("t.parquet", "t.jsonl"):
        found = load_prompts(str(tmp_path / name), ["en", "de"])
        assert [(p.id, p.lang, p.text) for p in found] == [("1", "en", "one"), ("1", "de", "eins")]
    (tmp_path / "t.jsonl").write_text(json.dumps({"id": 1, "instruction": "one"}))
    with pytest.raises(ConfigError, match="without `lang`"):
        load_prompts(str(tmp_path / "t.jsonl"), ["en"])


def test_a_json_array_per_language_is_read(tmp_path: Path) -> None:
    (tmp_path / "en.json").write_text(json.dumps([{"id": 1, "dataset": "x", "instruction": "one"}]))
    assert [p.text for p in load_prompts(str(tmp_path), ["en"])] == ["one"]


def test_a_path_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(UserError, match=r"folder .* not found"):
        load_prompts(str(tmp_path / "no"), ["en"])


def test_public_prompts_of_nine_languages() -> None:
    data = Path(__file__).parents[3] / "shared" / "data"
    if not data.is_dir():
        pytest.skip("the public prompt files are not beside this checkout")
    languages = ["en", "es", "ru", "de", "fr", "bn", "sw", "th", "zh"]
    found = load_prompts(str(data / "ultrafeedback"), languages)
    assert len(found) == 900 and len({p.id for p in found}) == 100
    heldout = load_prompts(str(data / "x_alpacaeval" / "prompts"), ["en", "es", "sw"])
    assert {p.lang for p in heldout} == {"en", "es", "sw"}


def test_alignment_pairs(tmp_path: Path) -> None:
    file = tmp_path / "pairs.jsonl"
    good = {"prompt": "p", "chosen": "c", "rejected": "r"}
    file.write_text(json.dumps(good) + "\n")
    assert read_alignment(str(file)).pairs == [good]
    file.write_text(
        "\n".join([json.dumps(good), json.dumps({**good, "rejected": "c"}), json.dumps({"prompt": "p"}), "x"])
    )
    with pytest.raises(ConfigError) as caught:
        read_alignment(str(file))
    text = str(caught.value)
    assert f"{file}:2" in text and "same text" in text and f"{file}:3" in text and f"{file}:4" in text
    file.write_text("")
    with pytest.raises(ConfigError, match="no pairs"):
        read_alignment(str(file))
