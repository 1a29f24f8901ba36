"""A custom objective: IPO, (Δ − 1/(2β))² (arXiv 2310.12036)."""

from loops.objective import PairLogps, PairObjective


class IPO(PairObjective):
    def loss(self, logps: PairLogps):
        chosen = logps.policy_chosen - logps.reference_chosen
        rejected = logps.policy_rejected - logps.reference_rejected
        distance = chosen - rejected - 1 / (2 * self.beta)
        return distance**2, {"distance": distance}
