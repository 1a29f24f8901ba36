"""Sampling with vLLM; the only file that imports it."""

from __future__ import annotations

import os
from collections.abc import Sequence
from typing import Any

from icr.engines.base import Completion, Decoding, Request
from icr.engines.precision import Precision

_CPU = {
    "enforce_eager": True,
    # A prompt split over two steps makes vLLM rewind the request's own generator, which fails on a CPU
    # ("CPU Generator does not use offset").
    "enable_chunked_prefill": False,
}


class VllmEngine:
    """One engine in this process. The same requests in one call give the same completions."""

    name = "vllm"

    def __init__(
        self, model: str, *, max_model_len: int, tensor_parallel: int, gpu_memory: float, precision: Precision
    ) -> None:
        os.environ.setdefault("VLLM_NO_USAGE_STATS", "1")
        os.environ.setdefault("VLLM_LOGGING_LEVEL", "WARNING")
        import torch

        options: dict[str, Any] = {}
        on_cpu = not torch.cuda.is_available()
        if on_cpu:
            # An engine in its own process and a compiled graph cost two minutes at start on a CPU.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            # vLLM's own budget of tokens a step is too small for one long prompt when prompts may not be split
            options = {**_CPU, "max_num_batched_tokens": max(max_model_len, 2048)}
        from vllm import LLM

        self._llm = LLM(
            model=model,
            max_model_len=max_model_len,
            tensor_parallel_size=tensor_parallel,
            gpu_memory_utilization=gpu_memory,
            dtype="float32" if precision == "fp32" else "bfloat16",
            enable_prefix_caching=True,
            trust_remote_code=False,
            load_format="safetensors",
            disable_log_stats=True,
            **options,
        )

    def generate(self, requests: Sequence[Request], decoding: Decoding) -> list[Completion]:
        from vllm import SamplingParams
        from vllm.inputs import TokensPrompt

        # What an earlier call left in the prefix cache changes how this one is batched, and so its rounding.
        self._llm.reset_prefix_cache()
        params = [
            SamplingParams(
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                max_tokens=decoding.max_tokens,
                seed=request.seed,
                detokenize=False,
            )
            for request in requests
        ]
        prompts = [TokensPrompt(prompt_token_ids=request.prompt_ids) for request in requests]
        outputs = self._llm.generate(prompts, params, use_tqdm=False)
        return [Completion(list(o.outputs[0].token_ids), str(o.outputs[0].finish_reason)) for o in outputs]
