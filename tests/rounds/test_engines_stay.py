"""One engine serves all rounds, and the run is the one that a new engine for every model would have made."""

from __future__ import annotations

import importlib.util
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from icr.base.rundir import RunDir
from icr.engines.base import Engine
from icr.engines.open import EngineSettings, open_engine
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from tests.conftest import TEXTS, Config
from tests.helpers.independent import rows
from tests.helpers.inline import run_inline, silent


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """The models that an engine was built for."""
    models = list[str]()

    def open_counted(model: str, settings: EngineSettings) -> Engine:
        models.append(model)
        return open_engine(model, settings)

    monkeypatch.setattr("icr.work.resident.open_engine", open_counted)
    return models


def iterate(config: Path, run: Path) -> RunDir:
    resolved, inputs = load_checked(config, [], {"run": str(run)})
    controller = Controller(RunDir(run), resolved, inputs, silent())
    controller.iterate()
    controller.close()
    return controller.run


@pytest.mark.parametrize("backend", ["transformers", "vllm"])
def test_pairs_and_weights_are_those_of_new_engines(
    backend: str, tiny_config: Config, tmp_path: Path, built: list[str]
) -> None:
    if importlib.util.find_spec(backend) is None:
        pytest.skip(f"{backend} is not installed")
    config = tiny_config(tmp_path, prompts={"limit": 3}, sampling={"backend": backend}, judge={"limit": 2})
    with pytest.MonkeyPatch.context() as patch:
        tasks = run_inline(patch)
        stays = iterate(config, tmp_path / "stays")
    assert len(built) == 1
    assert tasks.count("probe") == 3  # π⁰ at the start of the run, π¹ and π² as new weights
    assert tasks.count("engine-probe") == 1
    found = stays.round(1).record.stages["sample"].counts["engine_and_scorer"]
    assert found["apart"] < 1e-5 and found["engine"] == pytest.approx(found["scorer"], abs=1e-3)
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        patch.setattr("icr.work.resident.describe_architecture", lambda model: model)  # no two are alike
        fresh = iterate(config, tmp_path / "fresh")
    assert len(built) == 1 + 3
    for number in (1, 2):
        a, b = stays.round(number), fresh.round(number)
        assert rows(a.pairs) == rows(b.pairs) != []
        for lang in TEXTS:
            assert rows(a.responses / f"{lang}.parquet") == rows(b.responses / f"{lang}.parquet")
        ours, theirs = (load_file(at.model / "model.safetensors") for at in (a, b))
        assert ours.keys() == theirs.keys() and all(torch.equal(ours[name], theirs[name]) for name in theirs)
        assert a.summary.read_text() == b.summary.read_text()
