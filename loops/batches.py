"""What goes through a model at a time."""

from __future__ import annotations

from torch import Tensor

Batch = dict[str, Tensor]
"""A micro-batch of B rows; `weight` has shape (B,)."""
