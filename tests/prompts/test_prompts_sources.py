"""English prompts to translate from: files, folders and data sets, and those that cannot be used."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from icr.base.conversation import wrap_text
from icr.base.errors import ConfigError, UserError
from prompts.load import load_english
from tests.prompts.test_prompts import put, row


def test_sources(tmp_path: Path) -> None:
    texts = {"1": "one", "2": "two"}
    prompts = {id: wrap_text(text) for id, text in texts.items()}
    pairs = [{"prompt": "one", "prompt_id": 1, "chosen": []}, {"prompt": "two", "prompt_id": 2, "chosen": []}]
    (tmp_path / "a.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    assert load_english(str(tmp_path / "a.jsonl")).prompts == prompts
    pq.write_table(pa.Table.from_pylist(pairs), tmp_path / "a.parquet")
    assert load_english(str(tmp_path / "a.parquet"), limit=1).prompts == {"1": wrap_text("one")}
    mixed = [{"id": i, "lang": lang, "instruction": t} for lang in ("de", "en") for i, t in texts.items()]
    (tmp_path / "b.json").write_text(json.dumps(mixed))
    assert load_english(str(tmp_path / "b.json")).prompts == prompts
    # without ids, the text's hash; empty and repeated prompts are counted
    (tmp_path / "c.jsonl").write_text("\n".join(json.dumps({"instruction": t}) for t in ("one", " ", "one", "two")))
    found = load_english(str(tmp_path / "c.jsonl"))
    assert list(found.prompts.values()) == [wrap_text("one"), wrap_text("two")] and found.left_out == {
        "empty": 1,
        "repeated": 1,
    }
    assert next(iter(found.prompts)) == "7692c3ad3540bb803c020b3aee66cd8887123234ea0c6e7143c0add73ff431ed"


def test_sources_that_cannot_be_used(tmp_path: Path) -> None:
    put(tmp_path, "en", row("a", "one"), row("a", "two"), "[1]", json.dumps({"prompt": [{"role": "user"}]}), "{")
    with pytest.raises(ConfigError) as caught:
        load_english(str(tmp_path))
    text = str(caught.value)
    for what, line in [
        ("id a has two texts", 2),
        ("not a JSON object", 3),
        ("message 1 has no text", 4),
        ("not JSON", 5),
    ]:
        assert what in text and f"en.jsonl:{line}" in text
    (tmp_path / "en.jsonl").write_text("")
    with pytest.raises(ConfigError, match="no English prompts"):
        load_english(str(tmp_path))
    with pytest.raises(UserError, match=r"no en\.jsonl"):
        load_english(str(tmp_path.parent))
    with pytest.raises(UserError, match=r"folder .* not found"):
        load_english(str(tmp_path / "no"))
    (tmp_path / "a.parquet").write_text("{}")
    with pytest.raises(UserError, match="not a parquet file"):
        load_english(str(tmp_path / "a.parquet"))
