"""What an objective is, and how one is found by name. Imports only torch, like every loss in this package.

A user's objective is one class in one file outside the package, named `module:Class` or `path/to/file.py:Class`;
docs/objective.md shows one.
"""

from __future__ import annotations

import difflib
import inspect
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Literal, NotRequired, TypedDict

from torch import Tensor

from icr.base.errors import UserError
from icr.base.plugins import load_class

if TYPE_CHECKING:
    from typing_extensions import ReadOnly

BUILT_IN = {"dpo": "loops.dpo:DPO", "kto": "loops.kto:KTO"}

Side = Literal["chosen_ids", "rejected_ids"]
SIDES: tuple[Side, Side] = ("chosen_ids", "rejected_ids")


class NamedPrompt(TypedDict):
    """The prompt of a pair, and of the training rows that are made of it."""

    prompt_ids: ReadOnly[Sequence[int]]
    """Token ids."""
    prompt_id: ReadOnly[NotRequired[str]]


class Pair(NamedPrompt):
    """A preference, in token ids. Those of a round have the other columns of `pairs.parquet` as well."""

    chosen_ids: ReadOnly[Sequence[int]]
    rejected_ids: ReadOnly[Sequence[int]]


Setting = bool | int | float | str

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

    def configure(self, settings: Mapping[str, Setting]) -> None:  # noqa: B027 - most objectives take none
        """Take what the caller of the training has set for it beyond `train`: `TrainSpec.settings`."""

    @abstractmethod
    def reference_requests(self, pairs: Sequence[Pair], *, seed: int = 0) -> list[Request]:
        """The sequences that the reference has to score; none where there is no reference."""

    @abstractmethod
    def dataset(
        self, pairs: Sequence[Pair], reference_logps: Sequence[float], *, seed: int = 0
    ) -> list[dict[str, object]]:
        """The training rows, given the log-probs (nats) of `reference_requests(pairs, seed=seed)`, in that order.

        A row has the columns of its family, `prompt_ids` and, by which validation rows are held back, `prompt_id`.
        """


@dataclass(frozen=True)
class PairLogps:
    """One micro-batch of B pairs; every tensor has shape (B,). Log-probs are sums over a response's tokens, in nats."""

    policy_chosen: Tensor
    """Under the model in training; gradients flow through it."""
    policy_rejected: Tensor
    """Likewise."""
    reference_chosen: Tensor
    """Under the round's starting model π_θ^{t-1}, computed before the training."""
    reference_rejected: Tensor
    """Likewise."""
    chosen_lengths: Tensor
    """Tokens of the chosen response, its end-of-turn token included."""
    rejected_lengths: Tensor
    """Likewise."""


class PairObjective(Objective):
    """An objective on pairs: a subclass only has to define `loss`."""

    family: ClassVar[str] = "loops.pair_family:PairFamily"

    @abstractmethod
    def loss(self, logps: PairLogps) -> tuple[Tensor, dict[str, Tensor]]:
        """The loss of each pair, shape (B,), and named values of shape (B,) to record beside it.

        Not the mean: the trainer takes it over all pairs of an optimiser step, so that the result does not depend on
        how a step is split into processes and micro-batches.
        """

    def reference_requests(self, pairs: Sequence[Pair], *, seed: int = 0) -> list[Request]:
        return [(list(pair["prompt_ids"]), list(pair[side])) for pair in pairs for side in SIDES]

    def dataset(
        self, pairs: Sequence[Pair], reference_logps: Sequence[float], *, seed: int = 0
    ) -> list[dict[str, object]]:
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


def has_plain_reference(objective: PairObjective) -> bool:
    """Whether the reference log-probs are those of the model that is trained, which a subclass may change."""
    kind = type(objective)
    return kind.reference_requests is PairObjective.reference_requests and kind.dataset is PairObjective.dataset


def named_prompt(pair: Pair) -> NamedPrompt:
    """The columns of a row that its prompt fills: `prompt_ids` and, where the pair has one, `prompt_id`."""
    if "prompt_id" in pair:
        return {"prompt_id": str(pair["prompt_id"]), "prompt_ids": pair["prompt_ids"]}
    return {"prompt_ids": pair["prompt_ids"]}


def check_answers(pairs: Sequence[Pair]) -> None:
    """An answer without tokens has no mean log-prob. Raises UserError."""
    for number, pair in enumerate(pairs, 1):
        for side, ids in (("prompt_ids", pair["prompt_ids"]), *((side, pair[side]) for side in SIDES)):
            if len(ids) == 0:
                raise UserError(
                    f"pair {number} has no token in {side}",
                    where=f"prompt {pair.get('prompt_id', '?')}",
                    do="remove the pair",
                )


def load_objective(name: str) -> type[Objective]:
    """The class named `name`: `dpo`, `kto`, `module:Class` or `path/to/file.py:Class`.

    A module is searched in the current folder and on PYTHONPATH. Raises UserError if it is not found, is not an
    objective, or lacks a method.
    """
    target = BUILT_IN.get(name, name)
    module_name, colon, class_name = target.rpartition(":")
    if not colon or not module_name or not class_name:
        near = difflib.get_close_matches(name, BUILT_IN, n=1)
        hint = f"did you mean {near[0]}? " if near else ""
        raise UserError(
            f"unknown objective {name}",
            where="objective",
            do=f"{hint}write dpo, kto, or module:Class for a custom one (docs/objective.md)",
        )
    found = load_class(target, "objective")
    if not issubclass(found, Objective):
        raise UserError(
            f"{class_name} is not an objective",
            where=f"objective: {name}",
            do="derive it from loops.objective.PairObjective; see the example in docs/objective.md",
        )
    if inspect.isabstract(found):
        raise UserError(
            f"{class_name} lacks {', '.join(sorted(found.__abstractmethods__))}",
            where=f"objective: {name}",
            do="add the method; see the example in docs/objective.md",
        )
    return found


def make_objective(name: str, *, beta: float, nll_weight: float) -> Objective:
    """An instance of `load_objective(name)`. Raises UserError, also when a user's `__init__` does not take these."""
    kind = load_objective(name)
    try:
        return kind(beta=beta, nll_weight=nll_weight)
    except (Exception, SystemExit) as error:  # a user's class may fail in any way
        raise UserError(
            f"{kind.__name__} cannot be created: {type(error).__name__}: {error}",
            where=f"objective: {name}",
            do="its __init__ must take the keyword arguments beta and nll_weight; or remove __init__",
        ) from error
