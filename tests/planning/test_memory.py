"""Peak memory by hand, what does not fit, and advice that `icr validate` takes."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from icr.engines.sizes import CheckpointSize
from icr.planning.devices import GPUS, Device
from icr.planning.facts import LIKE_LLAMA, ModelFacts, Shape
from icr.planning.formulas import RESERVE
from icr.planning.memory import Change, Misfit, find_misfits, find_need
from icr.rounds.preflight import load_checked
from tests.conftest import Config
from tests.helpers.planning import LENGTHS, PARAMETERS, made_setup

GIB = 2**30
CPU = Device("a processor, 2 cores", "cpu", 24 * GIB, 1e11, 2e11, 1e10, "")
LLAMA_70B = ModelFacts(CheckpointSize(70_553_706_496, 2 * 70_553_706_496), Shape(*LIKE_LLAMA[70.6e9]), "")


def misfits(**changes: Any) -> dict[str, Misfit]:
    return {misfit.stage: misfit for misfit in find_misfits(made_setup(**changes), LENGTHS)}


@pytest.mark.parametrize(
    ("train", "bytes_a_parameter"),
    [({}, 2 + 16 / 8), ({"deepspeed": "zero3"}, 18 / 8), ({"deepspeed": "none"}, 16), ({"lora": {}}, 2)],
)
def test_states_of_a_training(train: dict[str, Any], bytes_a_parameter: float) -> None:
    """ZeRO-2: bf16 weights whole, and gradients, master weights and two moments shared out to 8."""
    need = find_need(made_setup(train=train), LENGTHS, "train", 0)
    assert need.device["weights, gradients, optimiser"] == pytest.approx(bytes_a_parameter * PARAMETERS)
    assert need.device["activations"] > 0 and need.on_device == sum(need.device.values())


def test_an_engine_takes_its_share_of_the_card() -> None:
    need = find_need(made_setup(sampling={"gpu_memory": 0.8}), LENGTHS, "sample", 1000)
    assert need.on_device == pytest.approx(0.8 * GPUS["h100"].memory)
    assert need.device["engine's weights"] == 2 * PARAMETERS and need.device["engine's buffers"] == RESERVE
    # while others work, each of 8 engines keeps its weights in the host's memory
    assert need.host["sleeping engines"] == 0
    assert find_need(made_setup(), LENGTHS, "score", 0).host["sleeping engines"] == 8 * 2 * PARAMETERS
    two = find_need(made_setup(sampling={"tensor_parallel": 2}), LENGTHS, "sample", 1000)
    assert two.device["engine's weights"] == PARAMETERS


def test_policy_and_reference_are_side_by_side_where_there_is_room() -> None:
    assert find_need(made_setup(), LENGTHS, "score", 0).device["scorer's weights"] == 4 * PARAMETERS
    small = find_need(made_setup(device=GPUS["4090"]), LENGTHS, "score", 0)
    assert small.device["scorer's weights"] == 2 * PARAMETERS
    none = find_need(made_setup(reward={"kind": "random"}), LENGTHS, "score", 0)
    assert not none.device


def test_on_a_processor_all_is_in_the_hosts_memory() -> None:
    need = find_need(made_setup(CPU, sampling={"precision": "bf16"}), LENGTHS, "sample", 0)
    assert not need.device and need.host["engine's weights"] == 2 * PARAMETERS


def test_the_paper_fits_on_eight_cards() -> None:
    assert not misfits() and not misfits(devices=4)


def test_zero_2_on_two_cards_of_80_gb_does_not_fit() -> None:
    """2·8.03 + 16·8.03/2 = 80.3 GB and the activations: more than 0.8 of 85.5 GB."""
    found = misfits(devices=2)["train"]
    assert "ZeRO-2 of 8.0B parameters" in found.what and "2 × 79.6 GiB" in found.what
    assert found.change and "use 4 GPUs" in found.do and not found.certain
    assert "set train.deepspeed: " in found.do


def test_the_check_in_fp32_on_24_gb_does_not_fit() -> None:
    found = misfits(device=GPUS["4090"], devices=8)["score"]
    assert "29.9 GiB" in found.what and "left out" in found.what
    assert found.change == {"reward.flip_check": 0} and not found.certain
    assert "score" not in misfits(device=GPUS["4090"], reward={"flip_check": 0})


def test_an_engine_that_has_no_room_for_its_longest_answer() -> None:
    found = misfits(device=GPUS["4090"], devices=2, sampling={"max_tokens": 60_000})["sample"]
    assert found.change == {"sampling.tensor_parallel": 2} and not found.certain
    one = misfits(device=GPUS["4090"], devices=1, sampling={"max_tokens": 60_000, "gpu_memory": 0.8})["sample"]
    assert one.change == {"sampling.gpu_memory": 0.95, "sampling.max_tokens": 30_000}
    # fitted by the same arithmetic
    assert "sample" not in misfits(device=GPUS["4090"], devices=1, sampling=_section(one.change, "sampling"))


def test_weights_that_are_larger_than_the_card_are_certain() -> None:
    found = misfits(device=GPUS["h100"], devices=8, facts=LLAMA_70B)
    assert found["sample"].certain and found["sample"].change == {"sampling.tensor_parallel": 2}
    assert found["score"].certain and not found["score"].change
    assert found["train"].certain and "131.4 GiB" in found["sample"].what


def test_a_batch_ends_data_parallelism() -> None:
    found = misfits(devices=64)["train"]
    assert "16 pairs" in found.what and "64 processes" in found.what and found.change == {"train.processes": 16}
    setup = made_setup(devices=64)
    assert (setup.processes, setup.engines) == (16, 64)


def _section(change: Change, name: str) -> dict[str, Any]:
    return {key.removeprefix(f"{name}."): value for key, value in change.items() if key.startswith(f"{name}.")}


CASES: list[dict[str, Any]] = [
    {"devices": 2},
    {"devices": 1, "train": {"gradient_checkpointing": False, "micro_batch_size": 16}},
    {"devices": 1, "train": {"deepspeed": "none"}},
    {"device": GPUS["4090"], "devices": 1, "train": {"deepspeed": "none", "optimizer": "adafactor"}},
    {"device": GPUS["4090"], "devices": 2, "sampling": {"max_tokens": 60_000}},
    {"device": GPUS["4090"], "devices": 1, "sampling": {"max_tokens": 60_000, "gpu_memory": 0.8}},
    {"devices": 64},
    {"devices": 2, "device": GPUS["h200"], "facts": LLAMA_70B, "sampling": {"precision": "fp32"}},
]


@pytest.mark.parametrize("case", CASES, ids=str)
def test_every_advised_key_is_accepted_by_validate(case: dict[str, Any], tmp_path: Path, tiny_config: Config) -> None:
    """As a user would type it, in a config with the settings of the case."""
    found = [misfit for misfit in misfits(**case).values() if misfit.change]
    assert found
    sections = {key: dict(value) for key, value in case.items() if isinstance(value, dict)}
    train = {"deepspeed": "none", "batch_size": 16, **sections.pop("train", {})}
    sampling = {"backend": "transformers", **sections.pop("sampling", {})}
    path = tiny_config(tmp_path, **sections, train=train, sampling=sampling)
    for misfit in found:
        typed = [f"{key}={str(value).lower()}" for key, value in misfit.change.items()]
        assert all(f"{key}: " in misfit.do for key in misfit.change)
        load_checked(path, typed)
