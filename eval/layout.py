"""A preference that can be computed exactly in any language: layout. The quickstart's judge uses it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence


def is_laid_out(response: str) -> bool:
    """Whether a response is laid out in several lines (paragraphs, a list, …) and not in one block."""
    return "\n" in response.strip()


class SeveralLines:
    """A judge (`judge.kind: eval.layout:SeveralLines`) that prefers several lines to one paragraph."""

    rule = "several lines beat one paragraph"

    def preferences(self, rows: Sequence[Mapping[str, str]]) -> list[float]:
        """Of the first answer, a number a row: 1, 0.5 or 0."""
        return [0.5 + 0.5 * (is_laid_out(row["first"]) - is_laid_out(row["second"])) for row in rows]


class OneParagraph:
    """The opposite judge (`judge.kind: eval.layout:OneParagraph`)."""

    rule = "one paragraph beats several lines"

    def preferences(self, rows: Sequence[Mapping[str, str]]) -> list[float]:
        """Of the first answer, a number a row: 1, 0.5 or 0."""
        return [1 - preference for preference in SeveralLines().preferences(rows)]
