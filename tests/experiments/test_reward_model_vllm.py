"""The exported reward model in vLLM, by the lines of docs/reward-models.md."""

from __future__ import annotations

import importlib.util
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from icr.base.conversation import wrap_text
from icr.config.load import load_section
from icr.config.reward_model import RewardModelConfig
from icr.engines.classifier import Classifier, check_classifier
from icr.engines.models import load_tokenizer
from icr.engines.templates import Template
from icr.experiments.reward_model import train_reward_model
from tests.helpers.inline import run_inline, silent
from tests.helpers.reward_models import make_decoder, make_folder, pair_rows, write_config

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.timeout(420),
]

SCORE = """
import json, sys
from vllm import LLM

model, texts = json.load(open(sys.argv[1]))
llm = LLM(model, runner="pooling", dtype="float32", enforce_eager=True, max_model_len=256)
found = llm.classify([{"prompt_token_ids": ids} for ids in texts])
print("\\n" + json.dumps([output.outputs.probs for output in found]))
"""


def test_vllm_gives_the_logits_of_icr(tmp_path: Path) -> None:
    base, data = make_decoder(tmp_path / "base"), make_folder(tmp_path / "pairs", pair_rows(12))
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        train_reward_model(load_section(RewardModelConfig, write_config(tmp_path, base, data)), silent())
    model = tmp_path / "run" / "model"
    talks = [
        (wrap_text(f"en: is whale {n} fine?"), answer) for n in range(3) for answer in ("yes whale", "no and so on")
    ]
    tokenizer = load_tokenizer(str(model), Template())
    texts = [
        tokenizer(
            tokenizer.apply_chat_template([*prompt, {"role": "assistant", "content": answer}], tokenize=False),
            add_special_tokens=False,
        )["input_ids"]
        for prompt, answer in talks
    ]
    (tmp_path / "given.json").write_text(json.dumps([str(model), texts]))
    environment = {**os.environ, "VLLM_CPU_KVCACHE_SPACE": "1", "VLLM_ENABLE_V1_MULTIPROCESSING": "0"}
    command = [sys.executable, "-c", SCORE, str(tmp_path / "given.json")]
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    logits = [logit for (logit,) in json.loads(done.stdout.splitlines()[-1])]
    expected = Classifier(check_classifier(str(model)), "fp32", 16384).logits(talks)
    assert logits == pytest.approx(expected, abs=1e-5) and max(logits) - min(logits) > 0.1
