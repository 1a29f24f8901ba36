"""The whole loop by its command line, on a tiny model with the real engines."""

from __future__ import annotations

import importlib.util
import json
import os
import re
import signal
import subprocess
import time
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from tests.conftest import TEXTS, Config
from tests.helpers.command import ICR, icr
from tests.helpers.independent import NAMES, PREFIX, Model, best_gap, gap, rows
from tests.helpers.inline import run_inline

pytestmark = pytest.mark.timeout(1200)


def record(run: Path, number: int) -> dict[str, Any]:
    return json.loads((run / f"round-{number}" / "round.json").read_text())["stages"]


@pytest.fixture(scope="module")
def run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two rounds: vLLM samples, DeepSpeed ZeRO-2 on two ranks trains, a local model judges."""
    if importlib.util.find_spec("vllm") is None:
        pytest.skip("vLLM is not installed")
    folder = tmp_path_factory.mktemp("loop")
    config = tiny_config(folder, sampling={"backend": "vllm"}, train={"deepspeed": "zero2", "processes": 2})
    done = icr("iterate", "--config", config, "--rounds", 2)
    assert "report:" in done.stdout and "es" in done.stdout
    return folder / "run"


def test_every_stage_is_on_record(run: Path) -> None:
    assert set(record(run, 0)) == {"judge"}
    for number in (1, 2):
        stages = record(run, number)
        assert list(stages) == ["sample", "score", "pair", "train", "judge"]
        assert all(s["state"] == "done" and s["seconds"] > 0 and s["versions"]["torch"] for s in stages.values())
        assert stages["sample"]["counts"]["backend"] == "vllm"
        assert stages["sample"]["counts"]["responses"] == 3 * 6 * 4
        assert stages["train"]["counts"]["processes"] == 2
    logs = "".join(log.read_text() for log in (run / "logs").glob("engine-*.log"))
    assert logs.count(" built: ") == 1  # one worker, one engine, for both rounds and the judged answers
    status = json.loads(icr("status", run, "--json").stdout)
    assert "sample" in json.dumps(status)
    assert "round" in icr("status", run).stdout


@pytest.mark.parametrize("number", [1, 2])
def test_rewards_alpha_and_pairs_by_an_independent_forward(
    run: Path, tiny_pair: tuple[Path, Path], number: int
) -> None:
    """Round 2's policy is round 1's model, and the reference stays π_I: only then do the fp64 log-probs agree."""
    policy = Model(tiny_pair[0] if number == 1 else run / "round-1" / "model")
    reference = Model(tiny_pair[1])
    folder = run / f"round-{number}"
    pairs = {(p["lang"], p["prompt_id"]): p for p in rows(folder / "pairs.parquet")}
    alphas = json.loads((folder / "lengths.json").read_text())
    for lang in TEXTS:
        rewards = {(r["prompt_id"], r["sample"]): r for r in rows(folder / "rewards" / f"{lang}.parquet")}
        groups: dict[str, list[Any]] = defaultdict(list)
        for response in rows(folder / "responses" / f"{lang}.parquet"):
            english = TEXTS["en"].format(n=response["prompt_id"][1:])
            asked = english if lang == "en" else PREFIX.format(NAMES[lang]) + english
            mine = policy.logp(asked, response["token_ids"]), reference.logp(asked, response["token_ids"])
            theirs = rewards[response["prompt_id"], response["sample"]]
            tolerance = 1e-4 * len(response["token_ids"])
            assert theirs["policy_logp"] == pytest.approx(mine[0], abs=tolerance)
            assert theirs["reference_logp"] == pytest.approx(mine[1], abs=tolerance)
            assert theirs["length"] == len(response["response"])
            value = 0.1 * (theirs["policy_logp"] - theirs["reference_logp"]) - alphas[lang]["alpha"] * theirs["length"]
            assert theirs["reward"] == pytest.approx(value, abs=1e-12)
            groups[response["prompt_id"]].append((response, theirs))
        candidates = {k: [(r, t) for r, t in g if r["response"].strip()] for k, g in groups.items()}
        candidates = {k: g for k, g in candidates.items() if len(g) > 1}
        plain = [[0.1 * (t["policy_logp"] - t["reference_logp"]) for _, t in g] for g in candidates.values()]
        lengths = [[t["length"] for _, t in g] for g in candidates.values()]
        assert abs(gap(plain, lengths, alphas[lang]["alpha"])) == pytest.approx(best_gap(plain, lengths), abs=1e-9)
        assert alphas[lang]["gap"] == pytest.approx(gap(plain, lengths, alphas[lang]["alpha"]))
        for prompt_id, group in candidates.items():
            values = [t["reward"] for _, t in group]
            best, worst = group[int(np.argmax(values))][0], group[int(np.argmin(values))][0]
            if best["response"] == worst["response"]:
                assert (lang, prompt_id) not in pairs
                continue
            pair = pairs[lang, prompt_id]
            assert (pair["chosen_sample"], pair["rejected_sample"]) == (best["sample"], worst["sample"])
            assert pair["prompt"] == TEXTS[lang].format(n=prompt_id[1:])  # the prompt as asked, not the English one
            assert pair["chosen_ids"] == best["token_ids"] and pair["rejected_ids"] == worst["token_ids"]


def test_the_model_of_a_round_is_whole_and_new(run: Path, tiny_pair: tuple[Path, Path]) -> None:
    base = load_file(tiny_pair[0] / "model.safetensors")
    for number in (1, 2):
        trained = load_file(run / f"round-{number}" / "model" / "model.safetensors")
        assert trained.keys() == base.keys()
        assert all(not torch.equal(trained[k], base[k]) for k in base)
        assert (run / f"round-{number}" / "model" / "README.md").is_file()
        base = trained
    spec = json.loads((run / "jobs" / "round-2-train.json").read_text())
    assert spec["model"] == str(run / "round-1" / "model")


def test_the_judge_saw_both_orders(run: Path) -> None:
    first = json.loads((run / "round-0" / "judge" / "summary.json").read_text())
    assert all(row["win_rate"] == 50 for row in first["languages"].values())
    summary = json.loads((run / "round-2" / "judge" / "summary.json").read_text())
    for lang in TEXTS:
        verdicts = rows(run / "round-2" / "judge" / "verdicts" / f"{lang}.parquet")
        assert sorted(v["order"] for v in verdicts) == ["baseline-first"] * 4 + ["policy-first"] * 4
        mean = 100 * np.mean([v["preference"] for v in verdicts])
        assert summary["languages"][lang]["win_rate"] == pytest.approx(mean)
        assert summary["languages"][lang]["n"] == 4


def test_the_judge_of_a_round_is_audited_and_asked_again(run: Path) -> None:
    judge = run / "round-2" / "judge"
    found = json.loads(icr("judge", "audit", judge, "--repeats", "1", "--sample", "3", "--json").stdout)
    assert found["languages"].keys() == set(TEXTS)
    for row in found["languages"].values():
        assert row["verdicts"] == 2 * row["n"] and row["repeated"] == 2 * min(3, row["n"])
        assert row["position"] == {
            "value": None,
            "why": f"{row['n']} prompts are too few; an interval needs 6",
        }
        # a local judge reads the same probabilities again
        assert row["repeats_agree"]["value"] == 100 if row["n"] else row["repeats_agree"]["why"]
    refused = icr("judge", "audit", run / "round-0" / "judge", code=2)
    assert "which are not judged" in refused.stderr


def test_the_report_is_one_file_without_the_outside(run: Path) -> None:
    page = (run / "report.html").read_text(encoding="utf-8")
    assert "Spanish" in page and "default-src 'none'" in page
    # the one script keeps the reader's place where the page of a running run loads itself again
    assert page.count("<script") <= 1 and not re.search(r"<script[^>]*src", page)


def test_the_same_command_does_nothing_twice_and_another_config_is_refused(run: Path) -> None:
    config = run.parent / "config.yaml"
    before = {p: p.stat().st_mtime_ns for p in run.glob("round-*/**/*") if p.is_file()}
    icr("iterate", "--config", config)
    assert before == {p: p.stat().st_mtime_ns for p in run.glob("round-*/**/*") if p.is_file()}
    refused = icr("iterate", "--config", config, "--set", "sampling.seed=7", code=2)
    assert "sampling.seed: 42 → 7" in refused.stderr


def small(tiny_config: Config, folder: Path, **changes: Any) -> Path:
    """A config that starts fast: transformers samples, one process trains."""
    return tiny_config(folder, **{"judge": {"kind": "none"}, "rounds": 1, **changes})


@pytest.fixture
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """What the test is about is not that workers are processes."""
    run_inline(monkeypatch)


@pytest.fixture(scope="module")
def short_run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("short")
    with pytest.MonkeyPatch.context() as patch:
        run_inline(patch)
        icr("iterate", "--config", small(tiny_config, folder))
    return folder / "run"


@pytest.mark.usefixtures("inline")
def test_rounds_are_added_to_a_finished_run(short_run: Path) -> None:
    first = (short_run / "round-1" / "model" / "model.safetensors").stat().st_mtime_ns
    icr("iterate", "--run", short_run, "--rounds", 2)
    assert (short_run / "round-1" / "model" / "model.safetensors").stat().st_mtime_ns == first
    assert record(short_run, 2)["train"]["state"] == "done"


def test_a_quiet_run_prints_its_result_alone(short_run: Path) -> None:
    done = icr("iterate", "--run", short_run, "--json", "--quiet")
    found = json.loads(done.stdout)
    assert done.stderr == "" and found["run"] == str(short_run) and Path(found["report"]).is_file()


@pytest.mark.usefixtures("inline")
def test_a_run_starts_from_another_runs_round(short_run: Path, tiny_pair: tuple[Path, Path], tmp_path: Path) -> None:
    icr(
        "iterate",
        "--from",
        short_run / "round-1",
        "--run",
        tmp_path / "next",
        "--rounds",
        1,
        "--objective",
        "kto",
        "--set",
        "train.micro_batch_size=2",
    )
    names = json.loads((tmp_path / "next" / "round-0" / "model.json").read_text())
    assert names == {"policy": str(short_run / "round-1" / "model"), "reference": str(tiny_pair[1])}
    assert record(tmp_path / "next", 1)["train"]["counts"]["objective"] == "kto"
    policy, reference = Model(short_run / "round-1" / "model"), Model(tiny_pair[1])
    response = rows(tmp_path / "next" / "round-1" / "responses" / "en.parquet")[0]
    reward = rows(tmp_path / "next" / "round-1" / "rewards" / "en.parquet")[0]
    asked = TEXTS["en"].format(n=response["prompt_id"][1:])
    assert reward["policy_logp"] == pytest.approx(policy.logp(asked, response["token_ids"]), abs=2e-3)
    assert reward["reference_logp"] == pytest.approx(reference.logp(asked, response["token_ids"]), abs=2e-3)


def test_an_objective_of_the_users_own(tiny_config: Config, tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from loops.objective import PairObjective\n"
        "class Ipo(PairObjective):\n"
        "    def loss(self, logps):\n"
        "        chosen = logps.policy_chosen - logps.reference_chosen\n"
        "        h = chosen - (logps.policy_rejected - logps.reference_rejected)\n"
        "        return (h - 1 / (2 * self.beta)) ** 2, {}\n"
    )
    icr("iterate", "--config", small(tiny_config, tmp_path), "--objective", "mine:Ipo", cwd=tmp_path)
    assert record(tmp_path / "run", 1)["train"]["counts"]["objective"] == "mine:Ipo"


@pytest.mark.usefixtures("inline")
def test_english_alignment_makes_the_first_policy(
    tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path: Path
) -> None:
    pairs = [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "I will not, I will not"} for n in range(6)]
    (tmp_path / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    config = small(
        tiny_config,
        tmp_path,
        models={"policy": None},
        alignment={"pairs": str(tmp_path / "pairs.jsonl"), "learning_rate": 1e-3, "batch_size": 2},
        reward={"precision": "bf16", "flip_check": 6},
    )
    icr("iterate", "--config", config)
    run = tmp_path / "run"
    assert record(run, 0)["align"]["counts"]["steps"] == 3
    names = json.loads((run / "round-0" / "model.json").read_text())
    # relative to the run, so that its folder can be moved
    assert names == {"policy": "round-0/model", "reference": str(tiny_pair[1])}
    flips = record(run, 1)["score"]["counts"]["flips"]
    assert flips["checked"] == 6 and 0 <= flips["flipped"] <= 6
    policy = Model(run / "round-0" / "model")
    response = rows(run / "round-1" / "responses" / "en.parquet")[0]
    reward = rows(run / "round-1" / "rewards" / "en.parquet")[0]
    asked = TEXTS["en"].format(n=response["prompt_id"][1:])
    assert reward["policy_logp"] == pytest.approx(policy.logp(asked, response["token_ids"]), rel=0.05)


@pytest.mark.usefixtures("inline")
def test_single_stages_in_order(tiny_config: Config, tmp_path: Path) -> None:
    config = small(tiny_config, tmp_path)
    early = icr("sample", "--run", tmp_path / "run", "--round", 1, code=2)
    assert "is not a run folder" in early.stderr
    process = subprocess.Popen([*ICR, "iterate", "--config", str(config)], stderr=subprocess.PIPE, text=True)
    while not (tmp_path / "run" / "config.yaml").exists():
        time.sleep(0.05)
    process.send_signal(signal.SIGTERM)
    _, messages = process.communicate()
    assert process.returncode == 130 and f"icr iterate --config {config}" in messages and "Traceback" not in messages
    out_of_order = icr("train", "--run", tmp_path / "run", "--round", 1, code=2)
    assert "is not done" in out_of_order.stderr
    for stage in ("sample", "score", "pair"):
        icr(stage, "--run", tmp_path / "run", "--round", 1)
        assert record(tmp_path / "run", 1)[stage]["state"] == "done"
    assert "this run has no stage" in icr("pair", "--run", tmp_path / "run", "--round", 5, code=2).stderr


def test_two_commands_cannot_meet(tiny_config: Config, tmp_path: Path) -> None:
    config = small(tiny_config, tmp_path)
    first = subprocess.Popen(
        [*ICR, "iterate", "--config", str(config)], stderr=subprocess.DEVNULL, stdout=subprocess.DEVNULL
    )
    try:
        while not (tmp_path / "run" / "round-1" / "round.json").exists():
            time.sleep(0.05)
        os.kill(first.pid, signal.SIGSTOP)  # alive and holding the lock for as long as we look
        second = icr("iterate", "--config", config, code=2)
        assert "another command is using this run folder" in second.stderr and str(first.pid) in second.stderr
    finally:
        first.kill()
        first.wait()
