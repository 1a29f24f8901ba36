"""A small multiple-choice task in two languages, in lm-eval's form, and its right answers by our own forward pass."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import torch

from icr.config.schema import Nlp

QUESTIONS = {
    "en": ("What is number {n} on the list?", "bread cloud grass stone light chair horse table green plant"),
    "es": ("¿Qué hay en el número {n}?", "mares cosas nubes luces perro verde campo mundo noche calle"),
}
TASK = """\
task: quiz_{lang}
dataset_path: json
dataset_kwargs: {{data_files: {{train: {folder}/train_{lang}.jsonl, test: {folder}/test_{lang}.jsonl}}}}
training_split: train
test_split: test
fewshot_split: train
fewshot_config: {{sampler: first_n}}
num_fewshot: 1
output_type: multiple_choice
doc_to_text: "{{{{question}}}}\\nAnswer:"
doc_to_choice: "{{{{options}}}}"
doc_to_target: answer
metric_list:
  - {{metric: acc, aggregation: mean, higher_is_better: true}}
  - {{metric: acc_norm, aggregation: mean, higher_is_better: true}}
"""
ITEMS_EACH = 14


def write_tasks(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    for lang, (question, line) in QUESTIONS.items():
        words = line.split()
        (folder / f"quiz_{lang}.yaml").write_text(TASK.format(lang=lang, folder=folder), encoding="utf-8")
        for split, first, count in (("train", 100, 2), ("test", 0, ITEMS_EACH)):
            docs = [
                {
                    "question": question.format(n=n),
                    "options": [words[(n + 3 * k) % 10] for k in range(4)],
                    "answer": n * (n + 1) // 2 % 4,
                }
                for n in range(first, first + count)
            ]
            lines = [json.dumps(doc, ensure_ascii=False) for doc in docs]
            (folder / f"{split}_{lang}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


def settings(tasks: Path, **values: Any) -> Nlp:
    given = {"tasks": ["quiz_{lang}"], "include_path": str(tasks), "backend": "transformers", "batch_size": 8}
    return Nlp.model_validate(given | values)


def right(model: Path, tasks: Path, lang: str) -> list[float]:
    """Per test item: does the choice of the largest log-likelihood, by a forward pass of one text, win?"""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    lm = AutoModelForCausalLM.from_pretrained(model, dtype=torch.float32).eval()
    read = [
        [json.loads(line) for line in (tasks / f"{split}_{lang}.jsonl").read_text(encoding="utf-8").splitlines()]
        for split in ("train", "test")
    ]
    example = read[0][0]
    shown = f"{example['question']}\nAnswer: {example['options'][example['answer']]}\n\n"
    hits = []
    for doc in read[1]:
        context = f"{shown}{doc['question']}\nAnswer:"
        start = len(tokenizer(context)["input_ids"])
        sums = []
        for option in doc["options"]:
            ids = torch.tensor([tokenizer(f"{context} {option}")["input_ids"]])
            with torch.no_grad():
                logps = torch.log_softmax(lm(ids).logits[0, :-1], dim=-1)
            sums.append(float(logps.gather(1, ids[0, 1:, None])[start - 1 :].sum()))
        hits.append(float(int(np.argmax(sums)) == doc["answer"]))
    return hits
