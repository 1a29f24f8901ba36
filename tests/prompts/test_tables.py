"""Files of rows: every form, what is odd in them, and the place of every fault."""

from __future__ import annotations

import csv
import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr.base.errors import UserError
from prompts.load import load_english, load_prompts
from prompts.preferences.english import read_alignment
from prompts.tables import find_file, read_file
from tests.prompts.test_prompts import problems, put

ROWS = [{"id": "1", "instruction": 'Say "yes",\nor no.'}, {"id": "2", "instruction": "Größe?"}]


def write_form(path: Path, rows: list[dict[str, str]]) -> Path:
    """Rows in the form that the name asks for, as common programs write it."""
    name = path.name.removesuffix(".gz")
    plain = path.with_name(name)
    if name.endswith(".parquet"):
        pq.write_table(pa.Table.from_pylist(rows), plain)
    elif name.endswith(".csv"):
        with open(plain, "w", encoding="utf-8", newline="") as handle:
            writer = csv.DictWriter(handle, rows[0].keys())
            writer.writeheader()
            writer.writerows(rows)
    elif name.endswith(".jsonl"):
        plain.write_text("\n".join(map(json.dumps, rows)))
    else:
        plain.write_text(json.dumps(rows))
    if path != plain:
        path.write_bytes(gzip.compress(plain.read_bytes()))
        plain.unlink()
    return path


def test_tabs_between_cells(tmp_path: Path) -> None:
    (tmp_path / "en.tsv").write_text('id\tinstruction\n1\tSay "yes", or \u2028 no.\n\n2\tGröße?\n', encoding="utf-8")
    assert [p.text for p in load_prompts(str(tmp_path), ["en"])] == ['Say "yes", or \u2028 no.', "Größe?"]


@pytest.mark.parametrize("end", ["", ".gz"])
@pytest.mark.parametrize("suffix", [".jsonl", ".json", ".csv", ".parquet"])
def test_every_form_gives_the_same_prompts(tmp_path: Path, suffix: str, end: str) -> None:
    write_form(tmp_path / f"en{suffix}{end}", ROWS)
    (tmp_path / "es.txt").write_text("¿Sí o no?\r\n¿Tamaño?\r\n", encoding="utf-8")
    found = {(p.id, p.lang): p.text for p in load_prompts(str(tmp_path), ["en", "es"])}
    assert found == {
        ("1", "en"): 'Say "yes",\nor no.',
        ("2", "en"): "Größe?",
        ("1", "es"): "¿Sí o no?",
        ("2", "es"): "¿Tamaño?",
    }
    table = write_form(tmp_path / f"t{suffix}{end}", [{**row, "lang": "en"} for row in ROWS])
    assert [p.text for p in load_prompts(str(table), ["en"])] == [row["instruction"] for row in ROWS]
    pair = {"prompt": "p", "chosen": "c", "rejected": "r"}
    assert read_alignment(str(write_form(tmp_path / f"p{suffix}{end}", [pair]))).pairs == [pair]


def test_lines_of_text_are_prompts_whose_id_is_the_line_number(tmp_path: Path) -> None:
    (tmp_path / "en.txt").write_bytes("\ufeffone\r\n\r\nthree\u2028\x85still\n".encode())
    assert {p.id: p.text for p in load_prompts(str(tmp_path), ["en"])} == {"1": "one", "3": "three\u2028\x85still"}
    assert list(load_english(str(tmp_path / "en.txt")).prompts) == ["1", "3"]


def test_marks_and_line_ends_of_windows_are_read(tmp_path: Path) -> None:
    lines = [json.dumps({"id": n, "instruction": f"Name {n} rivers."}) for n in range(3)]
    for name, text in {
        "crlf": "\r\n".join(lines) + "\r\n",
        "bom": "\ufeff" + "\n".join(lines),
        "joined": "\n".join("\ufeff" + line for line in lines),
        "gaps": "\n\n \n".join(lines),
    }.items():
        put(tmp_path / name, "en", text.encode())
        assert [p.text for p in load_prompts(str(tmp_path / name), ["en"])] == [f"Name {n} rivers." for n in range(3)]
    (tmp_path / "t.csv").write_bytes('\ufeffid,lang,instruction\r\n1,en,one\r\n2,en,"two\r\nlines"\r\n'.encode())
    assert [p.text for p in load_prompts(str(tmp_path / "t.csv"), ["en"])] == ["one", "two\r\nlines"]
    (tmp_path / "t.json").write_text("\ufeff" + json.dumps([{"id": 1, "lang": "en", "instruction": "one"}]))
    assert [p.text for p in load_prompts(str(tmp_path / "t.json"), ["en"])] == ["one"]


def test_half_a_character_is_named_by_file_and_line(tmp_path: Path) -> None:
    good = '{"id": 0, "instruction": "\\ud83d\\ude00"}'
    put(
        tmp_path,
        "en",
        good,
        '{"id": 1, "instruction": "Name a river \\ud83d"}',
        '{"id": "\\udc80", "instruction": "x"}',
    )
    text = problems(tmp_path, "en")
    assert text.startswith("2 problems") and r"\ud83d is half a character" in text and "in `instruction`" in text
    assert "en.jsonl:2" in text and "en.jsonl:3" in text and text.encode()
    (tmp_path / "a.json").write_text('[{"lang": "en", "id": 1, "messages": [{"role": "user", "content": "\\uDFFF"}]}]')
    with pytest.raises(UserError, match=r"(?s)dfff is half a character.*a\.json, element 1"):
        load_prompts(str(tmp_path / "a.json"), ["en"])
    pair = '{"prompt": "p", "chosen": "\\ud800", "rejected": "r"}'
    put(tmp_path, "pairs", '{"prompt": "p", "chosen": "c", "rejected": "r"}', pair)
    with pytest.raises(UserError, match=r"(?s)in `chosen`.*pairs\.jsonl:2"):
        read_alignment(str(tmp_path / "pairs.jsonl"))


def test_control_characters_and_other_line_separators_are_text(tmp_path: Path) -> None:
    texts = ["Name a\x00 \x1b[31mriver\x07\x85\ufffe", "Name a river\u2028and a lake\u2029.", "\U0001f600\\ud83d"]
    rows = [{"id": str(n), "instruction": text} for n, text in enumerate(texts)]
    put(tmp_path, "en", *(json.dumps(row, ensure_ascii=n % 2 == 0) for n, row in enumerate(rows)))
    assert [p.text for p in load_prompts(str(tmp_path), ["en"])] == texts
    pq.write_table(pa.Table.from_pylist([{**row, "lang": "en"} for row in rows]), tmp_path / "t.parquet")
    assert [p.text for p in load_prompts(str(tmp_path / "t.parquet"), ["en"])] == texts


@pytest.mark.parametrize(
    ("name", "content", "what", "where"),
    [
        ("a.jsonl", b"[\n{}\n]", "the file is one JSON array", "a.jsonl"),
        ("a.jsonl", b'{"id": 0},\n{"id": 1},\n', "not JSON: Extra data", "a.jsonl:1"),
        ("a.jsonl", b"[" * 100_000, "the file is one JSON array", "a.jsonl"),
        ("a.jsonl", b'{"a":' * 100_000, "nested too deeply", "a.jsonl:1"),
        ("a.jsonl", b"\n" + b'{"id": ' + b"1" * 5000 + b"}", "not readable JSON", "a.jsonl:2"),
        ("a.jsonl", '{"id": "ä"}'.encode("utf-16"), "not UTF-8", "a.jsonl:1"),
        ("a.jsonl", b'{"id": 1}\n{"id": "\xe9"}', "not UTF-8", "a.jsonl:2"),
        ("a.json", b"null", "not a JSON array", "a.json"),
        ("a.json", b"3", "not a JSON array", "a.json"),
        ("a.json", b'{"data": []}', "not a JSON array", "a.json"),
        ("a.json", b'[{"id": 1},\n{"id" 2}]', "not JSON: Expecting ':'", "a.json:2"),
        ("a.json", b'{"id": 1}\n{"id": 2}', "not JSON: Extra data", "a.json:2"),
        ("a.json", b'[{"id": 1', "not JSON", "a.json:1"),
        ("a.json", b"", "not JSON", "a.json:1"),
        ("a.json", b"[" * 100_000, "nested too deeply", "a.json"),
        ("a.csv", b"id,id\n1,2\n", "two columns are named id", "a.csv:1"),
        ("a.csv", b'id,text\n1,"a\nb"\n2,x,y\n', "the row has 3 cells, but there are 2 columns", "a.csv:4"),
        ("a.csv", b'id,text\n1,"a\n\nb', "not csv: unexpected end of data", "a.csv:4"),
        ("a.parquet", b"PAR1", "not a parquet file", "a.parquet"),
        ("a.parquet", b"", "not a parquet file", "a.parquet"),
        ("a.jsonl.gz", b'{"id": 1}', "not a complete gzip file", "a.jsonl.gz"),
        ("a.jsonl.gz", gzip.compress(b'{"id": 1}', mtime=0)[:-9], "not a complete gzip file", "a.jsonl.gz"),
        ("a.xlsx", b"PK", "files named *.xlsx are not read", "a.xlsx"),
    ],
)
def test_files_that_cannot_be_read(tmp_path: Path, name: str, content: bytes, what: str, where: str) -> None:
    (tmp_path / name).write_bytes(content)
    found: list[UserError] = []
    list(read_file(tmp_path / name, found))
    assert what in found[0].what and found[0].where == str(tmp_path / where) and found[0].do, found[0]


def test_a_broken_row_does_not_hide_the_others(tmp_path: Path) -> None:
    (tmp_path / "a.csv").write_text('id,text\n\n1,"a\nb"\n2\n3,"c"\n')
    found: list[UserError] = []
    rows = dict(read_file(tmp_path / "a.csv", found))
    assert rows == {
        f"{tmp_path / 'a.csv'}:3": {"id": "1", "text": "a\nb"},
        f"{tmp_path / 'a.csv'}:6": {"id": "3", "text": "c"},
    }
    assert [problem.where for problem in found] == [f"{tmp_path / 'a.csv'}:5"]


def test_pairs_are_in_a_file_that_is_there(tmp_path: Path) -> None:
    for path, what in ((tmp_path, "is a folder"), (tmp_path / "p.jsonl", "not found"), (tmp_path / "p", "folder")):
        with pytest.raises(UserError, match=what) as caught:
            read_alignment(str(path))
        assert caught.value.where == "alignment.pairs" and str(path) in caught.value.what


def test_a_language_has_one_file(tmp_path: Path) -> None:
    put(tmp_path, "en", '{"id": 0, "instruction": "a"}')
    assert find_file(tmp_path, "en") == tmp_path / "en.jsonl" and find_file(tmp_path, "es") is None
    (tmp_path / "en.csv").write_text("id,instruction\n0,b\n")
    with pytest.raises(UserError, match=r"more than one file of en: en\.jsonl, en\.csv"):
        find_file(tmp_path, "en")
    assert "more than one file of en" in problems(tmp_path, "en")


def test_a_file_of_another_name_is_shown(tmp_path: Path) -> None:
    put(tmp_path, "EN", '{"id": 0, "instruction": "a"}')
    text = problems(tmp_path, "en")
    assert "en.jsonl not found" in text and "rename EN.jsonl to en.jsonl" in text
    put(tmp_path, "train", '{"id": 0, "instruction": "a"}')
    assert "the folder has EN.jsonl, train.jsonl" in problems(tmp_path, "en", "es")


def test_prompts_of_preference_data(tmp_path: Path) -> None:
    """As TRL's and UltraFeedback's data sets have them: the prompt is beside the answers, or what both begin with."""
    ask, reply = [{"role": "user", "content": "Hi"}], [{"role": "assistant", "content": "Hello!"}]
    other = [{"role": "assistant", "content": "No."}]
    rows = [
        {"prompt": "Hi", "prompt_id": "a", "chosen": ask + reply, "rejected": ask + other, "messages": ask + reply},
        {"prompt": ask, "id": "b", "chosen": reply, "rejected": other, "messages": ask + reply},
        {"id": "c", "chosen": ask + reply, "rejected": ask + other},
    ]
    put(tmp_path, "en", *map(json.dumps, rows))
    assert [(p.id, p.text) for p in load_prompts(str(tmp_path), ["en"])] == [("a", "Hi"), ("b", "Hi"), ("c", "Hi")]
    put(tmp_path, "p", *map(json.dumps, rows))
    assert read_alignment(str(tmp_path / "p.jsonl")).pairs == [
        {"prompt": "Hi", "chosen": "Hello!", "rejected": "No."}
    ] * 3  # fmt: skip
    spaced = {"prompt": "Hi\n", "chosen": ask + reply, "rejected": ask + other}
    put(tmp_path, "p", json.dumps(spaced))
    assert read_alignment(str(tmp_path / "p.jsonl")).pairs[0]["prompt"] == "Hi\n"
    put(tmp_path, "en", json.dumps({"id": 1, "chosen": ask + reply, "rejected": reply}), '{"id": 2, "text": "x"}')
    text = problems(tmp_path, "en")
    assert "chosen and rejected answer different conversations" in text
    assert "a prompt without `instruction`: the row has id, text" in text


def test_a_role_that_is_no_text_is_an_error(tmp_path: Path) -> None:
    put(tmp_path, "en", '{"id": 1, "messages": [{"role": ["user"], "content": "Hi"}]}')
    assert "message 1 has the role ['user']" in problems(tmp_path, "en")
