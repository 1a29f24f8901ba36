"""Baselines: read in every form, joined with the policy's answers by id, every defect named."""

from __future__ import annotations

import gzip
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.estimate import estimate
from eval.evaluate import evaluation_config
from eval.xalpaca.answers import given_answers, is_answers, load_baseline, read_answers, read_outputs
from icr.base.errors import UserError
from icr.base.files import read_rows, write_rows
from icr.rows import RESPONSES
from tests.commands.test_judge_cli import write_public
from tests.helpers.judging import Steps, write_answers

PUBLIC = Path(__file__).resolve().parents[3] / "shared" / "data" / "x_alpacaeval"


@pytest.fixture
def answers(tmp_path: Path) -> Path:
    return write_answers(tmp_path / "answers", "de", {"1": "eins", "2": "zwei"})


def reference(folder: Path, rows: Any, name: str = "de.json") -> Path:
    folder.mkdir(exist_ok=True)
    text = json.dumps(rows) if name.endswith(".json") else "\n".join(map(json.dumps, rows))
    (folder / name).write_text(text, encoding="utf-8")
    return folder


@pytest.mark.parametrize(
    ("name", "rows"),
    [
        ("de.json", [{"id": 2, "output": "b"}, {"id": 1, "output": "a"}, {"id": 9, "output": "c"}]),
        ("de.jsonl", [{"instruction_id": "2", "output": "b"}, {"instruction_id": "1", "output": "a\u2028"}]),
        ("de.json", [{"instruction": "Frage 2", "output": "b"}, {"instruction": "Frage 1\n", "output": "a"}]),
    ],
)
def test_reference_answers_are_joined_by_id_or_else_by_instruction(
    tmp_path: Path, answers: Path, name: str, rows: Any
) -> None:
    joined = load_baseline(reference(tmp_path / "ref", rows, name), read_answers(answers))
    assert {id: text.strip() for id, text in joined["de"].items()} == {"1": "a", "2": "b"}


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("de.jsonl", '\ufeff{"id": 0, "output": "a"}\r\n{"id": 1.0, "output": "b"}\r\n{"id": "2 ", "output": "c"}'),
        (
            "de.json",
            '[{"id": 0, "output": "a"}, {"instruction_id": null, "id": 1, "output": "b"}, {"id": 2, "output": "c"}]',
        ),
        ("de.csv", "id,output\n0.0,a\n1.0,b\n2.0,c\n"),
    ],
)
def test_answers_whose_ids_count_from_0_in_every_form(tmp_path: Path, name: str, content: str) -> None:
    read = read_answers(write_answers(tmp_path / "answers", "de", {"0": "null", "1": "eins", "2": "zwei"}))
    (tmp_path / "ref").mkdir()
    (tmp_path / "ref" / name).write_text(content, encoding="utf-8")
    assert load_baseline(tmp_path / "ref", read) == {"de": {"0": "a", "1": "b", "2": "c"}}
    file = tmp_path / "ref" / f"{name}.gz"
    file.write_bytes(gzip.compress((tmp_path / "ref" / name).read_bytes()))
    (tmp_path / "ref" / name).unlink()
    assert load_baseline(tmp_path / "ref", read)["de"]["0"] == "a"


def test_given_answers_are_read_from_tables_and_conversations(tmp_path: Path) -> None:
    rows = [{"id": 0, "instruction": "Frage 0", "output": "a"}, {"id": 1, "instruction": "Frage 1", "output": "b"}]
    pq.write_table(pa.Table.from_pylist(rows), tmp_path / "de.parquet")
    assert [(a.id, a.instruction, a.text) for a in read_outputs(tmp_path, "de")] == [
        ("0", "Frage 0", "a"), ("1", "Frage 1", "b")
    ]  # fmt: skip
    talk = [{"role": "system", "content": "Kurz."}, {"role": "user", "content": "Frage"}]
    reference(tmp_path, [{"id": 0, "prompt": talk, "output": "a"}], "en.jsonl")
    assert read_outputs(tmp_path, "en")[0].prompt == talk
    assert is_answers(tmp_path)
    for bad, what in (
        ('{"id": 0, "output": "\\ud83d"}', "half a character"),
        ('{"id": true, "output": "a"}', "the id True"),
    ):
        (tmp_path / "es.jsonl").write_text('{"id": 1, "instruction": "?", "output": "b"}\n' + bad)
        with pytest.raises(UserError, match=what) as caught:
            read_outputs(tmp_path, "es")
        assert caught.value.where == f"{tmp_path / 'es.jsonl'}:2"


def test_the_baseline_of_a_run_is_read_from_its_answers(answers: Path) -> None:
    assert load_baseline(answers, read_answers(answers)) == {"de": {"1": "eins", "2": "zwei"}}


@pytest.mark.parametrize(
    ("rows", "what"),
    [
        ([{"id": 1, "output": "a"}], r"no answer to 1 of 2 prompts in de: 2\n"),
        ([{"id": 1, "output": "a"}, {"id": "1", "output": "b"}], "answered more than once: 1"),
        ([{"id": 1, "output": None}], "without `output`"),
        ([{"output": "a"}], "neither id nor instruction"),
        (["a"], "not a JSON object"),
        ({"id": 1, "output": "a"}, "not a JSON array"),
    ],
)
def test_bad_reference_answers_are_refused(tmp_path: Path, answers: Path, rows: Any, what: str) -> None:
    with pytest.raises(UserError, match=what) as caught:
        load_baseline(reference(tmp_path / "ref", rows), read_answers(answers))
    assert "de.json" in caught.value.where and caught.value.do


def test_broken_files_are_named_with_their_line(tmp_path: Path, answers: Path) -> None:
    read, ref = read_answers(answers), tmp_path / "ref"
    with pytest.raises(UserError, match=r"folder .* not found"):
        load_baseline(ref, read)
    ref.mkdir()
    with pytest.raises(UserError, match="no answers in de"):
        load_baseline(ref, read)
    (ref / "de.jsonl").write_text('{"id": 1, "output": "a"}\n\n{"id": 2, oops}\n')
    with pytest.raises(UserError, match="not JSON") as caught:
        load_baseline(ref, read)
    assert caught.value.where.endswith("de.jsonl:3")
    (ref / "de.jsonl").write_bytes("ä".encode("latin-1"))
    with pytest.raises(UserError, match="not UTF-8"):
        load_baseline(ref, read)
    (ref / "de.json").write_text("[]")
    with pytest.raises(UserError, match="more than one file of de"):
        load_baseline(ref, read)


def test_the_same_id_on_another_instruction_is_said(tmp_path: Path, answers: Path) -> None:
    rows = [{"id": n, "instruction": text, "output": "a"} for n, text in ((1, "Frage  1"), (2, "Wo?"))]
    steps = Steps()
    load_baseline(reference(tmp_path / "ref", rows), read_answers(answers), steps)
    assert len(steps.notes) == 1 and "de: 1 of 2" in steps.notes[0] and "(2)" in steps.notes[0]


def test_answers_without_ids_are_joined_by_instruction_with_a_baseline_that_has_some(tmp_path: Path) -> None:
    ours = reference(tmp_path / "ours", [{"instruction": text, "output": "a"} for text in ("Frage 0", "Frage 1 ")])
    rows = [{"id": n, "instruction": f"Frage {n}", "output": f"b{n}"} for n in (1, 0)]
    baseline = load_baseline(reference(tmp_path / "ref", rows), {"de": read_outputs(ours, "de")})
    assert list(baseline["de"].values()) == ["b0", "b1"]
    twice = reference(tmp_path / "twice", [*rows, rows[0] | {"id": 2}])
    with pytest.raises(UserError, match="no answer to 1 of 2 prompts"):
        load_baseline(twice, {"de": read_outputs(ours, "de")})


def test_no_answers_and_doubled_answers_are_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="no answers to judge"):
        read_answers(tmp_path)
    rows = read_rows(write_answers(tmp_path, "de", {"1": "a"}) / "de.parquet")
    write_rows(tmp_path / "de.parquet", rows * 2, RESPONSES)
    with pytest.raises(UserError, match="answered more than once: 1"):
        read_answers(tmp_path)


@pytest.mark.skipif(not PUBLIC.is_dir(), reason="the public X-AlpacaEval files are not beside this checkout")
def test_the_public_answers_are_read_as_they_are(tmp_path: Path) -> None:
    for lang in ("en", "es", "ru", "de", "fr"):
        prompts = json.loads((PUBLIC / "prompts" / f"{lang}.json").read_text(encoding="utf-8"))
        rows = [
            {"prompt_id": str(p["id"]), "lang": lang, "sample": 0, "prompt": p["instruction"], "response": "x",
             "token_ids": [1], "finish_reason": "stop"} for p in prompts
        ]  # fmt: skip
        write_rows(tmp_path / f"{lang}.parquet", rows, RESPONSES)
    generators = sorted(p for p in (PUBLIC / "outputs").iterdir() if p.is_dir())
    steps = Steps()
    for generator in generators:
        joined = load_baseline(generator, read_answers(tmp_path), steps)
        assert {lang: len(texts) for lang, texts in joined.items()} == dict.fromkeys(joined, 100)
        outputs = json.loads((generator / "en.json").read_text(encoding="utf-8"))
        asked = {row["instruction"]: row["output"] for row in outputs}
        prompts = json.loads((PUBLIC / "prompts" / "en.json").read_text(encoding="utf-8"))
        assert joined["en"] == {str(p["id"]): asked[p["instruction"]] for p in prompts}
    assert len(generators) >= 3 and not steps.notes


def test_a_limit_holds_for_given_answers_and_takes_the_same_prompts_in_every_language(tmp_path: Path) -> None:
    for lang, ids in (("de", (4, 1, 3, 2)), ("en", (2, 4, 1, 3))):
        write_public(tmp_path / "given", "m", lang, {id: f"{lang} {id}" for id in ids})
    found = given_answers(tmp_path / "given", ["de", "en"], 3)
    assert {lang: [a.id for a in of] for lang, of in found.items()} == {"de": ["2", "4", "1"], "en": ["2", "4", "1"]}
    assert [a.id for a in given_answers(tmp_path / "given", ["de"], 2)["de"]] == ["4", "1"]
    data = {"languages": ["de", "en"], "judge": {"baseline": str(tmp_path / "given"), "limit": 3}}
    for name, out in (("given", "0 questions"), ("other", "12 questions")):
        for lang in ("de", "en"):
            write_public(tmp_path / "other", "o", lang, {id: f"o {id}" for id in range(1, 5)})
        config = evaluation_config("xalpaca", str(tmp_path / name), "local:x", data.copy(), [])
        assert estimate(config, tmp_path / "out").lines[0].startswith(out)
