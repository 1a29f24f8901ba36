"""`icr transfer` from one file to the matrix, and what its statistics say."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from eval.reward_models.scoring import Measured
from icr.base.errors import ConfigError, StageFailed, UserError
from icr.base.files import read_rows
from icr.commands.main import app
from icr.config.load import load_section
from icr.config.transfer import TransferConfig
from icr.experiments import transfer_plan as module
from icr.experiments.transfer import run_transfer
from icr.experiments.transfer_matrix import best_chances, make_matrix
from icr.experiments.transfer_plan import plan_models
from icr.report.transfer import conclude, write_transfer_page
from prompts.preferences.make import load_data
from tests.helpers.inline import run_inline, silent
from tests.helpers.pages import Page, assert_sound
from tests.helpers.reward_models import make_encoder, make_folder, pair_rows

pytestmark = pytest.mark.timeout(600)


def reverse(rows: list[dict[str, Any]], lang: str) -> list[dict[str, Any]]:
    """The language's preference is the opposite one: a model of it is wrong elsewhere."""
    return [
        {**row, "chosen": row["rejected"], "rejected": row["chosen"]} if row["lang"] == lang else row for row in rows
    ]


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """English and Spanish agree, German has the opposite preference."""
    rows = pair_rows(32)
    german = [{**row, "lang": "de", "prompt": row["prompt"].replace("en", "de")} for row in rows if row["lang"] == "en"]
    return make_folder(tmp_path_factory.mktemp("data") / "pairs", reverse([*rows, *german], "de"))


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base") / "encoder")


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


def experiment(folder: Path, base: Path, data: Path, **languages: Any) -> Path:
    content = {
        "run": "runs/x",
        "base": str(base),
        "languages": {"sources": ["en", "de"], "targets": ["en", "es"], **languages},
        "data": {"preferences": str(data)},
        "reward_model": {
            "train": {
                "learning_rate": 1e-2, "batch_size": 8, "micro_batch_size": 8, "epochs": 6, "precision": "fp32",
                "deepspeed": "none", "gradient_checkpointing": False, "validation_steps": 6, "scheduler": "constant",
            }
        },
    }  # fmt: skip
    (folder / "x.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "x.yaml"


def load(path: Path) -> TransferConfig:
    return load_section(TransferConfig, path)


def run(path: Path, only: str = "*") -> tuple[dict[str, Any], dict[str, Any]]:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)
    return run_transfer(load(path), only, silent())  # type: ignore[return-value]


def test_a_matrix_from_one_file_and_a_source_added_later(
    base: Path, data: Path, tmp_path: Path, inline: list[str]
) -> None:
    path = experiment(tmp_path, base, data)
    result, failed = run(path)
    assert not failed and result["sources"] == ["en", "de"] and inline.count("train") == 2
    rows = [row for row in load_data(data, "data").validation if row["lang"] in ("en", "es")]
    texts = {(row["prompt"], response) for row in rows for response in (row["chosen"], row["rejected"])}  # type: ignore[typeddict-item]
    scored = [row["text"] for file in tmp_path.glob("runs/x/steps/rm-en/scores/*/*.parquet") for row in read_rows(file)]
    assert len(scored) == len(set(scored)) == len(texts)  # its own validation rows once, at the end of the training
    by = {(cell["source"], cell["target"]): cell for cell in result["cells"]}
    assert by["en", "es"]["accuracy"] > 80 > 20 > by["de", "es"]["accuracy"]
    assert by["en", "es"]["length"] is not None and by["en", "es"]["accuracy_interval"]
    for target in ("en", "es"):
        assert result["targets"][target]["order"] == ["en", "de"]
    assert "take en" in conclude(result)[1]
    assert json.loads((tmp_path / "runs/x/tables/transfer.json").read_text()) == result
    page = Page(write_transfer_page(result, tmp_path / "runs" / "x").read_text(encoding="utf-8"))
    assert_sound(page)
    assert "English English sure: better than every other source" in page.text
    assert "Framed" in page.text

    before = len(inline)
    again, _ = run(path)
    assert again == result and "train" not in inline[before:] and "classify" not in inline[before:]
    grown = experiment(tmp_path, base, data, sources=["en", "de", "es"], pooled=[["en", "es"]])
    assert [model.name for model in plan_models(load(grown))] == ["rm-en", "rm-de", "rm-es", "rm-en+es"]
    before = len(inline)
    larger, _ = run(grown, "rm-es")
    assert inline[before:].count("train") == 1 and larger["missing"] == ["en+es"]
    assert larger["cells"][:4] == result["cells"]  # what was measured is as before
    text = grown.read_text(encoding="utf-8").replace("epochs: 6", "epochs: 5")
    grown.write_text(text, encoding="utf-8")
    other, failed = run(grown, "rm-es")
    assert list(failed) == ["rm-es"]  # a finished model of other settings is refused, and none of them is shown
    assert "reward_model.train.epochs: 6.0 → 5.0" in str(failed["rm-es"])
    assert other["sources"] == [] and other["missing"] == ["en", "de", "es", "en+es"]


def test_one_failed_cell_does_not_stop_the_others(
    base: Path, data: Path, tmp_path: Path, inline: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    trained = module.do_reward_model

    def train(run: Path, config: Any, *more: Any) -> Any:
        if config.data.languages == ["en"]:
            raise StageFailed("the training ended")
        return trained(run, config, *more)

    monkeypatch.setattr(module, "do_reward_model", train)
    result, failed = run(experiment(tmp_path, base, data))
    assert list(failed) == ["rm-en"] and result["failed"] == {"rm-en": "the training ended"}
    assert result["missing"] == ["en"] and {cell["source"] for cell in result["cells"]} == {"de"}
    page = Page(write_transfer_page(result, tmp_path / "runs" / "x").read_text(encoding="utf-8"))
    assert "it failed" in page.text and "failed: the training ended" in page.text


def test_everything_wrong_at_once(base: Path, data: Path, tmp_path: Path) -> None:
    wrong = experiment(tmp_path, base, data, sources=["en", "fr"], targets=["en", "xx", "it"])
    with pytest.raises(ConfigError) as caught:
        run(wrong)
    text = str(caught.value)
    assert "xx" in text and "fr" in text and "it" in text
    with pytest.raises(UserError, match="no step is called rm-q"):
        run(experiment(tmp_path, base, data), "rm-q*")
    with pytest.raises(ConfigError, match="found"):
        load(experiment(tmp_path, base, data, sources=["en", "en"]))
    with pytest.raises(ConfigError) as caught:
        run(experiment(tmp_path, base, data, sources=["en", "tr"], targets=["ru"]))
    said = [(problem.what, problem.where, problem.do) for problem in caught.value.problems]
    assert said[0] == ("the data has no validation rows in ru", "languages.targets", "name other languages")
    assert said[1][:2] == ("the data has no training rows in tr", "languages.sources")


def test_the_command_lists_its_steps(base: Path, data: Path, tmp_path: Path) -> None:
    path = experiment(tmp_path, base, data, pooled=[["en", "de"]])
    done = CliRunner().invoke(app, ["transfer", str(path), "--dry-run"])
    assert done.exit_code == 0, done.exception
    lines = done.stdout.splitlines()
    assert [line.split() for line in lines[:3]] == [[name, "to", "do"] for name in ("rm-en", "rm-de", "rm-en+de")]
    assert lines[3] == "3 reward models × 2 targets"


def test_the_chance_to_be_best_is_shared_by_equals_and_drawn_by_group() -> None:
    groups = [f"g{n // 2}" for n in range(40)]
    right = np.tile([1.0, 0.0], 20)
    chances = best_chances([right, right, np.zeros(40)], groups)
    assert chances is not None and chances.tolist() == [0.5, 0.5, 0.0]
    rng = np.random.default_rng(0)
    one, other = (rng.random(40) < 0.6).astype(float), (rng.random(40) < 0.6).astype(float)
    found = best_chances([one, other], groups)
    draws = np.random.default_rng(7)
    means = [one.reshape(20, 2).mean(1) - other.reshape(20, 2).mean(1)] * 1
    gaps = means[0][draws.integers(0, 20, (20_000, 20))].mean(axis=1)
    assert found is not None and found[0] == pytest.approx((gaps > 0).mean() + 0.5 * (gaps == 0).mean(), abs=0.03)
    assert best_chances([right[:4], right[:4]], groups[:4]) is None  # two groups


def test_conclusions_say_what_cannot_be_told_apart(tmp_path: Path) -> None:
    groups = [f"g{n}" for n in range(30)]
    good, near, bad = np.ones(30), np.r_[np.zeros(1), np.ones(29)], np.zeros(30)

    def measured(right: np.ndarray[Any, Any]) -> Measured:
        return Measured({"accuracy": 100 * float(right.mean())}, right, groups)

    result = make_matrix(
        {"en": {"ru": measured(good)}, "es": {"ru": measured(near)}, "de": {"ru": measured(bad)}},
        ["ru"],
        ["en", "es", "de", "vi"],
    )
    assert result["missing"] == ["vi"] and result["targets"]["ru"]["ranks"] == {"en": 1, "es": 2, "de": 3}
    page = Page(write_transfer_page(result, tmp_path).read_text(encoding="utf-8"))  # of --only: missing, not failed
    assert "Vietnamese: no model yet." in page.text
    [line] = conclude(result)
    assert line.startswith("ru: en is first (best with probability 0.") and line.endswith("es may be as good.")
    for cell in result["cells"]:
        cell |= {"length": 64.0, "above_length_interval": [-1.0, 40.0]}
    assert conclude(result)[0].endswith("It is not clearly better than length alone (64.0).")
    alone = make_matrix({"en": {"ru": measured(good)}}, ["ru"], ["en"])
    assert conclude(alone) == ["ru: en is the only source; a ranking needs two."]
