"""What a stage writes into its record."""

from __future__ import annotations

from typing import Any

Counts = dict[str, Any]
"""Plain JSON: numbers and words by name, some of them by language."""
