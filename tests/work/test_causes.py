"""The cause of a failure out of a worker's log, as vLLM 0.32, torch and torchrun write it."""

from __future__ import annotations

from pathlib import Path

import pytest

from icr.base.errors import StageFailed, UserError
from icr.work.causes import describe_failure, explain_cause, find_cause, read_from

SECONDARY = (
    "RuntimeError: Engine core initialization failed. See root cause above. Failed core proc(s): {'EngineCore': 1}"
)


def record(process: str, message: str, at: str = "core.py:1510") -> str:
    """A record of vLLM's logger: every line of it has the same beginning."""
    return "".join(f"({process}) ERROR 03-07 11:02:45 [{at}] {line}\r\n" for line in message.splitlines())


def traceback(headline: str, function: str = "run_engine_core") -> str:
    return (
        "Traceback (most recent call last):\n"
        f'  File "/venv/lib/python3.11/site-packages/vllm/v1/engine/core.py", line 1477, in {function}\n'
        "    engine_core = EngineCoreProc(*args, **kwargs)\n"
        "                  ^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^^\n"
        f"{headline}\n"
    )


def failed_start(headline: str) -> str:
    """What the log has of an engine on one GPU that cannot start."""
    return (
        "== 2026-03-07 11:02:21 worker engine-0 starts\n"
        "(EngineCore pid=4711) WARNING 03-07 11:02:40 [cuda.py:60] a warning of no importance\n"
        + record("EngineCore pid=4711", "EngineCore failed to start.\n" + traceback(headline))
        + "Process EngineCore:\n"
        + traceback(headline, "_bootstrap")
        + "[rank0]:[W307 11:02:46.1 ProcessGroupNCCL.cpp:1553] Warning: destroy_process_group() was not called\n"
        + traceback(SECONDARY, "wait_for_engine_startup")
    )


NOT_FREE = (
    "ValueError: Free memory on device cuda:0 (9.31/23.57 GiB) on startup is less than desired GPU memory utilization "
    "(0.9, 21.21 GiB). Decrease GPU memory utilization or reduce GPU memory used by other processes."
)
TOO_LONG = (
    "ValueError: To serve at least one request with the model's max seq len (131072), (16.0 GiB KV cache is needed, "
    "which is larger than the available KV cache memory (3.21 GiB). Based on the available memory, the estimated "
    "maximum model length is 26288. Try increasing `gpu_memory_utilization` or decreasing `max_model_len`."
)
HEADS = "ValueError: Total number of attention heads (14) must be divisible by tensor parallel size (4)."
FULL = (
    "torch.OutOfMemoryError: CUDA out of memory. Tried to allocate 896.00 MiB. GPU 0 has a total capacity of 23.57 GiB "
    "of which 512.81 MiB is free."
)


@pytest.mark.parametrize("headline", [NOT_FREE, TOO_LONG, HEADS, FULL, "ImportError: libcudart.so.13: cannot open"])
def test_the_cause_is_what_the_engines_process_raised(headline: str) -> None:
    assert find_cause(failed_start(headline), SECONDARY) == headline


def test_of_two_failed_starts_the_last_one_counts() -> None:
    log = failed_start("ImportError: the first") + failed_start(FULL)
    assert find_cause(log, SECONDARY) == FULL


def test_with_tensor_parallelism_the_workers_exception_is_the_cause_not_the_engines() -> None:
    waiting = (
        "Exception: WorkerProc initialization failed due to an exception in a background process. "
        "See stack trace for root cause."
    )
    worker = record(
        "Worker_TP1 pid=4800", "WorkerProc failed to start.\n" + traceback(FULL), "multiproc_executor.py:953"
    )
    other = record("Worker_TP0 pid=4799", "WorkerProc failed to start.\n" + traceback("RuntimeError: NCCL error"))
    # lines of two processes mix
    mixed = "".join(
        f"{a}\r\n{b}\r\n" for a, b in zip(worker.split("\r\n"), [*other.split("\r\n"), *[""] * 9], strict=False)
    )
    log = mixed + record("EngineCore pid=4711", "EngineCore failed to start.\n" + traceback(waiting))
    assert find_cause(log + traceback(SECONDARY), SECONDARY) == FULL


def test_an_engine_that_dies_at_work() -> None:
    dead = (
        "vllm.v1.engine.exceptions.EngineDeadError: EngineCore encountered an issue. "
        "See stack trace (above) for the root cause."
    )
    error = "torch.AcceleratorError: CUDA error: an illegal memory access was encountered"
    log = record("EngineCore pid=99", "EngineCore encountered a fatal error.\n" + traceback(error)) + traceback(dead)
    assert find_cause(log, dead) == error


def test_of_chained_exceptions_the_last_one_counts() -> None:
    """It is the one that was raised on purpose: it says more than what it was made from."""
    last = "RuntimeError: CUDA out of memory occurred when warming up sampler with 1024 dummy requests."
    message = (
        traceback(FULL) + "\nThe above exception was the direct cause of the following exception:\n\n" + traceback(last)
    )
    log = record("EngineCore pid=4711", "EngineCore failed to start.\n" + message) + traceback(SECONDARY)
    assert find_cause(log, SECONDARY) == last


def test_the_lines_of_a_message_with_several() -> None:
    headline = (
        "pydantic_core._pydantic_core.ValidationError: 1 validation error for ModelConfig\n"
        "  Value error, Model architectures ['Nonesuch'] are not supported [type=value_error]"
    )
    assert find_cause(failed_start(headline), SECONDARY) == headline


def test_colours_are_not_part_of_a_line() -> None:
    coloured = failed_start(NOT_FREE).replace("(EngineCore pid=4711)", "\x1b[0;36m(EngineCore pid=4711)\x1b[0;0m")
    assert find_cause(coloured, SECONDARY) == NOT_FREE


def test_a_process_that_was_killed_has_no_traceback() -> None:
    what = SECONDARY.replace("'EngineCore': 1", "'EngineCore': -9")
    assert find_cause(traceback(what), what) == "its process was killed by SIGKILL (out of memory?)"
    torchrun = (
        "E0307 11:02:45 4711 torch/distributed/elastic/api.py:984] failed (exitcode: -9) local_rank: 1\n"
        + traceback("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ")
        + "  exitcode  : -9 (pid: 4713)\n"
    )
    assert find_cause(torchrun) == "its process was killed by SIGKILL (out of memory?)"


def test_the_rank_that_failed_and_not_those_that_waited_for_it() -> None:
    def rank(number: int, headline: str) -> str:
        return "".join(f"[rank{number}]: {line}\n" for line in traceback(headline).splitlines())

    log = rank(1, "torch.distributed.DistBackendError: NCCL error: remote process exited or there was a network error")
    log += rank(0, FULL) + traceback("torch.distributed.elastic.multiprocessing.errors.ChildFailedError: ")
    assert find_cause(log) == FULL


def test_no_cause_in_a_log_without_one() -> None:
    assert find_cause("") is None
    assert find_cause("INFO loading\nTraceback of what?\nValueError: no traceback before this line\n") is None
    assert find_cause(traceback(SECONDARY), SECONDARY) is None


def test_memory_that_is_not_free_in_the_words_of_the_config() -> None:
    """9.31 of 23.57 GiB are 39.5 %: what is proposed has to start."""
    error = explain_cause(NOT_FREE)
    assert error is not None
    assert error.what == "9.3 of 23.6 GiB of the GPU's memory are free, but the engine asks for 21.21 GiB"
    assert error.where == "sampling.gpu_memory: 0.9" and "set sampling.gpu_memory to 0.38 or less" in error.do
    almost_none = explain_cause(NOT_FREE.replace("9.31", "0.91"))
    assert almost_none is not None and "end the other processes" in almost_none.do
    assert "sampling.gpu_memory to" not in almost_none.do


def test_other_causes_in_the_words_of_the_config() -> None:
    long = explain_cause(TOO_LONG)
    assert long is not None and "131072 tokens" in long.what and "about 26288" in long.what
    assert "sampling.max_tokens" in long.do
    heads = explain_cause(HEADS)
    assert heads is not None and heads.where == "sampling.tensor_parallel: 4" and "divides 14" in heads.do
    full = explain_cause(FULL)
    assert full is not None and "Tried to allocate 896.00 MiB" in full.what
    assert explain_cause("ImportError: libcudart.so.13: cannot open") is None


def test_what_the_user_is_shown(tmp_path: Path) -> None:
    """Not the last twelve lines, which are the traceback of the process that waited."""
    log = tmp_path / "engine-0.log"
    log.write_text("from an earlier process\n" + failed_start(NOT_FREE))
    shown = describe_failure(SECONDARY, log, read_from(log, len("from an earlier process\n"))).as_error()
    assert isinstance(shown, UserError) and "9.3 of 23.6 GiB" in shown.what and str(log) in shown.where

    unknown = describe_failure(SECONDARY, log, failed_start("ImportError: libcudart.so.13: cannot open")).as_error()
    assert isinstance(unknown, StageFailed)
    assert "a worker failed: ImportError: libcudart.so.13: cannot open\n" in str(unknown)

    own = describe_failure("KeyError: 'x'", log, failed_start(NOT_FREE)).as_error()  # of an engine that was replaced
    assert "a worker failed: KeyError: 'x'" in str(own)
