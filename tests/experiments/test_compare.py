"""`icr compare`: what is shared, and that a variant is the run that it would have been alone."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch
from safetensors.torch import load_file
from scipy.stats import spearmanr

from icr.base.errors import ConfigError, UserError
from icr.base.files import read_json
from icr.base.plugins import load_class
from icr.base.rundir import RunDir
from icr.experiments.compare import compare, competing_rewards, make_variants, rank_correlation
from icr.experiments.variants import run_variants
from icr.report.compare_tables import compare_tables, write_page
from icr.report.compare_tables import rows as rows_of
from icr.rounds.contents import identify_inputs
from icr.rounds.controller import Controller
from icr.rounds.plan import RunPlan
from icr.rounds.preflight import load_checked
from icr.translation import translation_of
from tests.helpers.independent import rows
from tests.helpers.inline import run_inline, silent

KINDS = ("cross-lingual", "multilingual", "translate", "random")


@pytest.mark.timeout(900)
def test_four_kinds_sample_once_and_equal_four_separate_runs(
    tiny_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = run_inline(monkeypatch)
    # an untrained model's translations are in no language: here any text counts as one
    monkeypatch.setattr("icr.translation.failure", lambda text, *rest: None if translation_of(text) else "empty")
    config = tiny_config(tmp_path, rounds=1, prompts={"limit": 3, "languages": ["en", "es"]}, judge={"limit": 1})
    vary, out = [f"reward.kind={','.join(KINDS)}"], tmp_path / "out"
    variants = make_variants(config, vary, out, [], {})
    assert not run_variants(variants, out, silent())
    # the responses and round 0's answers, once each; what every variant's own policy answers
    assert tasks.count("sample") == 1 + 1 + len(KINDS) and tasks.count("train") == len(KINDS)
    result = json.loads(json.dumps(compare(variants, out)))
    assert list(result["variants"]) == [f"kind={kind}" for kind in KINDS]
    for kind in KINDS[1:]:
        shared = result["shared"][f"kind={kind}"]
        assert shared == {"round 0 judge": "kind=cross-lingual", "round 1 sample": "kind=cross-lingual"}
        counts = next(v for v in variants if v.name == f"kind={kind}").run.round(1).record.stages["sample"].counts
        assert counts["shared_with"] == "kind=cross-lingual"
    for kind in KINDS:
        alone = RunDir(tmp_path / f"alone-{kind}")
        settings = {"run": str(alone.path), "reward.kind": kind}
        controller = Controller(alone, *load_checked(config, [], settings), silent())
        controller.iterate()
        controller.close()
        assert_same(alone.round(1).path, out / "variants" / f"kind={kind}" / "round-1")
        row = next(r for r in rows_of(result) if (r["language"], r["variant"]) == ("average", f"kind={kind}"))
        summary = read_json(alone.round(1).summary)
        assert row["win_rate"] == summary["average"]["win_rate"]
        assert row["mean_length"] == summary["average"]["mean_length"]
    one, two = (out / "variants" / f"kind={kind}" / "round-1" for kind in KINDS[:2])
    pair = result["agreement"][0]
    assert pair["variants"] == [f"kind={kind}" for kind in KINDS[:2]]
    assert pair["languages"]["es"] == pytest.approx(agreement_by_hand(one, two, "es"))
    page = write_page(result, out).read_text(encoding="utf-8")
    assert "Do the rewards agree?" in page and all(kind in page for kind in KINDS)
    before = len(tasks)
    run_variants(variants, out, silent())
    assert len(tasks) == before  # nothing is done twice

    def unlike(*folders: Path) -> None:
        raise UserError("these two have no judged items in common")

    monkeypatch.setattr("icr.experiments.compare.difference", unlike)
    apart = compare(variants, out)
    assert apart["differences"] == {} and list(apart["not_compared"]) == [f"kind={kind}" for kind in KINDS[1:]]
    assert "kind=random is not compared: these two have" in write_page(apart, out).read_text(encoding="utf-8")


def test_what_is_measured_of_shared_responses_is_measured_once(
    tiny_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    tasks = run_inline(monkeypatch)
    config = tiny_config(tmp_path, rounds=1, judge={"kind": "none"})
    variants = make_variants(config, ["reward.length_penalty=fit,none"], tmp_path / "out", [], {})
    run_variants(variants, tmp_path / "out", silent())
    # three shards of prompts: sampled once, scored once by either model
    assert (tasks.count("sample"), tasks.count("logps"), tasks.count("train")) == (3, 6, 2)
    assert not list((tmp_path / "out").glob("measured/*"))  # gone once every variant is done
    alphas = [set(found["1"]["alpha"].values()) for found in compare(variants, tmp_path / "out")["variants"].values()]
    assert alphas[1] == {0.0} and alphas[0] != {0.0}


def test_a_variant_that_cannot_go_on_does_not_hold_up_the_others(
    tiny_config: Callable[..., Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run_inline(monkeypatch)
    monkeypatch.setattr("icr.translation.failure", lambda *answer: "wrong_language")
    judge = {"kind": "eval.layout:OneParagraph", "model": None, "limit": 1}
    config = tiny_config(tmp_path, rounds=1, prompts={"limit": 2}, judge=judge)
    variants = make_variants(config, ["reward.kind=translate,random"], tmp_path / "out", [], {})
    failed = run_variants(variants, tmp_path / "out", silent())
    assert list(failed) == ["kind=translate"] and "translation" in str(failed["kind=translate"])
    result = compare(variants, tmp_path / "out")
    done = next(r for r in rows_of(result) if (r["language"], r["variant"]) == ("average", "kind=random"))
    left = next(r for r in rows_of(result) if (r["language"], r["variant"]) == ("average", "kind=translate"))
    assert done["win_rate"] is not None and left["win_rate"] is None and done["difference"] is None
    page = write_page(result, tmp_path / "out").read_text(encoding="utf-8")
    assert "kind=translate" in page and "Judge: eval.layout:OneParagraph." in page
    console = silent()
    with console.capture() as shown:
        console.print(compare_tables(result))
    assert "win rate" in shown.get()


def assert_same(one: Path, two: Path) -> None:
    tables = [f"{kind}/{lang}.parquet" for kind in ("responses", "rewards") for lang in ("en", "es")]
    for name in ("pairs.parquet", *tables):
        assert rows(one / name) == rows(two / name), name
    a, b = (load_file(f / "model" / "model.safetensors") for f in (one, two))
    assert a.keys() == b.keys() and all(torch.equal(a[k], b[k]) for k in a)
    assert read_json(one / "judge/summary.json") == read_json(two / "judge/summary.json")


def agreement_by_hand(one: Path, two: Path, lang: str) -> dict[str, float]:
    rewards = []
    for folder in (one, two):
        by_prompt: dict[str, list[float]] = {}
        for row in rows(folder / "rewards" / f"{lang}.parquet"):
            by_prompt.setdefault(row["prompt_id"], []).append(row["reward"])
        rewards.append(by_prompt)
    correlations = [spearmanr(rewards[0][id], rewards[1][id]).statistic for id in rewards[0]]
    pairs = [{r["prompt_id"]: (r["chosen"], r["rejected"]) for r in rows(f / "pairs.parquet") if r["lang"] == lang}
             for f in (one, two)]  # fmt: skip
    both = pairs[0].keys() & pairs[1].keys()
    equal = sum(pairs[0][id] == pairs[1][id] for id in both) / len(both)
    return {"rank_correlation": sum(correlations) / len(correlations), "equal_pairs": equal, "prompts": len(both)}


def plan(config: Path, **changes: Any) -> RunPlan:
    settings = {key.replace("__", "."): value for key, value in changes.items()}
    found, inputs = load_checked(config, [], settings)
    return RunPlan(found, identify_inputs(found, inputs))


def test_stages_have_one_name_exactly_when_their_inputs_are_one(
    tiny_config: Callable[..., Path], tmp_path: Path
) -> None:
    config = tiny_config(tmp_path)
    base, none = plan(config), plan(config, reward__length_penalty="none")
    previous, kto = plan(config, reward__reference="previous"), plan(config, objective="kto")
    sampled = plan(config, sampling__temperature=0.5)
    assert (
        base.step(1, "sample").key
        == none.step(1, "sample").key
        == previous.step(1, "sample").key
        == kto.step(1, "sample").key
    )
    assert (
        base.step(1, "sample").key != base.step(2, "sample").key
        and base.step(1, "sample").key != sampled.step(1, "sample").key
    )
    assert base.step(1, "score").key != none.step(1, "score").key
    assert base.pass_key(1, "policy") == none.pass_key(1, "policy")  # α comes off afterwards
    assert base.pass_key(1, "policy") != base.pass_key(1, "reference")
    assert base.step(2, "sample").key != none.step(2, "sample").key  # other pairs, another policy
    # in round 1 the previous policy is π_I: the two references part in round 2
    assert base.step(1, "train").key == previous.step(1, "train").key
    assert (
        base.step(2, "sample").key == previous.step(2, "sample").key
        and base.step(2, "score").key != previous.step(2, "score").key
    )
    assert base.pass_key(2, "policy") == previous.pass_key(2, "policy")
    assert base.pass_key(2, "reference") != previous.pass_key(2, "reference")
    assert base.step(1, "pair").key == kto.step(1, "pair").key and base.step(1, "train").key != kto.step(1, "train").key
    assert (
        base.step(0, "judge").key == kto.step(0, "judge").key and base.step(1, "judge").key != kto.step(1, "judge").key
    )


def test_variants_are_all_combinations_and_the_first_is_the_baseline(
    tiny_config: Callable[..., Path], tmp_path: Path
) -> None:
    vary = ["reward.kind=cross-lingual,random", "reward.length_penalty=fit,none,0.01"]
    variants = make_variants(tiny_config(tmp_path), vary, tmp_path / "out", [], {})
    assert [v.name for v in variants][:2] == [
        "kind=cross-lingual, length_penalty=fit",
        "kind=cross-lingual, length_penalty=none",
    ]
    assert len({str(v.run.path) for v in variants}) == 6
    assert variants[-1].config.reward.length_penalty == 0.01 and variants[-1].config.reward.kind == "random"


@pytest.mark.parametrize(
    ("vary", "says"),
    [
        (["reward.kind"], "values are missing"),
        (["reward.kind=random,random"], "a value is repeated"),
        (["reward.kind=random", "reward.kind=translate"], "varied twice"),
        (["judge.model=a,b"], "cannot be varied"),
        (["train.lora={rank: 8},{rank: 4"], "not valid YAML"),
        (["sampling.stop=[a+b],[a@b]"], "the same folder name"),
    ],
)
def test_what_cannot_be_varied(tiny_config: Callable[..., Path], tmp_path: Path, vary: list[str], says: str) -> None:
    with pytest.raises(UserError, match=says):
        make_variants(tiny_config(tmp_path), vary, tmp_path / "out", [], {})


def test_values_may_be_lists_and_files_of_one_name(tiny_config: Callable[..., Path], tmp_path: Path) -> None:
    for folder, sign in (("a", 1), ("b", -1)):
        (tmp_path / folder).mkdir()
        code = f"class R:\n    def rewards(self, rows):\n        return [{sign} * len(r['response']) for r in rows]\n"
        (tmp_path / folder / "random.py").write_text(code)
    kinds = [f"{tmp_path / folder / 'random.py'}:R" for folder in "ab"]
    vary = [f"reward.kind={','.join(kinds)}", "train.lora.target_modules=[q_proj, v_proj],all-linear"]
    config = tiny_config(tmp_path, train={"lora": {"rank": 4}})
    variants = make_variants(config, vary, tmp_path / "out", [], {})
    assert len({v.run.path for v in variants}) == len({v.name for v in variants}) == 4
    assert [v.config.train.lora.target_modules for v in variants[:2]] == [["q_proj", "v_proj"], "all-linear"]  # type: ignore[union-attr]
    classes = [load_class(kind, "reward.kind") for kind in kinds]
    assert [c().rewards([{"response": "abc"}]) for c in classes] == [[3], [-3]]
    assert not hasattr(sys.modules.get("random"), "R")  # the standard library's is still its own


def test_only_responses_that_compete_are_correlated(tmp_path: Path) -> None:
    """p1: an empty response and a dropped one are left out, and what is left agrees. p2: there is a tie."""
    at = RunDir(tmp_path).round(1)
    texts = {"p1": ["a", "b", " ", "c", "d"], "p2": ["a", "b", "c"]}
    rewards = {"p1": [1.0, 2.0, 9.0, 3.0, -5.0], "p2": [1.0, 1.0, 2.0]}
    keys = [(id, k) for id, of in texts.items() for k in range(len(of))]
    responses = [{"prompt_id": id, "sample": k, "response": texts[id][k]} for id, k in keys]
    table = [{"prompt_id": id, "sample": k, "reward": rewards[id][k], "dropped": None} for id, k in keys]
    table[4]["dropped"] = "truncated"
    for name, of in (("responses", responses), ("rewards", table)):
        (at.path / name).mkdir(parents=True)
        pq.write_table(pa.Table.from_pylist(of), at.path / name / "en.parquet")
    found = competing_rewards(at, "en")
    assert found == {"p1": {0: 1.0, 1: 2.0, 3: 3.0}, "p2": {0: 1.0, 1: 1.0, 2: 2.0}}
    other = {"p1": {0: 5.0, 1: 6.0, 2: 0.0, 3: 7.0}, "p2": {0: 0.1, 1: 0.2}}
    assert rank_correlation(found["p1"], other["p1"]) == pytest.approx(1.0)
    assert rank_correlation(found["p2"], other["p2"]) is None  # on the two that both have, the first has a tie


def test_the_problems_of_all_variants_are_told_at_once(tiny_config: Callable[..., Path], tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        make_variants(tiny_config(tmp_path), ["reward.kid=random,x", "sampling.n=1,4"], tmp_path / "out", [], {})
    assert "reward.kind" in str(caught.value) and "sampling.n" in str(caught.value)
