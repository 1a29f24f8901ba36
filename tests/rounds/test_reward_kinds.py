"""Every reward kind against a computation of its own: one sequence at a time, in fp64, from the tables on disk."""

from __future__ import annotations

import hashlib
import json
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from icr.base.errors import UserError
from icr.report.page import write_report
from icr.rewards import random_reward
from icr.rounds.stages.pair import pair
from icr.rounds.stages.score import score
from icr.rounds.stages.translate import translate_responses
from tests.conftest import TEXTS
from tests.helpers.independent import NAMES, PREFIX, Model, best_gap, gap, rows
from tests.helpers.kinds import (
    ALPHA,
    MAX_TOKENS,
    OWN,
    make_context,
    response_text,
    reward_rows,
    translated,
    use_translator,
)
from tests.helpers.tiny_models import make_tiny_model

pytestmark = pytest.mark.timeout(600)
Config = Callable[..., Path]
ROOT = Path(__file__).resolve().parents[2]


def english(prompt_id: str) -> str:
    return TEXTS["en"].format(n=prompt_id[1:])


def asked(kind: str, lang: str, prompt_id: str) -> str:
    if kind == "multilingual":
        return TEXTS[lang].format(n=prompt_id[1:])
    prefix = PREFIX.format(NAMES[lang]) if kind == "cross-lingual" and lang != "en" else ""
    return prefix + english(prompt_id)


@pytest.mark.parametrize("kind", ["cross-lingual", "multilingual", "translate"])
@pytest.mark.parametrize("reference", ["initial", "previous"])
def test_log_ratios(
    make_round: Any, tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: Any, kind: str, reference: str
) -> None:
    previous = make_tiny_model(tmp_path / "previous", context=2048, seed=5)
    context = make_round(kind, previous=previous, reference=reference)
    use_translator(monkeypatch, tiny_pair)
    counts = score(context)
    used = previous if reference == "previous" else tiny_pair[1]
    assert counts["reference"] == f"…/{used.name}"
    policy, other = Model(tiny_pair[0]), Model(used)
    for lang in TEXTS:
        for response, reward in reward_rows(context, lang):
            ids = response["token_ids"]
            if kind == "translate" and lang != "en":
                ids = policy.tokenizer(translated(response["response"], "English"))["input_ids"]
                ids = [*ids, policy.tokenizer.eos_token_id] if response["finish_reason"] == "stop" else ids
            condition = asked(kind, lang, response["prompt_id"])
            logps = policy.logp(condition, ids), other.logp(condition, ids)
            assert reward["policy_logp"] == pytest.approx(logps[0], abs=1e-4 * len(ids))
            assert reward["reference_logp"] == pytest.approx(logps[1], abs=1e-4 * len(ids))
            value = 0.1 * (reward["policy_logp"] - reward["reference_logp"]) - ALPHA * len(response["response"])
            assert reward["reward"] == pytest.approx(value, abs=1e-12)
            assert reward["length"] == len(response["response"])


@pytest.mark.parametrize("unit", ["characters", "tokens"])
@pytest.mark.parametrize("kind", ["multilingual", "translate", "random", "own"])
def test_alpha_is_fitted_for_every_kind(
    make_round: Any, tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: Any, kind: str, unit: str
) -> None:
    """No α closes the gap better, by trying all at which two responses change places."""
    use_translator(monkeypatch, tiny_pair)
    (tmp_path / "own_reward.py").write_text(OWN)
    name = f"{tmp_path / 'own_reward.py'}:Vowels" if kind == "own" else kind
    context = make_round(name, samples=4, length_penalty="fit", length_unit=unit)
    score(context)
    fits = json.loads(context.round.lengths.read_text())
    for lang in TEXTS:
        plain, lengths = defaultdict(list), defaultdict(list)
        for response, reward in reward_rows(context, lang):
            measured = len(response["response"]) if unit == "characters" else len(response["token_ids"])
            assert reward["length"] == measured
            plain[reward["prompt_id"]].append(reward["reward"] + fits[lang]["alpha"] * measured)
            lengths[reward["prompt_id"]].append(measured)
        found = gap(list(plain.values()), list(lengths.values()), fits[lang]["alpha"])
        assert fits[lang]["gap"] == pytest.approx(found)
        assert abs(found) == pytest.approx(best_gap(list(plain.values()), list(lengths.values())), abs=1e-9)
        assert fits[lang]["unit"] == unit


def test_no_length_penalty(make_round: Any) -> None:
    context = make_round("random", length_penalty="none")
    score(context)
    for lang in TEXTS:
        for _, reward in reward_rows(context, lang):
            assert reward["reward"] == random_reward(42, 1, lang, reward["prompt_id"], reward["sample"])


def test_random_is_a_hash_of_what_the_response_is(make_round: Any) -> None:
    context = make_round("random")
    score(context)
    pair(context)
    values = []
    for lang in TEXTS:
        for response, reward in reward_rows(context, lang):
            key = f"random reward\x1f42\x1f1\x1f{lang}\x1f{reward['prompt_id']}\x1f{reward['sample']}"
            bits = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 11
            assert reward["reward"] == pytest.approx(bits / 2**53 - ALPHA * len(response["response"]), abs=1e-12)
            assert reward["policy_logp"] is None and reward["reference_logp"] is None
            values.append(bits / 2**53)
    assert len(set(values)) == 3 * 6 * 3
    many = np.array([random_reward(1, 1, "es", f"p{i}", k) for i in range(500) for k in range(10)])
    assert 0 <= many.min() < 0.01 and 0.99 < many.max() < 1 and abs(many.mean() - 0.5) < 0.02
    changed = [(2, 1, "es", "p0", 0), (1, 2, "es", "p0", 0), (1, 1, "ru", "p0", 0), (1, 1, "es", "p1", 0)]
    assert len({random_reward(*key) for key in [*changed, (1, 1, "es", "p0", 0), (1, 1, "es", "p0", 1)]}) == 6


def test_a_failed_translation_is_counted_and_its_response_dropped(
    make_round: Any, tiny_pair: tuple[Path, Path], monkeypatch: Any
) -> None:
    """All reasons in Spanish, of prompt 1 to 4; the rest is scored as if those were not there."""
    spanish = [response_text("es", n, 0) for n in range(1, 5)]
    failing = {
        spanish[0]: ("\n</translated>", "stop"),
        spanish[1]: ("The sea holds many animals such as", "length"),
        spanish[2]: (f"{spanish[2]}</translated>", "stop"),
        spanish[3]: ("The sea holds many animals, and this is no failure.", "stop"),  # no closing mark, but an end
    }
    translator = use_translator(monkeypatch, tiny_pair, failing=failing)
    context = make_round("translate")
    counts = score(context)
    failed = {"no_response": 0, "too_long": 0, "truncated": 1, "empty": 1, "wrong_language": 1}
    assert counts["translations"]["es"] == {"translations": 18 - 3, **failed}
    assert counts["translations"]["ru"] == {"translations": 18, **dict.fromkeys(failed, 0)}
    assert {lang: c["dropped"]["translation"] for lang, c in counts["languages"].items()} == {"en": 0, "es": 3, "ru": 0}
    dropped = [r for _, r in reward_rows(context, "es") if r["dropped"]]
    assert [(r["prompt_id"], r["sample"], r["dropped"]) for r in dropped] == [
        (f"p{n}", 0, "translation") for n in (1, 2, 3)
    ]
    assert all(r["reward"] is None and r["policy_logp"] is None and r["length"] for r in dropped)
    table = {(r["prompt_id"], r["sample"]): r for r in rows(context.round.translations / "es.parquet")}
    assert table["p1", 0]["failed"] == "empty" and table["p2", 0]["failed"] == "truncated"
    assert table["p4", 0]["translation"] == "The sea holds many animals, and this is no failure."
    assert not (context.round.translations / "en.parquet").exists()
    assert {(d.temperature, d.max_tokens) for d in translator.decodings} == {(0.0, 2 * MAX_TOKENS)}
    result = pair(context)
    assert result["languages"]["es"]["pairs"] == 6
    pairs = {p["prompt_id"]: p for p in rows(context.round.pairs) if p["lang"] == "es"}
    assert all(0 not in (pairs[f"p{n}"]["chosen_sample"], pairs[f"p{n}"]["rejected_sample"]) for n in (1, 2, 3))
    kept = {(r["prompt_id"], r["sample"]): r["reward"] for _, r in reward_rows(context, "es") if not r["dropped"]}
    for prompt_id, row in pairs.items():
        values = {k: v for (p, k), v in kept.items() if p == prompt_id}
        assert row["chosen_sample"] == max(values, key=values.__getitem__)
        assert row["rejected_sample"] == min(values, key=values.__getitem__)
    page = write_report(context.run).read_text(encoding="utf-8")
    assert "translate, β = 0.1" in page


def test_an_empty_response_is_not_translated(
    tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path: Path, monkeypatch: Any
) -> None:
    translator = use_translator(monkeypatch, tiny_pair)

    def text(lang: str, n: int, k: int) -> str:
        return "" if (lang, n, k) == ("es", 2, 1) else response_text(lang, n, k)

    settings = {"kind": "translate", "precision": "fp32"}
    context = make_context(tmp_path, tiny_config, tiny_pair, text=text, reward=settings)
    counts = score(context)
    assert counts["translations"]["es"]["no_response"] == 1 and "" not in translator.asked
    assert len(translator.asked) == 2 * 18 - 1
    row = next(r for r in rows(context.round.translations / "es.parquet") if r["failed"])
    assert (row["prompt_id"], row["sample"], row["failed"], row["finish_reason"]) == ("p2", 1, "no_response", None)


def test_translations_that_exist_are_not_made_again(
    make_round: Any, tiny_pair: tuple[Path, Path], monkeypatch: Any
) -> None:
    translator = use_translator(monkeypatch, tiny_pair)
    context = make_round("translate")
    score(context)
    first = (context.round.rewards / "es.parquet").read_bytes()
    assert len(translator.asked) == 36 and context.machine.done == ["translate", "conditions", "logps"]
    (context.pass_folder("translations") / "00001.parquet").unlink()
    score(context)
    assert len(translator.asked) == 36 + 18  # one shard of six prompts by three samples
    assert context.machine.done == ["translate", "conditions", "logps", "translate"]
    assert (context.round.rewards / "es.parquet").read_bytes() == first


def test_translations_by_the_real_engine_are_greedy(
    tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    """The policy itself, token by token, until it ends its turn or has had twice as many as a response may have."""

    def text(lang: str, n: int, k: int) -> str:
        return f"{n} {'tiburones' if lang == 'es' else 'sharks'} {k}"

    settings = {"kind": "translate", "precision": "fp32"}
    context = make_context(
        tmp_path, tiny_config, tiny_pair, 2, text=text, reward=settings, sampling={"max_tokens": 16, "shard_size": 6}
    )
    translate_responses(context, [("es", "en")])
    table = rows(context.round.translations / "es.parquet")
    assert len(table) == 12
    policy = Model(tiny_pair[0])
    template = (ROOT / "prompts" / "translate_response.txt").read_text(encoding="utf-8").strip()
    for row in table[:3]:
        source = text("es", int(row["prompt_id"][1:]), row["sample"])
        request = template.replace("{language}", "English").replace("{text}", source)
        turn = f"<|im_start|>user\n{request}<|im_end|>\n<|im_start|>assistant\n"
        ids = policy.tokenizer(turn)["input_ids"] + policy.tokenizer("<translated>\n")["input_ids"]
        answer: list[int] = []
        while len(answer) < 2 * 16 and policy.tokenizer.eos_token_id not in answer:
            with torch.no_grad():
                answer.append(int(policy.model(torch.tensor([ids + answer])).logits[0, -1].argmax()))
        assert row["translation"] == policy.tokenizer.decode(answer, skip_special_tokens=True).strip()
        ended = policy.tokenizer.eos_token_id in answer
        assert row["finish_reason"] == ("stop" if ended else "length")
        assert (row["failed"] == "truncated") == (not ended)  # a random model writes no closing mark


def test_a_response_without_room_in_the_context_is_counted(tmp_path: Path) -> None:
    """Half of what the request leaves of the context is for the response, half for its translation."""
    from transformers import AutoTokenizer

    from icr.engines.base import Stops
    from icr.translation import Frame, request_ids, translate_rows
    from tests.helpers.kinds import Translator

    tokenizer = AutoTokenizer.from_pretrained(make_tiny_model(tmp_path))
    empty, stops = len(request_ids(tokenizer, "", "en")), Stops((tokenizer.eos_token_id,))
    frame = Frame.of(tokenizer, empty + 81, 30, ["en"], stops)
    assert (frame.longest, frame.decoding.max_tokens) == (empty + 40, 40)
    assert Frame.of(tokenizer, 10_000, 30, ["en"], stops).decoding.max_tokens == 60
    with pytest.raises(UserError, match="is too short for a response"):
        Frame.of(tokenizer, empty + 1, 30, ["en"], stops)
    translator = Translator(tokenizer)
    texts = ["El mar 1", "El mar " * 40]
    rows = [
        {"prompt_id": "p", "lang": "es", "sample": k, "response": text, "finish_reason": "stop"}
        for k, text in enumerate(texts)
    ]
    made = translate_rows(frame, translator, [(row, "en") for row in rows])
    assert [r["failed"] for r in made] == [None, "too_long"] and translator.asked == texts[:1]
