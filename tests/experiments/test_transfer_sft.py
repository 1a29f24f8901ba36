"""Fine-tuning inside `icr transfer`: a policy for each target and side of demonstrations, and what the others cost."""

from __future__ import annotations

import csv
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file
from typer.testing import CliRunner

from eval.reward_models.scoring import Measured
from eval.xalpaca.answers import read_outputs
from icr.base.errors import ConfigError
from icr.base.files import read_json, read_rows
from icr.base.progress import Silent
from icr.commands.main import app
from icr.experiments.transfer import list_transfer
from icr.experiments.transfer_matrix import compare_sides
from icr.report.transfer import transfer_tables, write_transfer_page
from icr.work.machine import Machine
from prompts.preferences.demonstrations import keep_demonstrations
from prompts.preferences.make import load_data
from prompts.preferences.translate import run as run_job
from tests.conftest import write_prompts
from tests.experiments.test_transfer_align import load, made, run, states
from tests.helpers.inline import run_inline, silent
from tests.helpers.pages import Page, assert_sound
from tests.helpers.stub_server import Answer, Stub, says
from tests.helpers.translating import language_of, text_of

__all__ = ["made"]
pytestmark = pytest.mark.timeout(600)
SMALL = {
    "learning_rate": 3e-3, "batch_size": 8, "micro_batch_size": 8, "epochs": 1, "precision": "fp32",
    "deepspeed": "none", "gradient_checkpointing": False,
}  # fmt: skip
SIDES = ["organic", "translated", "back-translated"]
PLACES = ["es", "es@translated", "es@back-translated"]


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        tasks = run_inline(patch)
        patch.setattr(Machine, "translate", lambda self, job, module: run_job(job, Silent()))
        yield tasks


def marked(request: dict[str, Any], before: int) -> Answer:
    """A translator that says in which language the text is."""
    return says(f"{text_of(request)} ({language_of(request)})")


def read_csv(file: Path) -> list[dict[str, str]]:
    return list(csv.DictReader(file.open(encoding="utf-8")))


def sided(made: dict[str, Any], url: str, **sft: Any) -> dict[str, Any]:
    """The keys of an experiment with one target and three sides."""
    align = {**made["align"], "best_of_n": {**made["align"]["best_of_n"], "n": 2}}
    return {
        "languages": {"sources": ["en", "es"], "targets": ["es"]},
        "align": align,
        "translator": {"kind": "openai", "model": "m", "base_url": url},
        "sft": {"demonstrations": SIDES, "pivot": "en", "train": SMALL, **sft},
    }


def test_a_policy_for_every_side_of_demonstrations(made: dict[str, Any], tmp_path: Path, inline: list[str]) -> None:
    steps = tmp_path / "run/steps"
    with Stub(marked) as stub:
        config = load(tmp_path, made, **sided(made, stub.url))
        dry = CliRunner().invoke(app, ["transfer", str(tmp_path / "x.yaml"), "--dry-run"]).stdout
        assert re.search(r"^sft-es@translated +waits for demonstrations-en-es$", dry, re.MULTILINE)
        assert "3 trainings by supervised fine-tuning" in dry and not stub.asked
        result, failed = run(config)
        assert not failed and result["places"] == PLACES
        assert inline.count("train") == 2 + 3
        assert f"{sum(stub.asked.values())} translations to request" in dry
        before, asked, finished = len(inline), sum(stub.asked.values()), states(tmp_path / "run")
        again, _ = run(config)
        assert again == result and len(inline) == before and sum(stub.asked.values()) == asked
        assert states(tmp_path / "run") == finished
    # translated: English demonstrations; back-translated: Spanish ones; the chosen answers alone
    trained = {place: read_json(steps / f"sft-{place}/sft.json")["languages"]["es"] for place in PLACES}
    assert trained["es"] == 18
    for place, name, id, text in (
        ("es@translated", "en-es", ":en>es", "yes whale (es)"),
        ("es@back-translated", "es-en-es", ":es>en>es", "yes whale (en) (es)"),
    ):
        rows = read_rows(steps / f"demonstrations-{name}/data/train.parquet")
        counts = read_json(steps / f"demonstrations-{name}/step.json")["counts"]
        assert len(rows) == trained[place] == counts["train"] > 10 and counts["rows"] == 24
        assert {row["lang"] for row in rows} == {"es"} and {row["label"] for row in rows} == {1}
        assert all(row["id"].endswith(id) and row["response"].startswith("yes") for row in rows)
        assert text in {row["response"] for row in rows}
    samples = {place: read_rows(steps / f"samples-{place}/es.parquet") for place in PLACES}
    texts = {place: [row["response"] for row in rows] for place, rows in samples.items()}
    assert len({tuple(of) for of in texts.values()}) == 3  # three policies
    # every side against the own answers of the organic policy, judged by their length
    own = [row["response"] for row in samples["es"] if row["sample"] == 0]
    cells = {(cell["source"], cell["target"]): cell for cell in result["judges"]["Longer"]["cells"]}
    assert set(cells) == {(source, place) for source in ("en", "es") for place in PLACES}
    wins = {}
    for place in PLACES:
        answers = [answer.text for answer in read_outputs(steps / f"best-en-{place}", "es")]
        wins[place] = [50 + 50 * np.sign(len(a) - len(o)) for a, o in zip(answers, own, strict=True)]
        assert cells["en", place]["win_rate"] == pytest.approx(np.mean(wins[place]))
    compared = {(row["source"], row["demonstrations"]): row for row in result["judges"]["Longer"]["demonstrations"]}
    assert set(compared) == {(source, side) for source in ("en", "es") for side in SIDES[1:]}
    found = compared["en", "translated"]
    assert (found["target"], found["organic"]) == ("es", cells["en", "es"]["win_rate"])
    assert found["difference"] == pytest.approx(np.mean(wins["es@translated"]) - np.mean(wins["es"]))
    table = (tmp_path / "run/tables/win_rates.csv").read_text().splitlines()
    assert table[0].endswith(",demonstrations") and table[1].endswith(",organic") and ",es@" not in "".join(table)
    assert (tmp_path / "run/tables/demonstrations.csv").read_text().count("\n") == 1 + 4
    page = Page(write_transfer_page(result, tmp_path / "run").read_text(encoding="utf-8"))
    assert_sound(page)
    assert "Organic against translated demonstrations: win rate by Longer" in page.text and transfer_tables(result)


def test_dpo_and_rloo_of_every_side_where_the_experiment_asks(
    made: dict[str, Any], tmp_path: Path, inline: list[str]
) -> None:
    trained = {"prompts": str(write_prompts(tmp_path / "trained", range(21, 31))), "sides": "all"}
    small = {**SMALL, "batch_size": 2, "micro_batch_size": 2}
    rl = {**trained, "sampling": {"n": 2, "max_tokens": 8}, "heldout": {"prompts": 6, "every": 2}, "train": small}
    places = ["es", "es@translated"]
    with Stub(marked) as stub:
        keys = sided(made, stub.url, demonstrations=SIDES[:2])
        keys["languages"] = {"sources": ["en"], "targets": ["es"]}
        keys["align"] |= {"dpo": {**trained, "train": {**small, "nll_weight": 0.0}}, "rl": rl}
        config, steps = load(tmp_path, made, **keys), tmp_path / "run/steps"
        planned, counts = list_transfer(config, silent())
        for place in places:
            assert planned[f"dpo-samples-{place}"] == planned[f"rl-en-{place}"].replace("rm-en", f"sft-{place}")
            assert {f"dpo-en-{place}", f"judge-Longer-dpo-en-{place}", f"judge-Longer-rl-en-{place}"} <= set(planned)
        assert counts["trainings"] == counts["rl_trainings"] == 2
        # judged and trained prompts twice each on both sides, and an answer of each of the four policies
        assert counts["candidates"] == (8 + 10) * 2 * 2 + 4 * 8 and counts["questions"] == (2 + 4) * 8 * 2
        result, failed = run(config)
        assert not failed and inline.count("train") == 1 + 2 + 2 + 2
    for place in places:
        policy = load_file(steps / f"sft-{place}/model/model.safetensors")
        for method in ("dpo", "rl"):
            model = load_file(steps / f"{method}-en-{place}/model/model.safetensors")
            assert 0 < max((model[name] - policy[name]).abs().max() for name in policy) < 0.1  # from its own side's
    own = {row["prompt_id"]: row["response"] for row in read_rows(steps / "samples-es/es.parquet") if not row["sample"]}
    for method in ("dpo", "rl"):
        answers = read_rows(steps / f"{method}-answers-en-es@translated/es.parquet")
        wins = [50 + 50 * np.sign(len(row["response"]) - len(own[row["prompt_id"]])) for row in answers]
        cells = {cell["target"]: cell for cell in result["judges"]["Longer"][method]["cells"]}
        assert set(cells) == set(places) and cells["es@translated"]["win_rate"] == pytest.approx(np.mean(wins))
        [row] = result["judges"]["Longer"][method]["demonstrations"]
        assert row["difference"] == pytest.approx(cells["es@translated"]["win_rate"] - cells["es"]["win_rate"])
    assert [row["target"] for row in result["rl"]] == places
    tables = {name: read_csv(tmp_path / f"run/tables/{name}.csv") for name in ("win_rates", "rl", "demonstrations")}
    assert [row["demonstrations"] for row in tables["rl"]] == SIDES[:2]
    assert {row["target"] for row in tables["rl"]} == {"es"} == {row["target"] for row in tables["win_rates"]}
    assert [row["method"] for row in tables["demonstrations"]] == ["best-of-n", "dpo", "rl"]
    page = Page(write_transfer_page(result, tmp_path / "run").read_text(encoding="utf-8"))
    assert_sound(page)
    assert "win rate by Longer after RLOO" in page.text and transfer_tables(result)


def test_what_is_wrong_with_fine_tuning_is_said(made: dict[str, Any], tmp_path: Path) -> None:
    def refused(**changes: Any) -> str:
        keys = {**sided(made, "http://127.0.0.1:9/v1"), **changes}
        with pytest.raises(ConfigError) as caught:
            run(load(tmp_path, made, **{key: value for key, value in keys.items() if value is not None}))
        return str(caught.value)

    assert "add it to demonstrations" in refused(sft={"demonstrations": ["translated"], "pivot": "en"})
    assert "add pivot: LANG" in refused(sft={"demonstrations": SIDES})
    assert "translated demonstrations need a translator" in refused(translator=None)
    assert "data.demonstrations is for sft" in refused(
        sft=None, translator=None, data={**made["data"], "demonstrations": "x"}
    )
    text = refused(sft={"demonstrations": SIDES, "pivot": "tr", "train": SMALL}, base="./none")
    assert "no rows in tr" in text and "none" in text
    text = refused(sft={"train": {**SMALL, "nodes": 2}}, translator=None)
    assert "training on 2 nodes is missing" in text and "where: sft.train.launcher" in text
    pivot = load(
        tmp_path,
        made,
        **{**sided(made, "http://127.0.0.1:9/v1"), "languages": {"sources": ["en"], "targets": ["en", "es"]}},
    )
    assert pivot.places == ["en", *PLACES]


def test_demonstrations_are_the_good_answers_once(made: dict[str, Any]) -> None:
    data = load_data(Path(made["data"]["preferences"]), "data")
    found = keep_demonstrations(data)
    assert found.kind == "ratings" and len(found.train) == len(data.train)
    twice = keep_demonstrations(type(data)("pairs", [*data.train, *data.train], data.validation, {}))
    assert twice.train == found.train
    bad = [{**row, "label": 0} for row in found.train]
    assert keep_demonstrations(type(data)("ratings", bad, [], {})).train == []


def test_differences_of_sides_are_paired_by_hand() -> None:
    """Rows of the two sides are matched by prompt, whatever their order; a prompt that one lacks is left out."""
    groups = [f"p{n:02}" for n in range(40)]
    organic = Measured({"win_rate": 50.0}, np.tile([1.0, 0.0], 20), groups)
    other = Measured({"win_rate": 25.0}, np.tile([0.5, 0.0], 20)[::-1], groups[::-1])
    [row] = compare_sides({"es": {"en": organic}, "es@translated": {"en": other}}, "win_rate")
    assert (row["target"], row["demonstrations"], row["organic"], row["figure"]) == ("es", "translated", 50.0, 25.0)
    assert row["difference"] == pytest.approx(-25.0) and row["difference_interval"][1] < 0
    short = Measured({"win_rate": 50.0}, np.full(20, 0.5), groups[::2])
    [row] = compare_sides({"es": {"en": organic}, "es@translated": {"en": short}}, "win_rate")
    assert row["difference"] == pytest.approx(-50.0)
