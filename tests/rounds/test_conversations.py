"""A round on conversations of several turns: what is sampled from, scored, paired, trained on and judged."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from icr.base.conversation import dump_conversation
from icr.base.errors import ConfigError, UserError
from icr.base.rundir import RunDir
from icr.engines.models import load_tokenizer
from icr.report.results import collect
from icr.report.samples import read_articles
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from icr.rounds.stages.score import score
from tests.helpers.independent import NAMES, PREFIX, Model, rows
from tests.helpers.inline import run_inline, silent
from tests.helpers.kinds import make_context
from tests.helpers.tiny_models import CHAT_TEMPLATE

TEXTS = {
    "en": ("Answer in one sentence.", "Name an animal.", "The whale.", "Name {n} animals that live in the sea."),
    "es": ("Responde en una frase.", "Nombra un animal.", "La ballena.", "Nombra {n} animales que viven en el mar."),
}
REFUSES = "{% if messages[0]['role'] == 'system' %}{{ raise_exception('System role not supported') }}{% endif %}"


def talk(lang: str, n: int) -> list[dict[str, str]]:
    """p1 is a plain text, p2 has a system message, p3 earlier turns, and p4 both."""
    system, first, answer, last = TEXTS[lang]
    messages = [{"role": "user", "content": last.format(n=n)}]
    if n in (3, 4):
        messages = [{"role": "user", "content": first}, {"role": "assistant", "content": answer}, *messages]
    return [{"role": "system", "content": system}, *messages] if n in (2, 4) else messages


def templated(messages: list[dict[str, str]]) -> str:
    turns = "".join(f"<|im_start|>{m['role']}\n{m['content']}<|im_end|>\n" for m in messages)
    return f"{turns}<|im_start|>assistant\n"


def conditioned(lang: str, n: int) -> str:
    """G(x) by hand: the English conversation, the language asked for in its last message."""
    english = talk("en", n)
    prefix = "" if lang == "en" else PREFIX.format(NAMES[lang])
    return templated([*english[:-1], {"role": "user", "content": prefix + english[-1]["content"]}])


def write_talks(folder: Path) -> Path:
    folder.mkdir(parents=True)
    for lang in TEXTS:
        lines = [{"id": f"p{n}", "instruction": talk(lang, 1)[0]["content"]} if n == 1 else
                 {"id": f"p{n}", "messages": talk(lang, n)} for n in range(1, 5)]  # fmt: skip
        (folder / f"{lang}.jsonl").write_text("\n".join(json.dumps(line, ensure_ascii=False) for line in lines))
    return folder


@pytest.fixture
def config(tiny_config: Callable[..., Path], tmp_path: Path) -> Callable[..., Path]:
    talks = write_talks(tmp_path / "talks")

    def write(**changes: Any) -> Path:
        changes = {
            "rounds": 1,
            "prompts": {"path": str(talks), "languages": ["en", "es"], "allow_overlap": True},
            "judge": {"prompts": str(talks)},
            **changes,
        }
        return tiny_config(tmp_path / "run-of", **changes)

    return write


def test_a_round_on_conversations(
    config: Callable[..., Path], tiny_pair: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, own_data_cache: None
) -> None:
    run_inline(monkeypatch)
    checked, inputs = load_checked(config())
    controller = Controller(RunDir(Path(checked.run)), checked, inputs, silent())
    try:
        controller.iterate()
    finally:
        controller.close()
    run = RunDir(Path(checked.run))
    tokenizer, policy, reference = AutoTokenizer.from_pretrained(tiny_pair[0]), *map(Model, tiny_pair)
    for lang in TEXTS:
        rewards = {(r["prompt_id"], r["sample"]): r for r in rows(run.round(1).rewards / f"{lang}.parquet")}
        for response in rows(run.round(1).responses / f"{lang}.parquet"):
            n = int(response["prompt_id"][1:])
            ids = tokenizer(templated(talk(lang, n)), add_special_tokens=False)["input_ids"]
            assert response["prompt_ids"] == ids
            assert response["prompt"] == (talk(lang, 1)[0]["content"] if n == 1 else dump_conversation(talk(lang, n)))
            reward = rewards[response["prompt_id"], response["sample"]]
            for model, logp in ((policy, reward["policy_logp"]), (reference, reward["reference_logp"])):
                mine = model.logp_after(conditioned(lang, n), response["token_ids"])
                assert logp == pytest.approx(mine, abs=1e-4 * len(response["token_ids"]))
    pairs = rows(run.round(1).pairs)
    assert {pair["prompt_id"] for pair in pairs} == {"p1", "p2", "p3", "p4"}
    trained_on = {tuple(row["prompt_ids"]) for row in rows(run.round(1).train / "data.parquet")}
    for pair in pairs:
        ids = tokenizer(templated(talk(pair["lang"], int(pair["prompt_id"][1:]))), add_special_tokens=False)[
            "input_ids"
        ]
        assert pair["prompt_ids"] == ids and tuple(ids) in trained_on
    _check_others_can_read(run.round(1).pairs)
    answers = rows(run.round(1).judge / "answers" / "es.parquet")
    assert [row["prompt"] for row in answers][3] == dump_conversation(talk("es", 4))
    assert len(rows(run.round(1).judge / "verdicts" / "es.parquet")) == 8
    outputs = json.loads((run.round(1).judge / "alpaca_eval" / "es" / "model_outputs.json").read_text())
    assert outputs[2]["instruction"].startswith(
        "### User:\nNombra un animal.\n\n### Assistant:\nLa ballena.\n\n### User"
    )
    shown = [article.prompt for article in read_articles(run, collect(run))]
    assert shown and not any(prompt.startswith("[{") for prompt in shown)


def _check_others_can_read(pairs: Path) -> None:
    """As docs/run-folder.md says: with Hugging Face's datasets, in the form that TRL takes."""
    from datasets import load_dataset

    data = load_dataset("parquet", data_files=str(pairs), split="train")

    def as_messages(row: dict[str, Any]) -> dict[str, Any]:
        talks = row["prompt"].startswith('[{"role": ')
        prompt = json.loads(row["prompt"]) if talks else [{"role": "user", "content": row["prompt"]}]
        sides = {side: [{"role": "assistant", "content": row[side]}] for side in ("chosen", "rejected")}
        return {"prompt": prompt, **sides}

    for row in data.map(as_messages, remove_columns=data.column_names).add_column("of", data["prompt_id"]):
        assert [m["content"] for m in row["prompt"]][-1].endswith(("sea.", "mar."))
        assert len(row["prompt"]) == {"p1": 1, "p2": 2, "p3": 3, "p4": 4}[row["of"]]


def test_an_own_reward_sees_the_messages(config: Callable[..., Path], tiny_pair: Any, tmp_path: Path) -> None:
    (tmp_path / "seen.py").write_text(
        "import json, pathlib\n"
        "class Seen:\n"
        "    def rewards(self, rows):\n"
        "        with open(pathlib.Path(__file__).with_suffix('.jsonl'), 'a') as file:\n"
        "            file.writelines(json.dumps(row) + '\\n' for row in rows)\n"
        "        return [0.5 * row['sample'] for row in rows]\n"
    )
    talks = str(tmp_path / "talks")
    context = make_context(
        tmp_path / "a",
        lambda folder, **changes: config(**changes),
        tiny_pair,
        prompts={"path": talks, "languages": ["en", "es"]},
        reward={"kind": f"{tmp_path / 'seen.py'}:Seen"},
    )
    score(context)
    seen = {(r["prompt_id"], r["lang"]): r for r in map(json.loads, (tmp_path / "seen.jsonl").open())}
    row = seen["p4", "es"]
    assert (row["messages"], row["english_messages"]) == (talk("es", 4), talk("en", 4))
    system, first, answer, last = TEXTS["es"]
    assert row["prompt"] == (
        f"### System:\n{system}\n\n### User:\n{first}\n\n### Assistant:\n{answer}\n\n### User:\n{last.format(n=4)}"
    )
    assert row["english"].startswith("### System:\nAnswer in one sentence.\n\n### User:\n")
    assert seen["p1", "es"]["prompt"] == last.format(n=1) and seen["p1", "es"]["messages"] == talk("es", 1)


def test_a_template_that_refuses_them_is_known_before_anything_runs(
    config: Callable[..., Path], tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    template = tmp_path / "template.jinja"
    template.write_text(REFUSES + CHAT_TEMPLATE)
    models = {"policy": str(tiny_pair[0]), "reference": str(tiny_pair[1]), "chat_template": str(template)}
    with pytest.raises(ConfigError) as caught:
        load_checked(config(models=models))
    found = caught.value.problems
    assert [problem.where.partition(";")[0] for problem in found] == [
        "prompt p2, language en", "prompt p4, language en"
    ]  # fmt: skip
    assert all("refuses a conversation of the roles system, user" in problem.what for problem in found)
    assert all("System role not supported" in problem.what and problem.do for problem in found)
    with pytest.raises(UserError, match="System role not supported"):  # also where the preflight could not know it
        from icr.engines.templates import Template, prompt_token_ids

        prompt_token_ids(load_tokenizer(str(tiny_pair[0]), Template(file=str(template))), talk("en", 4))  # type: ignore[arg-type]


def test_alignment_pairs_of_messages_are_trained_on(
    config: Callable[..., Path], tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    sides = {"chosen": "The shark and the whale.", "rejected": "No."}
    lines = [{"prompt": talk("en", n), **{k: [{"role": "assistant", "content": v}] for k, v in sides.items()}}
             for n in range(1, 5)]  # fmt: skip
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, lines)))
    alignment = {"pairs": str(tmp_path / "pairs.jsonl"), "batch_size": 4}
    models = {"policy": None, "reference": str(tiny_pair[1])}
    checked, inputs = load_checked(config(models=models, alignment=alignment, judge={"kind": "none"}))
    controller = Controller(RunDir(Path(checked.run)), checked, inputs, silent())
    try:
        controller.stage(0, "align")
    finally:
        controller.close()
    tokenizer = AutoTokenizer.from_pretrained(tiny_pair[1])
    found = rows(RunDir(Path(checked.run)).round(0).train / "alignment.parquet")
    for n, row in enumerate(found, 1):
        assert row["prompt_ids"] == tokenizer(templated(talk("en", n)), add_special_tokens=False)["input_ids"]
        assert (
            row["chosen_ids"] == tokenizer("The shark and the whale.<|im_end|>", add_special_tokens=False)["input_ids"]
        )
    assert len(found) == 4
