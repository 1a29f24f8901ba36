"""Do several judges agree? Krippendorff's α for nominal values, of any number of judges, some verdicts missing.

Source: K. Krippendorff, "Computing Krippendorff's Alpha-Reliability" (2011).
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Hashable, Iterable, Sequence


def nominal_alpha(units: Iterable[Sequence[Hashable | None]]) -> float | None:
    """α = 1 − D_o / D_e: 1 where all agree, 0 where they agree as chance would have it.

    With m_u values of unit u, n = Σ_u m_u over the units of two values and more, o_ck the pairs of values c and k
    within units, each weighted by 1 / (m_u − 1), and n_c how often c occurs among these values:

        D_o = Σ_{c≠k} o_ck / n        D_e = Σ_{c≠k} n_c n_k / (n (n − 1))

    Args:
        units: of each item, what each judge says; None where it says nothing.

    Returns:
        None where it is not defined: no item has two values, or all values are the same.
    """
    values = [[value for value in unit if value is not None] for unit in units]
    pairable = [unit for unit in values if len(unit) > 1]
    total = Counter(value for unit in pairable for value in unit)
    n = total.total()
    expected = n * n - sum(count * count for count in total.values())
    if not expected:
        return None
    observed = sum(_disagreement(unit) / (len(unit) - 1) for unit in pairable)
    return 1 - (n - 1) * observed / expected


def _disagreement(unit: Sequence[Hashable]) -> int:
    """Ordered pairs of different values."""
    return len(unit) ** 2 - sum(count**2 for count in Counter(unit).values())
