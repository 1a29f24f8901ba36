"""`task` of `icr transfer`: the policy is asked with an instruction; reward models and judges see the input alone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from icr.base.conversation import load_conversation, put_before
from icr.base.errors import ConfigError
from icr.base.files import read_rows
from icr.config.schema import Judge
from icr.engines.classifier import Classifier
from icr.engines.models import read_tokenizer
from icr.experiments.transfer_task import with_task
from tests.conftest import write_prompts
from tests.experiments.test_transfer_align import load, made, run
from tests.helpers.inline import ask_inline, run_inline
from tests.helpers.stub_server import Answer, Stub, says

__all__ = ["made"]
pytestmark = pytest.mark.timeout(600)
SMALL = {
    "learning_rate": 3e-3, "batch_size": 4, "micro_batch_size": 4, "epochs": 1, "precision": "fp32",
    "deepspeed": "none", "gradient_checkpointing": False,
}  # fmt: skip
ASKED = "Summarize the following text in Spanish:\n\n"


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        ask_inline(patch)
        yield run_inline(patch)


def test_the_policy_alone_reads_the_instruction(made: dict[str, Any], tmp_path: Path, inline: list[str]) -> None:
    seen: list[str] = []

    def judge(request: dict[str, Any], before: int) -> Answer:
        seen.append(request["messages"][-1]["content"])
        return says("A")

    trained = {"prompts": str(write_prompts(tmp_path / "trained", range(21, 31)))}
    best = {**made["align"]["best_of_n"], "n": 2}
    align = {
        **made["align"], "best_of_n": best,
        "dpo": {**trained, "train": SMALL},
        "rl": {
            **trained, "sampling": {"n": 2, "max_tokens": 8}, "heldout": {"prompts": 4, "every": 2},
            "train": {**SMALL, "batch_size": 2},
        },
    }  # fmt: skip
    with Stub(judge) as stub:
        keys = {
            "task": "summarization", "languages": {"sources": ["en"], "targets": ["es"]}, "align": align,
            "sft": {"train": SMALL}, "judges": [{"kind": "openai", "model": "m", "base_url": stub.url}],
        }  # fmt: skip
        _, failed = run(load(tmp_path, made, **keys))
        assert not failed
        steps = tmp_path / "run/steps"
        tokenizer = read_tokenizer(str(steps / "sft-es/model"))
        given = read_rows(Path(made["data"]["preferences"]) / "train.parquet")
        demonstrated = {f"{ASKED}{row['prompt']}" for row in given if row["lang"] == "es"}

        def read(ids: list[int]) -> str:
            return str(tokenizer.decode(ids))

        samples = read_rows(steps / "samples-es/es.parquet")
        assert samples and all(ASKED + row["prompt"] in read(row["prompt_ids"]) for row in samples)
        assert not any(row["prompt"].startswith("Summarize") for row in samples)
        demonstrations = [read(row["prompt_ids"]) for row in read_rows(steps / "sft-es/data.parquet")]
        assert all(any(text in one for text in demonstrated) for one in demonstrations[:5])
        pairs = read_rows(steps / "dpo-en-es/pairs.parquet")
        assert pairs and all(row["prompt"].startswith(ASKED) for row in pairs)
        assert all(row["prompt"] in read(row["prompt_ids"]) for row in pairs)
        rl = read_rows(steps / "rl-en-es/data.parquet")
        assert all(ASKED + row["prompt"] in read(row["prompt_ids"]) for row in rl)
        for name in ("dpo-answers-en-es", "rl-answers-en-es"):
            assert all(ASKED + r["prompt"] in read(r["prompt_ids"]) for r in read_rows(steps / f"{name}/es.parquet"))
        scores = read_rows(steps / "scores-en-on-es/es.parquet")
        model = Classifier(str(steps / "rm-en/model"), "fp32", 4096)
        bare = model.logits([(load_conversation(row["prompt"]), row["response"]) for row in samples])
        assert [row["score"] for row in scores] == pytest.approx(bare, abs=1e-5)
        held = read_rows(steps / "rl-en-es/heldout/step-0.parquet")
        bare = model.logits([(load_conversation(row["prompt"]), row["response"]) for row in held])
        assert [row["score_reward"] for row in held] == pytest.approx(bare, abs=1e-5)
        assert seen and all(text.startswith("Compare two summaries of one text") for text in seen)
        assert not any("Summarize the following" in text for text in seen)
        _, failed = run(load(tmp_path, made, **{**keys, "task": "dialog"}))
    text = str(failed["sft-es"])
    assert "task: summarization → dialog" in text


def test_an_instruction_that_is_there_stays_alone() -> None:
    conversation = load_conversation('[{"role": "system", "content": "s"}, {"role": "user", "content": "u"}]')
    once = put_before("Do it:", conversation)
    assert [message["content"] for message in once] == ["s", "Do it:\n\nu"] and put_before("Do it:", once) == once
    assert put_before("", conversation) == conversation
    assert put_before("Do it:", load_conversation("")) == [{"role": "user", "content": "Do it:"}]


def test_judges_with_a_prompt_of_their_own_keep_it() -> None:
    given = Judge.model_validate({"kind": "openai", "model": "m", "template": "x.yaml"})
    own = Judge.model_validate({"kind": "module:Class"})
    plain = Judge.model_validate({"kind": "openai", "model": "m"})
    assert with_task(given, "summarization") == given and with_task(own, "summarization") == own
    assert with_task(plain, "dialog") == with_task(plain, "none") == plain
    assert str(with_task(plain, "summarization").template).endswith("judge_summaries.yaml")


def test_a_task_needs_a_policy(made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"1\. task is what the policy of align is asked to do: add align, or remove"):
        load(tmp_path, {**made, "judges": []}, task="dialog", align=None)
