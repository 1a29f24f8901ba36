"""The files in examples/: the docs show them as they are, and the notebook runs.

The classes are run by test_objectives.py, test_own_reward.py and test_own_judge.py."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from tests.helpers.fake_run import LANGUAGES, build

ROOT = Path(__file__).resolve().parents[2]
SHOWN = {"objective.md": "ipo.py", "reward.md": "short_paragraphs.py", "evaluation.md": "right_language.py"}
"""Page → the file that its first block of Python shows."""


@pytest.mark.parametrize(("page", "file"), SHOWN.items())
def test_the_docs_show_the_file(page: str, file: str) -> None:
    text = (ROOT / "docs" / page).read_text(encoding="utf-8")
    block = re.search(r"^```python\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block is not None and block[1] == (ROOT / "examples" / file).read_text(encoding="utf-8")
    assert f"../examples/{file}" in text


def test_every_example_is_shown() -> None:
    files = {path.name for path in (ROOT / "examples").iterdir() if path.suffix in (".py", ".ipynb")}
    assert files == {*SHOWN.values(), "read_a_run.ipynb"}


def test_the_notebook_reads_a_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run = build(tmp_path / "run").path
    monkeypatch.setenv("RUN", str(run))
    monkeypatch.setenv("MPLBACKEND", "agg")
    monkeypatch.chdir(tmp_path)
    notebook = json.loads((ROOT / "examples" / "read_a_run.ipynb").read_text(encoding="utf-8"))
    names: dict[str, Any] = {}
    for cell in notebook["cells"]:
        if cell["cell_type"] == "code":
            assert cell["outputs"] == []  # what a run shows is not committed
            exec(compile("".join(cell["source"]), cell["id"], "exec"), names)
    summary = json.loads((run / "round-2" / "judge" / "summary.json").read_text(encoding="utf-8"))
    table = names["win_rates"].set_index(["round", "lang"])
    assert table.loc[(2, "es"), "win_rate"] == summary["languages"]["es"]["win_rate"]
    assert set(table.index) == {(number, lang) for number in range(3) for lang in LANGUAGES}
    fits = json.loads((run / "round-1" / "lengths.json").read_text(encoding="utf-8"))
    assert names["table"]["alpha"].to_dict() == {lang: fit["alpha"] for lang, fit in fits.items()}
    assert len(names["pairs"]) and (names["pairs"]["margin"] >= 0).all()
    assert (tmp_path / "win-rates.png").stat().st_size > 10_000
