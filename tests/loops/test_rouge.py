"""ROUGE-L against the longest common subsequence by hand, also in scripts that rouge-score's own tokeniser drops."""

from __future__ import annotations

import subprocess
import sys

import pytest

from loops.callbacks import cost_of
from loops.rouge import rouge_l


@pytest.mark.parametrize(
    ("reference", "answer", "common", "words"),
    [
        # the longest common subsequence is "the cat the mat", whatever the case and the signs
        ("The cat sat on the mat.", "the cat is, the mat", 4, (6, 5)),
        # "кот сидел на коврике": each has one word more
        ("Кот сидел на мягком коврике", "кот тихо сидел на коврике", 4, (5, 5)),
        # Thai: pairs of neighbouring signs of แ ม ว กิ น ป ล า and แ ม ว กิ น ข้ า ว; the first four are the same
        ("แมวกินปลา", "แมวกินข้าว", 4, (7, 7)),
        ("el gato duerme", "nada en común", 0, (3, 3)),
        ("…", "nothing to compare", 0, (0, 3)),
    ],
)
def test_rouge_l_by_hand(reference: str, answer: str, common: int, words: tuple[int, int]) -> None:
    in_reference, in_answer = words
    expected = 2 * common / (in_reference + in_answer)  # what 2·P·R / (P + R) comes to
    assert rouge_l(reference, answer) == pytest.approx(expected, abs=1e-12)


def test_a_text_against_itself_and_backwards() -> None:
    assert rouge_l("αβγ δεζ ηθι", "αβγ δεζ ηθι") == 1.0
    assert rouge_l("αβγ δεζ ηθι", "ηθι δεζ αβγ") == pytest.approx(1 / 3)


def test_less_loss_and_more_rouge_are_better() -> None:
    assert cost_of({"loss": 2.0, "rouge_l": 0.5}, "loss") == 2.0
    assert cost_of({"eval_loss": 2.0, "eval_rouge_l": 0.5}, "rouge_l", "eval_") == -0.5


def test_a_stream_is_left_open_when_logging_is_configured_again() -> None:
    """absl, which rouge-score brings, closes the stderr at its import if that is no longer the current one."""
    code = (
        "import io, logging.config, sys\n"
        "kept = sys.stderr; sys.stderr = captured = io.StringIO()\n"
        "import loops.rouge\n"
        "sys.stderr = kept\n"
        "logging.config.dictConfig({'version': 1})\n"
        "assert not captured.closed"
    )
    subprocess.run([sys.executable, "-c", code], check=True)
