"""The smallest difference that can be shown: by simulation of what it promises."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from scipy.stats import ttest_1samp

from eval.estimate import estimate
from eval.evaluate import evaluation_config
from eval.power import average_deviation, describe_plans, describe_power, smallest_difference
from icr.base.files import write_json
from icr.config.schema import Judge
from prompts.load import Prompt


@pytest.mark.parametrize("n", [6, 12, 80])
def test_a_difference_of_that_size_is_shown_in_four_of_five_experiments(n: int) -> None:
    rng = np.random.default_rng(n)
    values = rng.normal(smallest_difference(n, 45.0), 45.0, size=(20_000, n))
    low = ttest_1samp(values, 0, axis=1).confidence_interval().low
    assert np.mean(low > 0) == pytest.approx(0.8, abs=0.01)


def test_an_average_over_correlated_languages_by_simulation() -> None:
    rng = np.random.default_rng(1)
    values = np.sqrt(0.4) * rng.standard_normal((50_000, 1)) + np.sqrt(0.6) * rng.standard_normal((50_000, 5))
    assert average_deviation(1.0, 5) == pytest.approx(values.mean(axis=1).std(), rel=0.01)
    assert average_deviation(45.0, 1) == 45.0


def test_it_is_said_in_words() -> None:
    assert describe_power("xalpaca", {"en": 805, "es": 805, "sw": 805}).startswith(
        "805 prompts per language can show differences from 4.4 points of win rate in one language, and from 3.4 on "
        "average over 3 (80 % power, assuming a standard deviation of 45"
    )
    assert describe_power("mtbench", {"en": 80}).startswith(
        "80 prompts can show differences from 0.63 grade points (80"
    )
    assert describe_power("xalpaca", {"en": 1, "es": 1}) == "1 prompt per language is too few; an interval needs 6"
    assert describe_power("xalpaca", {"en": 5, "es": 800}) == (
        "5 to 800 prompts per language are too few; an interval needs 6"
    )


def test_a_dry_run_says_it_and_counts_no_question_on_identical_answers(tmp_path: Path) -> None:
    for lang in ("de", "es"):
        for folder, words in (("ours", "kurz"), ("theirs", "lang")):
            rows = [{"id": n, "instruction": f"Frage {n}", "output": words if n else "gleich"} for n in range(12)]
            write_json(tmp_path / folder / f"{lang}.json", rows)
    data = {"languages": ["de", "es"], "judge": {"baseline": str(tmp_path / "theirs")}}
    config = evaluation_config("xalpaca", str(tmp_path / "ours"), "local:judge", data, [])
    cost, power = estimate(config, tmp_path / "out").lines
    assert cost.startswith("44 questions"), "11 of 12 items, in both orders, in two languages"
    assert power == describe_power("xalpaca", {"de": 12, "es": 12})


def test_validate_says_it_of_the_runs_benchmarks() -> None:
    messages = [{"role": "user", "content": "?"}]
    heldout = [Prompt(str(n), lang, messages, messages) for n in range(12) for lang in ("de", "en")]
    judge = Judge(kind="local", model="m", prompts="p")
    assert describe_plans(judge, ["de", "en"], heldout) == [
        f"X-AlpacaEval: {describe_power('xalpaca', {'de': 12, 'en': 12})}"
    ]
    assert describe_plans(Judge(kind="none"), ["de", "en"], []) == []


@pytest.mark.parametrize("references", ["judge", None])
def test_a_dry_run_of_mtbench_counts_the_references_that_the_judge_writes(
    tmp_path: Path, references: str | None
) -> None:
    """Two questions of two turns; math has no reference, or both."""
    from tests.helpers.mtbench import write_questions

    given = None if references else "['12', '6']"
    section = {"questions": str(write_questions(tmp_path / "q", reference=given)), "references": references,
               "max_tokens": 100}  # fmt: skip
    prices = tmp_path / "prices.yaml"
    prices.write_text("m: {input: 0.0, output: 10.0}\n")
    data = {"languages": ["fr"], "judge": {"mtbench": section, "prices": str(prices),
                                           "base_url": "http://127.0.0.1:9/v1"}}  # fmt: skip
    config = evaluation_config("mtbench", str(tmp_path), "openai:m", data, [])
    expected = estimate(config, tmp_path / "out")
    cost, numbers = expected.lines[0], expected.numbers()
    written = 2 if references else 0
    assert cost.startswith(f"{4 + written} calls to m"), cost
    assert ("; 2 of them write references" in cost) == bool(references)
    assert f"at most {3 * 4 * 1024 + written * 100:,} completion tokens" in cost
    calls = {row["kind"]: (row["questions"], row["calls"], row["completion_tokens"]) for row in numbers["asked"]}
    assert calls == {"grades": (4, 4, 3 * 4 * 1024)} | ({"references": (2, 2, 2 * 100)} if references else {})
    assert numbers["total"]["calls"] == 4 + written and numbers["total"]["questions"] == 4 + written
    assert numbers["total"]["usd"] == pytest.approx(numbers["total"]["completion_tokens"] * 10 / 1e6)
