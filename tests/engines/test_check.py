"""Broken models are refused by their files: each fault by name, before anything is loaded."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, PreTrainedModel

from icr.base.errors import ConfigError
from icr.engines.check import check_model
from icr.engines.folders import locate
from icr.engines.weights import read_headers
from tests.helpers.tiny_models import make_tiny_model

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n"


def edit_json(name: str, **changes: object) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        data = json.loads((folder / name).read_text())
        (folder / name).write_text(json.dumps({**data, **changes}))

    return edit


def edit_weights(change: Callable[[dict[str, torch.Tensor]], object]) -> Callable[[Path], None]:
    def edit(folder: Path) -> None:
        tensors = load_file(folder / "model.safetensors")
        change(tensors)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})

    return edit


def write(name: str, text: str) -> Callable[[Path], None]:
    return lambda folder: (folder / name).write_text(text) and None


def cut(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:-100])


def cut_header(folder: Path) -> None:
    whole = (folder / "model.safetensors").read_bytes()
    (folder / "model.safetensors").write_bytes(whole[:40])


def set_nan(name: str) -> Callable[[Path], None]:
    return edit_weights(lambda tensors: tensors[name].view(-1)[7].fill_(torch.nan))


BROKEN: dict[str, tuple[Callable[[Path], None], str]] = {
    "no config": (lambda f: (f / "config.json").unlink(), "has no config.json"),
    "config is no JSON": (write("config.json", "{"), "config.json cannot be read"),
    "config is a list": (write("config.json", "[]"), "config.json cannot be read"),
    "config is a pointer": (write("config.json", POINTER), "config.json is a git-lfs pointer"),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "has no safetensors weights"),
    "weights are a pointer": (write("model.safetensors", POINTER), "model.safetensors is a git-lfs pointer"),
    "weights are cut off": (cut, "model.safetensors is cut off"),
    "the header is cut off": (cut_header, "it is not a safetensors file, or it is cut off"),
    "weights are something else": (write("model.safetensors", "<!DOCTYPE html><title>404</title>"), "it is not a saf"),
    "the index is no JSON": (write("model.safetensors.index.json", "{,"), "index.json cannot be read"),
    "the index has no map": (write("model.safetensors.index.json", '{"metadata": {}}'), "index.json cannot be read"),
    "a shard is missing": (
        write("model.safetensors.index.json", '{"weight_map": {"a": "model-1.safetensors"}}'),
        "1 of 1 weight shards are missing",
    ),
    "the index names other tensors": (
        write("model.safetensors.index.json", '{"weight_map": {"a": "model.safetensors"}}'),
        "names 1 tensors that its shards do not have",
    ),
    "another size": (edit_json("config.json", intermediate_size=96), "6 tensors have another shape, the first: model."),
    "more layers": (edit_json("config.json", num_hidden_layers=3), "9 tensors are missing: model.layers.2."),
    "an impossible config": (edit_json("config.json", num_attention_heads=0), "no model can be built from config.json"),
    "NaN": (set_nan("model.layers.1.mlp.up_proj.weight"), "NaN or infinity in 1 of the"),
    "remote code": (
        edit_json("config.json", model_type="own", auto_map={"AutoModelForCausalLM": "modeling.Own"}),
        r"needs code that comes with it \(auto_map",
    ),
    "an unknown type": (edit_json("config.json", model_type="own"), "does not know models of the type own"),
    "an encoder": (edit_json("config.json", model_type="siglip_vision_model"), "are not causal language models"),
    "quantised": (edit_json("config.json", quantization_config={"quant_method": "gptq"}), "weights are quantised"),
    "the tokenizer is no JSON": (write("tokenizer.json", "{"), "the tokenizer cannot be loaded"),
    "the tokenizer is empty": (write("tokenizer.json", "{}"), "the tokenizer cannot be loaded"),
    "the tokenizer is a pointer": (write("tokenizer.json", POINTER), "tokenizer.json is a git-lfs pointer"),
    "no tokenizer": (
        lambda f: [(f / name).unlink() for name in ("tokenizer.json", "tokenizer_config.json")] and None,
        "the tokenizer ",
    ),
}


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("whole") / "model")


@pytest.mark.parametrize("fault", BROKEN)
def test_broken(whole: Path, tmp_path: Path, fault: str) -> None:
    folder = shutil.copytree(whole, tmp_path / "model")
    breaks, message = BROKEN[fault]
    breaks(folder)
    with pytest.raises(ConfigError, match=message) as caught:
        check_model(folder, "models.policy")
    (problem,) = caught.value.problems
    assert "models.policy" in problem.where and problem.do


def test_all_faults_at_once(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "model")
    for fault in ("another size", "NaN", "the tokenizer is no JSON"):
        BROKEN[fault][0](folder)
    with pytest.raises(ConfigError) as caught:
        check_model(folder, "models.policy")
    assert len(caught.value.problems) == 3


def test_more_tokens_than_embeddings(whole: Path, tmp_path: Path) -> None:
    small = make_tiny_model(tmp_path / "small", vocab_size=300)
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(whole / name, small / name)
    with pytest.raises(ConfigError, match=r"token ids up to \d+, but the model has 300 embeddings"):
        check_model(small, "models.policy")


def test_threads_look_at_models_one_at_a_time(whole: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """transformers exchanges functions of torch's meanwhile: two at a time would leave each other's behind."""
    load, now, most = PreTrainedModel.from_pretrained.__func__, list[None](), list[int]()  # type: ignore[attr-defined]

    def load_slowly(kind: type, *given: object, **named: object) -> object:
        now.append(None)
        most.append(len(now))
        time.sleep(0.3)
        found: object = load(kind, *given, **named)
        now.pop()
        return found

    monkeypatch.setattr(PreTrainedModel, "from_pretrained", classmethod(load_slowly))
    with ThreadPoolExecutor(2) as threads:
        list(threads.map(lambda _: check_model(whole, "models.policy"), range(2)))
    assert most == [1, 1]


def test_good_ones(whole: Path, tmp_path: Path) -> None:
    check_model(whole, "models.policy")
    model = AutoModelForCausalLM.from_pretrained(whole)
    model.save_pretrained(tmp_path / "sharded", max_shard_size="100KB")
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copyfile(whole / name, tmp_path / "sharded" / name)
    skeleton = check_model(tmp_path / "sharded", "models.policy")
    assert skeleton and skeleton.embedding_rows == 512 and skeleton.model.device.type == "meta"
    found = read_headers(tmp_path / "sharded", "k")
    assert {name: stored.shape for name, stored in found.items()} == {
        name: tuple(tensor.shape) for name, tensor in load_file(whole / "model.safetensors").items()
    }


def test_auto_map_of_a_known_type_is_not_needed(whole: Path, tmp_path: Path) -> None:
    folder = shutil.copytree(whole, tmp_path / "model")
    edit_json("config.json", auto_map={"AutoModelForCausalLM": "modeling.Own"})(folder)
    check_model(folder, "models.policy")


def test_at_a_glance(whole: Path, tmp_path: Path) -> None:
    """`locate` finds broken files itself, for every command that takes a model."""
    folder = shutil.copytree(whole, tmp_path / "model")
    cut(folder)
    with pytest.raises(ConfigError, match="cut off"):
        locate(str(folder), "the model")
