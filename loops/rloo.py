"""RLOO (arXiv 2402.14740): what a sample is worth, beside the others of its prompt. Imports only torch.

With n samples y_1 … y_n ~ π(·|x) of a prompt, and R_i what each is worth:

    R_i = r(x, y_i) − β·(log π(y_i|x) − log π_SFT(y_i|x))        the reward with its KL penalty
    A_i = R_i − 1/(n − 1)·Σ_{j≠i} R_j                            the advantage, with the others' mean as baseline
    ∇J = E[A_i·∇log π(y_i|x)]                                    what an optimiser step follows

A step is taken on samples of the policy as it is, each used once: no ratio to an older policy, and nothing clipped or
normalised. E over y ~ π of log π(y|x) − log π_SFT(y|x) is KL(π ‖ π_SFT).
"""

from __future__ import annotations

import torch
from torch import Tensor


def penalize(rewards: Tensor, log_ratios: Tensor, beta: float) -> Tensor:
    """R = r(x, y) − β·(log π(y|x) − log π_SFT(y|x)).

    Args:
        rewards: r(x, y), of shape (B,); NaN: the reward model could not read the sample.
        log_ratios: log π(y|x) − log π_SFT(y|x), sums over a sample's tokens in nats, of shape (B,).

    Returns:
        Shape (B,); NaN stays.
    """
    return rewards - beta * log_ratios


def leave_one_out(values: Tensor) -> Tensor:
    """A_i = R_i − 1/(k − 1)·Σ_{j≠i} R_j, over the k samples of a prompt that have a value.

    Args:
        values: R, of shape (prompts, n); NaN: without a value.

    Returns:
        Shape (prompts, n). 0 where a sample has no value, or no other of its prompt has one: it teaches nothing.
    """
    known = ~values.isnan()
    others = known.sum(dim=1, keepdim=True) - 1
    baseline = (values.nansum(dim=1, keepdim=True) - values) / others
    return torch.where(known & (others > 0), values - baseline, 0.0)


def rloo_loss(logps: Tensor, advantages: Tensor) -> Tensor:
    """−A·log π(y|x), whose gradient is −A·∇log π(y|x); its value says nothing.

    Args:
        logps: log π(y|x), sums over a sample's tokens in nats, of shape (B,).
        advantages: A, of shape (B,), through which no gradient goes.

    Returns:
        Shape (B,).
    """
    return -advantages.detach() * logps
