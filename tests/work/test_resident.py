"""An engine that is given the next round's weights is the engine that would have been built with them."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pytest
import torch
from safetensors.torch import load_file, save_file

from icr.base.errors import UserError
from icr.base.progress import SILENT
from icr.engines.base import Completion, Decoding, Engine, Request
from icr.engines.open import EngineSettings, open_engine
from icr.engines.templates import Template
from icr.engines.transformers_engine import TransformersEngine
from icr.rounds.stages.measure import score_probe
from icr.work.machine import Machine
from icr.work.probe import TEXT, Agreement, Probe, ProbeTask
from icr.work.resident import Resident
from icr.work.sampling import PROMPTS, SampleTask
from icr.work.shards import cut_table
from tests.helpers.inline import run_inline, silent
from tests.helpers.tiny_models import make_tiny_model

REQUESTS = [Request([4 + (7 * i + k) % 200 for k in range(20)], i) for i in range(6)]


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> tuple[str, str]:
    """One architecture, other weights, the head tied to the embeddings."""
    folder = tmp_path_factory.mktemp("two")
    first, second = (make_tiny_model(folder / name, context=512) for name in "ab")
    weights, noise = load_file(second / "model.safetensors"), torch.Generator().manual_seed(1)
    moved = {name: w + 0.02 * torch.randn(w.shape, generator=noise) for name, w in weights.items()}
    save_file(moved, second / "model.safetensors", metadata={"format": "pt"})
    return str(first), str(second)


def probe(model: str) -> Probe:
    task = ProbeTask(model=model, template=Template(), precision="fp32", tokens=255)
    made = score_probe(Resident(), task, pa.table({"text": [TEXT]}), SILENT)
    return Probe(token_ids=made["token_ids"][0].as_py(), logp=made["logp"][0].as_py())


def sample(engine: Engine) -> list[Completion]:
    return engine.generate(REQUESTS, Decoding(0.9, 1.0, 16))


def test_new_weights_give_what_a_new_engine_gives(
    models: tuple[str, str], capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """vLLM's in tests/rounds/test_engines_stay.py."""
    settings = EngineSettings(backend="transformers", precision="fp32", window=256)
    fresh = open_engine(models[1], settings)
    expected = sample(fresh)
    fresh.close()

    state = Resident()
    before = sample(state.engine(models[0], settings))
    again = state.engine(models[1], settings, probe(models[1]))
    assert sample(again) == expected != before
    assert capsys.readouterr().out.count(" built: ") == 1
    assert sample(state.engine(models[0], settings, probe(models[0]))) == before

    monkeypatch.setattr(type(again), "reload", lambda self, model: None)
    assert sample(state.engine(models[1], settings, probe(models[1]))) == expected  # the probe saw the old weights
    assert capsys.readouterr().out.count(" built: ") == 1
    state.engine(models[1], settings).close()


def test_another_architecture_gets_an_engine_of_its_own(
    models: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = str(make_tiny_model(tmp_path / "other", context=256))
    settings = EngineSettings(backend="transformers", precision="fp32", window=256)
    state = Resident()
    for model in (models[0], other, other):
        state.engine(model, settings)
    assert capsys.readouterr().out.count(" built: ") == 2


def test_probes_are_made_once_engines_have_to_change_weights(
    models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = run_inline(monkeypatch)
    machine = Machine(tmp_path, silent())
    settings = EngineSettings(backend="transformers", precision="fp32", window=256)
    row = pa.Table.from_pylist([{"prompt_id": "p", "lang": "en", "prompt": "What?"}], schema=PROMPTS)
    for turn, model in enumerate((models[0], models[0], models[1], models[0])):
        task = SampleTask(
            model=model,
            template=Template(),
            engine=settings,
            n=1,
            temperature=0.0,
            top_p=1.0,
            max_tokens=4,
            seed=1,
            round=1,
        )
        machine.fill(tmp_path / str(turn), task, cut_table(row, 1), "responses")
    assert tasks == ["sample", "sample", "probe", "sample", "probe", "sample"]


def compare(model: str, folder: Path, *, used: bool = True) -> Agreement | None:
    machine = Machine(folder, silent())
    settings = EngineSettings(backend="transformers", precision="fp32", window=256)
    task = SampleTask(
        model=model, template=Template(), engine=settings, n=1, temperature=0, top_p=1, max_tokens=4, seed=1, round=1
    )
    if used:
        row = pa.Table.from_pylist([{"prompt_id": "p", "lang": "en", "prompt": "What?"}], schema=PROMPTS)
        machine.fill(folder / "shards", task, cut_table(row, 1), "responses")
    return machine.compare(task, "fp32")


def test_engine_and_scorer_are_compared_on_one_text(
    models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = run_inline(monkeypatch)
    found = compare(models[0], tmp_path)
    assert tasks == ["sample", "engine-probe", "probe"]
    assert found is not None and found.tokens == len(probe(models[0]).token_ids) - 1 > 100
    assert found.scorer == pytest.approx(probe(models[0]).logp) and found.apart < 1e-5
    assert "nats a token apart" in found.describe() and "more than rounding" not in found.describe()
    assert compare(models[1], tmp_path / "unused", used=False) is None  # no engine is started for it


def test_an_engine_that_computes_another_model_is_refused(
    models: tuple[str, str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    monkeypatch.setattr(TransformersEngine, "score", lambda self, ids: 1.5 * probe(models[0]).logp)
    with pytest.raises(UserError, match="engine and scorer do not compute the same model") as error:
        compare(models[0], tmp_path)
    assert error.value.where == models[0] and "sampling.backend: transformers" in error.value.do


def test_what_is_said_of_a_difference() -> None:
    """Less than refuses a run is said: 0.1 nats a token are Gemma-2's without its soft-capping."""
    said = Agreement.of(50, -100.0, -105.0, ("bf16", "bf16"))
    assert said.apart == pytest.approx(0.1) and "more than rounding makes (0.05)" in said.describe()
    said.check("model")
    assert "rounding" not in Agreement.of(50, -100.0, -101.0, ("fp32", "bf16")).describe()
    with pytest.raises(UserError):
        Agreement.of(50, float("nan"), -105.0, ("fp32", "fp32")).check("model")
