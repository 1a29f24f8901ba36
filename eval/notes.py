"""Who takes a line for the user: a reporter, or the machine that a command works with."""

from __future__ import annotations

from typing import Protocol


class Notes(Protocol):
    def note(self, text: str) -> None:
        """One line for the user."""
