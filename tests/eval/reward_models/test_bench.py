"""RewardBench's figures: the worked example, LLMBar by length, RewardBench 2 and Ties by hand."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from eval.reward_models.bench import (
    SECTIONS,
    TiesPrompt,
    is_right,
    longer_wins,
    overall,
    section_accuracy,
    summarise,
    ties_score,
)
from eval.reward_models.bench_rows import BenchRow, read_bench
from icr.base.errors import ConfigError
from tests.helpers.published import RM, needs_rm


@needs_rm
def test_sections_of_the_worked_example() -> None:
    """Per subset correct and total of a published model, against the sections that were published for it."""
    facts = json.loads((RM / "rewardbench" / "section_weights.json").read_text())
    flat = {subset: weight for weights in SECTIONS.values() for subset, weight in weights.items()}
    assert flat == facts["counts"] and {k: list(v) for k, v in SECTIONS.items()} == facts["sections"]
    accuracy = {name: right / total for name, (right, total) in facts["worked_example"]["correct_total"].items()}
    found = {name: section_accuracy(accuracy, weights) for name, weights in SECTIONS.items()}
    assert found == pytest.approx(facts["worked_example"]["sections_expected"], abs=1e-12)
    assert [round(v or 0, 4) for v in found.values()] == [0.9665, 0.9167, 0.9270, 0.9882]


def test_overall_is_the_plain_mean_of_all_sections() -> None:
    assert overall({"Chat": 92.5, "Chat Hard": 81.8, "Safety": 90.2, "Reasoning": 95.5}) == pytest.approx(90.0)
    assert overall({"Chat": 92.5, "Safety": None}) is None and overall({}) is None


@needs_rm
def test_llmbar_by_length() -> None:
    """56.6 in natural, and 11.9 in neighbor as issue 267 of reward-bench has it."""
    rows = read_bench(str(RM / "rewardbench" / "chat_hard_llmbar.jsonl"))
    lengths = [([float(len(r.chosen[0]))], [float(len(r.rejected[0]))]) for r in rows]
    found = summarise(rows, lengths)["en"]
    names = ("natural", "adver-neighbor", "adver-GPTInst", "adver-GPTOut", "adver-manual")
    longer = [longer_wins(rows)["en"][f"llmbar-{name}"] for name in names]
    assert longer == pytest.approx([56.6, 11.9, 13.0, 44.7, 17.8], abs=0.05)
    assert [found["subsets"][f"llmbar-{name}"]["n"] for name in names] == [100, 134, 92, 47, 46]
    # strictly greater is RewardBench's rule, so a tie in length counts as wrong there
    assert found["subsets"]["llmbar-natural"]["accuracy"] < (longer[0] or 0)
    low, high = found["subsets"]["llmbar-natural"]["interval"]
    assert low < found["subsets"]["llmbar-natural"]["accuracy"] < high
    assert set(found["sections"]) == {"Chat Hard"} and found["dropped"] == 0


def test_what_counts_as_right() -> None:
    assert [is_right([1.0], [0.0]), is_right([1.0], [1.0]), is_right([0.0], [1.0])] == [1, 0, 0]
    assert is_right([2.0], [1.0, 0.0, 2.0]) == 0.5 and is_right([2.0], [1.0, 0.0, 1.0]) == 1


def test_ties_by_hand() -> None:
    """tied gap 2 of spread 1, ref gap 3; and a prompt that is wrong in both."""
    good, bad = TiesPrompt(3.0, 2.0, 1.0), TiesPrompt(-1.0, -2.0, 1.0)
    assert ties_score([good]) == pytest.approx(0.3 + 0.3 + 0.2 + 0.2 + 0.01 * math.tanh(1.0), abs=1e-12)
    both = 0.5 + 0.01 * (math.tanh(1.0) + math.tanh(-3.0)) / 2
    assert ties_score([good, bad]) == pytest.approx(both, abs=1e-12)


def test_rewardbench_2_by_hand() -> None:
    def row(id: str, subset: str, chosen: int, rejected: int) -> BenchRow:
        return BenchRow(id, "en", subset, f"q{id}", ("c",) * chosen, ("r",) * rejected)

    rows = [row("1", "Math", 1, 3), row("2", "Math", 1, 3), row("ref:7", "Ties", 1, 2), row("tied:7", "Ties", 2, 2)]
    scores = [([3.0], [1.0, 2.0, 0.0]), ([0.0], [1.0, None, 0.0]), ([3.0], [0.0, 0.0]), ([3.0, 2.0], [0.0, 0.0])]
    found = summarise(rows, scores)["en"]
    assert found["n"] == 3 and found["dropped"] == 1
    assert found["sections"] == {"Math": 100.0, "Ties": pytest.approx(100 * (1 + 0.01 * math.tanh(1.0)))}


def test_multilingual_rows(tmp_path: Path) -> None:
    """Multilingual RewardBench: FLORES codes, the subset under `source`; two weightings of a section."""
    rows = [
        {"id": n, "prompt": "¿Q?", "chosen": "a", "rejected": "b", "language": "spa_Latn", "source": source,
         "category": "Chat"}
        for n, source in enumerate(["alpacaeval-easy"] * 3 + ["mt-bench-easy"])
    ]  # fmt: skip
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    read = read_bench(str(file))
    assert {row.lang for row in read} == {"es"}
    blank = tmp_path / "blank.jsonl"
    blank.write_text(json.dumps({**rows[0], "language": "", "lang": " "}), encoding="utf-8")
    assert [row.lang for row in read_bench(str(blank), "th")] == ["th"]
    found = summarise(read, [([1.0], [0.0])] * 3 + [([0.0], [1.0])])["es"]
    assert found["sections"]["Chat"] == pytest.approx(100 * 100 / 128)
    assert found["sections_by_rows"]["Chat"] == pytest.approx(75.0)


def test_bad_rows_are_all_named(tmp_path: Path) -> None:
    rows = [
        {"prompt": "Q", "chosen": "a", "rejected": "b"},
        {"prompt": "Q", "chosen": "a", "rejected": 3, "subset": "s"},
        {"prompt": 1, "chosen": "a", "rejected": "b", "subset": "s"},
        {"prompt": "Q", "chosen": "a", "rejected": "b", "subset": "s", "language": "klingonish"},
        *[{"prompt": "Q", "chosen": "a", "rejected": "b", "subset": "s", "id": 1}] * 2,
    ]
    file = tmp_path / "m.jsonl"
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    with pytest.raises(ConfigError) as raised:
        read_bench(str(file))
    whats = [problem.what for problem in raised.value.problems]
    assert [what[:14] for what in whats] == ["a benchmark ro", "`rejected` is ", "`prompt` is no", "the language '",
                                            "id 1 appears t"]  # fmt: skip
    assert [problem.where[-2:] for problem in raised.value.problems[:4]] == [":1", ":2", ":3", ":4"]
