"""`icr validate` and the start of a run find what is wrong with models, all at once."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from huggingface_hub import constants
from safetensors.torch import load_file, save_file
from transformers import BloomConfig, BloomForCausalLM

from icr.base.errors import ConfigError, UserError
from icr.base.rundir import RunDir
from icr.engines.models import load_tokenizer
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from tests.conftest import Config
from tests.helpers.inline import run_inline, silent
from tests.helpers.tiny_models import make_tiny_model, make_tokenizer


def problems(path: Path) -> list[UserError]:
    with pytest.raises(ConfigError) as caught:
        load_checked(path)
    return caught.value.problems


def test_everything_at_once(tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    policy = shutil.copytree(tiny_pair[0], tmp_path / "policy")
    (policy / "model.safetensors").write_bytes((policy / "model.safetensors").read_bytes()[:-8])
    judge = shutil.copytree(tiny_pair[1], tmp_path / "judge")
    tensors = load_file(judge / "model.safetensors")
    tensors["model.norm.weight"][3] = torch.inf
    save_file(tensors, judge / "model.safetensors", metadata={"format": "pt"})
    (judge / "tokenizer.json").write_text("{")
    found = problems(tiny_config(tmp_path, models={"policy": str(policy)}, judge={"model": str(judge)}))
    assert [problem.what.partition(":")[0] for problem in found] == [
        "model.safetensors is cut off",
        "the weights are not finite",
        "the tokenizer cannot be loaded",
    ]
    assert [problem.where.partition(":")[0] for problem in found] == ["models.policy", "judge.model", "judge.model"]


def test_vocabularies_and_lora(tiny_config: Config, tmp_path: Path) -> None:
    reference = make_tiny_model(tmp_path / "reference", vocab_size=400)
    models = {"reference": str(reference)}
    found = problems(tiny_config(tmp_path, models=models, train={"lora": {"target_modules": ["qproj"]}}))
    assert "different vocabularies" in found[0].what
    assert "no module named qproj" in found[1].what and "did you mean q_proj?" in found[1].do


def test_a_folder_beside_the_config_is_meant(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "mine").mkdir()
    for name in ("mine/model", "data/model", "a/b/c"):
        (problem,) = problems(tiny_config(tmp_path, models={"policy": name}))
        assert f"model folder {tmp_path / name} not found" in problem.what and problem.where == "models.policy"


def test_a_judge_behind_an_endpoint_has_names_of_its_own(tiny_config: Config, tmp_path: Path) -> None:
    judge = {"kind": "openai", "model": "models/large/judge", "base_url": "http://localhost:1/v1"}
    config, _ = load_checked(tiny_config(tmp_path, judge=judge))
    assert config.judge.model == "models/large/judge"


def test_a_reference_without_chat_template(tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    reference = shutil.copytree(tiny_pair[1], tmp_path / "reference")
    (reference / "chat_template.jinja").unlink()
    with pytest.raises(UserError, match="no chat template"):
        load_tokenizer(str(reference))
    load_checked(tiny_config(tmp_path, models={"reference": str(reference)}, judge={"kind": "none"}))


def make_bloom(folder: Path, seed: int) -> Path:
    torch.manual_seed(seed)
    config = BloomConfig(
        vocab_size=512, hidden_size=32, n_layer=1, n_head=2, bos_token_id=2, eos_token_id=2, pad_token_id=0
    )
    BloomForCausalLM(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def test_bloom_names_no_context(tiny_config: Config, tmp_path: Path) -> None:
    models = {name: str(make_bloom(tmp_path / name, seed)) for seed, name in enumerate(("policy", "reference"))}
    path = tiny_config(tmp_path, models=models, judge={"kind": "none"})
    found = problems(path)
    assert all("how long its context is" in problem.what for problem in found) and len(found) == 2
    for name in models.values():
        file = Path(name) / "tokenizer_config.json"
        file.write_text(json.dumps({**json.loads(file.read_text()), "model_max_length": 512}))
    load_checked(path)


@pytest.fixture
def hub(tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], None]:
    """The local cache with a policy and a reference; called with a commit, its main branch moves there."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))

    def move(commit: str) -> None:
        for name, model in zip(("policy", "reference"), tiny_pair, strict=True):
            repo = tmp_path / "hub" / f"models--org--{name}"
            (repo / "refs").mkdir(parents=True, exist_ok=True)
            (repo / "refs" / "main").write_text(commit)
            shutil.copytree(model, repo / "snapshots" / commit)

    move("a" * 40)
    return move


def sample(path: Path) -> Controller:
    config, inputs = load_checked(path)
    assert config.run is not None
    controller = Controller(RunDir(Path(config.run)), config, inputs, silent())
    try:
        controller.stage(1, "sample")
    finally:
        controller.close()
    return controller


def test_a_hub_model_is_known_by_its_commit(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, hub: Callable[[str], None]
) -> None:
    run_inline(monkeypatch)
    changes: dict[str, Any] = {"judge": {"kind": "none"}, "rounds": 1}
    path = tiny_config(tmp_path, models={"policy": "org/policy", "reference": "org/reference"}, **changes)
    controller = sample(path)
    names = json.loads((controller.run.path / "round-0" / "model.json").read_text())
    assert names == {"policy": f"org/policy@{'a' * 40}", "reference": f"org/reference@{'a' * 40}"}
    assert sample(path).run.round(1).done("sample")  # nothing has changed
    hub("b" * 40)
    with pytest.raises(UserError, match=r"the policy changed since round 1 was sampled: org/policy@a+ → org/policy@b+"):
        sample(path)
    pinned = {"policy": f"org/policy@{'a' * 40}", "reference": f"hf:org/reference@{'a' * 40}"}
    sample(tiny_config(tmp_path, models=pinned, **changes))
