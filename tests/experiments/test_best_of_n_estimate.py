"""`icr best-of-n --dry-run`: what the judges of the candidates would be asked, and what that costs."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest

from icr.base.errors import UserError
from icr.base.files import write_rows
from icr.experiments.best_of_n import estimate_best_of_n
from icr.experiments.judged_candidates import find_judges
from tests.experiments.test_best_of_n import LANGUAGES, N, Pair, judge, prompts, settings

__all__ = ["judge", "prompts"]
COLUMNS = {name: pa.string() for name in ("prompt_id", "prompt", "response", "finish_reason")}


def write_samples(folder: Path, prompts: int) -> None:
    """The first two of five candidates are one text, the others differ."""
    for lang in LANGUAGES:
        rows = [
            {
                "prompt_id": f"p{p}",
                "sample": n,
                "prompt": f"{lang} {p}?",
                "response": f"answer {max(n, 1)}",
                "finish_reason": "stop",
            }
            for p in range(prompts)
            for n in range(N)
        ]
        write_rows(folder / f"{lang}.parquet", rows, pa.schema({**COLUMNS, "sample": pa.int64()}))


def test_calls_and_money_of_the_judges(
    tiny_pair: Pair, prompts: Path, judge: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "any")
    (tmp_path / "prices.yaml").write_text("m: {input: 2.0, output: 8.0}\n")
    overrides = [f"judge.prices={tmp_path / 'prices.yaml'}", "judge.base_url=http://127.0.0.1:9/v1"]
    (tmp_path / "own.py").write_text("class Own:\n    def preferences(self, rows):\n        raise AssertionError\n")
    config, out = settings(tiny_pair[0], prompts), tmp_path / "out"
    judging = find_judges(["openai:m"], overrides, None)
    work, asked = estimate_best_of_n(config, [str(judge)], None, out, judging).lines
    assert work == "12 prompts, 60 candidates (at most 480 tokens), scored by rm-a"
    numbers = estimate_best_of_n(config, [str(judge)], None, out, judging).numbers()
    assert numbers["total"]["calls"] == 96 and numbers["notes"] == [work]
    # of 6 prompts in two languages 4 candidates against the first one, in both orders
    assert asked.startswith("96 calls to m, at most ")
    assert asked.endswith("assuming candidates of 8 tokens, no two of them alike")
    write_samples(out / "samples", 6)
    work, asked = estimate_best_of_n(config, [str(judge)], None, out, judging).lines
    assert work == "12 prompts, 60 candidates (already sampled), scored by rm-a"
    assert asked.startswith("72 calls to m, at most ") and "assuming" not in asked  # 3 texts that are not the first one
    marks = (" dollars", " prompt tokens", " completion tokens")
    dollars, prompt, most = (float(asked.split(mark)[0].split()[-1].replace(",", "")) for mark in marks)
    counted = (2 * prompt + 8 * most) / 1e6
    assert counted <= dollars <= 2.2 * counted and prompt > 72 * 100  # at most: a question may be asked twice
    own = find_judges([f"{tmp_path / 'own.py'}:Own"], [], None)
    _, asked = estimate_best_of_n(config, [str(judge)], None, out, own).lines
    assert asked == "72 questions to Own on this machine, at no cost"
    assert len(estimate_best_of_n(config, [str(judge)], None, out).lines) == 1
    with pytest.raises(UserError, match="each prompt has 5 candidates"):
        estimate_best_of_n(config, [str(judge)], 6, out)
