"""`icr transfer` and `icr rm train`, killed at random moments: the same tables, and nothing finished is done twice."""

from __future__ import annotations

import json
from itertools import pairwise
from pathlib import Path

import pytest
import torch
import yaml
from safetensors.torch import load_file

from tests.conftest import write_prompts
from tests.experiments.test_transfer_align import JUDGES
from tests.helpers.forked import Job, Start, kill_forks
from tests.helpers.reward_models import make_encoder, make_folder, pair_rows, write_config

pytestmark = pytest.mark.timeout(900)
TRAIN = {
    "learning_rate": 3e-3, "batch_size": 8, "micro_batch_size": 8, "epochs": 4, "precision": "fp32", "save_steps": 2,
    "deepspeed": "none", "gradient_checkpointing": False, "validation_steps": 4,
}  # fmt: skip


@pytest.fixture(scope="module")
def killed(
    tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory
) -> tuple[Path, dict[str, list[Start]]]:
    """Jobs, done without kills and with them: the folder of their runs, and the starts of each."""
    folder = tmp_path_factory.mktemp("kills")
    data = make_folder(folder / "more", pair_rows(32))
    training = write_config(folder / "rm", make_encoder(folder / "base"), data, train=TRAIN)
    transfer = experiment(folder, tiny_pair[0])
    jobs = {
        "x": Job(command=["transfer", str(transfer)], calm=str(folder / "x-calm"), killed=str(folder / "x"), kills=6,
                 training=3, longest=2.5, inline=True),
        "sides": Job(command=["transfer", str(transfer)], calm=str(folder / "x-calm"), killed=str(folder / "sides"),
                     kills=4, training=2, longest=2.5, inline=True, nodes=2),
        "rm": Job(command=["rm", "train", str(training)], calm=str(folder / "rm-calm"), killed=str(folder / "rm-run"),
                  kills=1, training=1, longest=1.0, inline=False),
    }  # fmt: skip
    return folder, dict(zip(jobs, kill_forks(folder, list(jobs.values()), 600), strict=True))


def experiment(folder: Path, policy: Path) -> Path:
    (folder / "judges.py").write_text(JUDGES)
    sampling = {"n": 4, "backend": "transformers", "precision": "fp32", "max_tokens": 8, "shard_size": 2}
    content = {
        "run": "unset",
        "base": str(make_encoder(folder / "encoder")),
        "languages": {"sources": ["en", "es"], "targets": ["en", "es"]},
        "data": {
            "preferences": str(make_folder(folder / "pairs", pair_rows(32))),
            "prompts": str(write_prompts(folder / "prompts", range(1, 7))),
        },
        "reward_model": {"train": TRAIN},
        "align": {
            "policy": str(policy),
            "best_of_n": sampling,
            "dpo": {
                "prompts": str(write_prompts(folder / "trained", range(11, 19))),
                "train": {key: value for key, value in TRAIN.items() if key != "validation_steps"},
            },
        },
        "judges": [{"kind": f"{folder / 'judges.py'}:Longer"}],
    }
    (folder / "x.yaml").write_text(yaml.safe_dump(content), encoding="utf-8")
    return folder / "x.yaml"


def check_starts(starts: list[Start], fewest: int) -> None:
    """Enough of them were killed, some inside a training, and what was finished stayed as it was."""
    assert starts[-1]["ended"] == 0
    ended = [start for start in starts if start["ended"] == -9]
    assert len(ended) >= fewest and any(start["inside"] for start in ended)
    for before, after in pairwise(starts):
        kept = {name: after["finished"].get(name) for name in before["finished"]}
        assert kept == before["finished"]


def check_trainings(run: Path) -> None:
    """Every step once, in order."""
    files = list(run.glob("**/metrics.jsonl"))
    for file in files:
        steps = [json.loads(line)["step"] for line in file.read_text().splitlines()]
        assert steps == list(range(1, len(steps) + 1)), file
    assert files


def same_weights(one: Path, other: Path) -> bool:
    first, second = load_file(one / "model.safetensors"), load_file(other / "model.safetensors")
    return first.keys() == second.keys() and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("job", ["x", "sides"])
def test_an_experiment_that_is_killed_ends_with_the_same_tables(
    job: str, killed: tuple[Path, dict[str, list[Start]]]
) -> None:
    """Also one whose steps go on side by side on a cluster, as those of one step after the other."""
    folder, starts = killed
    check_starts(starts[job], 3)
    one, other = folder / "x-calm", folder / job
    tables = sorted(file.name for file in (one / "tables").iterdir())
    assert "win_rates.csv" in tables and tables == sorted(file.name for file in (other / "tables").iterdir())
    for name in tables:
        assert (one / "tables" / name).read_bytes() == (other / "tables" / name).read_bytes(), name
    for name in ("rm-en", "rm-es", "dpo-en-es", "dpo-es-es"):
        assert same_weights(one / "steps" / name / "model", other / "steps" / name / "model")
    check_trainings(other)
    assert not [file for file in other.rglob("*") if file.name == "shards" or file.suffix == ".tmp"]


def test_a_training_that_is_killed_goes_on_in_processes_of_its_own(
    killed: tuple[Path, dict[str, list[Start]]],
) -> None:
    """The driver is killed inside the training, whose process has to end with it."""
    folder, starts = killed
    check_starts(starts["rm"], 1)
    one, other = folder / "rm-calm", folder / "rm-run"
    assert same_weights(one / "model", other / "model")
    check_trainings(other)
    results = [json.loads((run / "validation.json").read_text()) for run in (one, other)]
    assert results[0]["languages"] == results[1]["languages"] and results[0]["gap"] == results[1]["gap"]
