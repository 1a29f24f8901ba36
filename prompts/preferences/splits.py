"""Training and validation: split by group, so that no prompt or document is on both sides."""

from __future__ import annotations

import hashlib
from collections import Counter, defaultdict
from collections.abc import Sequence
from typing import TypeVar

from icr.base.errors import UserError, some
from prompts.preferences.rows import PairRow, RatingRow

R = TypeVar("R", PairRow, RatingRow)


def split_rows(rows: Sequence[R], validation: float, seed: int) -> tuple[list[R], list[R]]:
    """(training, validation): whole groups, drawn until they have the share of the rows.

    A group is on one side in all languages. Which ones are drawn depends on the seed and their names alone.

    Args:
        validation: a share below 1, or a number of rows; 0: none.

    Raises:
        UserError: none would be left to train on.
    """
    if not validation:
        return list(rows), []
    wanted = max(1, round(validation * len(rows))) if validation < 1 else int(validation)
    sizes = Counter(row["group"] for row in rows)
    held: set[str] = set()
    count = 0
    for group in sorted(sizes, key=lambda name: hashlib.sha256(f"{seed}\n{name}".encode()).hexdigest()):
        if count >= wanted:
            break
        held.add(group)
        count += sizes[group]
    if len(held) == len(sizes):
        raise UserError(
            f"{wanted} of {len(rows)} rows for validation leave none to train on",
            where="--validation",
            do=f"lower it: there are {len(sizes)} groups, and all rows of a group stay together",
        )
    return [row for row in rows if row["group"] not in held], [row for row in rows if row["group"] in held]


def check_groups(train: Sequence[R], validation: Sequence[R], *, drop: bool) -> tuple[list[R], Counter[str]]:
    """The training rows of given splits, and how many were taken out of them by language.

    Args:
        drop: take rows out of the training whose group is in the validation; else such a group is an error.

    Raises:
        UserError: groups are in both.
    """
    held = {row["group"] for row in validation}
    both = {row["group"]: row["id"] for row in train if row["group"] in held}
    if both and not drop:
        rows = {row["group"]: row["id"] for row in validation}
        shown = some(f"{group} (rows {id} and {rows[group]})" for group, id in sorted(both.items()))
        raise UserError(
            f"groups are in the training and in the validation: {shown}",
            where="--validation-source",
            do="take them out of one, or add --drop-overlap to leave them out of the training",
        )
    taken = Counter(row["lang"] for row in train if row["group"] in held)
    return [row for row in train if row["group"] not in held], taken


def count_overlap(train: Sequence[R], validation: Sequence[R]) -> dict[str, int]:
    """Language → validation groups whose prompt, white space and case aside, is also a training prompt there."""
    known: defaultdict[str, set[str]] = defaultdict(set)
    for row in train:
        known[row["lang"]].add(_plain(row["prompt"]))
    shared: defaultdict[str, set[str]] = defaultdict(set)
    for row in validation:
        if row["prompt"] and _plain(row["prompt"]) in known[row["lang"]]:
            shared[row["lang"]].add(row["group"])
    return {lang: len(groups) for lang, groups in shared.items()}


def _plain(text: str) -> str:
    return " ".join(text.split()).casefold()
