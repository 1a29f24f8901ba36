"""What finished stages took: kept, carried over, and fitted."""

from __future__ import annotations

import time
from pathlib import Path

import pytest

from icr.base.errors import UserError
from icr.planning import devices
from icr.planning.devices import Device, _best, find_device
from icr.planning.facts import read_parameters
from icr.planning.lengths import lengths_of_runs
from icr.planning.plan import estimate
from icr.planning.rates import KEPT, Factors, Observation, Rates, fit, rates_file, read_rates, write_rates
from icr.planning.texts import Texts
from tests.helpers.planning import PARAMETERS, made_setup, of_language

HERE = Device("a processor, 2 cores", "cpu", 2**34, 1e11, 2e11, 1e10, "measured")


def seen(start: float = 10, work: float = 20, seconds: float = 30, **changes: object) -> Observation:
    usual = {"stage": "sample", "parameters": PARAMETERS, "precision": "bf16", "tokens": 100}
    return Observation.model_validate({**usual, "start": start, "work": work, "seconds": seconds, **changes})


def test_start_up_and_speed_are_told_apart_by_stages_of_unlike_size() -> None:
    """Start-ups took 1.5 times and work half of what was assumed."""
    found = fit([seen(10, work, 15 + work / 2) for work in (5, 50, 200)] * 4)
    assert found.start == pytest.approx(1.5, rel=0.05) and found.work == pytest.approx(0.5, rel=0.05)
    assert fit([]) == Factors()


def test_one_stage_is_told_again_as_it_was() -> None:
    """Whatever it was: of a stage of the same size, the factors give what was seen."""
    for seconds in (12.0, 30.0, 90.0):
        factors = fit([seen(seconds=seconds)])
        assert factors.start * 10 + factors.work * 20 == pytest.approx(seconds, rel=0.05)
    # speed is less known than start-ups, so it takes most of the difference
    assert fit([seen(seconds=90)]).work > fit([seen(seconds=90)]).start


def test_the_file_is_whole_small_and_by_device(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("ICR_RATES", str(tmp_path / "rates.json"))
    rates = Rates()
    rates.keep(HERE)
    for seconds in range(20, 40):
        rates.add(HERE.name, seen(seconds=seconds))
    rates.add("H100", seen(stage="train"))
    write_rates(rates)
    again = read_rates()
    assert again == rates and again.processor(HERE.name) == HERE and again.processor("another") is None
    assert [o.seconds for o in again.devices[HERE.name].observations] == list(range(40 - KEPT, 40))
    assert (tmp_path / "rates.json").stat().st_size < 4096 and len(list(tmp_path.iterdir())) == 1
    rates.keep(Device(HERE.name, "cpu", 1, 1, 1, 1, "again"))  # all observations are compared with the first measure
    assert rates.processor(HERE.name) == HERE


def test_a_damaged_file_is_said_and_replaced(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = tmp_path / "rates.json"
    monkeypatch.setenv("ICR_RATES", str(file))
    file.write_text('{"devices": {"x": {"observations": [{"stage"')
    assert not read_rates().devices and "cannot be read" in read_rates().problem
    write_rates(Rates())
    assert not read_rates().problem
    monkeypatch.setenv("ICR_RATES", "none")
    assert rates_file() is None and read_rates() == Rates()
    write_rates(Rates())
    monkeypatch.delenv("ICR_RATES")
    monkeypatch.setenv("ICR_CACHE", str(tmp_path / "cache"))
    assert rates_file() == tmp_path / "cache" / "rates.json"
    monkeypatch.setenv("ICR_CACHE", str(file))  # a folder that cannot be made ends nothing
    write_rates(Rates())


def test_rates_are_of_a_stage_a_precision_and_a_size() -> None:
    rates = Rates()
    rates.add("x", seen(parameters=PARAMETERS, seconds=1))
    rates.add("x", seen(parameters=PARAMETERS // 3, seconds=2))
    rates.add("x", seen(table="2020-01", seconds=3))

    def found(stage: str = "sample", parameters: int = PARAMETERS, precision: str = "bf16") -> list[float]:
        return [o.seconds for o in rates.find("x", stage, parameters, precision)]  # type: ignore[arg-type]

    assert found() == [1] and found(parameters=PARAMETERS // 3) == [2]
    assert found(parameters=PARAMETERS // 2) == [1, 2]  # neither is of this size, both are near
    assert not found(parameters=PARAMETERS * 5) and not found("train") and not found(precision="fp32")
    assert not rates.find("y", "sample", PARAMETERS, "bf16")


def test_the_range_says_how_much_is_known() -> None:
    setup = made_setup()
    seconds, low, high, basis = estimate(setup, 10, 20, [])
    assert (seconds, basis) == (30, "assumed") and low == 0.25 * 10 + 0.6 * 20 and high == 3 * 10 + 2.5 * 20
    seconds, low, high, basis = estimate(setup, 10, 20, [seen()])
    assert seconds == pytest.approx(30) and basis == "measured"
    assert (low, high) == (pytest.approx(30 / 1.3), pytest.approx(39))
    assert estimate(setup, 10, 200, [seen()])[3] == "carried over"
    assert estimate(setup, 10, 20, [seen(parameters=PARAMETERS // 2)])[3] == "carried over"
    # a machine that others use, too: what was seen before stays in the range
    seconds, low, high, _ = estimate(setup, 10, 20, [seen(seconds=20), seen(seconds=60)])
    assert low <= 20.5 and high >= 59.5 and 20 < seconds < 60


def test_answers_are_as_long_as_in_earlier_runs_with_the_same_limit() -> None:
    texts = Texts({"en": of_language()}, {})
    runs = [seen(tokens=3000, answers=100, limit=48), seen(tokens=3200, answers=100, limit=48), seen()]
    found = lengths_of_runs(texts, runs, 48)
    assert found is not None and found.response("en", 48) == pytest.approx(31)
    assert lengths_of_runs(texts, runs, 96) is None


def test_a_processor_is_measured_in_less_than_a_second_and_once() -> None:
    began = time.process_time()  # of all threads, as the machine may have other work
    measured = find_device("cpu")
    assert time.process_time() - began < 8
    assert measured.kind == "cpu" and measured.fp32 > 1e9 and measured.bandwidth > 1e8 and measured.memory > 2**30
    assert find_device("cpu", lambda name: HERE) == HERE
    assert find_device(None, lambda name: HERE).name


def test_what_other_programs_take_of_the_processor_is_not_counted() -> None:
    """Waiting is what they cause."""
    import torch

    def spend() -> None:
        began = time.thread_time()
        while time.thread_time() - began < 0.02:
            pass
        time.sleep(0.1)

    assert 0.019 <= _best(spend) * torch.get_num_threads() < 0.08


def test_this_machines_card_is_found_in_the_table(monkeypatch: pytest.MonkeyPatch) -> None:
    from icr.work.devices import Gpu

    def has(name: str) -> None:
        monkeypatch.setattr(devices, "find_gpus", lambda: [Gpu(0, name, 80 * 2**30, 2**30)])

    has("NVIDIA H100 80GB HBM3")
    assert find_device(None).bandwidth == 3.35e12 and find_device(None).memory == 80 * 2**30
    has("NVIDIA GeForce RTX 4090")
    assert find_device(None).bf16 == 165e12
    has("NVIDIA T4")
    with pytest.raises(UserError, match="T4"):
        find_device(None)
    with pytest.raises(UserError, match="b200"):
        find_device("b200")


def test_sizes_as_they_are_typed() -> None:
    assert [read_parameters(text) for text in ("8b", "135M", "1.5b", "100")] == [
        8 * 10**9,
        135 * 10**6,
        15 * 10**8,
        100,
    ]
    for wrong in ("b", "eight", "-1b", "0", ""):
        with pytest.raises(UserError, match="number of parameters"):
            read_parameters(wrong)
