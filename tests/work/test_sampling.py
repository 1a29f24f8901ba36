from __future__ import annotations

import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from icr.base.conversation import wrap_text
from icr.engines.base import Decoding, Request, request_seed
from icr.engines.models import load_tokenizer
from icr.engines.open import EngineSettings, choose_backend
from icr.engines.stops import end_of_turn_id
from icr.engines.templates import Template, prompt_token_ids
from icr.engines.transformers_engine import OwnNoise, TransformersEngine, group_rows
from icr.work.sampling import SampleTask, sample_prompts
from prompts.load import Prompt
from tests.helpers.independent import rows
from tests.helpers.judging import Inline

DECODING = Decoding(temperature=0.9, top_p=1.0, max_tokens=10)


@pytest.fixture(scope="module")
def requests(tiny_pair: tuple[Path, Path]) -> list[Request]:
    tokenizer = load_tokenizer(str(tiny_pair[0]))
    texts = ["Name three animals.", "What?", "Explain the story of a small river in the mountains, and why."]
    return [Request(prompt_token_ids(tokenizer, wrap_text(t)), seed) for seed, t in enumerate(texts * 2)]


def test_a_seed_belongs_to_one_response() -> None:
    keys = [
        (42, 1, "es", "p1", 0),
        (43, 1, "es", "p1", 0),
        (42, 2, "es", "p1", 0),
        (42, 1, "fr", "p1", 0),
        (42, 1, "es", "p2", 0),
        (42, 1, "es", "p1", 1),
    ]
    seeds = [request_seed(*key) for key in keys]
    assert len(set(seeds)) == 6 and all(0 <= s < 2**63 for s in seeds)
    assert request_seed(42, 1, "es", "p1", 0) == seeds[0]


def test_transformers_responses_do_not_depend_on_their_company(
    tiny_pair: tuple[Path, Path], requests: list[Request]
) -> None:
    engine = TransformersEngine(str(tiny_pair[0]), "fp32", 256)
    together = engine.generate(requests, DECODING)
    alone = [engine.generate([r], DECODING)[0] for r in requests]
    assert together == alone
    assert together[0] != together[3]  # one prompt, two seeds
    assert all(len(c.token_ids) <= 10 for c in together)


def test_vllm_gives_the_same_responses_to_the_same_requests(
    tiny_pair: tuple[Path, Path], requests: list[Request]
) -> None:
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    from vllm import SamplingParams

    from icr.engines.vllm_engine import VllmEngine

    engine = VllmEngine(str(tiny_pair[0]), max_model_len=256, tensor_parallel=1, gpu_memory=0.5, precision="fp32")
    first = engine.generate(requests, DECODING)
    assert engine.generate(requests, DECODING) == first
    assert [engine.generate([r], DECODING)[0] for r in requests[:3]] == first[:3]
    assert first[0] != first[3]
    # more prompt tokens than one step takes: a prompt cut in two would end the engine on a CPU
    many = [Request([4 + (7 * i + k) % 200 for k in range(240)], i) for i in range(12)]
    assert all(1 <= len(c.token_ids) <= 10 for c in engine.generate(many, DECODING))
    # answers to one prompt share its full blocks of 32 tokens
    outputs = engine._run([many[0].prompt_ids] * 3, [SamplingParams(temperature=0.0, max_tokens=2)] * 3)
    assert [o.num_cached_tokens for o in outputs] == [0, 224, 224]
    end = load_tokenizer(str(tiny_pair[0])).eos_token_id
    for completion in first:
        assert (completion.finish_reason == "stop") == (completion.token_ids[-1] == end)
        assert completion.finish_reason == "stop" or len(completion.token_ids) == 10


def test_own_noise_samples_from_the_softmax() -> None:
    """The share of each token over many seeds is its probability, within four standard errors."""
    logits = torch.tensor([[0.0, 1.0, 2.0]]).expand(4000, 3)
    picks = OwnNoise(range(4000))(torch.zeros(4000, 1, dtype=torch.long), logits).argmax(-1)
    share = np.bincount(picks.numpy(), minlength=3) / 4000
    p = np.exp([0, 1, 2]) / np.exp([0, 1, 2]).sum()
    assert np.all(np.abs(share - p) < 4 * np.sqrt(p * (1 - p) / 4000))


def test_finished_shards_are_not_sampled_again(tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    prompts = [
        Prompt(f"p{i}", lang, wrap_text(f"Say {i}."), wrap_text(f"Say {i}.")) for i in range(3) for lang in ("en", "es")
    ]
    task = SampleTask(
        model=str(tiny_pair[0]),
        template=Template(),
        engine=EngineSettings(backend="transformers", precision="fp32", window=256),
        n=2,
        temperature=DECODING.temperature,
        top_p=DECODING.top_p,
        max_tokens=DECODING.max_tokens,
        seed=42,
        round=1,
    )

    def run(name: str) -> Inline:
        machine = Inline()
        out, shards = tmp_path / name, tmp_path / name / "shards"
        counts = sample_prompts(machine, task, prompts, out, shards, "responses", 4)  # type: ignore[arg-type]
        assert counts["responses"] == 12 and list(counts["languages"]) == ["en", "es"]
        return machine

    first = run("a")
    assert first.pool.tasks == ["sample"] * 2 and first.watcher.steps[-1] == (12, 12)
    cut = [
        sum(r["finish_reason"] == "length" for r in rows(tmp_path / "a" / f"{lang}.parquet")) for lang in ("en", "es")
    ]
    assert cut == [6, 6]  # of each shard of four prompts all are; it is said once a language
    assert [note.partition(";")[0] for note in first.watcher.notes] == [
        f"a fifth or more of the answers were cut off after {task.max_tokens} tokens in en, es"
    ]
    assert run("a").pool.tasks == []
    run("b")
    (tmp_path / "b" / "shards" / "00000.parquet").unlink()
    half = run("b")
    assert half.pool.tasks == ["sample"] and half.watcher.steps[-1] == (12, 12)
    ids = {p.text: prompt_token_ids(load_tokenizer(str(tiny_pair[0])), p.messages) for p in prompts}
    for lang in ("en", "es"):
        found = rows(tmp_path / "a" / f"{lang}.parquet")
        assert found == rows(tmp_path / "b" / f"{lang}.parquet")
        assert [(r["prompt_id"], r["sample"]) for r in found] == [(f"p{i}", k) for i in range(3) for k in range(2)]
        assert all(r["response"] == r["response"].strip() for r in found)
        assert all(r["prompt_ids"] == ids[r["prompt"]] for r in found)


def test_rows_stay_in_the_window() -> None:
    assert list(group_rows([5, 90, 7, 90, 80], 10, 100)) == [([0, 1, 2, 3, 4], 10)]
    assert list(group_rows([5, 90, 7, 90, 80], 30, 100)) == [([0, 2], 30), ([4], 20), ([1, 3], 10)]
    assert [len(rows) for rows, _ in group_rows([1] * 70, 5, 100)] == [32, 32, 6]


def test_a_window_ends_a_response(tiny_pair: tuple[Path, Path]) -> None:
    engine = TransformersEngine(str(tiny_pair[0]), "fp32", 24)
    requests = [Request([4 + k for k in range(length)], seed) for length in (20, 12, 20) for seed in range(2)]
    made = engine.generate(requests, Decoding(1.0, 1.0, 400))
    assert all(len(r.prompt_ids) + len(c.token_ids) <= 24 for r, c in zip(requests, made, strict=True))
    cut = [
        len(r.prompt_ids) + len(c.token_ids) for r, c in zip(requests, made, strict=True) if c.finish_reason == "length"
    ]
    assert cut and set(cut) == {24}
    assert [engine.generate([request], Decoding(1.0, 1.0, 400))[0] for request in requests] == made


def test_the_backend_is_chosen_by_what_is_installed(monkeypatch: pytest.MonkeyPatch) -> None:
    assert choose_backend("transformers") == "transformers"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    assert choose_backend("auto") == "transformers"
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: object())
    assert choose_backend("auto") == "vllm"


def test_one_bos_and_the_templates_end_of_turn(tiny_pair: tuple[Path, Path]) -> None:
    tokenizer = load_tokenizer(str(tiny_pair[0]))
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|im_end|>")
    # as in Llama 3: the template writes BOS, the tokenizer would add one more, and a turn ends before EOS
    tokenizer.add_special_tokens({"bos_token": "<|bos|>", "additional_special_tokens": ["<|eot|>"]})
    tokenizer.chat_template = (
        "{{ bos_token }}{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}<|eot|>{% endfor %}"
        "{% if add_generation_prompt %}assistant: {% endif %}"
    )
    ids = prompt_token_ids(tokenizer, wrap_text("Hello"))
    assert ids.count(tokenizer.bos_token_id) == 1 and ids[0] == tokenizer.bos_token_id
    assert end_of_turn_id(tokenizer) == tokenizer.convert_tokens_to_ids("<|eot|>")
