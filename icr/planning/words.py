"""Times and sizes of a plan as people read them: no more exact than they are."""

from __future__ import annotations

from icr.engines.sizes import GIB

MIB = 2**20


def minutes(seconds: float) -> str:
    """Seconds to two digits, in the unit that reads best."""
    if seconds < 99.5:
        return f"{seconds:.0f} s"
    if seconds < 99.5 * 60:
        return f"{seconds / 60:.0f} min"
    hours = seconds / 3600
    return f"{hours:.1f} h" if hours < 100 else f"{hours:,.0f} h"


def count(number: float) -> str:
    """A number to three digits."""
    for unit, name in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if number >= 10 * unit or (number >= unit and name != "k"):
            return f"{number / unit:.3g} {name}"
    return f"{number:,.0f}"


def size(value: float) -> str:
    """Bytes."""
    return f"{value / GIB:,.1f} GiB" if value >= GIB / 10 else f"{value / MIB:.1f} MiB"
