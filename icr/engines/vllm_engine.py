"""Sampling with vLLM; the only file that imports it, except for lm-eval's backend."""

from __future__ import annotations

import gc
import itertools
import os
import threading
from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

from icr.base.errors import UserError
from icr.base.progress import SILENT, Reporter
from icr.engines.base import Completion, Decoding, Request
from icr.engines.precision import Precision
from icr.engines.stops import find_stops
from icr.engines.tokens import unknown_ids

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase
    from vllm import RequestOutput, SamplingParams

_CPU = {
    "enforce_eager": True,
    # A prompt split over two steps makes vLLM rewind the request's own generator, which fails on a CPU
    # ("CPU Generator does not use offset").
    "enable_chunked_prefill": False,
    # Answers to one prompt share the cache's full blocks. vLLM's blocks have 128 tokens on a CPU: few prompts fill one.
    "block_size": 32,
}


MOST_UNKNOWN = 1000
"""Ids that one request can exclude; vLLM's GPU sampler has room for 1,024."""
NEVER = -100.0
"""The lowest bias that vLLM takes: a probability of e⁻¹⁰⁰ of what it was."""


class Repacking:
    """Methods that vLLM's workers get beside their own."""

    def repack_heads(self) -> None:
        """Make a CPU's packed copy of an output head again.

        A head that is tied to the embeddings is not in the checkpoint, so that reloading skips it and it would keep the
        old weights.
        """
        from vllm.model_executor.layers.vocab_parallel_embedding import ParallelLMHead

        for module in self.model_runner.get_model().modules():  # type: ignore[attr-defined]
            if isinstance(module, ParallelLMHead):
                module.quant_method.process_weights_after_loading(module)


class VllmEngine:
    """One engine. The same requests in one call give the same completions on a CPU, also after `reload`."""

    name = "vllm"

    def __init__(
        self, model: str, *, max_model_len: int, tensor_parallel: int, gpu_memory: float, precision: Precision
    ) -> None:
        import torch

        options: dict[str, object] = {"enable_sleep_mode": True}
        self._on_gpu = torch.cuda.is_available()
        if not self._on_gpu:
            # An engine in its own process and a compiled graph cost two minutes at start on a CPU.
            os.environ.setdefault("VLLM_ENABLE_V1_MULTIPROCESSING", "0")
            os.environ.setdefault("VLLM_CPU_KVCACHE_SPACE", "1")
            # vLLM's own budget of tokens a step is too small for one long prompt when prompts may not be split
            options = {
                **_CPU,
                "max_num_batched_tokens": max(max_model_len, 2048),
                "worker_extension_cls": f"{__name__}.{Repacking.__name__}",
            }
        elif tensor_parallel > 1:
            # on all that this process sees; vLLM would take Ray's executor where it finds Ray and counts too few GPUs
            options["distributed_executor_backend"] = "mp"
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
            generation_config="vllm",  # no sampling parameters out of the checkpoint
            **options,  # type: ignore[arg-type]
        )
        self._tokenizer = cast("PreTrainedTokenizerBase", self._llm.get_tokenizer())
        self._stops = find_stops(self._tokenizer, model)
        unknown = unknown_ids(self._tokenizer, self._llm.model_config.get_vocab_size())
        if len(unknown) > MOST_UNKNOWN:
            self.close()
            raise UserError(
                f"the model has {len(unknown)} ids that its tokenizer does not have; vLLM can exclude {MOST_UNKNOWN}",
                where=model,
                do="set sampling.backend: transformers, or use the tokenizer that the model was trained with",
            )
        self._biases: dict[int, float] | None = dict.fromkeys(unknown, NEVER) or None
        self._numbers = itertools.count()
        self._lock = threading.Lock()
        self._ended: dict[str, RequestOutput] = {}
        self._running = 0
        self._asleep = False

    def generate(
        self, requests: Sequence[Request], decoding: Decoding, reporter: Reporter = SILENT
    ) -> list[Completion]:
        """May be called from several threads: their requests then share the engine's steps."""
        from vllm import SamplingParams

        stops = decoding.stops or self._stops
        params = [
            SamplingParams(
                temperature=decoding.temperature,
                top_p=decoding.top_p,
                max_tokens=decoding.max_tokens,
                seed=request.seed,
                stop_token_ids=list(stops.ids),
                stop=list(stops.texts),
                logit_bias=self._biases,
                detokenize=bool(stops.texts),
                skip_special_tokens=False,
            )
            for request in requests
        ]
        outputs = self._run([r.prompt_ids for r in requests], params, reporter)
        return [Completion(list(o.outputs[0].token_ids), str(o.outputs[0].finish_reason)) for o in outputs]

    def score(self, token_ids: Sequence[int]) -> float:
        from vllm import SamplingParams

        asked = SamplingParams(temperature=0.0, max_tokens=1, prompt_logprobs=0, detokenize=False)
        (output,) = self._run([list(token_ids)], [asked])
        of_tokens = (output.prompt_logprobs or [])[1:]
        return sum(logps[token].logprob for token, logps in zip(token_ids[1:], of_tokens, strict=True) if logps)

    def reload(self, model: str) -> None:
        with self._lock:
            self._wake()
            self._llm.collective_rpc("reload_weights", kwargs={"weights_path": model})
            if not self._on_gpu:
                self._llm.collective_rpc("repack_heads")
            self._llm.reset_prefix_cache()

    def rest(self) -> None:
        """On a GPU weights go to the host's memory and the cache goes; a CPU engine has nothing to give back."""
        with self._lock:
            if self._on_gpu and not self._asleep:
                self._llm.sleep(level=1)
                self._asleep = True

    def close(self) -> None:
        from vllm.distributed import cleanup_dist_env_and_memory

        self._llm.llm_engine.engine_core.shutdown()
        del self._llm
        gc.collect()
        cleanup_dist_env_and_memory()

    def _wake(self) -> None:
        if self._asleep:
            self._llm.wake_up()
            self._asleep = False

    def _run(
        self, prompts: Sequence[list[int]], params: Sequence[SamplingParams], reporter: Reporter = SILENT
    ) -> list[RequestOutput]:
        """Wait for a request; a waiting thread runs the engine's next step, for all requests in flight."""
        from vllm.inputs import TokensPrompt

        engine = self._llm.llm_engine
        with self._lock:
            self._wake()
            if self._running == 0:
                # What an earlier call left in the prefix cache changes how this one is batched, and so its rounding.
                self._llm.reset_prefix_cache()
            self._running += 1
            names = [str(next(self._numbers)) for _ in prompts]
            for name, ids, asked in zip(names, prompts, params, strict=True):
                engine.add_request(name, TokensPrompt(prompt_token_ids=ids), asked)
        try:
            waiting, tokens = set(names), 0
            while waiting:
                with self._lock:
                    ended = waiting & self._ended.keys()
                    if not ended:
                        self._ended |= {o.request_id: cast("RequestOutput", o) for o in engine.step() if o.finished}
                        continue
                    tokens += sum(len(self._ended[name].outputs[0].token_ids) for name in ended)
                waiting -= ended
                reporter.progress(len(names) - len(waiting), len(names), tokens)
            with self._lock:
                return [self._ended.pop(name) for name in names]
        finally:
            with self._lock:
                self._running -= 1
