"""Reward models against the plain way: scores, prompts that candidates share, and the making of pairs.

    python -m benchmarks.reward_models [--json] [--device cuda] [--pairs 24] [--candidates 16] [--repeats 3]

*scores*: chosen and rejected answers of pairs, as `icr rm bench` scores them. The baseline is a loop in the manner of
RewardBench: batches of 8 in the order of the file, padded to the longest. *shared*: n candidates to one long prompt,
as `icr best-of-n` scores them; the baseline is the same scorer without sharing. *pairs*: messages in the form of OASST1
become pairs, in seconds. The model is a Llama with a head for one logit, drawn at random: what is measured is time.
"""

from __future__ import annotations

import argparse
import json
import tempfile
import time
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers
from transformers import LlamaConfig, LlamaForSequenceClassification, PreTrainedTokenizerFast

from benchmarks.scoring import describe, take_turns
from icr.base.conversation import Conversation, wrap_text
from icr.engines.classifier import Classifier
from prompts.preferences.forms import Options
from prompts.preferences.make import make_data

BATCH = 8
TOLERANCE = 1e-4
MESSAGES = 85_000
WORDS = "the whale and shark of every river tell one long story about mountains where animals live in sea".split()  # noqa: SIM905
TEMPLATE = "{% for m in messages %}<|{{ m['role'] }}|>{{ m['content'] }}<|end|>{% endfor %}"
SIZES: dict[str, Any] = {"hidden_size": 256, "intermediate_size": 704, "num_hidden_layers": 6, "num_attention_heads": 4}
Talks = Sequence[tuple[Conversation, str]]
Scores = list[float]


def make_model(folder: Path) -> Path:
    """A decoder with one logit and a tokenizer of whole words."""
    made = Tokenizer(models.BPE())
    made.pre_tokenizer, made.decoder = pre_tokenizers.ByteLevel(add_prefix_space=False), decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=2000,
        special_tokens=["<|pad|>", "<|end|>", "<|user|>", "<|assistant|>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    made.train_from_iterator([" ".join(WORDS)], trainer)
    tokenizer = PreTrainedTokenizerFast(tokenizer_object=made, eos_token="<|end|>", pad_token="<|pad|>")  # type: ignore[no-untyped-call]
    tokenizer.chat_template, tokenizer.model_max_length = TEMPLATE, 4096
    ids: dict[str, Any] = {"pad_token_id": 0, "bos_token_id": None, "eos_token_id": 1}
    config = LlamaConfig(**SIZES, **ids, vocab_size=2000, max_position_embeddings=4096, initializer_range=0.1)
    config.num_labels = 1
    torch.manual_seed(0)
    LlamaForSequenceClassification(config).save_pretrained(folder)  # type: ignore[no-untyped-call]
    tokenizer.save_pretrained(folder)
    return folder


def write_text(rng: np.random.Generator, words: float) -> str:
    """About so many words; lengths spread as those of answers do (log-normal, σ = 0.8)."""
    count = int(np.clip(words * rng.lognormal(-0.32, 0.8), 3, 8 * words))
    return " ".join(rng.choice(WORDS, count))


def make_pairs(pairs: int) -> Talks:
    """Both answers of each pair, side by side as in a file."""
    rng = np.random.default_rng(1)
    found = []
    for _ in range(pairs):
        prompt = wrap_text(write_text(rng, 60))
        found += [(prompt, write_text(rng, 120)) for _ in range(2)]
    return found


def rewardbench(classifier: Classifier, talks: Talks) -> Scores:
    """Batches of 8 in the order of the file, padded to the longest."""
    tokenizer, scores = classifier.tokenizer, []
    tokenizer.padding_side = "right"
    for start in range(0, len(talks), BATCH):
        ids = [[token for token, _ in classifier.token_ids(*talk)] for talk in talks[start : start + BATCH]]
        batch = tokenizer.pad({"input_ids": ids}, return_tensors="pt").to(classifier.model.device)
        with torch.inference_mode():
            scores += classifier.model(**batch).logits.float().squeeze(-1).tolist()
    return scores


def score(classifier: Classifier, talks: Talks, *, share: bool) -> Scores:
    classifier._can_share = None if share else False
    return [value for value in classifier.logits(talks) if value is not None]


def compare(sides: dict[str, Callable[[], Scores]], repeats: int, device: str) -> dict[str, Any]:
    take_turns(sides, 1, device)  # so that neither side pays for first calls
    figures, results = take_turns(sides, repeats, device)
    gap = np.abs(np.array(results["icr"]) - np.array(results["baseline"])).max()
    return {**figures, "largest_difference": float(gap)}


def time_pairs(folder: Path, messages: int) -> dict[str, Any]:
    """Seconds from a file of messages to pairs: prompts with three ranked answers. `cpu_seconds`: of this process."""
    rng = np.random.default_rng(2)
    lines = []
    for tree in range(messages // 4):
        root = {"message_id": f"m{tree}", "message_tree_id": f"m{tree}", "parent_id": None, "role": "prompter"}
        known = {"lang": "en", "review_result": True, "deleted": False, "tree_state": "ready_for_export"}
        lines.append({**root, **known, "text": write_text(rng, 30), "rank": None})
        lines += [
            {**root, **known, "message_id": f"m{tree}a{n}", "parent_id": f"m{tree}", "role": "assistant",
             "text": write_text(rng, 60), "rank": n}
            for n in range(3)
        ]  # fmt: skip
    source = folder / "messages.jsonl"
    source.write_text("\n".join(map(json.dumps, lines)), encoding="utf-8")
    started, busy = time.perf_counter(), time.process_time()
    report = make_data([str(source)], folder / "pairs", Options())
    made = sum(tally.train + tally.validation for tally in report.languages.values())
    spent = {"seconds": time.perf_counter() - started, "cpu_seconds": time.process_time() - busy}
    return {"messages": len(lines), "pairs": made, **spent}


def measure(device: str, pairs: int, candidates: int, repeats: int) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as folder:
        classifier = Classifier(str(make_model(Path(folder) / "model")), "fp32", 16384)
        talks = make_pairs(pairs)
        rng = np.random.default_rng(3)
        prompt = wrap_text(" ".join(rng.choice(WORDS, 600)))
        many = [(prompt, write_text(rng, 120)) for _ in range(candidates)]
        lengths = [len(classifier.token_ids(*talk)) for talk in talks]
        in_file_order = partial(rewardbench, classifier, talks)
        sides: dict[str, tuple[Callable[[], Scores], Callable[[], Scores]]] = {
            "scores": (in_file_order, partial(score, classifier, talks, share=True)),
            "sorted": (in_file_order, partial(score, classifier, talks, share=False)),
            "shared": (partial(score, classifier, many, share=False), partial(score, classifier, many, share=True)),
        }
        return {
            "device": describe(device),
            "texts": len(talks),
            "tokens": sum(lengths),
            "longest": max(lengths),
            **{name: compare({"baseline": one, "icr": other}, repeats, device) for name, (one, other) in sides.items()},
            "candidates": candidates,
            "pairs": time_pairs(Path(folder), MESSAGES),
        }


COMPARED = {
    "scores": "batches of 8 in the file's order",
    "sorted": "the same, but prompts are not shared",
    "shared": "the candidates without sharing their prompt",
}


def main() -> None:
    parser = argparse.ArgumentParser(description="reward models against the plain way")
    parser.add_argument("--json", action="store_true", help="print one JSON object instead of the table")
    parser.add_argument("--device", default="cpu", choices=["cpu", "cuda"])
    parser.add_argument("--pairs", type=int, default=24, help="of two texts each")
    parser.add_argument("--candidates", type=int, default=16, help="to one prompt of 600 words")
    parser.add_argument("--repeats", type=int, default=3)
    args = parser.parse_args()
    result = measure(args.device, args.pairs, args.candidates, args.repeats)
    wrong = {name: result[name] for name in COMPARED if result[name]["largest_difference"] > TOLERANCE}
    if wrong:
        raise SystemExit(f"the two sides do not agree in fp32: {wrong}")
    if args.json:
        print(json.dumps(result))
        return
    line = f"{result['texts']} texts of {result['tokens']} tokens, the longest {result['longest']}"
    print(f"{line}; {args.candidates} candidates to one long prompt; fp32, {result['device']}")
    for name, what in COMPARED.items():
        row = result[name]
        seconds = f"{row['icr']:.2f} s, baseline {row['baseline']:.2f} s"
        line = f"{row['ratio']:.2f} times as fast as {what}; largest difference {row['largest_difference']:.1e}"
        print(f"{name:8}{seconds}: {line}")
    made = result["pairs"]
    print(f"{made['messages']} messages become {made['pairs']} pairs in {made['seconds']:.1f} s "
          f"({made['cpu_seconds']:.1f} s of processor time)")  # fmt: skip


if __name__ == "__main__":
    main()
