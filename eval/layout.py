"""A preference that can be computed exactly in any language: layout. The quickstart's judge uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def is_laid_out(response: str) -> bool:
    """Whether a response is laid out in several lines (paragraphs, a list, …) and not in one block."""
    return "\n" in response.strip()


class OneParagraph:
    """A judge (`judge.kind: eval.layout:OneParagraph`) that prefers one paragraph to several lines."""

    def preferences(self, rows: Sequence[Mapping[str, str]]) -> list[float]:
        """Of the first answer, a number a row: 1, 0.5 or 0."""
        return [0.5 + 0.5 * (is_laid_out(row["second"]) - is_laid_out(row["first"])) for row in rows]
