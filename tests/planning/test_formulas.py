"""Each formula by hand, with Llama-3-8B: 8.03 billion parameters, 32 layers, hidden size 4,096, 8 KV heads of 128."""

from __future__ import annotations

import math

import numpy as np
import pytest

from icr.engines import prefixes
from icr.planning import formulas
from icr.planning.devices import GPUS, Device
from icr.planning.formulas import (
    Sampled,
    cache_bytes,
    capped_mean,
    computing_seconds,
    forward_bytes,
    forward_flops,
    sampling_seconds,
    sequences_at_once,
    training_flops,
    uncapped_mean,
    weights_bytes,
)
from icr.planning.questions import Asked
from icr.planning.work import SHARING_PAYS, count_pairs, list_jobs
from tests.helpers.planning import LENGTHS, LLAMA_8B, PARAMETERS, made_setup

H100 = GPUS["h100"]


def test_operations_of_a_forward_pass() -> None:
    """2·P·T, and causal attention: a token at place i multiplies with i keys and i values in each of 32 layers."""
    length = 1000
    attention = sum(2 * 2 * 4096 * place for place in range(1, length + 1)) * 32
    assert forward_flops(LLAMA_8B, length, length) == pytest.approx(2 * PARAMETERS * length + attention, rel=1e-4)
    assert training_flops(LLAMA_8B, 10, 1, checkpointing=False) == 3 * forward_flops(LLAMA_8B, 10, 1)
    assert training_flops(LLAMA_8B, 10, 1, checkpointing=True) == 4 * forward_flops(LLAMA_8B, 10, 1)


def test_bytes_of_weights_and_cache() -> None:
    """128 KiB a token in bf16, and 16 GB of weights."""
    assert cache_bytes(LLAMA_8B, "bf16") == 128 * 1024 == 2 * 2 * 32 * 8 * 128
    assert weights_bytes(LLAMA_8B, "bf16") == 16_060_522_496 and weights_bytes(LLAMA_8B, "fp32") == 32_121_044_992
    # docs/gpu.md: 2 to 4 GiB beside the weights, for the default batch
    assert 2 * 2**30 < forward_bytes(LLAMA_8B, "bf16", 16_384) < 4 * 2**30
    assert forward_bytes(LLAMA_8B, "bf16", 1) == 2 * (6 * 4096 + 3 * 14_336) + 2 * 512 * 4 * 128_256


def test_the_cache_of_an_engine() -> None:
    """412 thousand tokens on an H100, so that at most 1,024 sequences are written at a time."""
    many = Sampled(18_750, 200, 450, 2400, 10)
    room = 0.9 * H100.memory - weights_bytes(LLAMA_8B, "bf16") - formulas.RESERVE
    assert room / cache_bytes(LLAMA_8B, "bf16") == pytest.approx(445_000, rel=0.1)
    batch = sequences_at_once(LLAMA_8B, many, H100, "bf16", 0.9, 1)
    assert batch == int(room / (cache_bytes(LLAMA_8B, "bf16") * (200 + 0.75 * 450)))
    assert sequences_at_once(LLAMA_8B, Sampled(9, 200, 450, 2400), H100, "bf16", 0.9, 1) == 9
    assert sequences_at_once(LLAMA_8B, Sampled(9999, 1, 1, 1), H100, "bf16", 0.9, 1) == 1024


@pytest.mark.parametrize(("gpus", "seconds"), [(8, 569), (64, 89)])
def test_sampling_is_what_a_simulation_of_requests_gives(gpus: int, seconds: float) -> None:
    """150,000 answers of 450 tokens, everything in flight."""
    what = Sampled(150_000, 200, 450, 2400, 10)
    assert sampling_seconds(LLAMA_8B, what, H100, "bf16", engines=gpus) == pytest.approx(seconds, rel=0.15)


def test_one_sequence_is_written_at_the_speed_of_memory() -> None:
    """A step moves all weights: 16.06 GB at 0.85 · 3.35 TB/s is 5.6 ms."""
    one = sampling_seconds(LLAMA_8B, Sampled(1, 0, 100, 100), H100, "bf16")
    assert one == pytest.approx(100 * 16.06e9 / (0.85 * 3.35e12), rel=0.02)
    two = sampling_seconds(LLAMA_8B, Sampled(1, 0, 100, 100), H100, "bf16", tp=2)
    assert two == pytest.approx(one / 2)
    assert sampling_seconds(LLAMA_8B, Sampled(0, 0, 0, 0), H100, "bf16") == 0


def test_a_round_of_the_paper_on_eight_and_64_gpus() -> None:
    """141 million tokens scored in 636 s on 8 H100; 937 steps of .65 s; the reference's log-probs in 75 s."""
    for gpus in (8, 64):
        setup = made_setup(devices=gpus)
        jobs = {job.name: job for stage in ("score", "train") for job in list_jobs(setup, LENGTHS, Asked(), 1, stage)}
        scored = jobs["policy"].tokens + jobs["reference"].tokens
        assert scored == pytest.approx(141e6, rel=0.03)
        both = jobs["policy"].work + jobs["reference"].work
        assert both == pytest.approx(636 * 8 / gpus, rel=0.1)
        assert jobs["reference log-probs"].work == pytest.approx(75 * 8 / gpus, rel=0.25)
        # a batch of 16 pairs ends data parallelism at 16 GPUs
        assert jobs["training"].work == pytest.approx(610 if gpus == 8 else 305, rel=0.1)


def test_how_long_answers_are_that_are_cut_off() -> None:
    """Against a sum over drawn lengths; 0.5 % of those of mean 450 are longer than 2,400."""
    mu = math.log(450) - formulas.SIGMA**2 / 2
    drawn = np.exp(np.random.default_rng(0).normal(mu, formulas.SIGMA, 400_000))
    assert drawn.mean() == pytest.approx(450, rel=0.01) and (drawn > 2400).mean() == pytest.approx(0.005, abs=0.001)
    for cap in (48, 300, 2400):
        assert capped_mean(450, cap) == pytest.approx(np.minimum(drawn, cap).mean(), rel=0.01)
        assert capped_mean(uncapped_mean(0.8 * cap, cap), cap) == pytest.approx(0.8 * cap, rel=1e-6)
    assert uncapped_mean(48, 48) == pytest.approx(480)  # all were cut off: nobody knows


def test_operations_over_time() -> None:
    device = Device("a test", "gpu", 0, 1e12, 1e13, 1e12, "")
    assert computing_seconds(9e13, device, "bf16", "score", 2) == pytest.approx(9e13 / (2 * 1e13 * 0.45))
    assert computing_seconds(1e12, device, "fp32", "train") == pytest.approx(1 / 0.27)


def test_constants_that_are_kept_twice_are_equal() -> None:
    assert SHARING_PAYS == prefixes.SHARING_PAYS


def test_what_other_rewards_compute() -> None:
    """LIDR: one greedy response, translations each way, and a pair of English with each other language."""
    lidr = made_setup(reward={"kind": "lidr"})
    jobs = {job.name: job for job in list_jobs(lidr, LENGTHS, Asked(), 1, "score")}
    assert jobs["translations"].answers == 2 * 4 * 3000 and "policy" not in jobs
    (sampled,) = (job for job in list_jobs(lidr, LENGTHS, Asked(), 1, "sample") if job.kind == "sample")
    assert sampled.answers == 15_000
    assert count_pairs(lidr, LENGTHS) == (4 + 4) * 3000 and count_pairs(made_setup(), LENGTHS) == 15_000
    translate = made_setup(reward={"kind": "translate"})
    translated = {job.name: job for job in list_jobs(translate, LENGTHS, Asked(), 1, "score")}
    assert translated["translations"].answers == 10 * 4 * 3000 and translated["policy"].tokens
    random = list_jobs(made_setup(reward={"kind": "random"}), LENGTHS, Asked(), 1, "score")
    assert [job.name for job in random] == ["rewards"]
    custom = list_jobs(made_setup(reward={"kind": "mine:Reward"}), LENGTHS, Asked(), 1, "score")
    assert any("custom" in job.unknown for job in custom)


def test_the_check_in_fp32_is_of_a_few_prompts() -> None:
    jobs = {job.name: job for job in list_jobs(made_setup(), LENGTHS, Asked(), 1, "score")}
    whole, check = jobs["policy"], jobs["policy, fp32 check"]
    assert check.tokens == pytest.approx(whole.tokens * 32 / 15_000, rel=0.01)
    assert check.work == pytest.approx(whole.work * 32 / 15_000 * 989 / 67)


def test_the_alignment_trains_on_the_english_pairs() -> None:
    setup = made_setup(alignment=[(10, 20, 30)] * 8)
    jobs = {job.name: job for job in list_jobs(setup, LENGTHS, Asked(), 0, "align")}
    assert jobs["training"].tokens == jobs["reference log-probs"].tokens == 8 * (30 + 40)
