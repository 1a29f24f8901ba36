"""Which engine serves a model."""

from __future__ import annotations

import importlib.util

from pydantic import BaseModel

from icr.config.schema import Sampling
from icr.engines.base import Engine
from icr.engines.precision import Precision, resolve_precision


class EngineSettings(BaseModel, frozen=True):
    """What an engine is built for; two models under the same settings can be served by one."""

    backend: str
    """vllm or transformers."""
    precision: Precision
    window: int
    """Tokens of the longest sequence, prompt and completion together."""
    tensor_parallel: int = 1
    gpu_memory: float = 0.9

    @classmethod
    def of(cls, sampling: Sampling, window: int, *, gpu: bool) -> EngineSettings:
        """What the config's `sampling` means on this machine."""
        return cls(
            backend=choose_backend(sampling.backend),
            precision=resolve_precision(sampling.precision, gpu=gpu),
            window=window,
            tensor_parallel=sampling.tensor_parallel if gpu else 1,
            gpu_memory=sampling.gpu_memory,
        )


def choose_backend(backend: str) -> str:
    """`auto` is vLLM when it is installed."""
    if backend != "auto":
        return backend
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


def slow_imports(backend: str) -> list[str]:
    """The modules that take most of an engine's start; none of them touches a GPU."""
    if choose_backend(backend) == "vllm":
        return ["vllm.entrypoints.llm", "vllm.v1.worker.gpu_model_runner"]
    return ["icr.engines.transformers_engine"]


def open_engine(model: str, settings: EngineSettings) -> Engine:
    """A new engine on this process's devices."""
    if settings.backend == "vllm":
        from icr.engines.vllm_engine import VllmEngine

        return VllmEngine(
            model,
            max_model_len=settings.window,
            tensor_parallel=settings.tensor_parallel,
            gpu_memory=settings.gpu_memory,
            precision=settings.precision,
        )
    from icr.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, settings.precision, settings.window)
