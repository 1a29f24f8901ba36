"""The evidence on alignment with a computed truth: its files are ones that `icr` takes, and its figures are by hand."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import reward_evidence_layout as layout
from benchmarks.reward_evidence import FULL_LAYOUT
from benchmarks.reward_evidence_layout import Layout, best_of_k, is_one_paragraph, ranks_right, turning
from icr.config.load import load_section
from icr.config.reward_model import RewardModelConfig
from icr.config.rl import RLConfig

ONE, MANY = "Es una lista de cosas para el viaje de mañana.", "Es una lista:\n- cosas\n- más cosas para el viaje"


def candidates(lang: str, scores: list[float], texts: list[str]) -> list[dict[str, Any]]:
    """Of two prompts, alike."""
    return [
        {"lang": lang, "prompt_id": prompt, "sample": n, "score": score, "response": text}
        for prompt in ("a", "b")
        for n, (score, text) in enumerate(zip(scores, texts, strict=True))
    ]


def test_its_files_are_ones_that_icr_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(layout, "icr", lambda *words: called.append(words))
    monkeypatch.setattr(layout, "policy_folder", lambda: str(tmp_path))
    Layout(tmp_path, FULL_LAYOUT).run()
    reward_model = load_section(RewardModelConfig, tmp_path / "rm.yaml", [], {})
    rl = load_section(RLConfig, tmp_path / "rl.yaml", [], {})
    assert reward_model.data.languages == ["en"] and rl.prompts.languages == layout.TARGETS
    assert rl.reward.model == str(Path(reward_model.run or "") / "model")
    # as many prompts as the steps take
    assert rl.prompts.limit == 24 and 3 * 24 // rl.train.batch_size == FULL_LAYOUT.steps
    assert [words[:2] for words in called] == [("rm", "data"), ("rm", "train"), ("best-of-n", layout.POLICY),
                                               ("rl", tmp_path / "rl.yaml")]  # fmt: skip


def test_the_property() -> None:
    assert is_one_paragraph(ONE) and not is_one_paragraph(MANY) and not is_one_paragraph(" \n")


def test_what_is_true_of_the_best_of_k() -> None:
    """Of 4, by rising score, the best of 2 is the second in 1 of 6 choices, the third in 2, the fourth in 3; the third
    and the first are in one paragraph."""
    rows = candidates("es", [4.0, 1.0, 3.0, 2.0], [MANY, ONE, ONE, MANY])
    by_k = {row["k"]: row for row in best_of_k(rows, 4)}
    assert [by_k[k]["one paragraph"]["mean"].value for k in (1, 2, 4)] == pytest.approx([50, 100 * 2 / 6, 0])
    assert [by_k[k]["score"]["es"].value for k in (1, 2, 4)] == pytest.approx([2.5, (2 + 6 + 12) / 6, 4])
    assert by_k[1]["kl bound"] == 0
    assert turning("best of k", "k", list(by_k.values())) == (
        "best of k: highest at k: score 4, one paragraph 1, both 1"
    )


def test_ranking_of_answers_to_one_prompt() -> None:
    """Of 2·2 pairs a prompt the scores rank two right in Spanish, all in French and none in German; and the longer is
    always or never the better one."""
    rows = candidates("es", [2.0, 4.0, 3.0, 1.0], [MANY, ONE, MANY, ONE])
    found = ranks_right(rows + candidates("fr", [4.0, 1.0], [ONE, MANY]) + candidates("de", [1.0, 4.0], [ONE, MANY]))
    assert [found[lang]["score"].value for lang in ("es", "fr", "de")] == [0.5, 1, 0]
    assert found["all"]["score"].value == pytest.approx((2 * 2 + 2 * 1 + 0) / (2 * 4 + 2 + 2))
    assert found["es"]["length"].value == float(len(ONE) > len(MANY))
