"""The stages of a round: what each runs in worker processes, what it then puts together, and its counts.

A stage may be killed anywhere and called again: workers skip the shards that exist, and the light steps are
deterministic functions of finished files.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from icr.base.files import read_rows, write_json, write_rows
from icr.pairs import candidates, pair_flips
from icr.reward_table import reward_language
from icr.rewards import penalised
from icr.rounds.context import Context, read_responses
from icr.rounds.stages import lidr
from icr.rounds.stages.kinds import RewardKind, open_kind
from icr.rows import REWARDS
from icr.work.runner import Counts


def score(context: Context) -> Counts:
    """Every response's reward, of the kind that the config says, with α of Eq. 15 per language."""
    reward = context.config.reward
    if reward.kind == "lidr":
        return lidr.score(context, {lang: read_responses(context, lang) for lang in context.languages})
    kind = open_kind(context)
    lengths, counts = {}, {}
    for lang in context.languages:
        responses = read_responses(context, lang)
        scored = reward_language(responses, kind.scores(responses, lang), reward, lang)
        write_rows(context.round.rewards / f"{lang}.parquet", scored.rows, REWARDS)
        lengths[lang], counts[lang] = scored.length_penalty, scored.counts
    write_json(context.round.lengths, lengths)
    flips = _flips(context, kind, lengths) if kind.checked else None
    total = sum(c["responses"] for c in counts.values())
    return {"responses": total, **kind.facts, "flips": flips, "languages": counts}


def _flips(context: Context, kind: RewardKind, lengths: dict[str, Any]) -> Counts:
    """On how many of the checked prompts the (best, worst) pair changes when the forward pass is fp32, not bf16."""
    flipped = compared = 0
    for lang in {lang for _, lang in kind.checked}:
        ids = {prompt_id for prompt_id, of_lang in kind.checked if of_lang == lang}
        responses = [r for r in read_responses(context, lang) if r["prompt_id"] in ids]
        rewards = [r for r in read_rows(context.round.rewards / f"{lang}.parquet") if r["prompt_id"] in ids]
        for group in candidates(responses, rewards).values():
            if len(group) < 2:
                continue
            scores = kind.scores([c.response for c in group], lang, again=True)
            again = penalised(
                np.asarray(scores.rewards, np.float64), [c.reward["length"] for c in group], lengths[lang]["alpha"]
            )
            flipped += pair_flips([c.reward["reward"] for c in group], again, [0] * len(group))
            compared += 1
    return {"checked": compared, "flipped": flipped}
