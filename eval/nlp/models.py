"""The model for lm-eval: loaded once for all tasks; reports progress and counts texts that are too long."""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING

from icr.base.errors import UserError
from icr.config.schema import Nlp
from icr.engines.attention import choose_attention
from icr.engines.context import context_length

if TYPE_CHECKING:
    from lm_eval.api.model import LM


Scored = tuple[tuple[str, str], list[int], list[int]]
"""Texts as lm-eval has them scored: the two of them, and the token ids of both."""
MODULES = {"transformers": "lm_eval.models.huggingface", "vllm": "lm_eval.models.vllm_causallms"}
CPU_BATCH = 16
LONGEST = 16384
"""Tokens that vLLM keeps room for. No item of these benchmarks is longer, and a cache for the 131,072 that some models
take does not fit beside 8B on a card of 24 GB. A text that is longer is counted, as it is with transformers."""


def choose_backend(backend: str) -> str:
    """`auto`: vLLM on a GPU where it is installed. On a CPU it only starts later: texts are read here, not written."""
    if backend != "auto":
        return backend
    import torch

    return "vllm" if torch.cuda.is_available() and importlib.util.find_spec("vllm") else "transformers"


class Scorer:
    """An lm-eval model in this process, over all GPUs that the process sees.

    Weights and forward passes are bf16 on GPUs and fp32 without, whatever the checkpoint holds, so that rounds differ
    by the policy alone.
    """

    def __init__(self, model: str, settings: Nlp, gpu_memory: float = 0.9) -> None:
        """Raises UserError when the model or the backend cannot be loaded."""
        import torch

        self.gpus = torch.cuda.device_count()
        self.backend = choose_backend(settings.backend)
        self.dtype = "bfloat16" if self.gpus else "float32"
        self.too_long = 0
        """Texts so far that were longer than the model's context: lm-eval cuts their beginning off."""
        try:
            if self.backend == "vllm":
                self.lm = self._vllm(model, gpu_memory)
            else:
                self.lm = self._transformers(model, settings.batch_size)
        except (OSError, ValueError) as error:
            first = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
            raise UserError(
                f"the model cannot be loaded: {first}",
                where=model,
                do="check the name; a private model needs a login (hf auth login), an offline machine a local folder",
            ) from error
        self._count_too_long()

    def on_progress(self, done: Callable[[int, int], None]) -> None:
        """Call `done(texts so far, texts in all)` as the model goes through a task."""

        class Bar:
            """Stands in for the progress bar that lm-eval would draw into the log."""

            def __init__(self, iterable: Iterable[object] = (), total: int = 0, **options: object) -> None:
                self.iterable, self.total, self.n = iterable, total, 0

            def __iter__(self) -> Iterator[object]:
                return iter(self.iterable)

            def update(self, more: int = 1) -> None:
                self.n += more
                done(self.n, self.total)

            def close(self) -> None:
                pass

        vars(importlib.import_module(MODULES[self.backend]))["tqdm"] = Bar

    def _transformers(self, model: str, batch_size: str | int) -> LM:
        if batch_size == "auto" and not self.gpus:
            batch_size = CPU_BATCH
        arguments: dict[str, object] = {
            "pretrained": model,
            "dtype": self.dtype,
            "trust_remote_code": False,
            "use_safetensors": True,
            "parallelize": self.gpus > 1,
        }
        if (attention := choose_attention(model)) is not None:
            arguments["attn_implementation"] = attention
        return _open("hf", arguments, {"batch_size": batch_size, "device": "cuda" if self.gpus else "cpu"})

    def _vllm(self, model: str, gpu_memory: float) -> LM:
        if not importlib.util.find_spec("vllm"):
            raise UserError(
                "vLLM is not installed", where="judge.nlp.backend: vllm", do="install it, or set transformers"
            )
        arguments: dict[str, object] = {
            "pretrained": model,
            "dtype": self.dtype,
            "trust_remote_code": False,
            "load_format": "safetensors",
            "tensor_parallel_size": max(1, self.gpus),
            "gpu_memory_utilization": gpu_memory,
            "max_model_len": min(context_length(model), LONGEST),
            "disable_log_stats": True,
        }
        if not self.gpus:
            # as in icr.engines.vllm_engine; and to compile the counting of ranks takes longer than it ever saves
            for name, value in (
                ("VLLM_ENABLE_V1_MULTIPROCESSING", "0"),
                ("VLLM_CPU_KVCACHE_SPACE", "1"),
                ("TORCH_COMPILE_DISABLE", "1"),
            ):
                os.environ.setdefault(name, value)
            arguments["enforce_eager"] = True
        _find_vllm()
        return _open("vllm", arguments, {"batch_size": "auto"})

    def _count_too_long(self) -> None:
        lm = self.lm
        # transformers drops the last token before it looks at the length, vLLM makes one more
        room = lm.max_length + (1 if self.backend == "transformers" else -1)
        score = lm._loglikelihood_tokens

        def counting(requests: Sequence[Scored], *args: object, **kwargs: object) -> object:
            self.too_long += sum(len(context) + len(answer) > room for _, context, answer in requests)
            return score(requests, *args, **kwargs)

        lm._loglikelihood_tokens = counting


def _open(kind: str, arguments: dict[str, object], options: dict[str, object]) -> LM:
    import lm_eval.models  # noqa: F401 - registers the kinds of models
    from lm_eval.api.registry import get_model

    return get_model(kind).create_from_arg_obj(arguments, options)


def _find_vllm() -> None:
    """lm-eval looks up the version of a distribution named vllm; the CPU build's is named vllm-cpu."""
    import vllm.platforms

    # vLLM looks that name up, too, to tell a CPU build: it has to have done so before
    assert vllm.platforms.current_platform.device_type
    real = importlib.metadata.version

    def version(distribution_name: str) -> str:
        try:
            return real(distribution_name)
        except importlib.metadata.PackageNotFoundError:
            if distribution_name != "vllm":
                raise
            return real("vllm-cpu")

    importlib.metadata.version = version
    try:
        importlib.import_module(MODULES["vllm"])
    finally:
        importlib.metadata.version = real
