"""Stage "pair" (equation 10)."""

from __future__ import annotations

from collections.abc import Mapping

from icr.base.errors import UserError
from icr.base.files import write_rows
from icr.pairs import PairResult
from icr.rounds.context import Context
from icr.rounds.stages.kinds import open_kind
from icr.rows import PAIRS
from icr.work.runner import Counts


def pair(context: Context) -> Counts:
    """Eq. 10: best and worst response of every prompt, under the prompt as asked; or what the reward kind pairs.

    Raises:
        UserError: no prompt gives a pair.
    """
    results = open_kind(context).pairs()
    pairs = [row for result in results.values() for row in result.pairs]
    if not pairs:
        raise _no_pairs(context, results)
    write_rows(context.round.pairs, pairs, PAIRS)
    return {"pairs": len(pairs), "languages": {lang: result.counts for lang, result in results.items()}}


def _no_pairs(context: Context, results: Mapping[str, PairResult]) -> UserError:
    """Why, by language. The responses are there and stay, so another try is another run."""
    parts = []
    for lang, result in results.items():
        found = [f"{count} {reason.replace('_', ' ')}" for reason, count in result.counts["dropped"].items() if count]
        parts.append(f"{lang}: {', '.join(found) or 'no prompts'}")
    do = "start a new run with a higher sampling.temperature or more responses (sampling.n)"
    if (number := context.round.number) > 1:
        do += f"; --from {context.run.round(number - 1).path} starts it from the round before"
    return UserError(f"no prompt gives a pair ({'; '.join(parts)})", where=str(context.round.rewards), do=do)
