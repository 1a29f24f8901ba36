"""What goes through a model at a time."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any, TypeAlias

if TYPE_CHECKING:
    from torch import Tensor

Row = Mapping[str, Any]
"""A row of the training's data, and its `weight`. Which columns it has, and of which types, its family says."""
Batch: TypeAlias = "dict[str, Tensor]"
"""A micro-batch of B rows; `weight` has shape (B,)."""
