"""Numbers as people read them."""

from __future__ import annotations

import math
from collections.abc import Sequence

NOTHING = "–"


def number(value: float | None, digits: int = 1, *, sign: bool = False) -> str:
    """A number as people read it; a dash for what is not known (None, NaN, infinite)."""
    if value is None or not math.isfinite(value):
        return NOTHING
    text = f"{value:{'+' if sign else ''},.{digits}f}"
    if not float(text.replace(",", "")):
        text = f"{0:.{digits}f}"  # neither -0.0 nor +0.0
    return text.replace("-", "−")


def significant(value: float | None, digits: int = 3) -> str:
    """A number of unknown size (α) with so many significant digits."""
    if value is None or not math.isfinite(value):
        return NOTHING
    return f"{value:#.{digits}g}".replace("-", "−")


def duration(seconds: float | None) -> str:
    """Seconds in the unit that reads best."""
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    if seconds < 9.95:
        return f"{seconds:.1f} s"
    whole = round(seconds)
    if whole < 120:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    return f"{minutes} min {rest:02d} s" if minutes < 120 else f"{minutes // 60} h {minutes % 60:02d} min"


def share(value: float | None) -> str:
    """A share from 0 to 1 as a percentage."""
    return NOTHING if value is None else f"{number(100 * value, 0)} %"


def between(interval: Sequence[float] | None) -> str:
    """An interval of a rate in percent."""
    return NOTHING if interval is None else f"{number(interval[0])}–{number(interval[1])}"


def listed(names: list[str]) -> str:
    """Names in a sentence: "a, b and c"."""
    return names[0] if len(names) == 1 else f"{', '.join(names[:-1])} and {names[-1]}"


def together(text: str) -> str:
    """A sentence in which no line ends between a number and its %."""
    return text.replace(" %", "\u00a0%")
