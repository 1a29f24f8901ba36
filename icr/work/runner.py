"""What a stage writes into its record."""

from __future__ import annotations

from icr.base.fields import Fields

Counts = Fields
"""Plain JSON: numbers and words by name, some of them by language."""
