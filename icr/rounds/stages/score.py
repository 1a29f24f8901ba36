"""Stage "score": every response's reward, of the kind that the config names.

The stage may be killed anywhere and called again: workers skip the shards that exist, and the light steps are
deterministic functions of finished files.
"""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np

from icr.base.files import write_json, write_rows
from icr.pairs import find_candidates, pair_flips
from icr.reward_table import PenaltyFacts
from icr.rewards import penalise
from icr.rounds.context import Context
from icr.rounds.stages.kind import RewardKind
from icr.rounds.stages.kinds import open_kind
from icr.rows import REWARDS, read_rewards
from icr.work.runner import Counts


def score(context: Context) -> Counts:
    """Eq. 9, 12 or 13, or another kind's reward, of every response; with α of Eq. 15 per language."""
    kind = open_kind(context)
    facts = kind.measure()
    penalties: dict[str, PenaltyFacts] = {}
    counts = {}
    for lang in context.languages:
        scored = kind.reward(lang)
        write_rows(context.round.rewards / f"{lang}.parquet", scored.rows, REWARDS)
        counts[lang] = scored.counts
        if scored.length_penalty is not None:
            penalties[lang] = scored.length_penalty
    write_json(context.round.lengths, penalties)
    flips = _count_flips(context, kind, penalties) if kind.checked else None
    total = sum(c["responses"] for c in counts.values())
    return {"responses": total, **facts, "flips": flips, "languages": counts}


def _count_flips(context: Context, kind: RewardKind, penalties: Mapping[str, PenaltyFacts]) -> Counts:
    """On how many of the checked prompts the (best, worst) pair changes when the forward pass is fp32, not bf16;
    and how many are left out because fp32 has no room in memory."""
    flipped = compared = left_out = 0
    for lang in {lang for _, lang in kind.checked}:
        ids = {prompt_id for prompt_id, of_lang in kind.checked if of_lang == lang}
        responses = [r for r in kind.read_responses(lang) if r["prompt_id"] in ids]
        rewards = [r for r in read_rewards(context.round.rewards / f"{lang}.parquet") if r["prompt_id"] in ids]
        for group in find_candidates(responses, rewards).values():
            if len(group) < 2:
                continue
            if not kind.was_checked([c.response for c in group]):
                left_out += 1
                continue
            scores = kind.scores([c.response for c in group], lang, again=True)
            raw = np.asarray([score.reward for score in scores], np.float64)
            again = penalise(raw, [c.length for c in group], penalties[lang]["alpha"])
            flipped += pair_flips([c.reward for c in group], again, [0] * len(group))
            compared += 1
    return {"checked": compared, "flipped": flipped, "left_out": left_out}
