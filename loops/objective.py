"""What an objective is, and how one is found by name. Imports torch alone, like every loss in this package.

A user's objective is one class in one file outside the package, named `module:Class` or `path/to/file.py:Class`;
docs/objective.md shows one.
"""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

from torch import Tensor

from icr.base.errors import UserError
from icr.base.plugins import load_class

BUILT_IN = {"dpo": "loops.dpo:DPO", "kto": "loops.kto:KTO"}

Pair = Mapping[str, Any]
"""A preference: `prompt_ids`, `chosen_ids`, `rejected_ids` (token ids) and, if known, `prompt_id`."""
Request = tuple[list[int], list[int]]
"""(prompt ids, response ids): a sequence whose log-prob under the training reference is wanted."""


class Objective(ABC):
    """What every objective says about itself. Users derive theirs from `PairObjective`.

    Before a training the caller scores `reference_requests(pairs)` under the reference π_θ^{t-1}, in the training's
    precision, and hands the sums back to `dataset`, which gives the rows of the training's data file. So the reference
    is never in memory together with the policy.
    """

    family: ClassVar[str] = ""
    """The `loops.families.Family` that trains it, as `module:Class`."""
    rows_per_pair: ClassVar[int] = 1
    """Training rows that one pair becomes."""

    def __init__(self, *, beta: float, nll_weight: float) -> None:
        """`beta` and `nll_weight` are `train.beta` and `train.nll_weight` of the config."""
        self.beta, self.nll_weight = beta, nll_weight

    @abstractmethod
    def reference_requests(self, pairs: Sequence[Pair], *, seed: int = 0) -> list[Request]:
        """The sequences that the reference has to score; none where there is no reference."""

    @abstractmethod
    def dataset(
        self, pairs: Sequence[Pair], reference_logps: Sequence[float], *, seed: int = 0
    ) -> list[dict[str, Any]]:
        """The training rows, given the log-probs (nats) of `reference_requests(pairs, seed=seed)`, in that order.

        A row has the columns of its family, `prompt_ids` and, by which validation rows are held back, `prompt_id`.
        """


@dataclass(frozen=True)
class PairLogps:
    """One micro-batch of B pairs; every tensor has shape (B,). Log-probs are sums over a response's tokens, in nats."""

    policy_chosen: Tensor
    policy_rejected: Tensor
    reference_chosen: Tensor
    reference_rejected: Tensor
    chosen_lengths: Tensor
    """Tokens of the chosen response, its end-of-turn token included."""
    rejected_lengths: Tensor


class PairObjective(Objective):
    """An objective over pairs: write `loss`, and you have one."""

    family: ClassVar[str] = "loops.pair_family:PairFamily"

    @abstractmethod
    def loss(self, logps: PairLogps) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each pair, shape (B,), and named values of shape (B,) to record beside it.

        Not the mean: the trainer takes it over all pairs of an optimiser step, so that the result does not depend on
        how a step is split into processes and micro-batches.
        """

    def reference_requests(self, pairs: Sequence[Pair], *, seed: int = 0) -> list[Request]:
        return [
            (list(pair["prompt_ids"]), list(pair[side])) for pair in pairs for side in ("chosen_ids", "rejected_ids")
        ]

    def dataset(
        self, pairs: Sequence[Pair], reference_logps: Sequence[float], *, seed: int = 0
    ) -> list[dict[str, Any]]:
        check_answers(pairs)
        chosen, rejected = reference_logps[0::2], reference_logps[1::2]
        return [
            {
                **named_prompt(pair),
                "chosen_ids": pair["chosen_ids"],
                "rejected_ids": pair["rejected_ids"],
                "ref_chosen_logps": float(c),
                "ref_rejected_logps": float(r),
            }
            for pair, c, r in zip(pairs, chosen, rejected, strict=True)
        ]


def named_prompt(pair: Pair) -> dict[str, Any]:
    """The columns of a row that its prompt fills: `prompt_ids` and, where the pair has one, `prompt_id`."""
    name = {"prompt_id": str(pair["prompt_id"])} if "prompt_id" in pair else {}
    return {**name, "prompt_ids": pair["prompt_ids"]}


def check_answers(pairs: Sequence[Pair]) -> None:
    """An answer without tokens has no mean log-prob. Raises UserError."""
    for number, pair in enumerate(pairs, 1):
        for side in ("prompt_ids", "chosen_ids", "rejected_ids"):
            if len(pair[side]) == 0:
                raise UserError(
                    f"pair {number} has no token in {side}",
                    where=f"prompt {pair.get('prompt_id', '?')}",
                    do="remove the pair",
                )


def load_objective(name: str) -> type[Objective]:
    """The class that `name` stands for: `dpo`, `kto`, `module:Class` or `path/to/file.py:Class`.

    A module is looked for in the current folder and on PYTHONPATH. Raises UserError when there is no such thing, when
    it is no objective, and when a method is missing.
    """
    target = BUILT_IN.get(name, name)
    module_name, colon, class_name = target.rpartition(":")
    if not colon or not module_name or not class_name:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"there is no objective {name}",
            where="objective",
            do=f"{hint}write dpo, kto, or module:Class for your own (docs/objective.md)",
        )
    found = load_class(target, "objective")
    if not issubclass(found, Objective):
        raise UserError(
            f"{class_name} is not an objective",
            where=f"objective: {name}",
            do="derive it from loops.objective.PairObjective (docs/objective.md shows one)",
        )
    if inspect.isabstract(found):
        raise UserError(
            f"{class_name} lacks {', '.join(sorted(found.__abstractmethods__))}",
            where=f"objective: {name}",
            do="write the method (docs/objective.md shows one)",
        )
    return found


def make_objective(name: str, *, beta: float, nll_weight: float) -> Objective:
    """An instance of `load_objective(name)`. Raises UserError, also when a user's `__init__` does not take these."""
    kind = load_objective(name)
    try:
        return kind(beta=beta, nll_weight=nll_weight)
    except TypeError as error:
        raise UserError(
            f"{kind.__name__} cannot be made: {error}",
            where=f"objective: {name}",
            do="give its __init__ the keyword arguments beta and nll_weight, or no __init__ at all",
        ) from error
