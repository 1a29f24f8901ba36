"""Chat templates of a run: what `icr validate` says of them and shows, and what a run does with their settings."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer
from typer.testing import CliRunner

from icr.base.errors import ConfigError
from icr.base.rundir import RunDir, start_date
from icr.commands.main import app
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from icr.work.machine import Machine
from tests.helpers.independent import PREFIX, rows
from tests.helpers.inline import run_inline, silent
from tests.helpers.tiny_models import CHAT_TEMPLATE, END, START, make_tiny_model

Write = Callable[..., Path]
NO_SYSTEM = (
    "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"
    "{% for m in messages %}{% if (m['role'] == 'user') != (loop.index0 % 2 == 0) %}"
    "{{ raise_exception('Conversation roles must alternate') }}{% endif %}{% endfor %}"
)
NEEDS_SYSTEM = (
    "{% if messages[0]['role'] != 'system' %}{{ raise_exception('A system message is required') }}{% endif %}"
)
LAST_USER = "{% if messages[-1]['role'] != 'user' %}{{ raise_exception('Last message must be from user') }}{% endif %}"
THINKS = CHAT_TEMPLATE + (
    "{% if add_generation_prompt and enable_thinking is defined and not enable_thinking %}<think></think>{% endif %}"
)


@pytest.fixture
def models(tiny_pair: tuple[Path, Path], tmp_path: Path) -> Callable[[str], dict[str, str]]:
    """Copies of the pair whose own chat template is another one."""

    def make(template: str) -> dict[str, str]:
        found = {}
        for name, folder in zip(("policy", "reference"), tiny_pair, strict=True):
            shutil.rmtree(tmp_path / name, ignore_errors=True)
            shutil.copytree(folder, tmp_path / name)
            (tmp_path / name / "chat_template.jinja").write_text(template)
            found[name] = str(tmp_path / name)
        return found

    return make


@pytest.mark.parametrize(
    ("template", "expected"),
    [
        (NO_SYSTEM + CHAT_TEMPLATE, []),
        (LAST_USER + CHAT_TEMPLATE, []),
        (NEEDS_SYSTEM + CHAT_TEMPLATE, ["refuses a conversation of the roles user: A system message is required"]),
        ("{% for m in messages %}{{ m.content }}", ["the chat template is not valid Jinja"]),
        (THINKS, ["writes its reasoning"]),
        (CHAT_TEMPLATE.replace(END, "x"), []),  # EOS ends an answer
    ],
)
def test_templates_are_rendered_before_anything_is_loaded(
    tiny_config: Write, tmp_path: Path, models: Any, template: str, expected: list[str]
) -> None:
    path = tiny_config(tmp_path, models=models(template))
    if not expected:
        load_checked(path)
        return
    with pytest.raises(ConfigError) as caught:
        load_checked(path)
    of_policy = [p for p in caught.value.problems if str(tmp_path / "policy") in p.where]
    assert len(of_policy) == len(expected)
    assert all(text in problem.what for text, problem in zip(expected, of_policy, strict=True))


def test_a_template_file_is_named(tiny_config: Write, tmp_path: Path, tiny_pair: tuple[Path, Path]) -> None:
    (tmp_path / "bad.jinja").write_text("{% for m in messages %}")
    named = {"policy": str(tiny_pair[0]), "reference": str(tiny_pair[1]), "chat_template": str(tmp_path / "bad.jinja")}
    with pytest.raises(ConfigError, match=r"not valid Jinja.*\n.*models\.chat_template: .*bad\.jinja"):
        load_checked(tiny_config(tmp_path, models=named))


def test_nothing_ends_an_answer_is_known_at_the_start(tiny_config: Write, tmp_path: Path, models: Any) -> None:
    named = models("{% for m in messages %}{{ m['content'] }}\n{% endfor %}")
    for folder in named.values():
        for name, key in (("tokenizer_config.json", "eos_token"), ("generation_config.json", "eos_token_id"),
                          ("config.json", "eos_token_id")):  # fmt: skip
            file = Path(folder) / name
            file.write_text(json.dumps({k: v for k, v in json.loads(file.read_text()).items() if k != key}))
    with pytest.raises(ConfigError, match="nothing ends an answer"):
        load_checked(tiny_config(tmp_path, models=named))
    load_checked(tiny_config(tmp_path, models=named, sampling={"stop": ["###"]}))


def test_policy_and_reference_of_two_vocabularies_are_known_at_the_start(
    tiny_config: Write, tmp_path: Path, tiny_pair: tuple[Path, Path]
) -> None:
    """One token more; rows of padding alone are no difference."""
    more = tmp_path / "more"
    model, tokenizer = (kind.from_pretrained(tiny_pair[0]) for kind in (AutoModelForCausalLM, AutoTokenizer))
    model.resize_token_embeddings(520)
    model.save_pretrained(more)
    tokenizer.add_tokens(["<|pad2|>"])
    tokenizer.save_pretrained(more)
    with pytest.raises(ConfigError, match=r"different vocabularies.*1 differ, the first: '<\|pad2\|>'"):
        load_checked(tiny_config(tmp_path, models={"policy": str(more), "reference": str(tiny_pair[1])}))
    padded = make_tiny_model(tmp_path / "padded", vocab_size=900)
    wider = make_tiny_model(tmp_path / "wider", vocab_size=900, seed=1)
    load_checked(tiny_config(tmp_path, models={"policy": str(padded), "reference": str(wider)}))


def test_show_prompts(tiny_config: Write, tmp_path: Path, models: Any) -> None:
    path = tiny_config(tmp_path, models=models(THINKS) | {"template_arguments": {"enable_thinking": False}})
    done = CliRunner().invoke(app, ["validate", str(path), "--show-prompts", "--set", "sampling.stop=[<|pad|>, '##']"])
    assert done.exit_code == 0, done.output
    shown = done.output
    spanish = "Nombra 1 animales que viven en el mar."
    assert f"⟦{START}⟧user\n{spanish}⟦{END}⟧\n⟦{START}⟧assistant\n<think></think>" in shown
    given = PREFIX.format("Spanish") + "Name 1 animals that live in the sea."
    assert f"policy and reference read\n⟦{START}⟧user\n{given}⟦{END}⟧\n" in shown
    assert f"sampling stops at ⟦{END}⟧ ⟦<|pad|>⟧ '##'\n" in shown and f"trained to end with ⟦{END}⟧\n" in shown
    assert shown.count("the policy answers") == shown.count("policy and reference read") == 3


def test_a_round_with_arguments_and_a_date(
    tiny_config: Write, tmp_path: Path, models: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Sampling, both passes of the reward, answers, and the final model read the same template; resumed on another day,
    the run has the same prompts. Sampling ends at a token that neither EOS nor generation_config.json names."""
    run_inline(monkeypatch)
    template = "{{ strftime_now('%d %b %Y') }} " + THINKS
    path = tiny_config(
        tmp_path,
        rounds=1,
        models=models(template) | {"template_arguments": {"enable_thinking": False}},
        prompts={"languages": ["en", "es"], "limit": 3},
        sampling={"max_tokens": 100, "temperature": 2.0},
        judge={"kind": "none"},
    )
    for name in ("policy", "reference"):  # EOS is <|pad|>; the template ends a turn with <|im_end|>
        for file, change in (
            ("tokenizer_config.json", {"eos_token": "<|pad|>"}),
            ("generation_config.json", {"eos_token_id": 0}),
        ):
            at = tmp_path / name / file
            at.write_text(json.dumps(json.loads(at.read_text()) | change))
    config, inputs = load_checked(path)
    run = RunDir(Path(config.run or ""))
    run.path.mkdir()
    assert start_date(run.path, "2026-03-07") == "2026-03-07" == start_date(run.path)
    notes: list[str] = []
    monkeypatch.setattr(Machine, "note", lambda self, text: notes.append(text))
    for stages in (("sample",), ("score", "pair", "train")):  # two commands
        controller = Controller(run, config, inputs, silent())
        try:
            for stage in stages:
                controller.stage(1, stage)  # type: ignore[arg-type]
        finally:
            controller.close()
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "policy")
    responses = rows(run.round(1).responses / "es.parquet")
    by_hand = f"07 Mar 2026 {START}user\nNombra 1 animales que viven en el mar.{END}\n{START}assistant\n<think></think>"
    assert responses[0]["prompt_ids"] == tokenizer(by_hand, add_special_tokens=False)["input_ids"]
    end = tokenizer.convert_tokens_to_ids(END)
    ended = [r for r in responses if end in r["token_ids"]]
    assert ended and all(r["token_ids"].index(end) == len(r["token_ids"]) - 1 for r in ended)
    assert all(r["finish_reason"] == "stop" for r in ended)
    model = run.round(1).model
    exported = AutoTokenizer.from_pretrained(model)
    text = exported.apply_chat_template([{"role": "user", "content": "?"}], tokenize=False, add_generation_prompt=True)
    assert text.endswith("<think></think>") and "07 Mar 2026" not in text
    assert json.loads((model / "generation_config.json").read_text())["eos_token_id"] == [end, 0]
