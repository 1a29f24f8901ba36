"""`icr best-of-n`: sampled once, every score kept, further rewards without sampling, resumed where it was killed."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.torch import load_file, save_file

from eval.xalpaca.answers import read_outputs
from icr.base.conversation import wrap_text
from icr.base.errors import ConfigError, UserError
from icr.base.files import read_json
from icr.best_of_n import kl_bound
from icr.commands.main import app
from icr.config.best_of_n import BestOfNConfig
from icr.config.load import make_section
from icr.engines.classifier import Classifier
from icr.engines.transformers_engine import TransformersEngine
from icr.experiments.best_of_n import best_of_n
from icr.experiments.judged_candidates import find_judges
from tests.conftest import TEXTS, write_prompts
from tests.helpers.independent import NAMES, PREFIX, Model, rows
from tests.helpers.inline import run_inline, silent
from tests.helpers.tiny_models import make_tiny_model
from tests.rounds.test_reward_model import make_classifier

pytestmark = pytest.mark.timeout(600)

LANGUAGES = ["es", "ru"]
N = 5
Pair = tuple[Path, Path]


@pytest.fixture
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


@pytest.fixture(scope="module")
def prompts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_prompts(tmp_path_factory.mktemp("prompts"), range(1, 7))


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_classifier(tmp_path_factory.mktemp("models") / "rm-a", "own")


def settings(model: Path, prompts: Path, *overrides: str) -> BestOfNConfig:
    sampling = {"backend": "transformers", "precision": "fp32", "n": N, "max_tokens": 8, "shard_size": 3}
    data = {"model": str(model), "prompts": {"path": str(prompts), "languages": list(LANGUAGES)}, "sampling": sampling}
    data["reward"] = {"beta": 0.2, "precision": "fp32"}
    return make_section(BestOfNConfig, data, overrides)


@pytest.fixture(scope="module")
def sampled(
    tiny_pair: Pair, prompts: Path, judge: Path, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, Any]]:
    """Five candidates a prompt, under one classifier."""
    out = tmp_path_factory.mktemp("out")
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        found = best_of_n(settings(tiny_pair[0], prompts), [str(judge)], 3, out, silent())
    return out, found


@pytest.fixture
def out(sampled: tuple[Path, dict[str, Any]], tmp_path: Path) -> Path:
    """A copy of it, to go on with."""
    return shutil.copytree(sampled[0], tmp_path / "out")


def test_every_candidate_is_kept_with_its_score(sampled: tuple[Path, dict[str, Any]], judge: Path) -> None:
    out, _ = sampled
    classifier = Classifier(str(judge), "fp32", 16384)
    for lang in LANGUAGES:
        candidates, scores = (
            rows(out / "samples" / f"{lang}.parquet"),
            rows(out / "scores" / "rm-a" / f"{lang}.parquet"),
        )
        keys = [[(row["prompt_id"], row["lang"], row["sample"]) for row in table] for table in (candidates, scores)]
        assert keys[0] == keys[1] == [(f"p{n}", lang, k) for n in range(1, 7) for k in range(N)]
        assert len({row["response"] for row in candidates}) > N  # each has its own noise
        logits = classifier.logits([(wrap_text(row["prompt"]), row["response"]) for row in candidates])
        assert [row["score"] for row in scores] == pytest.approx(logits, abs=1e-5)
        assert [row["tokens"] for row in scores] == [len(row["token_ids"]) for row in candidates]
        assert {row["dropped"] for row in scores} == {None}
    assert not (out / "samples" / "shards").exists() and not (out / "scores" / "rm-a" / "shards").exists()


def test_best_answers_and_what_they_are_worth(sampled: tuple[Path, dict[str, Any]], tiny_pair: Pair) -> None:
    out, found = sampled
    folder = out / "best" / "rm-a"
    result = found["rewards"]["rm-a"]
    assert result == read_json(folder / "best_of_k.json") and (result["n"], result["k"]) == (N, 3)
    assert [row["k"] for row in result["best_of_k"]] == [1, 2, 3, 4, 5]
    assert [row["kl_bound"] for row in result["best_of_k"]] == [kl_bound(k) for k in range(1, 6)]
    first, last, means = result["best_of_k"][0], result["best_of_k"][-1], []
    for lang in LANGUAGES:
        scores = [row["score"] for row in rows(out / "scores" / "rm-a" / f"{lang}.parquet")]
        table = np.array(scores).reshape(6, N)
        assert first["languages"][lang]["score"] == pytest.approx(table.mean())
        assert last["languages"][lang]["score"] == pytest.approx(table.max(axis=1).mean())
        means.append(table.max(axis=1))
        answers = read_outputs(folder, lang)
        candidates = rows(out / "samples" / f"{lang}.parquet")
        best = table[:, :3].argmax(axis=1)
        assert [a.text for a in answers] == [candidates[n * N + best[n]]["response"] for n in range(6)]
        assert [a.instruction for a in answers] == [TEXTS[lang].format(n=n) for n in range(1, 7)]
    assert last["average"]["score"] == pytest.approx(np.mean(means))
    assert last["average"]["score_interval"][0] < last["average"]["score"] < last["average"]["score_interval"][1]
    written = read_json(folder / "es.json")[0]
    assert written["generator"] == f"{tiny_pair[0].name}-best-of-3" and written["id"] == "p1"
    answers = rows(folder / "answers.parquet")
    assert len(answers) == 12 and answers[0]["response"] == written["output"]


def test_a_further_reward_samples_nothing(
    out: Path, tiny_pair: Pair, prompts: Path, inline: list[str], judge: Path
) -> None:
    """The log-ratio of two models, given the English prompt with its prefix, against fp64."""
    policy, reference = tiny_pair
    spec = f"cross-lingual:{policy},{reference}"
    before = (out / "scores" / "rm-a" / "es.parquet").read_bytes()
    found = best_of_n(settings(policy, prompts), [spec, str(judge)], None, out, silent())
    assert "sample" not in inline and "classify" not in inline and inline.count("logps") == 4
    name = f"cross-lingual-{policy.name}"
    assert list(found["rewards"]) == [name, "rm-a"] and found["rewards"][name]["k"] == N
    assert (out / "scores" / "rm-a" / "es.parquet").read_bytes() == before
    ours, theirs = Model(policy), Model(reference)
    candidates, scores = (rows(out / part / "ru.parquet") for part in ("samples", f"scores/{name}"))
    for row, score in list(zip(candidates, scores, strict=True))[::7]:
        given = PREFIX.format(NAMES["ru"]) + TEXTS["en"].format(n=row["prompt_id"][1:])
        expected = 0.2 * (ours.logp(given, row["token_ids"]) - theirs.logp(given, row["token_ids"]))
        assert score["score"] == pytest.approx(expected, abs=1e-4)
    del inline[:]
    best_of_n(settings(policy, prompts), [spec], 2, out, silent())
    assert inline == []


def test_the_prompt_as_asked_needs_no_english(out: Path, tiny_pair: Pair, tmp_path: Path, inline: list[str]) -> None:
    """The prompts may be anywhere else: their texts count."""
    policy, reference = tiny_pair
    bare = write_prompts(tmp_path / "bare", range(1, 7))
    (bare / "en.jsonl").unlink()
    spec = f"multilingual:{policy},{reference}"
    best_of_n(settings(policy, bare), [spec], None, out, silent())
    row, score = (rows(out / part / "es.parquet")[8] for part in ("samples", f"scores/multilingual-{policy.name}"))
    ours, theirs = (Model(folder).logp(row["prompt"], row["token_ids"]) for folder in tiny_pair)
    assert score["score"] == pytest.approx(0.2 * (ours - theirs), abs=1e-4) and "sample" not in inline
    with pytest.raises(ConfigError, match="no prompts in en"):
        best_of_n(settings(policy, bare), [f"cross-lingual:{policy},{reference}"], None, out, silent())


def test_a_killed_command_goes_on(
    sampled: tuple[Path, dict[str, Any]], tiny_pair: Pair, prompts: Path, judge: Path, tmp_path: Path,
    inline: list[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Killed while it samples, and again while it scores: the same files as in one go, and no shard twice."""
    generate, logits = TransformersEngine.generate, Classifier.logits
    calls: list[str] = []

    def end_at(count: int, name: str, work: Any) -> Any:
        def ending(*args: Any, **options: Any) -> Any:
            calls.append(name)
            if calls.count(name) == count:
                raise KeyboardInterrupt
            return work(*args, **options)

        return ending

    config = settings(tiny_pair[0], prompts)
    monkeypatch.setattr(TransformersEngine, "generate", end_at(3, "generate", generate))
    monkeypatch.setattr(Classifier, "logits", end_at(2, "logits", logits))
    for name in ("sampling", "rm-a/scoring"):
        with pytest.raises(KeyboardInterrupt):
            best_of_n(config, [str(judge)], 3, tmp_path, silent())
        assert read_json(tmp_path / "steps.json")[name]["state"] == "running"
    assert best_of_n(config, [str(judge)], 3, tmp_path, silent())["rewards"] == sampled[1]["rewards"]
    assert calls.count("generate") == 4 + 1 and calls.count("logits") == 2 + 1
    for lang in LANGUAGES:
        assert rows(tmp_path / "samples" / f"{lang}.parquet") == rows(sampled[0] / "samples" / f"{lang}.parquet")


def test_other_settings_are_refused(
    out: Path, tiny_pair: Pair, prompts: Path, judge: Path, tmp_path: Path, inline: list[str]
) -> None:
    policy = tiny_pair[0]
    with pytest.raises(UserError, match="this folder holds candidates of other") as raised:
        best_of_n(settings(policy, prompts, "sampling.n=8", "sampling.seed=1"), [str(judge)], 3, out, silent())
    assert "sampling.n: 5 → 8" in str(raised.value) and "sampling.seed: 42 → 1" in str(raised.value)
    other = shutil.copytree(judge, tmp_path / "other" / "rm-a")
    weights = load_file(other / "model.safetensors")
    save_file({name: -weight for name, weight in weights.items()}, other / "model.safetensors", {"format": "pt"})
    with pytest.raises(UserError, match="this folder holds scores named rm-a of other") as raised:
        best_of_n(settings(policy, prompts), [str(other)], 3, out, silent())
    assert "the reward model changed" in str(raised.value) and inline == []


def test_what_is_too_long_has_no_score(
    out: Path, tiny_pair: Pair, prompts: Path, judge: Path, tmp_path: Path, inline: list[str],
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    """Counted, never chosen, and no answer where all candidates of a prompt are too long."""
    reader = Classifier(str(judge), "fp32", 16384)
    spanish = rows(out / "samples" / "es.parquet")
    lengths = sorted(len(reader.token_ids(wrap_text(row["prompt"]), row["response"])) for row in spanish)
    short = make_classifier(tmp_path / "short", "own", context=lengths[8])
    shared = ["best-of-n", str(tiny_pair[0]), "--prompts", str(prompts), "--languages", "es,ru", "--out", str(out)]
    shared += ["--n", str(N), "--reward", str(short)]
    sets = ("backend=transformers", "precision=fp32", "max_tokens=8", "shard_size=3")
    app([*shared, *(part for s in sets for part in ("--set", f"sampling.{s}"))], standalone_mode=False)
    printed = capsys.readouterr().out
    scores = rows(out / "scores" / "short" / "es.parquet")
    dropped = [row for row in scores if row["score"] is None]
    assert 0 < len(dropped) < len(scores) and {row["dropped"] for row in dropped} == {"too_long"}
    result = read_json(out / "best" / "short" / "best_of_k.json")
    answered = {row["prompt_id"] for row in scores if row["score"] is not None}
    facts = result["languages"]["es"]
    assert facts == {"prompts": 6, "candidates": 30, "too_long": len(dropped), "without_answer": 6 - len(answered)}
    assert len(read_json(out / "best" / "short" / "es.json")) == len(answered)
    assert f"longer than short reads, without a score: es {len(dropped)}" in printed
    assert "expected short of the best of k" in printed and f"the best of 5: {out / 'best' / 'short'}" in printed


def test_everything_wrong_is_said_at_once(tiny_pair: Pair, prompts: Path, judge: Path, tmp_path: Path) -> None:
    config = settings(tiny_pair[0], prompts, "prompts.languages=[es, de]", "model=nowhere/at/all")
    rewards = [str(judge), str(judge), f"multilingual:{tiny_pair[0]}", f"cross-lingual:{judge},{judge}", "none.gguf"]
    with pytest.raises(ConfigError) as raised:
        best_of_n(config, rewards, 6, tmp_path / "out", silent())
    text = str(raised.value)
    for what in (
        "k is 6, but each prompt has 5 candidates", "write 1 to 5", "no prompts in de",
        "nowhere/at/all", "two rewards are called rm-a", "a log-ratio needs two models", "every reward is 0",
        "none.gguf",
    ):  # fmt: skip
        assert what in text, text
    assert not (tmp_path / "out").exists()


def test_models_of_other_tokens_cannot_score(tiny_pair: Pair, prompts: Path, tmp_path: Path) -> None:
    other = make_tiny_model(tmp_path / "other", vocab_size=400)
    spec = f"multilingual:{tiny_pair[0]},{other}"
    with pytest.raises(ConfigError, match="two models have different vocabularies"):
        best_of_n(settings(tiny_pair[0], prompts), [spec], None, tmp_path / "out", silent())


def test_scores_that_are_not_finite_are_refused(
    out: Path, tiny_pair: Pair, prompts: Path, judge: Path, tmp_path: Path, inline: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    """Not taken for too long, and not written."""
    values = [float("nan"), None, *[1.0] * 28]
    monkeypatch.setattr(Classifier, "logits", lambda self, pairs, reporter: values[: len(pairs)])
    other = shutil.copytree(judge, tmp_path / "rm-c")
    with pytest.raises(UserError, match="1 of 30 scores in es are not finite numbers: nan"):
        best_of_n(settings(tiny_pair[0], prompts), [str(other)], 3, out, silent())
    assert not list((out / "scores" / "rm-c").glob("*.parquet"))
    assert read_json(out / "steps.json")["rm-c/scoring"]["state"] == "failed"


LONGER = """
class Longer:
    def preferences(self, rows):
        return [0.5 + 0.5 * ((len(r["first"]) > len(r["second"])) - (len(r["first"]) < len(r["second"]))) for r in rows]
"""


def test_expected_win_rates_by_a_judge_of_all_candidates(
    out: Path, tiny_pair: Pair, prompts: Path, judge: Path, inline: list[str]
) -> None:
    (out.parent / "judges.py").write_text(LONGER)
    judging = find_judges([f"{out.parent / 'judges.py'}:Longer"], [], None)
    found = best_of_n(settings(tiny_pair[0], prompts), [str(judge)], 3, out, silent(), judging)
    assert set(inline) == {"ask"}  # neither sampled nor scored again
    wins = found["rewards"]["rm-a"]["win_rates"]["Longer"]
    assert read_json(out / "best" / "rm-a" / "win_rates.json") == {"Longer": wins}
    assert wins["baseline"] == "the first candidates" and wins["unscored"] == {"es": 0, "ru": 0}
    for lang in LANGUAGES:
        texts = np.array([len(row["response"]) for row in rows(out / "samples" / f"{lang}.parquet")]).reshape(6, N)
        scores = np.array([row["score"] for row in rows(out / "scores" / "rm-a" / f"{lang}.parquet")]).reshape(6, N)
        preferences = 0.5 + 0.5 * np.sign(texts - texts[:, :1])
        of_lang = {row["k"]: row["languages"][lang]["win_rate"] for row in wins["best_of_k"]}
        assert list(of_lang) == [1, 2, 3, 4, 5]
        assert of_lang[1] == pytest.approx(100 * preferences.mean())
        assert of_lang[N] == pytest.approx(100 * preferences[np.arange(6), scores.argmax(axis=1)].mean())
    before = len(inline)
    best_of_n(settings(tiny_pair[0], prompts), [str(judge)], 2, out, silent(), judging)
    assert len(inline) == before  # the judge is not asked again
    given = find_judges([f"{out.parent / 'judges.py'}:Longer"], [], out / "best" / "rm-a")
    found = best_of_n(settings(tiny_pair[0], prompts), [str(judge)], N, out, silent(), given)
    row = found["rewards"]["rm-a"]["win_rates"]["Longer"]
    assert row["baseline"] == "rm-a"
    with pytest.raises(UserError, match="this option is for judges, and no judge is named"):
        find_judges([], ["judge.budget=1"], None)
    with pytest.raises(ConfigError, match="two judges are called Longer"):
        find_judges([f"{out.parent / 'judges.py'}:Longer"] * 2, [], None)
