"""Which engine serves a model."""

from __future__ import annotations

import importlib.util

from icr.config.schema import Sampling
from icr.engines.base import Engine
from icr.engines.precision import resolve_precision


def choose_backend(backend: str) -> str:
    """`auto` is vLLM when it is installed."""
    if backend != "auto":
        return backend
    return "vllm" if importlib.util.find_spec("vllm") else "transformers"


def open_engine(model: str, settings: Sampling, *, max_model_len: int) -> Engine:
    """The engine that the settings ask for, in the precision that suits this machine."""
    import torch

    precision = resolve_precision(settings.precision, gpu=torch.cuda.is_available())
    if choose_backend(settings.backend) == "vllm":
        from icr.engines.vllm_engine import VllmEngine

        return VllmEngine(
            model,
            max_model_len=max_model_len,
            tensor_parallel=settings.tensor_parallel,
            gpu_memory=settings.gpu_memory,
            precision=precision,
        )
    from icr.engines.transformers_engine import TransformersEngine

    return TransformersEngine(model, precision)
