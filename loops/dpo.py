"""DPO with a negative log-likelihood term: the objective of ICR (arXiv 2503.04647, Eq. 11)."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn import functional as F

from loops.objective import PairLogps, PairObjective


def dpo_term(logps: PairLogps, beta: float) -> Tensor:
    """Second term of Eq. 11: −log σ(β·Δ), Δ = log π(y₊|x)/π_ref(y₊|x) − log π(y₋|x)/π_ref(y₋|x). Shape (B,), nats."""
    chosen_ratio = logps.policy_chosen - logps.reference_chosen
    rejected_ratio = logps.policy_rejected - logps.reference_rejected
    return -F.logsigmoid(beta * (chosen_ratio - rejected_ratio))


def nll_term(logps: PairLogps) -> Tensor:
    """First term of Eq. 11: −log π(y₊|x)/|y₊|, |y₊| in tokens. Shape (B,), nats a token.

    The mean is per sequence. A mean over all tokens of a micro-batch would weigh long answers more, and would
    change with the micro-batch.
    """
    return -logps.policy_chosen / logps.chosen_lengths


def dpo_nll_loss(logps: PairLogps, beta: float, nll_weight: float = 1.0) -> Tensor:
    """Eq. 11 for each pair, shape (B,): nll_weight · −log π(y₊|x)/|y₊| − log σ(β·Δ). The paper's weight is 1."""
    return nll_weight * nll_term(logps) + dpo_term(logps, beta)


class DPO(PairObjective):
    """`objective: dpo`."""

    def loss(self, logps: PairLogps) -> tuple[Tensor, dict[str, Tensor]]:
        with torch.no_grad():
            parts = {"loss/dpo": dpo_term(logps, self.beta), "loss/nll": nll_term(logps)}
        return dpo_nll_loss(logps, self.beta, self.nll_weight), parts
