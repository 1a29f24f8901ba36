"""English preference pairs, for aligning a model in English."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from icr.base.conversation import dump_conversation
from icr.base.errors import ConfigError, UserError
from prompts.hub import is_hub_name
from prompts.load import read_source
from prompts.preferences.sides import find_no_preference, read_sides
from prompts.tables import capped


@dataclass(frozen=True)
class EnglishPairs:
    """Pairs of texts, and how many rows were left out for which reason."""

    pairs: list[dict[str, str]]
    """`prompt`, as `icr.base.conversation.dump_conversation` writes it, `chosen` and `rejected`."""
    left_out: Counter[str]


def read_alignment(path: str, key: str = "alignment.pairs") -> EnglishPairs:
    """English preference pairs: rows of `prompt`, `chosen`, `rejected`, each a text or a list of messages.

    `prompts.preferences.sides.read_sides` says what they have to be.

    Args:
        path: a jsonl, json, csv or parquet file (each also .gz), or a data set on the hub. Rows of the latter without
            a preference (an empty response, or the same one twice) are left out and counted: users cannot fix them.
        key: the config key, for messages.

    Raises:
        ConfigError: every bad line.
        UserError: there is no such file or data set.
    """
    problems: list[UserError] = []
    pairs: list[dict[str, str]] = []
    left_out: Counter[str] = Counter()
    for where, value in read_source(path, key, problems):
        row = value if isinstance(value, dict) else {}
        try:
            if is_hub_name(path) and (reason := find_no_preference(row)):
                left_out[reason] += 1
            else:
                prompt, chosen, rejected = read_sides(row, where)
                pairs.append({"prompt": dump_conversation(prompt), "chosen": chosen, "rejected": rejected})
        except UserError as error:
            problems.append(error)
    if not problems and not pairs:
        problems.append(UserError("no pairs in the file", where=path, do="add at least one pair"))
    if problems:
        raise ConfigError(capped(problems))
    return EnglishPairs(pairs, left_out)


def describe_pairs(english: EnglishPairs, limit: int | None) -> Iterator[str]:
    """What is unusual in the pairs, and no error: some were left out, or there are fewer than the limit."""
    if english.left_out:
        reasons = ", ".join(f"{count} {reason}" for reason, count in english.left_out.items())
        yield f"alignment.pairs: {english.left_out.total()} rows are left out: {reasons}"
    if limit and english.pairs and len(english.pairs) < limit:
        yield f"alignment.limit is {limit}, but there are only {len(english.pairs)} pairs: all are used"
