"""The rewards' equations: what the policy and its reference are given, and how their answers make a reward.

Equations of Yang et al., "Implicit Cross-Lingual Rewarding for Efficient Multilingual Preference Alignment" (ACL 2025,
arXiv 2503.04647):

    Eq. 8       G(x^ℓ) = x^en for English, else P(ℓ) + x^en
    Eq. 9       R_c = β·[log π_θ(y|G(x^ℓ)) − log π_ref(y|G(x^ℓ))] − α^ℓ·|y|
    Eq. 12      R_m = the same given x^ℓ
    Eq. 13, 14  R_t = the same given x^en, of y's English translation in the place of y (icr/translation.py)

So each is `penalise(implicit_reward(policy, reference), |y|, α)` of log-probs that were given `condition(kind, …)`.
P(ℓ), in prompts/prefix.txt, is quoted from the paper's Appendix E.1.
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Sequence
from functools import cache
from importlib.resources import files
from typing import NamedTuple

import numpy as np
from numpy.typing import ArrayLike, NDArray

from icr.base.conversation import Conversation
from icr.languages import english_name

LOG_RATIO = "beta*(policy_logp-reference_logp)"
"""What implicit rewards measure, as lengths.json says it."""


class Score(NamedTuple):
    """A reward kind's result for one response, before any length penalty."""

    reward: float | None = None
    """None: there is none, and `dropped` says why."""
    policy_logp: float | None = None
    reference_logp: float | None = None
    """Sums in nats; None for kinds without log-probs."""
    dropped: str | None = None
    """Why the response was taken out; None: nothing did."""

    @property
    def known(self) -> float:
        """The reward of a response that competes: it has one."""
        assert self.reward is not None
        return self.reward


def conditioning_prompt(lang: str, english_prompt: Conversation) -> Conversation:
    """Eq. 8: G(x^ℓ) = x^en for English, else P(ℓ) + x^en, P(ℓ) asking for the language ℓ and ending in a blank line.

    The paper has prompts of one message. Of a longer conversation, P(ℓ) goes in front of the last message, the user's:
    "the following instruction" is what the response answers, and the request stands as near to it as in the paper. In
    front of the first message, or in the system's, a later turn could overrule it, and some templates take no system
    message. The messages before it stay as they are, in English.

    Raises:
        UserError: `lang` is not an ISO 639-1 code.
    """
    if lang == "en":
        return english_prompt
    *before, last = english_prompt
    prefix = _prefix().replace("{language}", english_name(lang)) + "\n\n"
    return [*before, {"role": last["role"], "content": prefix + last["content"]}]


def condition(kind: str, lang: str, prompt: Conversation, english_prompt: Conversation) -> Conversation:
    """What log-probs are given, by `reward.kind`: G(x^ℓ) in Eq. 9, x^ℓ in Eq. 12, x^en in Eq. 13.

    That is all that tells Eq. 12 from Eq. 9; Eq. 13 also has y's English translation in the place of y.
    """
    conditions: dict[str, Callable[[], Conversation]] = {
        "cross-lingual": lambda: conditioning_prompt(lang, english_prompt),
        "multilingual": lambda: prompt,
        "translate": lambda: english_prompt,
    }
    return conditions[kind]()


def implicit_reward(policy_logp: ArrayLike, reference_logp: ArrayLike, beta: float) -> NDArray[np.float64]:
    """β·[log π_θ(y|·) − log π_ref(y|·)]: Eq. 9, 12 and 13 before their penalty, and what α is fitted on (Eq. 15).

    Args:
        policy_logp: any shape; sums over the response's tokens, in nats.
        reference_logp: the same for the reference, of the same tokens under the same condition.
    """
    return beta * (np.asarray(policy_logp, dtype=np.float64) - np.asarray(reference_logp, dtype=np.float64))


def penalise(reward: ArrayLike, length: ArrayLike, alpha: float) -> NDArray[np.float64]:
    """Eq. 9, 12 and 13: R = r − α^ℓ·|y|, with r of `implicit_reward`; other kinds put their own reward in its place.

    |y| is the length of the response itself, also where its translation is scored.

    Args:
        reward, length: any one shape; |y| in the unit that `alpha` was fitted in.
        alpha: reward units per length unit. The authors' α has no β in it: theirs is alpha/beta.
    """
    return np.asarray(reward, dtype=np.float64) - alpha * np.asarray(length, dtype=np.float64)


def score_ratios(policy_logps: ArrayLike, reference_logps: ArrayLike, beta: float) -> list[Score]:
    """Scores of responses by their log-probs: float [responses] each, in nats."""
    policy, reference = np.asarray(policy_logps, np.float64), np.asarray(reference_logps, np.float64)
    rewards = implicit_reward(policy, reference, beta)
    return [Score(*values) for values in zip(rewards.tolist(), policy.tolist(), reference.tolist(), strict=True)]


def score_plainly(rewards: Sequence[float | None], missing: str | None = None) -> list[Score]:
    """Scores of responses by rewards without log-probs; `missing` is why one may be None."""
    return [Score(reward, dropped=missing if reward is None else None) for reward in rewards]


def random_reward(seed: int, round_number: int, lang: str, prompt_id: str, sample: int) -> float:
    """The control: uniform in [0, 1), a hash of these five and of nothing else. It knows nothing of the response."""
    key = "\x1f".join(("random reward", str(seed), str(round_number), lang, prompt_id, str(sample)))
    bits = int.from_bytes(hashlib.blake2b(key.encode(), digest_size=8).digest(), "big") >> 11
    return bits / 2**53


@cache
def _prefix() -> str:
    return (files("prompts") / "prefix.txt").read_text(encoding="utf-8").strip()
