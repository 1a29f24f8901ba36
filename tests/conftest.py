"""Shared fixtures. Nothing here, nor in any test, reaches beyond this machine."""

from __future__ import annotations

import json
import os
import warnings
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
import yaml

if TYPE_CHECKING:
    from tests.helpers.public_repositories import Public

os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
os.environ["ICR_JUDGE_CACHE"] = "none"  # a stub at the port of an earlier one is another server
os.environ["ICR_RATES"] = "none"  # tiny models say nothing about real ones

if workers := int(os.environ.get("PYTEST_XDIST_WORKER_COUNT", "0")):
    import torch

    # more threads than cores wait for one another: a tiny training took three times as long
    torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // workers))

Config = Callable[..., Path]
"""What `tiny_config` gives: a folder and changes to the config → its file."""
TEXTS = {
    "en": "Name {n} animals that live in the sea.",
    "es": "Nombra {n} animales que viven en el mar.",
    "ru": "Назовите {n} животных, которые живут в море.",
}


LONGEST = (
    "test_loop",
    "test_resume",
    "test_judging",
    "test_ray_pool",
    "test_ray_training",
    "test_kills",
    "test_train_resume",
    "test_rl",
    "test_nodes",
    "test_train",
    "test_compare",
    "test_mtbench_whole",
    "test_recipes_train",
    "test_variants",
    "test_beside",
    "test_vllm_server",
    "test_driver_killed",
    "test_transfer_nodes",
)
"""Test files of minutes. Begun last, one of them would go on alone while the other processes wait."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    items.sort(key=lambda item: LONGEST.index(item.path.stem) if item.path.stem in LONGEST else len(LONGEST))


def write_prompts(folder: Path, ids: range) -> Path:
    """Parallel prompts in three languages."""
    folder.mkdir(parents=True, exist_ok=True)
    for lang, text in TEXTS.items():
        lines = [json.dumps({"id": f"p{n}", "instruction": text.format(n=n)}, ensure_ascii=False) for n in ids]
        (folder / f"{lang}.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")
    return folder


@pytest.fixture(scope="session")
def public_repositories(tmp_path_factory: pytest.TempPathFactory) -> Public:
    """Small git repositories in place of the public ones that `icr data get` reads."""
    from tests.helpers.public_repositories import make_public_repositories

    return make_public_repositories(tmp_path_factory.mktemp("github"))


@pytest.fixture
def public(public_repositories: Public, monkeypatch: pytest.MonkeyPatch) -> Public:
    """The same, and the data sets are those of these repositories."""
    public_repositories.use(monkeypatch)
    return public_repositories


@pytest.fixture(scope="session")
def tiny_pair(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """π_I, and a π_θ⁰ a little away from it: two tiny folders with one tokenizer."""
    from tests.helpers.tiny_models import make_tiny_pair

    return make_tiny_pair(tmp_path_factory.mktemp("models"))


@pytest.fixture(scope="session")
def tiny_config(tiny_pair: tuple[Path, Path], tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Writes a config of a small run on the tiny models; keyword arguments replace whole sections or keys."""
    return partial(write_tiny_config, tiny_pair, write_two_sets(tmp_path_factory.mktemp("prompts")))


def write_two_sets(folder: Path) -> tuple[Path, Path]:
    """Prompts to train on, and held-out ones."""
    return write_prompts(folder / "train", range(1, 7)), write_prompts(folder / "heldout", range(11, 15))


def write_tiny_config(pair: tuple[Path, Path], sets: tuple[Path, Path], folder: Path, **changes: Any) -> Path:
    """`tiny_config` without fixtures; `pair`: policy and reference; `sets`: of prompts to train on, and held-out."""
    policy, reference = pair
    train, heldout = sets
    config: dict[str, Any] = {
        "run": str(folder / "run"),
        "rounds": 2,
        "models": {"policy": str(policy), "reference": str(reference)},
        "prompts": {"path": str(train), "languages": ["en", "es", "ru"]},
        "sampling": {"backend": "transformers", "precision": "fp32", "n": 4, "max_tokens": 12, "shard_size": 6},
        "reward": {"precision": "fp32"},
        "train": {
            "learning_rate": 1e-3,
            "batch_size": 4,
            "precision": "fp32",
            "deepspeed": "none",
            "gradient_checkpointing": False,
            "save_steps": 2,
        },
        "judge": {"kind": "local", "model": str(reference), "prompts": str(heldout), "max_tokens": 12},
    }
    for key, value in changes.items():
        if isinstance(value, dict):
            config[key] = {**config.get(key, {}), **value}
        else:
            config[key] = value
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / "config.yaml"
    path.write_text(yaml.safe_dump(config, allow_unicode=True), encoding="utf-8")
    return path


@pytest.fixture
def make_round(tiny_config: Config, tiny_pair: tuple[Path, Path], tmp_path: Path) -> Callable[..., Any]:
    """Makes `tests.helpers.kinds.make_context` of a reward kind; keyword arguments are keys of `reward`."""
    from tests.helpers.kinds import ALPHA, make_context

    def made(kind: str, folder: str = "a", samples: int = 3, previous: Path | None = None, **reward: Any) -> Any:
        settings = {"kind": kind, "length_penalty": ALPHA, "precision": "fp32", **reward}
        return make_context(tmp_path / folder, tiny_config, tiny_pair, samples, previous, reward=settings)

    return made


@pytest.fixture(scope="session")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tiny model that trainings start from."""
    from tests.helpers.tiny_models import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("base"))


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A tiny model with room for a conversation of MT-Bench and its judge."""
    from tests.helpers.tiny_models import make_tiny_model

    return make_tiny_model(tmp_path_factory.mktemp("model"), context=4096)


@pytest.fixture(scope="session")
def tasks(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with the lm-eval tasks of `tests.helpers.quiz`."""
    from tests.helpers.quiz import write_tasks

    return write_tasks(tmp_path_factory.mktemp("tasks"))


@pytest.fixture
def own_data_cache(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lm-eval's data sets leave behind goes away with the tests."""
    import datasets

    folder = str(tmp_path_factory.getbasetemp() / "datasets")
    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", folder)
    monkeypatch.setenv("HF_DATASETS_CACHE", folder)


@pytest.fixture(autouse=True)
def another_command() -> None:
    """A test is a command: it has spent nothing before."""
    from icr.endpoint.ledger import command_ledger

    command_ledger.cache_clear()


@pytest.fixture
def quiet(capfd: pytest.CaptureFixture[str]) -> Iterator[None]:
    """Nothing warns and nothing is printed."""
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        yield
    assert capfd.readouterr() == ("", "")
