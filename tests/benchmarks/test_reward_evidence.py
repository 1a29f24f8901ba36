"""The evidence on reward models: its experiments are ones that `icr` takes, and its tables say what was found."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from benchmarks import reward_evidence_runs as runs
from benchmarks.reward_evidence import FULL, QUICK
from benchmarks.reward_evidence_results import (
    above_length,
    look_table,
    matrix_table,
    mean_auc,
    mean_tau,
    orders,
    plot,
    put_into,
)
from benchmarks.reward_evidence_runs import LANGUAGES, Evidence
from icr.base.errors import UserError
from icr.config.load import load_section
from icr.config.reward_model import RewardModelConfig
from icr.config.transfer import TransferConfig


def cells(better: str) -> list[dict[str, Any]]:
    """One source is right in 70 %, the others in 50."""
    return [
        {"source": source, "target": target, "accuracy": 70.0 if source == better else 50.0,
         "accuracy_interval": [60.0, 80.0], "auc": 0.7 if source == better else 0.5, "length": 50.0,
         "above_length_interval": [10.0, 30.0] if source == better and target != "vi" else [-9.0, 9.0]}
        for source in LANGUAGES for target in LANGUAGES
    ]  # fmt: skip


def test_the_experiments_are_ones_that_icr_takes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    evidence = Evidence(tmp_path, tmp_path, FULL)
    called: list[tuple[object, ...]] = []
    monkeypatch.setattr(runs, "icr", lambda *words: called.append(words))
    evidence.transfer("planted")
    evidence.transfer("labels-2")
    evidence.train("pairs-60", "planted", 60)
    planted, labels = (
        load_section(TransferConfig, tmp_path / f"{name}.yaml", [], {}) for name in ("planted", "labels-2")
    )
    assert planted.data.limit is None and labels.data.limit == FULL.ratings and labels.reward_model.train.seed == 2
    alone = load_section(RewardModelConfig, tmp_path / "pairs-60.yaml", [], {})
    assert alone.data.limit == 60 and alone.data.languages == ["en"]
    # the control and the curve are trained as the matrix's own models are
    assert alone.train == planted.reward_model.train and alone.max_tokens == planted.reward_model.max_tokens
    assert [words[:2] for words in called] == [("transfer", tmp_path / "planted.yaml"),
                                               ("transfer", tmp_path / "labels-2.yaml"), ("rm", "train")]  # fmt: skip


def test_without_seahorse_it_says_what_is_missing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(runs, "write_model", lambda folder: folder)
    with pytest.raises(UserError, match=r"(?s)no files of Seahorse.*--seahorse.*validation\.LANG\.tsv"):
        Evidence(tmp_path / "work", tmp_path, QUICK).prepare()


def test_only_other_languages_with_the_whole_interval_above_length_count() -> None:
    found = above_length(cells("en"))
    assert found["en"] == ["de", "es", "ru", "tr"] and found["de"] == []


def test_tables_have_every_source_and_target() -> None:
    lines = matrix_table(cells("en"), "accuracy", 1, {"length alone": "length"}).splitlines()
    assert lines[0] == "| trained on | " + " | ".join(LANGUAGES) + " |" and len(lines) == 2 + len(LANGUAGES) + 1
    assert lines[2].startswith("| en | 70.0 [60.0, 80.0] |") and lines[-1].startswith("| length alone | 50.0 |")


def test_ranks_and_their_agreement() -> None:
    values = mean_auc([{"cells": cells("en")}, {"cells": cells("en")}])
    assert values[0] == [0.7] * len(LANGUAGES)
    assert "| en | 1 | 1 | 1 | 1 | 1 | 1 |" in orders(values)
    assert mean_tau(values, values) == 1
    assert mean_tau(values, [[-value for value in row] for row in values]) == -1


def test_the_figure_has_one_panel_where_one_matrix_is_there(tmp_path: Path) -> None:
    values = [[70.0] * len(LANGUAGES)] * len(LANGUAGES)
    plot(tmp_path / "one.svg", values, None)
    assert "<svg" in (tmp_path / "one.svg").read_text()


def test_the_nearest_to_its_base_is_first() -> None:
    """Only the last layer counts, with the mean over languages: 0.2 for de, 0.4 for en."""
    far = {"cosine": 0.1, "cka": 0.1, "largest_share": 0.5, "largest_share_centred": 0.5}
    spaces = [
        {"model": f"rm-{model}", "language": lang, "layer": layer, "frobenius": value, **far}
        for model, values in (("en", (0.3, 0.5)), ("de", (0.1, 0.3)))
        for lang, value in zip(("en", "es"), values, strict=True)
        for layer, value in ((0, 9.0), (12, value))
    ]
    retrieval = [{"model": f"rm-{model}", "layer": 12, "share": 0.5} for model in ("en", "de")]
    lines = look_table({"spaces": spaces, "retrieval": retrieval}).splitlines()
    assert lines[2].startswith("| rm-en | 2 | 0.400 |") and lines[3].startswith("| rm-de | 1 | 0.200 |")
    assert lines[2].endswith("| 50 |")


def test_tables_go_to_their_place_in_a_page(tmp_path: Path) -> None:
    page = tmp_path / "page.md"
    page.write_text("a\n<!-- labels -->\nold\n<!-- end -->\nb\n<!-- look -->\n<!-- end -->\nc\n")
    put_into(page, {"look": ["x", "y"], "labels": ["new"]})
    assert page.read_text() == ("a\n<!-- labels -->\nnew\n<!-- end -->\nb\n<!-- look -->\nx\n\ny\n<!-- end -->\nc\n")
    with pytest.raises(UserError, match="no place for the tables of layout"):
        put_into(page, {"layout": ["z"]})
