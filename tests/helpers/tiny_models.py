"""Tiny Llama checkpoints with a real tokenizer, made in code: small enough for any test, complete enough for vLLM."""

from __future__ import annotations

from pathlib import Path

import torch
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import GenerationConfig, LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

START, END, PAD = "<|im_start|>", "<|im_end|>", "<|pad|>"
CHAT_TEMPLATE = (
    "{% for message in messages %}"
    "<|im_start|>{{ message['role'] }}\n{{ message['content'] }}<|im_end|>\n"
    "{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
SENTENCES = [
    "Please answer the following instruction using only English, unless explicitly instructed otherwise.",
    "What is the capital of France? The capital of France is Paris.",
    "Name three animals that live in the sea. The whale, the shark and the octopus live in the sea.",
    "¿Cuál es la capital de Francia? La capital de Francia es París.",
    "Назовите трёх животных, которые живут в море. Кит, акула и осьминог живут в море.",
    "Nenne drei Tiere, die im Meer leben. Der Wal, der Hai und der Krake leben im Meer.",
    "Quelle est la capitale de la France ? La capitale de la France est Paris.",
    "user assistant system write explain list describe summarise the story of a small river in the mountains",
]


def make_tokenizer(vocab_size: int = 512) -> PreTrainedTokenizerFast:
    """A byte-level BPE over `SENTENCES`: every text round-trips, and there are at most `vocab_size` tokens."""
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=vocab_size,
        special_tokens=[PAD, START, END],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator(SENTENCES, trainer)
    fast = PreTrainedTokenizerFast(  # type: ignore[no-untyped-call]
        tokenizer_object=tokenizer, eos_token=END, pad_token=PAD, clean_up_tokenization_spaces=False
    )
    fast.chat_template = CHAT_TEMPLATE
    return fast


def make_tiny_model(
    folder: Path,
    *,
    tied: bool = True,
    vocab_size: int = 512,
    hidden_size: int = 64,
    layers: int = 2,
    context: int = 512,
    dtype: torch.dtype = torch.float32,
    seed: int = 0,
) -> Path:
    """Write a randomly initialised Llama with tokenizer, chat template and generation config; returns `folder`.

    Args:
        tied: input and output embeddings are one matrix, saved once.
        vocab_size: rows of the embedding; the tokenizer may have fewer tokens.
        dtype: of the saved weights.
        seed: models of different seeds differ; the same seed gives the same weights.
    """
    tokenizer = make_tokenizer(vocab_size)
    config = LlamaConfig(
        vocab_size=vocab_size,
        hidden_size=hidden_size,
        intermediate_size=2 * hidden_size,
        num_hidden_layers=layers,
        num_attention_heads=hidden_size // 32,
        num_key_value_heads=1,
        max_position_embeddings=context,
        tie_word_embeddings=tied,
        initializer_range=0.1,  # wide enough that log-probs differ visibly between tokens
        bos_token_id=None,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        dtype=dtype,
    )
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        model = LlamaForCausalLM(config).to(dtype)  # type: ignore[no-untyped-call, arg-type]
    model.generation_config = GenerationConfig(  # type: ignore[no-untyped-call]
        eos_token_id=tokenizer.eos_token_id, pad_token_id=tokenizer.pad_token_id, do_sample=True, temperature=0.7
    )
    model.save_pretrained(folder)
    tokenizer.save_pretrained(folder)
    return folder


def make_tiny_pair(folder: Path) -> tuple[Path, Path]:
    """π_θ⁰ and π_I, the one a little away from the other: two models with one tokenizer."""
    reference = make_tiny_model(folder / "reference", context=2048)
    policy = make_tiny_model(folder / "policy", context=2048)
    weights = load_file(policy / "model.safetensors")
    noise = torch.Generator().manual_seed(1)
    moved = {k: w + 0.02 * torch.randn(w.shape, generator=noise) for k, w in weights.items()}
    save_file(moved, policy / "model.safetensors", metadata={"format": "pt"})
    return policy, reference
