"""Device memory: batches that shrink where it runs out, and models that do not fit at all."""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from icr.base.errors import UserError
from icr.base.progress import Reporter
from icr.engines.precision import Precision
from icr.engines.sizes import BYTES, GIB, measure_checkpoint

if TYPE_CHECKING:
    import torch
    from transformers import PreTrainedModel

ROOM = 0.8
"""Share of the free memory that one more model may take."""


class DoesNotFit(UserError):
    """A model, or one sequence in it, needs more memory than its device has."""


def work_in_batches(
    rows: Collection[int],
    batch_tokens: int,
    run: Callable[[list[int], int], Iterator[Collection[int]]],
    tokens: Callable[[int], int],
    model: PreTrainedModel,
    reporter: Reporter,
) -> None:
    """Work on rows until all are done. When the device's memory runs out, what is left goes on in batches of half the
    size, and the user hears of it.

    Args:
        run: works on the rows it is given in batches of at most so many tokens; yields each batch when it is done.
        tokens: of a row.

    Raises:
        DoesNotFit: one row alone is too much.
    """
    import torch

    left, halved = set(rows), 0
    while left:
        try:
            for batch in run(sorted(left), batch_tokens):
                left.difference_update(batch)
        except torch.OutOfMemoryError:
            pass  # what follows stands outside of this block: inside, the traceback keeps the failed batch in memory
        if left:
            longest = max(map(tokens, left))
            if batch_tokens <= longest:
                raise _too_long(longest, model)
            torch.cuda.empty_cache()
            batch_tokens, halved = batch_tokens // 2, halved + 1
            reporter.note(
                f"scoring ran out of device memory ({halved}x): continuing with {batch_tokens} tokens per batch"
            )


def _too_long(longest: int, model: PreTrainedModel) -> DoesNotFit:
    import torch

    smaller = "set the precision to bf16, " if model.dtype == torch.float32 else ""
    return DoesNotFit(
        f"a sequence of {longest} tokens does not fit into the memory of {model.device}",
        where="scoring",
        do=f"{smaller}lower sampling.max_tokens, or use a device with more memory",
    )


@contextmanager
def loading(model: str, dtype: torch.dtype) -> Iterator[None]:
    """Around the loading of a model: where the device's memory runs out, that is said. Raises DoesNotFit."""
    import torch

    full = False
    try:
        yield
    except torch.OutOfMemoryError:
        full = True  # outside of this block, where nothing keeps the weights in memory
    if full:
        torch.cuda.empty_cache()
        raise does_not_fit(model, "fp32" if dtype == torch.float32 else "bf16")


def does_not_fit(model: str, precision: Precision) -> DoesNotFit:
    """The error of a model whose weights have no room."""
    size = measure_checkpoint(model)
    needs = "" if size is None else f" of about {size.parameters * BYTES[precision] / GIB:.1f} GiB"
    return DoesNotFit(
        f"the model's weights{needs} in {precision} do not fit into the device's memory "
        f"({free_memory() / GIB:.1f} GiB are free)",
        where=model,
        do=("use bf16, " if precision == "fp32" else "")
        + "end other processes on the device, use one with more memory, or a smaller model",
    )


def has_room(model: str, precision: Precision) -> bool:
    """Whether this process's device has memory for one more model; True where the model's size is not known."""
    size = measure_checkpoint(model)
    return size is None or size.parameters * BYTES[precision] <= ROOM * free_memory()


def free_memory() -> int:
    """Bytes that are free on this process's device."""
    import psutil
    import torch

    return int(torch.cuda.mem_get_info()[0] if torch.cuda.is_available() else psutil.virtual_memory().available)
