"""From verdicts to items: a prompt's preference over its orders, and what was judged only half."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from eval.xalpaca.pairwise import VerdictRow


@dataclass(frozen=True)
class Items:
    """One language's items, by prompt id."""

    orders: dict[str, list[float]]
    """The policy's preference in each order that was asked, where all of them have a verdict."""
    one_order: list[str]
    """Where both orders were asked and one has a verdict. A judge that prefers the first answer would decide these by
    chance, so they count in no rate."""

    @property
    def preferences(self) -> dict[str, float]:
        """Of the policy: the mean over the orders."""
        return {id: sum(orders) / len(orders) for id, orders in self.orders.items()}


def read_items(verdicts: Iterable[VerdictRow]) -> Items:
    """Items out of verdicts, which have a row for each order that was asked."""
    asked: defaultdict[str, list[float | None]] = defaultdict(list)
    for row in verdicts:
        asked[row["prompt_id"]].append(row["preference"])
    scored = {id: [value for value in orders if value is not None] for id, orders in asked.items()}
    whole = {id: orders for id, orders in scored.items() if len(orders) == len(asked[id])}
    return Items(whole, [id for id, orders in scored.items() if orders and id not in whole])


def discrete_preference(preference: float) -> float:
    """1 where the policy wins, 0 where the baseline does, 0.5 for a draw."""
    return 0.5 if preference == 0.5 else float(preference > 0.5)


def position_bias(items: Sequence[Sequence[float]]) -> float | None:
    """Share of the items, among those scored in both orders, in which another answer wins in the other order."""
    both = [orders for orders in items if len(orders) == 2]
    if not both:
        return None
    return sum((first - 0.5) * (second - 0.5) < 0 for first, second in both) / len(both)
