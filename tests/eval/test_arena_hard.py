"""m-ArenaHard's files as they are published, judged by a whole command."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from tests.helpers.command import icr
from tests.helpers.inline import run_inline

IDS = [f"328c149ed45a41c0b9d6f14659e6359{n}" for n in range(3)]
TEXTS = {"en": "Name {} animals.", "de": "Nenne {} Tiere."}
VERSIONS: dict[str, dict[str, Any]] = {
    "m-ArenaHard": {"cluster": "Animals", "category": "arena-hard-v0.1"},
    "m-ArenaHard-v2.0": {"category": "hard_prompt", "subcategory": "coding", "cluster": "Animals", "language": ""},
}
"""Columns beside `question_id` and `prompt`."""
JUDGE = """
class Longer:
    def preferences(self, rows):
        return [0.5 + 0.5 * ((len(row["first"]) > len(row["second"])) - (len(row["first"]) < len(row["second"])))
                for row in rows]
"""


@pytest.mark.parametrize("name", VERSIONS)
def test_a_clone_of_it_is_read_as_it_is(
    name: str, tmp_path: Path, tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    for lang, text in TEXTS.items():
        more = {key: value or lang for key, value in VERSIONS[name].items()}
        rows = [{"question_id": id, **more, "prompt": text.format(n)} for n, id in enumerate(IDS)]
        file = tmp_path / name / lang / "test-00000-of-00001.parquet"
        file.parent.mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(rows[:: 1 if lang == "en" else -1]), file)  # joined by id, not by place
        answers = [{"question_id": id, "output": text.format(n) * 99 if n else "-"} for n, id in enumerate(IDS)]
        (tmp_path / "other").mkdir(exist_ok=True)
        (tmp_path / "other" / f"{lang}.jsonl").write_text("\n".join(map(json.dumps, answers)), encoding="utf-8")
    (tmp_path / "longer.py").write_text(JUDGE, encoding="utf-8")
    done = icr(
        "judge", "xalpaca", tiny_pair[0], "--judge", "longer.py:Longer", "--languages", "en,de", "--out", "out",
        "--prompts", f"{name}/{{lang}}/test-00000-of-00001.parquet", "--baseline", "other", "--limit", "2", "--json",
        "--set", "judge.max_tokens=8", "--set", "sampling.backend=transformers", cwd=tmp_path,
    )  # fmt: skip
    languages = json.loads(done.stdout)["languages"]
    assert {lang: (row["n"], row["win_rate"]) for lang, row in languages.items()} == {"en": (2, 50), "de": (2, 50)}
    kept = pq.read_table(tmp_path / "out" / "answers" / "de.parquet").to_pylist()
    assert {a["prompt_id"]: a["prompt"] for a in kept} == {IDS[n]: TEXTS["de"].format(n) for n in range(2)}
