"""What may change between two commands on one run, and what is refused: settings, files, and runs of older versions."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from safetensors.torch import load_file, save_file

from icr.base.errors import UserError
from icr.base.rundir import RunDir
from icr.rounds.controller import Controller
from icr.rounds.preflight import load_checked
from tests.conftest import TEXTS, Config, write_prompts
from tests.helpers.command import icr
from tests.helpers.independent import rows
from tests.helpers.inline import run_inline, silent

CLASSES = {
    "reward.py": "class Shorter:\n    def rewards(self, rows):\n        return [-len(r['response']) for r in rows]\n",
    "judge.py": "class Even:\n    def preferences(self, rows):\n        return [0.5 for row in rows]\n",
    "ipo.py": "from loops.objective import PairObjective\n"
    "class Ipo(PairObjective):\n"
    "    def loss(self, logps):\n"
    "        chosen = logps.policy_chosen - logps.reference_chosen\n"
    "        h = chosen - (logps.policy_rejected - logps.reference_rejected)\n"
    "        return (h - 1 / (2 * self.beta)) ** 2, {}\n",
}
TEMPLATE = "{% for m in messages %}{{ m['role'] }}: {{ m['content'] }}\n{% endfor %}assistant:"


def iterate(config: Path, *overrides: str, run: Path | None = None) -> RunDir:
    settings = {"run": str(run)} if run else {}
    resolved, inputs = load_checked(config, list(overrides), settings)
    assert resolved.run is not None
    controller = Controller(RunDir(Path(resolved.run)), resolved, inputs, silent())
    try:
        controller.iterate()
    finally:
        controller.close()
    return controller.run


def refusal(config: Path, *overrides: str, run: Path | None = None) -> str:
    with pytest.raises(UserError) as caught:
        iterate(config, *overrides, run=run)
    return str(caught.value)


def files(run: Path) -> dict[Path, int]:
    return {p: p.stat().st_mtime_ns for p in run.glob("round-*/**/*") if p.is_file() and p.name != "round.json"}


@pytest.fixture(scope="module")
def inline() -> Iterator[list[str]]:
    with pytest.MonkeyPatch.context() as patch:
        yield run_inline(patch)


@pytest.fixture(scope="module")
def config(
    inline: list[str], tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> Path:
    """Of a finished run with every kind of input, all of them in its folder."""
    folder = tmp_path_factory.mktemp("inputs")
    for name, code in CLASSES.items():
        (folder / name).write_text(code)
    (folder / "template.jinja").write_text(TEMPLATE)
    pairs = [{"prompt": f"Say {n}.", "chosen": f"It is {n}.", "rejected": "I will not"} for n in range(4)]
    (folder / "pairs.jsonl").write_text("\n".join(map(json.dumps, pairs)))
    shutil.copytree(tiny_pair[1], folder / "reference")
    path = tiny_config(
        folder,
        rounds=1,
        models={
            "policy": None,
            "reference": str(folder / "reference"),
            "chat_template": str(folder / "template.jinja"),
        },
        alignment={"pairs": str(folder / "pairs.jsonl"), "learning_rate": 1e-3, "batch_size": 4},
        prompts={"path": str(write_prompts(folder / "train", range(1, 4)))},
        reward={"kind": f"{folder / 'reward.py'}:Shorter"},
        objective=f"{folder / 'ipo.py'}:Ipo",
        judge={
            "kind": f"{folder / 'judge.py'}:Even",
            "model": None,
            "prompts": str(write_prompts(folder / "heldout", range(11, 13))),
        },
    )
    iterate(path)
    return path


EDITS: dict[str, tuple[str, Callable[[str], str], str]] = {
    "a prompt": ("train/es.jsonl", lambda text: text.replace("Nombra 2", "Di 2"), "round 1 sample"),
    "an English prompt": ("train/en.jsonl", lambda text: text.replace("Name 2", "List 2"), "round 1 sample"),
    "a held-out prompt": ("heldout/ru.jsonl", lambda text: text.replace(" 11 ", " 99 "), "round 0 judge"),
    "the alignment pairs": ("pairs.jsonl", lambda text: text.replace("It is 1", "It was 1"), "round 0 align"),
    "the chat template": ("template.jinja", lambda text: text + " ", "round 0 align"),
    "the reward class": ("reward.py", lambda text: text.replace("-len", "-2 * len"), "round 1 score"),
    "the judge class": ("judge.py", lambda text: text.replace("0.5", "0.25"), "round 0 judge"),
    "the objective class": ("ipo.py", lambda text: text.replace("** 2", "** 4"), "round 1 train"),
}
NAMES = {
    "a prompt": "the prompts in es changed since",
    "an English prompt": "the prompts in en changed since",
    "a held-out prompt": "the held-out prompts in ru changed since",
    "the alignment pairs": "the English pairs changed since",
    "the chat template": "the chat template changed since",
    "the reward class": "the reward class changed since",
    "the judge class": "the judge class changed since",
    "the objective class": "the objective class changed since",
}


@pytest.mark.parametrize("what", EDITS)
def test_a_changed_input_is_refused_by_name_until_it_is_put_back(config: Path, what: str) -> None:
    name, edit, step = EDITS[what]
    file, before = config.parent / name, files(config.parent / "run")
    old = file.read_text(encoding="utf-8")
    assert edit(old) != old
    file.write_text(edit(old), encoding="utf-8")
    try:
        message = refusal(config)
    finally:
        file.write_text(old, encoding="utf-8")
    assert NAMES[what] in message and step in message and "use another --run" in message, message
    iterate(config)
    assert files(config.parent / "run") == before


def test_a_changed_model_is_refused(config: Path) -> None:
    file = config.parent / "reference" / "model.safetensors"
    old = file.read_bytes()
    weights = load_file(file)
    first = next(iter(weights))
    save_file({**weights, first: weights[first] + 1}, file, metadata={"format": "pt"})
    try:
        message = refusal(config)
    finally:
        file.write_bytes(old)
    assert "the reference changed since round 0 was aligned" in message
    iterate(config)


def test_a_removed_prompt_is_refused(config: Path) -> None:
    olds = {file: file.read_text(encoding="utf-8") for file in (config.parent / "train").iterdir()}
    for file, old in olds.items():
        file.write_text("".join(old.splitlines(keepends=True)[1:]), encoding="utf-8")
    try:
        message = refusal(config)
    finally:
        for file, old in olds.items():
            file.write_text(old, encoding="utf-8")
    assert all(f"the prompts in {lang} changed since round 1 was sampled" in message for lang in TEXTS)


def test_a_changed_setting_is_refused_with_both_values_and_the_way_out(config: Path) -> None:
    message = refusal(config, "sampling.n=3", "train.beta=0.2")
    assert "round 1 sample\n" in message and "sampling.n: 4 → 3" in message
    assert "round 1 train\n" in message and "train.beta: 0.1 → 0.2" in message
    assert "--from" in message and "another --run" in message


def test_a_hand_edited_config_of_the_run_is_noticed(config: Path) -> None:
    own = config.parent / "run" / "config.yaml"
    old = own.read_text()
    own.write_text(old.replace("  n: 4\n", "  n: 3\n", 1))
    assert own.read_text() != old
    try:
        message = refusal(own)
    finally:
        own.write_text(old)
    assert "sampling.n: 4 → 3" in message


OPERATIONAL = (
    "train.micro_batch_size=2",
    "train.gradient_checkpointing=true",
    "train.deepspeed=zero2",
    "train.nodes=2",
    "train.launcher=srun",
    "train.save_steps=7",
    "train.save_minutes=5",
    "reward.batch_tokens=2048",
    "reward.flip_check=0",
    "sampling.gpu_memory=0.5",
    "sampling.tensor_parallel=2",
    "judge.concurrency=3",
    "judge.budget=1",
    "judge.requests_per_minute=10",
    "judge.timeout=5",
)


def test_operational_settings_change_at_any_restart_and_are_kept_as_history(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    shutil.copytree(config.parent / "run", run)
    before = files(run)
    iterate(config, *OPERATIONAL, run=run)
    assert files(run) == before
    text = (run / "config.yaml").read_text()
    assert all(f" {setting.partition('=')[0]}: " in text for setting in OPERATIONAL)
    assert yaml.safe_load(text)["train"]["micro_batch_size"] == 2
    iterate(run / "config.yaml")
    assert files(run) == before and (run / "config.yaml").read_text() == text


class Plug(Exception):
    """Pulled while a stage is at work."""


def interrupt(config: Path, shards: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """A run that ends after so many shards of its first sampling."""
    written: list[Path] = []
    from icr.work import shards as module

    write = module.write_table

    def writing(path: Path, table: Any) -> None:
        if len(written) >= shards:
            raise Plug
        written.append(path)
        write(path, table)

    monkeypatch.setattr(module, "write_table", writing)
    with pytest.raises(Plug):
        iterate(config)
    monkeypatch.setattr(module, "write_table", write)


def test_what_was_begun_with_other_prompts_is_not_mixed(
    inline: list[str], tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A prompt is removed after two of five shards: every response is the one of a run that never had it."""
    prompts = write_prompts(tmp_path / "train", range(1, 6))
    small = {"rounds": 1, "prompts": {"path": str(prompts)}, "sampling": {"shard_size": 3}, "judge": {"kind": "none"}}
    config = tiny_config(tmp_path, **small)
    interrupt(config, 2, monkeypatch)
    shards = list((tmp_path / "run/round-1/responses/shards").rglob("*.parquet"))
    assert len(shards) == 2
    for file in prompts.iterdir():
        file.write_text("".join(file.read_text(encoding="utf-8").splitlines(keepends=True)[1:]), encoding="utf-8")
    iterate(config)
    fresh = iterate(config, run=tmp_path / "fresh")
    for lang in TEXTS:
        name = f"round-1/responses/{lang}.parquet"
        assert rows(tmp_path / "run" / name) == rows(fresh.path / name)
        assert {row["prompt_id"] for row in rows(tmp_path / "run" / name)} == {"p2", "p3", "p4", "p5"}


def make_old(run: Path) -> None:
    """The records as versions before keys wrote them."""
    for file in run.glob("round-*/round.json"):
        record = json.loads(file.read_text())
        for stage in record["stages"].values():
            for key in ("key", "inputs", "settings"):
                del stage[key]
        file.write_text(json.dumps(record))


def test_a_run_of_an_older_version_opens(config: Path, tmp_path: Path) -> None:
    run = tmp_path / "old"
    shutil.copytree(config.parent / "run", run)
    make_old(run)
    before = files(run)
    assert "round" in icr("status", run).stdout
    icr("report", run)
    message = refusal(config, "sampling.n=3", run=run)
    assert "sampling.n: 4 → 3" in message
    iterate(config, run=run)
    assert files(run) == before
    assert all(s.key for at in RunDir(run).rounds() for s in at.record.stages.values())  # known from now on
    resolved, _ = load_checked(config, [], {"run": str(run)})
    assert resolved.run == str(run)


def test_a_run_of_an_older_version_goes_on(
    inline: list[str], tiny_config: Config, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its finished steps stay; what it had in hand is done again."""
    config = tiny_config(tmp_path, rounds=1, judge={"kind": "none"})
    calm = iterate(config, run=tmp_path / "calm")
    run = tmp_path / "run"
    shutil.copytree(calm.path, run)
    record = json.loads((run / "round-1" / "round.json").read_text())
    del record["stages"]["train"], record["stages"]["pair"]
    (run / "round-1" / "round.json").write_text(json.dumps(record))
    for name in ("model", "train"):
        shutil.rmtree(run / "round-1" / name)
    (run / "round-1" / "pairs.parquet").unlink()
    make_old(run)
    rewards = files(run)
    iterate(config)
    assert rewards.items() <= files(run).items()
    assert rows(run / "round-1/pairs.parquet") == rows(calm.path / "round-1/pairs.parquet")
    ours, theirs = (load_file(at / "round-1/model/model.safetensors") for at in (run, calm.path))
    assert all((ours[name] == theirs[name]).all() for name in theirs)


def test_a_new_run_starts_from_an_older_ones_round(
    inline: list[str], config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from typer.testing import CliRunner

    from icr.commands.main import app

    run = tmp_path / "old"
    shutil.copytree(config.parent / "run", run)
    make_old(run)
    done = CliRunner().invoke(app, ["iterate", "--from", f"{run}/round-1", "--run", f"{tmp_path}/new", "--rounds", "1"])
    assert done.exit_code == 0, done.output
    names = json.loads((tmp_path / "new" / "round-0" / "model.json").read_text())
    assert names["policy"] == str(run / "round-1" / "model")
