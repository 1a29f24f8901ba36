"""The final model: exactly the base's keys, dtypes and files; it loads in transformers and in vLLM."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from peft import LoraConfig, PeftModel
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, GPT2Config, GPT2LMHeadModel

from icr.base.errors import IcrError, UserError
from icr.config.schema import Train
from icr.engines.check import check_model
from icr.engines.folders import locate, materialise
from loops import adapter as adapters
from loops import export
from loops.card import write_model_card
from loops.export import base_dtypes, check_export, companion_files, trained_weights, write_model
from loops.fit import check_trainable
from loops.spec import CardFacts
from tests.helpers.tiny_models import make_tiny_model
from tests.helpers.training_runs import ROOT, finish, fork, make_spec, metrics, random_pairs, run_here, weights

FACTS: dict[str, Any] = {
    "round": 2,
    "objective": "dpo",
    "languages": ["en", "es"],
    "pairs": {"en": 3, "es": 4},
    "alpha": {"en": 0.00125, "es": -0.002},
    "length_unit": "characters",
    "base": "runs/a/round-1/model",
    "reference": "org/model",
    "settings": {"learning_rate": 5e-7, "beta": 0.1},
}


@pytest.mark.parametrize("tied", [True, False])
def test_training_exports_the_base_keys(tmp_path: Path, tied: bool) -> None:
    base = make_tiny_model(tmp_path / "base", tied=tied)
    (base / "LICENSE").write_text("Apache-2.0")
    (base / "README.md").write_text("the base's own card")
    (base / "modeling_own.py").write_text("raise SystemExit")
    spec = make_spec(tmp_path / "run", base, random_pairs(4), facts=FACTS)
    run_here(spec)
    before, after = weights(base), weights(spec.output)
    assert before.keys() == after.keys()
    assert ("lm_head.weight" in after) == (not tied)
    assert all(not torch.equal(before[name], after[name]) for name in before)
    assert {p.name for p in spec.output.iterdir()} == {
        "model.safetensors", "README.md", "LICENSE", "config.json", "generation_config.json", "tokenizer.json",
        "tokenizer_config.json", "chat_template.jinja",
    }  # fmt: skip
    for file in companion_files(base):
        assert (spec.output / file.name).read_bytes() == file.read_bytes()
    assert "runs/a/round-1/model" in (spec.output / "README.md").read_text()
    model, loaded = AutoModelForCausalLM.from_pretrained(spec.output, output_loading_info=True)
    assert not loaded["missing_keys"] and not loaded["unexpected_keys"]
    assert model.config.use_cache and model.generation_config.temperature == 0.7
    assert (model.lm_head.weight.data_ptr() == model.model.embed_tokens.weight.data_ptr()) == tied
    assert AutoTokenizer.from_pretrained(spec.output).chat_template == AutoTokenizer.from_pretrained(base).chat_template


def test_exported_model_runs_in_vllm(tmp_path: Path) -> None:
    pytest.importorskip("vllm")
    base = make_tiny_model(tmp_path / "base", dtype=torch.bfloat16)
    spec = make_spec(tmp_path / "run", base, random_pairs(4))
    run_here(spec)
    code = (
        "import sys\n"
        "from icr.engines.vllm_engine import VllmEngine\n"
        "from icr.engines.base import Decoding, Request\n"
        "engine = VllmEngine(sys.argv[1], max_model_len=64, tensor_parallel=1, gpu_memory=0.5, precision='fp32')\n"
        "[answer] = engine.generate([Request([5, 6, 7], 1)], Decoding(1.0, 1.0, 4))\n"
        "print('tokens', len(answer.token_ids))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(spec.output)], cwd=ROOT, capture_output=True, text=True, timeout=300
    )
    assert "tokens" in done.stdout, done.stdout + done.stderr


def test_dtype_of_the_base_is_kept(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", dtype=torch.bfloat16)
    spec = make_spec(tmp_path / "run", base, random_pairs(4))
    run_here(spec)
    assert {tensor.dtype for tensor in weights(spec.output).values()} == {torch.bfloat16}


def test_lora_is_merged(tmp_path: Path) -> None:
    """Only the targeted matrices differ from the base, each by (alpha/rank)·B·A, a matrix of the adapter's rank."""
    base = make_tiny_model(tmp_path / "base")
    lora = {"rank": 2, "alpha": 8, "target_modules": ["q_proj", "down_proj"]}
    spec = make_spec(
        tmp_path / "run", base, random_pairs(8), epochs=2, learning_rate=1e-2, lora=lora, gradient_checkpointing=True
    )
    run_here(spec)
    before, after = weights(base), weights(spec.output)
    assert before.keys() == after.keys()
    for name in before:
        change = after[name] - before[name]
        if "q_proj" in name or "down_proj" in name:
            assert torch.linalg.matrix_rank(change, rtol=1e-3) == 2
        else:
            assert not change.any(), name
    assert not list(spec.output.glob("adapter*"))


def test_the_adapter_is_kept_beside_the_model(tmp_path: Path) -> None:
    """peft loads it onto the base; merged, it is the model. Loaders of the model do not see it."""
    base = make_tiny_model(tmp_path / "base")
    lora = {"rank": 2, "alpha": 8, "target_modules": ["q_proj", "down_proj"]}
    spec = make_spec(
        tmp_path / "run", base, random_pairs(8), learning_rate=1e-2, lora=lora, validation=2, validation_steps=1
    )
    run_here(spec)
    adapter = tmp_path / "run" / "adapter"
    assert sorted(p.name for p in adapter.iterdir()) == ["adapter_config.json", "adapter_model.safetensors"]
    config = json.loads((adapter / "adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "../../base" and config["inference_mode"]
    plain = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(base), str(adapter)).merge_and_unload()
    after = weights(spec.output)
    assert all(torch.equal(tensor, after[name]) for name, tensor in plain.state_dict().items() if name in after)
    assert any(not torch.equal(tensor, weights(base)[name]) for name, tensor in after.items())
    assert not list(spec.output.rglob("adapter*"))
    shutil.move(tmp_path / "run", tmp_path / "moved")  # and icr takes it as a model
    merged = materialise(locate(str(tmp_path / "moved" / "adapter"), "k"))
    torch.testing.assert_close(weights(Path(merged)), after)


OLD_LLAMA = {"model.layers.0.self_attn.rotary_emb.inv_freq": torch.ones(16)}
OLD_GPT = {
    "transformer.h.0.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.bool).tril(),
    "transformer.h.0.attn.masked_bias": torch.tensor(-10000),
    "transformer.h.1.attn.bias": torch.ones(1, 1, 64, 64, dtype=torch.uint8),
}


@pytest.mark.parametrize("lora", [None, {"rank": 2}])
@pytest.mark.parametrize("old", [OLD_LLAMA, OLD_GPT])
def test_old_checkpoints(tmp_path: Path, old: dict[str, torch.Tensor], lora: dict[str, Any] | None) -> None:
    """Buffers that today's models compute are in old checkpoints; the trained model is written without them."""
    base = make_tiny_model(tmp_path / "base")
    if old is OLD_GPT:
        gpt = GPT2Config(vocab_size=512, n_embd=32, n_layer=2, n_head=2, n_positions=64, bos_token_id=2, eos_token_id=2)
        GPT2LMHeadModel(gpt).save_pretrained(base)
    before = weights(base)
    save_file({**before, **old}, base / "model.safetensors", metadata={"format": "pt"})
    check_model(base, "models.policy")
    check_trainable(base, "models.policy", Train(precision="fp32", lora=lora), "dpo")  # type: ignore[arg-type]
    spec = make_spec(tmp_path / "run", base, random_pairs(4), lora=lora)
    run_here(spec)
    assert weights(spec.output).keys() == before.keys()
    assert any(not torch.equal(tensor, before[name]) for name, tensor in weights(spec.output).items())
    check_model(spec.output, "the output")


def test_integers_that_a_model_uses_are_kept(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.register_buffer("counts", torch.tensor([3, 4]))
    save_file({**weights(base), "counts": torch.tensor([3, 4])}, base / "model.safetensors", metadata={"format": "pt"})
    check_export(base, model)
    write_model(tmp_path / "out", base, model, trained_weights(model, keep=True), CardFacts())
    assert weights(tmp_path / "out")["counts"].tolist() == [3, 4]


def test_a_failed_export_keeps_the_trained_weights(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same command writes the model from a checkpoint of the last step, without a further step."""
    base = make_tiny_model(tmp_path / "base")
    calm = make_spec(tmp_path / "calm", base, random_pairs(8))
    run_here(calm)
    spec = make_spec(tmp_path / "run", base, random_pairs(8))

    def fail(*args: object, **options: object) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr("huggingface_hub.save_torch_state_dict", fail)
        with pytest.raises(OSError, match="No space left"):
            run_here(spec)
    assert not spec.output.exists()
    assert [p.name for p in (spec.work / "checkpoints").iterdir()] == ["checkpoint-2"]
    steps = len(metrics(spec))
    run_here(spec)
    assert len(metrics(spec)) == steps == 2
    ours, theirs = weights(spec.output), weights(calm.output)
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    assert not (spec.work / "checkpoints").exists()


def test_a_model_that_could_not_be_saved_is_not_trained(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    model.register_parameter("further", torch.nn.Parameter(torch.ones(2)))
    with pytest.raises(UserError, match=r"could not be saved: .*unexpected \['further'\]"):
        check_export(base, model)


def test_merge_by_hand(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    name, module = "model.layers.0.self_attn.q_proj.weight", "base_model.model.model.layers.0.self_attn.q_proj"
    generator = torch.Generator().manual_seed(0)
    a, b = torch.randn(3, 64, generator=generator), torch.randn(64, 3, generator=generator)
    adapter = {f"{module}.lora_A.default.weight": a, f"{module}.lora_B.default.weight": b}
    config = LoraConfig(task_type="CAUSAL_LM", r=3, lora_alpha=6, target_modules=["q_proj"])
    merged = adapters.merged_weights(base, config, adapter)
    torch.testing.assert_close(merged[name], weights(base)[name] + 2 * b @ a)
    with pytest.raises(IcrError, match="does not know"):
        adapters.merged_weights(base, config, {"base_model.model.nothing": a})


def test_lora_in_bf16_without_deepspeed(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", dtype=torch.bfloat16)
    spec = make_spec(tmp_path / "run", base, random_pairs(4), learning_rate=1e-2, precision="bf16", lora={"rank": 2})
    run_here(spec)
    before, after = weights(base), weights(spec.output)
    assert torch.equal(before["model.embed_tokens.weight"], after["model.embed_tokens.weight"])
    assert not torch.equal(before["model.layers.1.mlp.up_proj.weight"], after["model.layers.1.mlp.up_proj.weight"])


def test_sharded(tmp_path: Path, monkeypatch: Any) -> None:
    """A base in shards is read; a large model is written in shards with the standard index."""
    plain = make_tiny_model(tmp_path / "plain", tied=False)
    model = AutoModelForCausalLM.from_pretrained(plain)
    base = tmp_path / "base"
    model.save_pretrained(base, max_shard_size="200KB")
    assert (base / "model.safetensors.index.json").is_file()
    assert base_dtypes(base).keys() == weights(plain).keys()
    monkeypatch.setattr(export, "SHARD_SIZE", "150KB")
    write_model(tmp_path / "out", base, model, trained_weights(model, keep=True), CardFacts())
    index = json.loads((tmp_path / "out" / "model.safetensors.index.json").read_text())
    assert index["weight_map"].keys() == weights(plain).keys() and len(set(index["weight_map"].values())) > 2
    again = AutoModelForCausalLM.from_pretrained(tmp_path / "out")
    assert all(torch.equal(a, b) for a, b in zip(model.parameters(), again.parameters(), strict=True))


def test_base_that_saves_the_tied_matrix_twice(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", tied=True)
    both = load_file(base / "model.safetensors")
    both["lm_head.weight"] = both["model.embed_tokens.weight"].clone()
    save_file(both, base / "model.safetensors", metadata={"format": "pt"})
    model = AutoModelForCausalLM.from_pretrained(base)
    write_model(tmp_path / "out", base, model, trained_weights(model, keep=True), CardFacts())
    written = weights(tmp_path / "out")
    assert written.keys() == both.keys()
    assert torch.equal(written["lm_head.weight"], written["model.embed_tokens.weight"])


def test_other_keys_are_an_error(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", tied=False)
    model = AutoModelForCausalLM.from_pretrained(base)
    trained = trained_weights(model, keep=True)
    for changed, message in (
        ({k: v for k, v in trained.items() if k != "lm_head.weight"}, r"missing \['lm_head.weight'\]"),
        ({**trained, "further.weight": torch.ones(2)}, r"unexpected \['further.weight'\]"),
    ):
        with pytest.raises(IcrError, match=message):
            write_model(tmp_path / "out", base, model, changed, CardFacts())
        assert not (tmp_path / "out").exists()


def test_checkpoint_that_lacks_weights_is_refused(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base", tied=False)
    spec = make_spec(tmp_path / "run", base, random_pairs(4))
    for number, change in enumerate(("missing", "unexpected")):
        folder = tmp_path / f"broken-{number}"
        shutil.copytree(base, folder)
        tensors = weights(base)
        if change == "missing":
            del tensors["model.norm.weight"]
        else:
            tensors["model.other.weight"] = torch.ones(1)
        save_file(tensors, folder / "model.safetensors", metadata={"format": "pt"})
        with pytest.raises(UserError, match=f"1 {change} keys"):
            run_here(spec.model_copy(update={"model": str(folder)}))


def test_chat_template_of_the_config(tmp_path: Path) -> None:
    base = make_tiny_model(tmp_path / "base")
    model = AutoModelForCausalLM.from_pretrained(base)
    write_model(
        tmp_path / "out", base, model, trained_weights(model, keep=True), CardFacts(), chat_template="{{ 'own' }}"
    )
    assert AutoTokenizer.from_pretrained(tmp_path / "out").chat_template == "{{ 'own' }}"


def test_model_card(tmp_path: Path) -> None:
    write_model_card(tmp_path, CardFacts(**FACTS))
    text = (tmp_path / "README.md").read_text(encoding="utf-8")
    _, head, body = text.split("---\n", 2)
    assert yaml.safe_load(head)["language"] == ["en", "es"]
    for piece in ("round 2", "runs/a/round-1/model", "org/model", "- pairs: 7", "| en | 3 | 0.00125 |",
                  "| es | 4 | -0.002 |", "reward per character)", "learning_rate: 5.0e-07"):  # fmt: skip
        assert piece in body, piece
    write_model_card(tmp_path, CardFacts(pairs=5))
    assert "- pairs: 5" in (tmp_path / "README.md").read_text(encoding="utf-8")


def test_lora_under_zero3(tmp_path: Path) -> None:
    """The base for the merge is loaded by one rank alone, and must not be shared out like the trained one."""
    base = make_tiny_model(tmp_path / "base")
    lora = {"rank": 2, "target_modules": ["q_proj"]}
    spec = make_spec(
        tmp_path / "run", base, random_pairs(4), micro_batch_size=1, learning_rate=1e-2, deepspeed="zero3", lora=lora
    )
    finish(fork(spec, 2), spec)
    before, after = weights(base), weights(spec.output)
    assert before.keys() == after.keys()
    assert {name for name in before if not torch.equal(before[name], after[name])} == {
        f"model.layers.{layer}.self_attn.q_proj.weight" for layer in (0, 1)
    }
