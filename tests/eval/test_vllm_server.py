"""A judge and a translator on a real vLLM OpenAI server on loopback, against the same model on this machine."""

from __future__ import annotations

import importlib.util
import json
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM, AutoTokenizer

from eval.judges.endpoint import EndpointJudge
from eval.xalpaca.pairwise import Comparison
from icr.base.conversation import wrap_text
from icr.base.files import read_json, read_rows
from icr.config.schema import Endpoint as Settings
from icr.config.schema import Judge as JudgeConfig
from icr.endpoint.cache import Cache
from tests.helpers.command import icr
from tests.helpers.endpoints import Endpoint, shares
from tests.helpers.judging import Steps, load_local
from tests.helpers.tiny_models import END, make_tiny_model

pytestmark = [
    pytest.mark.skipif(importlib.util.find_spec("vllm") is None, reason="vLLM is not installed"),
    pytest.mark.timeout(420),
]
READY_SECONDS = 300.0
"""Tens of seconds on a machine that has nothing else to do."""


def make_label_model(folder: Path) -> Path:
    """A tiny model that answers A or B, as a random function of the prompt, and then ends its turn.

    The first hidden dimension carries nothing but "the last token is a label" through all layers.
    """
    make_tiny_model(folder, tied=False, context=4096)
    tokenizer, model = AutoTokenizer.from_pretrained(folder), AutoModelForCausalLM.from_pretrained(folder)
    a, b, end = tokenizer.convert_tokens_to_ids(["A", "B", END])
    with torch.no_grad():
        embedding = model.model.embed_tokens.weight
        embedding[:, 0] = 1.0
        embedding[[a, b], 0] = -1.0
        for layer in model.model.layers:
            layer.self_attn.q_proj.weight *= 8  # what is attended to differs from prompt to prompt
            layer.self_attn.o_proj.weight *= 8
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        head = model.lm_head.weight
        head[:, 0] = 0.0
        head[[a, b], 0] = 100.0
        head[end, 0] = -100.0
    model.save_pretrained(folder)
    return folder


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_label_model(tmp_path_factory.mktemp("model") / "labels")


@pytest.fixture(scope="module")
def server(folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Address of vLLM's server of the model "labels"."""
    log = tmp_path_factory.mktemp("server") / "log"
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    argv = [
        *(sys.executable, "-m", "vllm.entrypoints.openai.api_server"),
        *("--model", str(folder), "--served-model-name", "labels", "--dtype", "float32", "--enforce-eager"),
        *("--host", "127.0.0.1", "--port", str(port), "--max-model-len", "2048", "--max-num-batched-tokens", "4096"),
    ]
    env = {
        "VLLM_CPU_KVCACHE_SPACE": "1",
        "VLLM_NO_USAGE_STATS": "1",
        "HF_HUB_OFFLINE": "1",
        "VLLM_LOGGING_LEVEL": "WARNING",
    }
    with log.open("wb") as out:
        process = subprocess.Popen(
            argv, stdout=out, stderr=subprocess.STDOUT, env={**os.environ, **env}, start_new_session=True
        )
    try:
        wait_until_ready(process, port, log)
        yield f"http://127.0.0.1:{port}/v1"
    finally:
        os.killpg(process.pid, signal.SIGKILL)
        process.wait()


def wait_until_ready(process: subprocess.Popen[bytes], port: int, log: Path) -> None:
    started = time.monotonic()
    while time.monotonic() - started < READY_SECONDS:
        assert process.poll() is None, log.read_text(errors="replace")[-3000:]
        try:
            socket.create_connection(("127.0.0.1", port), timeout=1).close()
            return
        except OSError:
            time.sleep(0.5)
    raise AssertionError(f"not ready after {READY_SECONDS:.0f} s: {log.read_text(errors='replace')[-3000:]}")


QUESTIONS = [
    Comparison(str(n), lang, wrap_text(f"{ask} {n}?"), first, second).question()
    for n in range(4)
    for lang, ask, texts in [
        ("en", "Name a river", ["The Nile is a river.", "Paris is a town of " + "France. " * n]),
        ("fr", "Nomme un animal", ["Un requin, une baleine.", "La capitale est " + "Paris. " * n]),
    ]
    for first, second in (texts, texts[::-1])
]


def test_the_servers_verdicts_are_those_of_the_local_judge(server: str, folder: Path, tmp_path: Path) -> None:
    steps = Steps()
    endpoint = Endpoint("labels", tmp_path / "c.sqlite", Settings(base_url=server), steps)
    remote = EndpointJudge(endpoint, JudgeConfig(preference="logprobs"))  # which refuses to read labels from the text
    verdicts = remote.ask(QUESTIONS, lambda more: None)
    local = load_local(folder).ask(QUESTIONS, lambda more: None)
    assert [v.reason for v in verdicts] == [None] * len(QUESTIONS)
    # Both compute in fp32, in which kernels differ by some 1e-6 of a logit; further tokens that read as a label ("a")
    # have e^-15 or less. A reading of other probabilities would be off by far more: the shares differ by tenths.
    assert shares(verdicts) == pytest.approx(shares(local), abs=1e-4)
    assert max(shares(local)) - min(shares(local)) > 0.1  # type: ignore[type-var, operator]
    assert not steps.notes
    cost = endpoint.cost
    assert (cost.calls, cost.usd, len(Cache(tmp_path / "c.sqlite"))) == (len(QUESTIONS), None, len(QUESTIONS))
    assert cost.prompt_tokens > 200 * len(QUESTIONS) and cost.completion_tokens == 2 * len(QUESTIONS)  # label and end
    endpoint = Endpoint("labels", tmp_path / "c.sqlite", Settings(base_url=server))
    again = EndpointJudge(endpoint, JudgeConfig(preference="logprobs"))
    assert again.ask(QUESTIONS, lambda more: None) == verdicts and again.endpoint.cost.calls == 0


def rate_animals(folder: Path) -> Path:
    """A folder of `icr rm data`: short answers without prompts, which may stay as they are in any language."""
    rows = [
        {"id": f"r{n}", "lang": "en", "group": f"g{n // 2}", "prompt": "", "response": f"A {word}.", "label": n % 2}
        for n, word in enumerate(("whale", "shark", "river", "story", "otter", "eagle", "horse", "tiger"))
    ]
    folder.with_suffix(".jsonl").write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    icr("rm", "data", folder.with_suffix(".jsonl"), "--out", folder, "--validation", 2)
    return folder


def test_preferences_go_there_and_back_by_vllm_and_by_its_server(server: str, folder: Path, tmp_path: Path) -> None:
    """The model says A or B to everything."""
    command = ["rm", "translate", str(rate_animals(tmp_path / "data")), "--to", "es", "--back"]
    icr(*command, "--out", tmp_path / "local", "--translator", f"local:{folder}", "--backend", "vllm")
    icr(*command, "--out", tmp_path / "served", "--translator", "openai:labels", "--base-url", server)
    for made in ("local", "served"):
        train, held = (read_rows(tmp_path / made / f"{split}.parquet") for split in ("train", "validation"))
        assert {row["id"] for row in [*train, *held]} == {f"r{n}:en>es>en" for n in range(8)} and len(held) == 2
        assert {row["response"] for row in [*train, *held]} <= {"A", "B"}
    cost = read_json(tmp_path / "served" / "report.json")["translation"]["cost"]
    assert 8 < cost["calls"] <= 8 + 2 and cost["completion_tokens"] == 2 * cost["calls"]  # label and end
