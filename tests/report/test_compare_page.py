"""The page of a comparison: it begins with whether any variant differs."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from icr.report.compare_tables import conclude, write_page
from tests.helpers.fake_run import HOSTILE
from tests.helpers.pages import Page, assert_sound


def summary(rate: float) -> dict[str, Any]:
    row = {"win_rate": rate, "win_rate_se": 3.0, "lc_win_rate": rate, "lc_win_rate_se": 3.0, "mean_length": 90.0}
    return {"average": row, "languages": {"es": row, "th": row}}


def differs(value: float, low: float | None, high: float | None) -> dict[str, Any]:
    row = {"difference": value, "low": low, "high": high, "why": None}
    return {"2": {"average": row, "languages": {"es": row, "th": row}}}


def made() -> Any:
    rates = {"kind=cross-lingual": 60.0, "kind=random": 50.0, "kind=lidr": 61.0, "kind=translate": 58.0, HOSTILE: 1.0}
    pairs = {"es": {"pairs": 20, "chosen_length": 80.0, "rejected_length": 90.0, "reward_margin": 1.5}}
    variants = {n: {"2": {"summary": summary(r), "pairs": pairs, "alpha": {"es": 0.01}}} for n, r in rates.items()}
    return {
        "baseline": "kind=cross-lingual", "rounds": "2", "languages": ["es", "th"], "judge": HOSTILE,
        "variants": variants,
        "differences": {"kind=random": differs(-10.0, -16.0, -4.0), "kind=lidr": differs(1.0, -3.0, 5.0),
                        "kind=translate": differs(-2.0, None, None)},
        "not_compared": {HOSTILE: HOSTILE}, "agreement": [], "shared": {},
    }  # fmt: skip


def test_a_difference_is_said_only_where_its_interval_excludes_0(tmp_path: Path) -> None:
    assert conclude(made()) == [
        "kind=random is 10.0 points below kind=cross-lingual (95 % interval −16.0 to −4.0).",
        "kind=lidr is 1.0 points above kind=cross-lingual (95 % interval −3.0 to +5.0); the interval contains 0, so no "
        "difference is shown.",
        "kind=translate is 2.0 points below kind=cross-lingual; no interval.",
    ]
    page = Page(write_page(made(), tmp_path).read_text(encoding="utf-8"))
    assert_sound(page)
    assert "kind=random is 10.0 points below" in page.text[: page.text.index("Win rates and lengths")]
    assert "Spanish cross-lingual 60.0 ± 3.0" in page.text, "where one setting varies, a row has its value alone"
    assert "in Spanish and Thai." in page.text and "Shared work" not in page.text, "nothing was shared"
