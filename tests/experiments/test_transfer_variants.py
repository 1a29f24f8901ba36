"""Translate-train inside `icr transfer`: rows translated once a pair of languages, and compared on the same rows."""

from __future__ import annotations

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from typer.testing import CliRunner

from eval.reward_models.scoring import Measured
from icr.base.errors import ConfigError
from icr.base.files import read_json, read_rows
from icr.base.progress import Silent
from icr.commands.main import app
from icr.experiments.transfer_matrix import compare_variants
from icr.experiments.transfer_translate import Translations
from icr.report.transfer import transfer_tables, write_transfer_page
from icr.work.machine import Machine
from prompts.preferences.translate import run as run_job
from tests.experiments.test_transfer import experiment, load, reverse, run
from tests.helpers.inline import run_inline, silent
from tests.helpers.pages import Page, assert_sound
from tests.helpers.reward_models import make_encoder, make_folder, pair_rows
from tests.helpers.stub_server import Answer, Stub, fault, says
from tests.helpers.translating import text_of

pytestmark = pytest.mark.timeout(600)
VARIANTS = {"variants": ["transfer", "translate-train"]}


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_encoder(tmp_path_factory.mktemp("base") / "encoder")


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Spanish has the opposite preference of English."""
    return make_folder(tmp_path_factory.mktemp("data") / "pairs", reverse(pair_rows(32), "es"))


def turned(request: dict[str, Any], before: int) -> Answer:
    """A translator that says no for yes, so that what is translated fits the target's preference."""
    text = text_of(request)
    if found := re.fullmatch(r"en: is (.*) fine\?", text):
        return says(f"es: ¿está bien {found[1]}?")
    words = text.replace(" and so on", " etcétera").split()
    return says(" ".join([{"yes": "no", "no": "yes"}[words[0]], *words[1:]]))


def planned(folder: Path, base: Path, data: Path, url: str, /, **more: Any) -> Path:
    path = experiment(folder, base, data, sources=["en", "es"], targets=["es"])
    content = yaml.safe_load(path.read_text()) | VARIANTS
    content |= {"translator": {"kind": "openai", "model": "m", "base_url": url}, **more}
    path.write_text(yaml.safe_dump({key: value for key, value in content.items() if value is not None}))
    return path


def test_translated_rows_train_a_model_for_their_target(
    base: Path, data: Path, tmp_path: Path, inline: list[str]
) -> None:
    with Stub(turned) as stub:
        path = planned(tmp_path, base, data, stub.url)
        dry = CliRunner().invoke(app, ["transfer", str(path), "--dry-run"])
        lines = dry.stdout.splitlines()
        states = [line.split(maxsplit=1) for line in lines[:4]]
        assert states == [["rm-en", "to do"], ["rm-es", "to do"], ["translate-en-es", "to do"],
                          ["rm-en-to-es", "waits for translate-en-es"]]  # fmt: skip
        assert lines[5] == "1 reward model on translated rows, each for one target" and not stub.asked
        told = re.match(r"(\d+) translations to request: at most [\d,]+ tokens", lines[6])
        result, failed = run(path)
        assert not failed and inline.count("train") == 3
        assert told and int(told[1]) == len(stub.asked) == sum(stub.asked.values())
        folder = tmp_path / "runs" / "x"
        made = read_rows(folder / "steps/translate-en-es/data/train.parquet")
        assert {row["lang"] for row in made} == {"es"} and all(row["id"].endswith(":en>es") for row in made)
        record = read_json(folder / "steps/translate-en-es/step.json")
        assert record["state"] == "done" and record["counts"]["train"] == len(made) > 10
        before, asked = len(inline), sum(stub.asked.values())
        again, _ = run(path)
        assert again == result and "train" not in inline[before:] and sum(stub.asked.values()) == asked
    by = {cell["source"]: cell for cell in result["cells"]}
    assert set(by) == {"en", "es", "en-to-es"}
    assert by["es"]["accuracy"] > 80 and by["en-to-es"]["accuracy"] > 80 > 20 > by["en"]["accuracy"]
    [row] = result["variants"]
    assert (row["source"], row["target"], row["transfer"]) == ("en", "es", by["en"]["accuracy"])
    gap = by["en-to-es"]["accuracy"] - by["en"]["accuracy"]
    assert row["translate_train_minus_transfer"] == pytest.approx(gap)
    page = Page(write_transfer_page(result, folder).read_text(encoding="utf-8"))
    assert_sound(page)
    assert "Monolingual against transfer against translate-train: accuracy" in page.text and transfer_tables(result)
    assert (folder / "tables/variants.csv").read_text().startswith("source,target,value,monolingual")


def test_what_is_wrong_with_variants_is_said(base: Path, data: Path, tmp_path: Path) -> None:
    def refused(**more: Any) -> str:
        with pytest.raises(ConfigError) as caught:
            run(planned(tmp_path, base, data, "http://127.0.0.1:9/v1", **more))
        return str(caught.value)

    assert "translate-train needs a translator" in refused(translator=None)
    assert "translator is not used" in refused(variants=["transfer"])
    assert "compared with transfer" in refused(variants=["translate-train"])
    text = refused(translator={"kind": "openai", "model": "m", "base_url": "nowhere"}, base="./none")
    assert "translator.base_url" in text and "none" in text
    assert "translator.model" in refused(translator={"kind": "local", "model": "./none"})
    pooled = load(planned(tmp_path, base, data, "", translator=None, variants=["transfer", "pooled"]))
    assert pooled.pools == [["en", "es"]] and pooled.translated == []


def test_differences_of_variants_are_paired_by_hand() -> None:
    groups = [f"g{n // 2}" for n in range(40)]
    own, other = np.ones(40), np.tile([1.0, 0.0], 20)
    silver = np.array([1.0, 1.0, np.nan, 0.0] * 10)

    def measured(right: np.ndarray[Any, Any]) -> Measured:
        return Measured({"accuracy": 100 * float(np.nanmean(right))}, right, groups)

    found = {"es": {"es": measured(own), "en": measured(other), "en-to-es": measured(silver)}}
    [row] = compare_variants(found, [("en", "es")], "accuracy")
    assert (row["monolingual"], row["transfer"]) == (100.0, 50.0)
    assert row["transfer_minus_monolingual"] == -50.0 and row["transfer_minus_monolingual_interval"] == [-50.0, -50.0]
    # on the rows that both have scored: gaps 0, 1, –, 0 of transfer; 0, 0, –, −1 of monolingual
    assert row["translate_train_minus_transfer"] == pytest.approx(100 / 3)
    assert row["translate_train_minus_monolingual"] == pytest.approx(-100 / 3)
    [alone] = compare_variants({"es": {"en": measured(other)}}, [("en", "es")], "accuracy")
    assert alone["translate_train"] is None and alone["translate_train_minus_transfer"] is None


def test_rows_without_an_answer_are_asked_for_until_they_are_trained_without(
    base: Path, data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """By the command's own worker, in this process: its second turn gets what did not come at first."""
    monkeypatch.setattr(Machine, "translate", lambda self, job, module: run_job(job, Silent()))
    down = [True]

    def sometimes(request: dict[str, Any], before: int) -> Answer:
        return fault(400, "cannot") if down[0] and "whale" in text_of(request) else turned(request, before)

    with Stub(sometimes) as stub:
        config = load(planned(tmp_path, base, data, stub.url))
        machine = Machine(tmp_path, silent())
        [cell] = Translations(config, machine).cells()
        notes = list[str]()
        cell.do(notes.append)
        report = tmp_path / "runs/x/steps/translate-en-es/data/report.json"
        assert lacking(report) and not cell.done()
        model = tmp_path / "runs/x/steps/rm-en-to-es/model"
        model.mkdir(parents=True)
        assert cell.done()  # trained without these rows
        model.rmdir()
        down[0] = False
        cell.do(notes.append)
        assert cell.done() and not lacking(report)


def lacking(report: Path) -> list[str]:
    """Why rows without an answer are left out."""
    return [reason for reason in read_json(report)["languages"]["es"]["left_out"] if "no answer" in reason]
