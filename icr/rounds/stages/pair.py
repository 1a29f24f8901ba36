"""Stage "pair" (equation 10)."""

from __future__ import annotations

from icr.base.errors import UserError
from icr.base.files import read_rows, write_rows
from icr.pairs import build_pairs
from icr.rounds.context import Context, read_responses
from icr.rounds.stages import lidr
from icr.rows import PAIRS, Row
from icr.work.runner import Counts


def pair(context: Context) -> Counts:
    """Eq. 10: best and worst response of every prompt, under the prompt as asked; or the pairs of LIDR."""
    if context.config.reward.kind == "lidr":
        responses = {lang: read_responses(context, lang, ["prompt_ids"]) for lang in context.languages}
        pairs, counts = lidr.pairs(context, responses)
    else:
        pairs, counts = _best_and_worst(context)
    if not pairs:
        raise UserError(
            "no prompt makes a pair: all responses are alike, empty or dropped",
            where=str(context.round.rewards),
            do="see the counts in the report; sample more responses, or at a higher temperature",
        )
    write_rows(context.round.pairs, pairs, PAIRS)
    return {"pairs": len(pairs), "languages": counts}


def _best_and_worst(context: Context) -> tuple[list[Row], Counts]:
    pairs: list[Row] = []
    counts = {}
    for lang in context.languages:
        responses = read_responses(context, lang, ["prompt_ids"])
        prompt_ids = {r["prompt_id"]: r["prompt_ids"] for r in responses}
        result = build_pairs(responses, read_rows(context.round.rewards / f"{lang}.parquet"), prompt_ids)
        pairs.extend(result.pairs)
        counts[lang] = result.counts
    return pairs, counts
