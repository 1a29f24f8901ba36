"""Prompts that stand where they should not: twice in one set, or both in training and held out."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from icr.base.conversation import dump_conversation
from icr.base.errors import UserError, some
from prompts.load import Prompt
from prompts.messages import strip_all


def same_text(prompt: Prompt) -> str:
    """Equal for prompts that are the same to a model: white space does not count."""
    return " ".join(dump_conversation(strip_all(prompt.messages)).split())


def find_overlap(train: Iterable[Prompt], heldout: Iterable[Prompt]) -> dict[str, list[str]]:
    """Language → ids of the held-out prompts whose text a training prompt of that language has."""
    seen = {(prompt.lang, same_text(prompt)) for prompt in train}
    found: dict[str, list[str]] = {}
    for prompt in heldout:
        if (prompt.lang, same_text(prompt)) in seen:
            found.setdefault(prompt.lang, []).append(prompt.id)
    return found


def check_overlap(train: Sequence[Prompt], heldout: Sequence[Prompt], *, allowed: bool) -> list[str]:
    """What the user is to know of prompts that are both trained on and held out, where that is allowed.

    Raises:
        UserError: there are some, and it is not allowed.
    """
    found = find_overlap(train, heldout)
    if not found:
        return []
    what = (
        f"{sum(map(len, found.values()))} of {len(heldout)} held-out prompts are also training prompts ({_list(found)})"
    )
    if allowed:
        return [f"{what}: their win rates say little about other prompts"]
    do = "keep other prompts out of the training (icr prompts split), or set prompts.allow_overlap: true"
    raise UserError(what, where="prompts.path and judge.prompts", do=do)


def describe_prompts(prompts: Sequence[Prompt], limit: int | None, key: str, limit_key: str) -> Iterator[str]:
    """What is unusual in a set of prompts, and no error: fewer than the limit, missing translations, repeated texts.

    Args:
        prompts: of all languages.
        limit: how many prompts a language were asked for.
        key, limit_key: the config keys, for the notes.
    """
    ids = dict.fromkeys(prompt.id for prompt in prompts)
    if limit and prompts and len(ids) < limit:
        yield f"{limit_key} is {limit}, but there are only {len(ids)} prompts: all are used"
    sizes = Counter(prompt.lang for prompt in prompts)
    if missing := {lang: len(ids) - size for lang, size in sizes.items() if size < len(ids)}:
        counts = ", ".join(f"{lang} {count}" for lang, count in missing.items())
        yield f"{key}: of {len(ids)} prompts, some are not there in every language (missing: {counts})"
    if repeated := _find_repeated(prompts):
        count = sum(map(len, repeated.values()))
        yield f"{key}: {count} prompts have the same text as another one of their language ({_list(repeated)})"


def _find_repeated(prompts: Iterable[Prompt]) -> dict[str, list[str]]:
    """Language → ids of prompts whose text an earlier one has."""
    seen: set[tuple[str, str]] = set()
    found: dict[str, list[str]] = {}
    for prompt in prompts:
        place = (prompt.lang, same_text(prompt))
        if place in seen:
            found.setdefault(prompt.lang, []).append(prompt.id)
        seen.add(place)
    return found


def _list(found: Mapping[str, list[str]]) -> str:
    """en 3: 1, 5, 7; es 1: 5."""
    return "; ".join(f"{lang} {len(ids)}: {some(ids)}" for lang, ids in found.items())
