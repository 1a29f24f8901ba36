"""`look` of `icr transfer`: what `icr rm look` says of every reward model, and nothing twice."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from eval.reward_models.look import Look, look_into
from icr.base.errors import ConfigError
from icr.base.files import read_json
from icr.experiments.transfer import list_transfer
from icr.report.transfer import inside, transfer_tables, write_transfer_page
from tests.conftest import write_prompts
from tests.experiments.test_transfer_align import load, run
from tests.helpers.inline import run_inline, silent
from tests.helpers.pages import Page, assert_sound
from tests.helpers.reward_models import make_encoder, make_folder, pair_rows

pytestmark = pytest.mark.timeout(300)


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


@pytest.fixture
def content(tmp_path: Path) -> dict[str, Any]:
    write_prompts(tmp_path / "parallel", range(1, 9))
    train = {
        "learning_rate": 3e-3, "batch_size": 8, "micro_batch_size": 8, "epochs": 1, "precision": "fp32",
        "deepspeed": "none", "gradient_checkpointing": False,
    }  # fmt: skip
    return {
        "base": str(make_encoder(tmp_path / "encoder")),
        "languages": {"sources": ["en"], "targets": ["en", "es"]},
        "data": {"preferences": str(make_folder(tmp_path / "pairs", pair_rows(24)))},
        "reward_model": {"train": train},
        "look": {"parallel": str(tmp_path / "parallel"), "texts": 6},
    }


def test_each_model_is_looked_at_once_as_by_the_command(
    content: dict[str, Any], tmp_path: Path, inline: list[str]
) -> None:
    config, folder = load(tmp_path, content), tmp_path / "run"
    assert list_transfer(config, silent())[0] == {"rm-en": "to do"}
    result, failed = run(config)
    assert not failed
    model, path = folder / "steps/rm-en/model", content["data"]["preferences"]
    asked = Look(
        [str(model)], Path(path), "all", content["look"]["parallel"], ["en", "es"], 6, content["base"], "last",
        None, "", None,
    )  # fmt: skip
    alone = look_into(asked, tmp_path / "alone", silent())
    for table in ("words", "spaces", "retrieval", "norms", "norm_distances"):
        rows = [{**row, "model": "rm-en"} for row in alone[table]]
        assert result["look"][table] == rows and rows, table
    assert read_json(folder / "look/look.json") == result["look"]
    assert (folder / "look/spaces.csv").read_text().count("\n") == 1 + len(alone["spaces"])

    last = max(row["layer"] for row in alone["spaces"])
    moved = [row["frobenius"] for row in alone["spaces"] if row["layer"] == last]
    (row,) = inside(result["look"])
    assert row["frobenius"] == pytest.approx(sum(moved) / 2) and row["frobenius"] > 0
    page = Page(write_transfer_page(result, folder).read_text(encoding="utf-8"))
    assert_sound(page)
    assert "Inside the reward models" in page.text and transfer_tables(result)
    assert_sound(Page((folder / "look/report.html").read_text(encoding="utf-8")))

    before, kept = len(inline), run(config)[0]
    assert kept == result and len(inline) == before
    content["languages"]["sources"].append("es")
    larger, failed = run(load(tmp_path, content))
    assert not failed and [row["model"] for row in inside(larger["look"])] == ["rm-en", "rm-es"]
    words, spaces = ([row for row in larger["look"][of] if row["model"] == "rm-en"] for of in ("words", "spaces"))
    assert (words, spaces) == (result["look"]["words"], result["look"]["spaces"])


def test_a_look_without_texts_is_refused_at_once(content: dict[str, Any], tmp_path: Path) -> None:
    content["look"] = {"bow": False}
    with pytest.raises(ConfigError, match=r"1 problem") as error:
        load(tmp_path, content)
    assert "name look.parallel, or set look.spectrum: false" in str(error.value)
    write_prompts(tmp_path / "english", range(1, 9))
    (tmp_path / "english/es.jsonl").unlink()
    content["look"] = {"parallel": str(tmp_path / "english")}
    with pytest.raises(ConfigError, match=r"look\.parallel"):
        list_transfer(load(tmp_path, content), silent())
