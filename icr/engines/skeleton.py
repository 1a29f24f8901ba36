"""A model without its weights: its modules and names, and how a checkpoint fits them, in a second and no memory."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from threading import RLock
from typing import TYPE_CHECKING, cast

from icr.engines.weights import Stored

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

LOADING = RLock()
"""While transformers loads a model, torch's functions are others for all threads: one at a time."""


@dataclass(frozen=True)
class Skeleton:
    """A model on the meta device, loaded as a checkpoint's tensors would be."""

    model: PreTrainedModel
    missing: tuple[str, ...]
    """Names of the model that the checkpoint does not have."""
    unexpected: tuple[str, ...]
    """Names of the checkpoint that the model does not have, but for old buffers that transformers leaves out."""
    mismatched: tuple[tuple[str, tuple[int, ...], tuple[int, ...]], ...]
    """(name, shape in the checkpoint, shape by the config)"""

    @property
    def embedding_rows(self) -> int:
        """Token ids that the model has an embedding for."""
        return int(cast("torch.Tensor", self.model.get_input_embeddings().weight).shape[0])


def load_skeleton(
    folder: Path,
    tensors: Mapping[str, Stored],
    auto_class: str = "AutoModelForCausalLM",
    changes: Mapping[str, object] | None = None,
) -> Skeleton:
    """transformers' own loading, of tensors that have shapes and no numbers: it knows every renaming of old names.

    Args:
        tensors: `icr.engines.weights.read_headers` of the folder.
        auto_class: the class of transformers that loads the model.
        changes: of the config.

    Raises:
        OSError, ValueError: as transformers, for a config that it cannot make a model from.
    """
    import torch
    import transformers

    transformers.logging.disable_progress_bar()  # type: ignore[no-untyped-call]
    config = transformers.AutoConfig.from_pretrained(folder, trust_remote_code=False, **(changes or {}))
    with LOADING, torch.device("meta"):
        kind = type(getattr(transformers, auto_class).from_config(config))
    empty: dict[str, torch.Tensor] = {
        name: torch.empty(stored.shape, dtype=stored.torch_dtype, device="meta") for name, stored in tensors.items()
    }
    with LOADING, _without_report():
        model, info = kind.from_pretrained(
            None, config=config, state_dict=empty, device_map={"": "meta"}, output_loading_info=True,
            ignore_mismatched_sizes=True,
        )  # fmt: skip
    return Skeleton(
        model,
        tuple(sorted(info["missing_keys"])),
        tuple(sorted(info["unexpected_keys"])),
        tuple(sorted((name, tuple(found), tuple(wanted)) for name, found, wanted in info["mismatched_keys"])),
    )


@contextmanager
def _without_report() -> Iterator[None]:
    """No table of transformers' on stderr: what is missing is said by the caller, or is new on purpose."""
    import transformers

    verbosity = transformers.logging.get_verbosity()  # type: ignore[no-untyped-call]
    transformers.logging.set_verbosity_error()  # type: ignore[no-untyped-call]
    try:
        yield
    finally:
        transformers.logging.set_verbosity(verbosity)
