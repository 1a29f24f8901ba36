"""Stage "pair" (equation 10)."""

from __future__ import annotations

from icr.base.errors import UserError
from icr.base.files import write_rows
from icr.rounds.context import Context
from icr.rounds.stages.kinds import open_kind
from icr.rows import PAIRS
from icr.work.runner import Counts


def pair(context: Context) -> Counts:
    """Eq. 10: best and worst response of every prompt, under the prompt as asked; or what the reward kind pairs."""
    results = open_kind(context).pairs()
    pairs = [row for result in results.values() for row in result.pairs]
    if not pairs:
        raise UserError(
            "no prompt gives a pair: all responses are equal, empty or dropped",
            where=str(context.round.rewards),
            do="see the counts in the report; sample more responses, or at a higher temperature",
        )
    write_rows(context.round.pairs, pairs, PAIRS)
    return {"pairs": len(pairs), "languages": {lang: result.counts for lang, result in results.items()}}
