"""Gemma 2 caps its attention scores: the scorer, the engine, the classifier and the trainer apply the cap."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file
from torch import Tensor
from transformers import Gemma2Config, Gemma2ForCausalLM, Gemma2ForSequenceClassification

from icr.config.schema import Train
from icr.engines.attention import choose_attention
from icr.engines.classifier import Classifier
from icr.engines.models import load_model
from icr.engines.transformers_engine import TransformersEngine
from icr.scoring import sequence_logprobs
from loops.families import family_of
from loops.objective import make_objective
from loops.settings import load_model as load_trained
from loops.trainers import add_head, head_logps
from tests.helpers.tiny_models import make_tiny_model, make_tokenizer

CAP, SCALE, HEADS, WIDTH = 0.05, 16, 2, 32
PROMPT, RESPONSE = [11, 40, 7, 99, 210], [5, 60, 300, 8, 17, 2]


def make_gemma(folder: Path, **changes: object) -> Path:
    """A Gemma 2 of one layer whose scores are far above its cap."""
    config = Gemma2Config(
        vocab_size=512, hidden_size=WIDTH, intermediate_size=48, num_hidden_layers=1, num_attention_heads=HEADS,
        num_key_value_heads=HEADS, head_dim=WIDTH // HEADS, max_position_embeddings=128, sliding_window=128,
        query_pre_attn_scalar=SCALE, attn_logit_softcapping=CAP, final_logit_softcapping=None, initializer_range=0.3,
        bos_token_id=None, eos_token_id=2, pad_token_id=0, **changes,
    )  # fmt: skip
    torch.manual_seed(1)
    kind = Gemma2ForSequenceClassification if changes else Gemma2ForCausalLM
    kind(config).save_pretrained(folder)
    make_tokenizer().save_pretrained(folder)
    return folder


def hidden_by_hand(folder: Path, ids: list[int], cap: float | None) -> Tensor:
    """Last hidden states in fp64, written out: [tokens, WIDTH]."""
    w = {name.removeprefix("model."): t.double() for name, t in load_file(folder / "model.safetensors").items()}
    layer = "layers.0."

    def norm(x: Tensor, name: str) -> Tensor:
        return x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * (1 + w[name])

    def rotate(x: Tensor) -> Tensor:
        half = x.shape[-1] // 2
        angles = torch.arange(len(ids)).double()[:, None] * 10000.0 ** (-torch.arange(half).double() / half)
        cos, sin = torch.cat([angles.cos()] * 2, -1), torch.cat([angles.sin()] * 2, -1)
        return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

    x = w["embed_tokens.weight"][ids] * torch.tensor(WIDTH**0.5).float().double()
    y = norm(x, layer + "input_layernorm.weight")
    q, k, v = ((y @ w[f"{layer}self_attn.{n}_proj.weight"].T).view(len(ids), HEADS, -1).transpose(0, 1) for n in "qkv")
    scores = rotate(q) @ rotate(k).transpose(1, 2) / SCALE**0.5
    if cap is not None:
        scores = cap * torch.tanh(scores / cap)
    scores = scores.masked_fill(torch.ones(len(ids), len(ids)).triu(1).bool(), -torch.inf)
    mixed = (scores.softmax(-1) @ v).transpose(0, 1).reshape(len(ids), -1) @ w[layer + "self_attn.o_proj.weight"].T
    x = x + norm(mixed, layer + "post_attention_layernorm.weight")
    y = norm(x, layer + "pre_feedforward_layernorm.weight")
    gate, up = (y @ w[f"{layer}mlp.{n}_proj.weight"].T for n in ("gate", "up"))
    mlp = (torch.nn.functional.gelu(gate, approximate="tanh") * up) @ w[layer + "mlp.down_proj.weight"].T
    return norm(x + norm(mlp, layer + "post_feedforward_layernorm.weight"), "norm.weight")


def logp_by_hand(folder: Path, cap: float | None) -> float:
    """log p(RESPONSE | PROMPT) in fp64; the head is tied to the embeddings."""
    head = load_file(folder / "model.safetensors")["model.embed_tokens.weight"].double()
    ids = PROMPT + RESPONSE
    logps = (hidden_by_hand(folder, ids, cap) @ head.T).log_softmax(-1)
    return sum(float(logps[n - 1, ids[n]]) for n in range(len(PROMPT), len(ids)))


@pytest.fixture(scope="module")
def gemma(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_gemma(tmp_path_factory.mktemp("gemma") / "model")


def test_cap_matters_here(gemma: Path) -> None:
    assert abs(logp_by_hand(gemma, CAP) - logp_by_hand(gemma, None)) > 0.1


def test_scorer(gemma: Path) -> None:
    model = load_model(str(gemma), torch.float32, "cpu")
    for share in (False, True):  # with the prompt's keys and values copied as well
        found = sequence_logprobs(model, [PROMPT] * 2, [RESPONSE, RESPONSE[:3]], share_prompts=share)[0]
        assert found == pytest.approx(logp_by_hand(gemma, CAP), abs=1e-3)


def test_engine(gemma: Path) -> None:
    engine = TransformersEngine(str(gemma), "fp32", 128)
    found = engine.score([*PROMPT, *RESPONSE]) - engine.score(PROMPT)
    assert found == pytest.approx(logp_by_hand(gemma, CAP), abs=1e-3)


@pytest.mark.parametrize("dropout", [0.0])
def test_trainer(gemma: Path, dropout: float) -> None:
    family = family_of(make_objective("dpo", beta=0.1, nll_weight=1.0))
    model = load_trained(Train(precision="fp32", deepspeed="none", dropout=dropout), gemma, family).eval()
    add_head(model)  # type: ignore[arg-type]
    ids = torch.tensor([PROMPT + RESPONSE])
    labels = torch.tensor([[-100] * len(PROMPT) + RESPONSE])
    with torch.no_grad():
        found = head_logps(model, ids, torch.ones_like(ids), labels)
    assert float(found[0]) == pytest.approx(logp_by_hand(gemma, CAP), abs=1e-3)


def test_classifier(tmp_path: Path) -> None:
    folder = make_gemma(tmp_path / "model", num_labels=1)
    classifier = Classifier(str(folder), "fp32", 512)
    prompt, answer = [{"role": "user", "content": "Name a river."}], "the river in the mountains"
    ids = [token for token, _ in classifier.token_ids(prompt, answer)]  # type: ignore[arg-type]
    head = load_file(folder / "model.safetensors")["score.weight"].double()[0]
    capped, plain = (float(hidden_by_hand(folder, ids, cap)[-1] @ head) for cap in (CAP, None))
    found = classifier.logits([(prompt, answer)])[0]  # type: ignore[list-item]
    assert abs(capped - plain) > 0.01
    assert found == pytest.approx(capped, abs=1e-3)


def test_other_models_keep_the_fast_one(tmp_path: Path) -> None:
    assert choose_attention(str(make_tiny_model(tmp_path))) is None
