"""LIDR: pairs of own answers and their translations, in both directions, against the tables they are made of."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from transformers import AutoTokenizer

from icr.base.errors import ConfigError, UserError
from icr.base.files import read_rows, write_rows
from icr.base.rundir import StageRecord
from icr.report.page import write_report
from icr.rounds.preflight import preflight
from icr.rounds.stages.pair import pair
from icr.rounds.stages.sample import sample
from icr.rounds.stages.score import score
from icr.rounds.stages.train import train
from icr.rows import RESPONSES
from tests.conftest import TEXTS
from tests.helpers.command import icr
from tests.helpers.independent import Model, rows
from tests.helpers.kinds import make_context, response_text, translated, use_translator

pytestmark = pytest.mark.timeout(600)
Config = Callable[..., Path]
LANGUAGE = {"es": "Spanish", "ru": "Russian"}


@pytest.fixture
def make(tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path: Path) -> Callable[..., Any]:
    def made(text: Callable[[str, int, int], str] = response_text, samples: int = 1, **reward: Any) -> Any:
        settings = {"kind": "lidr", **reward}
        return make_context(tmp_path, tiny_config, tiny_pair, samples, text=text, reward=settings)

    return made


def by_prompt(context: Any, lang: str) -> dict[str, dict[str, Any]]:
    return {p["prompt_id"]: p for p in rows(context.round.pairs) if p["lang"] == lang}


def test_pairs_in_both_directions(make: Any, tiny_pair: tuple[Path, Path], monkeypatch: Any) -> None:
    translator = use_translator(monkeypatch, tiny_pair)
    context = make(samples=3)  # of which the first is the own answer
    assert score(context)["translations"] == {
        name: {"translations": 6, "no_response": 0, "too_long": 0, "truncated": 0, "empty": 0, "wrong_language": 0}
        for name in ("es", "en-es", "ru", "en-ru")
    }
    result = pair(context)
    assert result["pairs"] == 18 and len(translator.asked) == 24
    tokenizer = AutoTokenizer.from_pretrained(tiny_pair[0])
    for lang in TEXTS:
        pairs = by_prompt(context, lang)
        assert list(pairs) == [f"p{n}" for n in range(1, 7)]
        for n, row in zip(range(1, 7), pairs.values(), strict=True):
            if lang == "en":  # the other languages take turns
                source = response_text("es" if n % 2 else "ru", n, 0)
                sides = response_text("en", n, 0), translated(source, "English")
                samples = (0, None)
            else:
                sides = translated(response_text("en", n, 0), LANGUAGE[lang]), response_text(lang, n, 0)
                samples = (None, 0)
            assert (row["chosen"], row["rejected"]) == sides
            assert (row["chosen_sample"], row["rejected_sample"]) == samples
            for side, text in zip(("chosen", "rejected"), sides, strict=True):
                assert row[f"{side}_ids"] == [*tokenizer(text)["input_ids"], tokenizer.eos_token_id]
            assert row["prompt"] == TEXTS[lang].format(n=n)
            assert row["prompt_ids"] == tokenizer(row["prompt"])["input_ids"]
            assert row["chosen_reward"] is None and row["rejected_reward"] is None
    counts = result["languages"]["es"]
    assert counts["dropped"] == {"no_answer": 0, "translation": 0, "identical": 0}
    assert counts["rejected_length"] == sum(len(response_text("es", n, 0)) for n in range(1, 7)) / 6


def test_what_makes_no_pair_is_counted(make: Any, tiny_pair: tuple[Path, Path], monkeypatch: Any) -> None:
    """p1: the Spanish answer fails to become English, and Russian takes its turn. p2: the English answer fails to
    become Spanish. p3: the Spanish answer is empty. p4: the English one is. p5: the translation is the own answer."""

    def text(lang: str, n: int, k: int) -> str:
        empty = {("es", 3), ("en", 4)}
        return "" if (lang, n) in empty else response_text(lang, n, k)

    failing = {
        response_text("es", 1, 0): ("\n</translated>", "stop"),
        response_text("en", 2, 0): ("En el mar", "length"),
        response_text("es", 5, 0): (response_text("en", 5, 0) + "</translated>", "stop"),
        response_text("ru", 5, 0): (response_text("en", 5, 0) + " </translated>", "stop"),
    }
    use_translator(monkeypatch, tiny_pair, failing=failing)
    context = make(text)
    counts = score(context)
    assert counts["translations"]["es"]["empty"] == 1 and counts["translations"]["es"]["no_response"] == 1
    assert counts["translations"]["en-es"]["truncated"] == counts["translations"]["en-ru"]["truncated"] == 1
    assert counts["languages"]["es"]["empty"] == 1
    result = pair(context)["languages"]
    for lang, prompts, dropped in (
        ("en", ["p1", "p2", "p3", "p6"], {"no_answer": 1, "translation": 0, "identical": 1}),
        ("es", ["p1", "p5", "p6"], {"no_answer": 2, "translation": 1, "identical": 0}),
        ("ru", ["p1", "p3", "p5", "p6"], {"no_answer": 1, "translation": 1, "identical": 0}),
    ):
        assert list(by_prompt(context, lang)) == prompts
        assert result[lang]["dropped"] == dropped
        assert result[lang]["prompts"] == 6 == result[lang]["pairs"] + sum(dropped.values())
    pairs = by_prompt(context, "en")
    assert pairs["p1"]["rejected"] == translated(response_text("ru", 1, 0), "English")
    assert pairs["p3"]["rejected"] == translated(response_text("ru", 3, 0), "English")


def test_a_filter_takes_an_answer_out_of_every_pair(make: Any, tiny_pair: tuple[Path, Path], monkeypatch: Any) -> None:
    """A Spanish answer in English makes no Spanish pair, and its "translation" no English one."""

    def text(lang: str, n: int, k: int) -> str:
        return response_text("en" if (lang, n) == ("es", 1) else lang, n + 10 * (lang == "es"), k)

    use_translator(monkeypatch, tiny_pair)
    context = make(text, drop_wrong_language=True)
    assert score(context)["languages"]["es"]["dropped"] == {"truncated": 0, "wrong_language": 1}
    assert pair(context)["languages"]["es"]["dropped"]["no_answer"] == 1
    assert "p1" not in by_prompt(context, "es")
    assert by_prompt(context, "en")["p1"]["rejected"] == translated(response_text("ru", 1, 0), "English")


def test_a_cut_off_answer_and_its_translation_have_no_end(
    make: Any, tiny_pair: tuple[Path, Path], monkeypatch: Any
) -> None:
    use_translator(monkeypatch, tiny_pair)
    context = make()
    path = context.round.responses / "es.parquet"
    table = read_rows(path)
    table[0] |= {"finish_reason": "length", "token_ids": table[0]["token_ids"][:-1]}
    write_rows(path, table, RESPONSES)
    score(context)
    pair(context)
    end = AutoTokenizer.from_pretrained(tiny_pair[0]).eos_token_id
    assert end not in by_prompt(context, "es")["p1"]["rejected_ids"]
    assert end not in by_prompt(context, "en")["p1"]["rejected_ids"]
    assert by_prompt(context, "es")["p1"]["chosen_ids"][-1] == by_prompt(context, "en")["p1"]["chosen_ids"][-1] == end


def test_own_answers_are_greedy(tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    """One response per prompt, and the policy's argmax at every token."""
    changes = {"sampling": {"max_tokens": 8, "n": 4, "shard_size": 6}, "reward": {"kind": "lidr"}}
    context = make_context(tmp_path, tiny_config, tiny_pair, **changes)
    assert sample(context)["responses"] == 18
    policy = Model(tiny_pair[0])
    import torch

    for row in rows(context.round.responses / "es.parquet")[:2]:
        answer: list[int] = []
        for _ in range(len(row["token_ids"])):
            with torch.no_grad():
                logits = policy.model(torch.tensor([row["prompt_ids"] + answer])).logits
            answer.append(int(logits[0, -1].argmax()))
        assert row["token_ids"] == answer


def test_a_policy_that_translates_nothing_makes_no_pair(
    make: Any, tiny_pair: tuple[Path, Path], monkeypatch: Any
) -> None:
    texts = [response_text(lang, n, 0) for lang in TEXTS for n in range(1, 7)]
    use_translator(monkeypatch, tiny_pair, failing=dict.fromkeys(texts, ("\n</translated>", "stop")))
    context = make()
    assert {c["empty"] for c in score(context)["translations"].values()} == {6}
    with pytest.raises(UserError, match="no prompt gives a pair"):
        pair(context)


def test_the_rest_of_a_round_takes_lidr_pairs(make: Any, tiny_pair: tuple[Path, Path], monkeypatch: Any) -> None:
    """Training finds what it needs, and the report has no rewards to show."""
    use_translator(monkeypatch, tiny_pair)
    context = make()
    for name, stage in (("score", score), ("pair", pair)):
        context.round.write_stage(name, StageRecord(state="done", started=0.0, counts=stage(context)))
    assert json.loads(context.round.lengths.read_text()) == {}
    rewards = rows(context.round.rewards / "es.parquet")
    assert [r["length"] for r in rewards] == [len(response_text("es", n, 0)) for n in range(1, 7)]
    assert all(r["reward"] is None and r["dropped"] is None for r in rewards)
    page = write_report(context.run).read_text(encoding="utf-8")
    assert "The pairs of LIDR have no rewards." in page and "LIDR has no length penalty." in page
    assert translated(response_text("en", 1, 0), "Spanish") in page  # among the examples
    assert "is not there" not in page
    specs: list[Any] = []
    monkeypatch.setattr(context.machine, "train", lambda spec, label, name: specs.append(spec) or {})
    train(context)
    assert specs[0].facts.pairs == {"en": 6, "es": 6, "ru": 6} and specs[0].facts.alpha == {}
    assert len(read_rows(specs[0].data)) == 18


def test_one_other_language_that_lacks_prompts(make: Any, tiny_pair: tuple[Path, Path], monkeypatch: Any) -> None:
    """A prompt that is not in Spanish is paired with Russian, out of turn."""
    use_translator(monkeypatch, tiny_pair)
    context = make()
    folder = Path(context.config.prompts.path)
    few = context.run.path / "few"
    few.mkdir()
    for lang in TEXTS:
        lines = (folder / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines(keepends=True)
        (few / f"{lang}.jsonl").write_text("".join(lines[1:] if lang == "es" else lines), encoding="utf-8")
    config = context.config.model_copy(update={"prompts": context.config.prompts.model_copy(update={"path": str(few)})})
    context = replace(context, config=config, inputs=preflight(config))
    path = context.round.responses / "es.parquet"
    write_rows(path, [r for r in read_rows(path) if r["prompt_id"] != "p1"], RESPONSES)
    assert score(context)["translations"]["en-es"]["translations"] == 5
    pair(context)
    assert by_prompt(context, "en")["p1"]["rejected"] == translated(response_text("ru", 1, 0), "English")
    assert list(by_prompt(context, "es")) == [f"p{n}" for n in range(2, 7)]


def test_english_alone_is_refused(tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    prompts = {"languages": ["en"]}
    with pytest.raises(ConfigError) as caught:
        make_context(tmp_path, tiny_config, tiny_pair, reward={"kind": "lidr"}, prompts=prompts)
    assert [p.what for p in caught.value.problems] == ["reward.kind lidr needs at least one language besides en"]
    config = tiny_config(tmp_path / "c", reward={"kind": "lidr"}, prompts=prompts, judge={"kind": "none"})
    assert "prompts.languages" in icr("validate", config, code=2).stderr
