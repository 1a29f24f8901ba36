"""Judges beside reward models: pairs made of ratings, both orders, what is unscored, agreement by hand."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from eval.reward_models.accuracy import agree_on
from eval.reward_models.bench_rows import BenchRow
from eval.reward_models.benching import list_duels
from eval.reward_models.evaluate import Found, compare_rows
from eval.reward_models.judged import PairVerdict, measure_verdicts, pair_ratings, pick_asked, read_orders
from eval.reward_models.scoring import Measured
from prompts.preferences.rows import PairRow, RatingRow


def rating(response: str, label: int, group: str = "d1", lang: str = "en") -> RatingRow:
    return RatingRow(
        id=response, lang=lang, prompt=f"of {group}", response=response, label=label, source="s", group=group
    )


def pair(number: int, chosen: str = "a longer one", rejected: str = "short", lang: str = "en") -> PairRow:
    return PairRow(
        id=f"p{number}", lang=lang, prompt=f"Q{number}", chosen=chosen, rejected=rejected, source="s",
        group=f"g{number}", margin=None,
    )  # fmt: skip


def verdicts(*orders: tuple[float | None, float | None]) -> list[PairVerdict]:
    return [
        PairVerdict(pair_id=f"p{n}", chosen_first=first, preference=value, reason="refused" if value is None else None,
                    raw="", shortened=False)
        for n, both in enumerate(orders) for first, value in zip((True, False), both, strict=True)
    ]  # fmt: skip


def test_ratings_become_pairs_of_a_good_and_a_bad_answer_to_one_document() -> None:
    rows = [
        rating("good", 1), rating("fine", 1), rating("bad", 0),
        rating("split", 1), rating("split", 0),
        rating("mostly bad", 0), rating("mostly bad", 0), rating("mostly bad", 1),
        rating("alone", 1, "d2"), rating("bueno", 1, "d1", "es"), rating("malo", 0, "d1", "es"),
    ]  # fmt: skip
    made = [(p["lang"], p["group"], p["chosen"], p["rejected"]) for p in pair_ratings(rows)]
    assert made == [
        ("en", "d1", "good", "bad"), ("en", "d1", "good", "mostly bad"),
        ("en", "d1", "fine", "bad"), ("en", "d1", "fine", "mostly bad"),
        ("es", "d1", "bueno", "malo"),
    ]  # fmt: skip
    assert {p["prompt"] for p in pair_ratings(rows)} == {"of d1"}
    assert len({p["id"] for p in pair_ratings(rows)}) == 5


def test_a_part_of_the_pairs_is_the_same_every_time_and_grows() -> None:
    pairs = [pair(n, lang=lang) for n in range(20) for lang in ("en", "es")]
    five, ten = pick_asked(pairs, 5), pick_asked(list(pairs), 10)
    assert {lang: len(of) for lang, of in five.items()} == {"en": 5, "es": 5}
    assert all(set(five[lang]) < set(ten[lang]) for lang in five)
    assert all(pairs[n]["lang"] == lang for lang, of in ten.items() for n in of)
    assert pick_asked(pairs, None)["es"] == list(range(1, 40, 2))


def test_a_pair_without_both_verdicts_is_unscored_and_no_half_point() -> None:
    pairs = [pair(n) for n in range(8)]
    found = verdicts((1, 1), (1, 1), (1, 0), (0, 0), (1, None), (None, None), (0.9, 0.2), (0.4, 0.5))
    measured = measure_verdicts(pairs, found, [pair(n) for n in range(100, 103)])
    np.testing.assert_array_equal(measured.right, [1, 1, 0.5, 0, np.nan, np.nan, 1, 0])
    figures = measured.figures
    assert (figures["n"], figures["unscored"], figures["reasons"]) == (6, 2, {"refused": 3})
    assert figures["accuracy"] == pytest.approx(100 * 3.5 / 6) and figures["ties"] == pytest.approx(100 / 6)
    assert figures["position_bias"] == pytest.approx(100 * 2 / 6)  # (1, 0) and (0.9, 0.2)
    assert figures["length"] == 100 and figures["length_agreement"] == pytest.approx(figures["accuracy"])
    assert figures["accuracy_interval"] is not None and figures["groups"] == 6
    assert read_orders(found)[4] is None and read_orders(found)[6] == (0.9, 0.2)
    nothing = measure_verdicts(pairs[:1], verdicts((None, 1)), []).figures
    assert nothing["n"] == 0 and "accuracy" not in nothing and nothing["why"]


def test_agreement_is_counted_by_instance() -> None:
    one, other = np.array([1, 1, 0, 0, 0.5, np.nan]), np.array([1, 0, 0, 1, 1, 1.0])
    found = agree_on(one, other, ["a", "b", "c", "d", "e", "f"])
    assert found["n"] == 5 and found["agreement"] == pytest.approx(100 * (1 + 0 + 1 + 0 + 0.5) / 5)
    assert found["expected"] == pytest.approx(100 * (0.5 * 0.6 + 0.5 * 0.4)) and found["agreement_interval"] is None
    assert agree_on(np.array([np.nan]), np.array([1.0]), ["a"])["n"] == 0


def test_every_two_rows_are_compared_and_say_what_they_are() -> None:
    def of(*right: float) -> dict[str, Measured]:
        return {"en": Measured({}, np.array(right), ["a", "b"])}

    kinds = {"rm": "reward model", "implicit": "implicit reward", "judge": "judge"}
    found = Found({"rm": of(1, 1), "implicit": of(0, 0)}, {}, {"judge": of(1, 0)}, kinds)
    rows = {tuple(row["rows"]): row for row in compare_rows(found)}
    assert set(rows) == {("rm", "implicit"), ("rm", "judge"), ("implicit", "judge")}
    assert rows["rm", "implicit"]["agreement"] == 0 and rows["rm", "judge"]["agreement"] == 50
    assert rows["implicit", "judge"]["kinds"] == ["implicit reward", "judge"]
    rated = Found({"rm": of(1, 1)}, {"rm": of(0, 0)}, {"judge": of(0, 0)}, kinds)
    (row,) = compare_rows(rated)
    assert row["agreement"] == 100  # ratings: on the pairs that the judge was asked about


def test_a_benchmark_asks_about_the_right_answer_and_each_wrong_one() -> None:
    def row(id: str, chosen: Any, rejected: Any, lang: str = "en") -> BenchRow:
        return BenchRow(id, lang, "x", "Q", tuple(chosen), tuple(rejected))

    rows = [row("1", ["g"], ["b"]), row("2", ["g1", "g2"], ["b"]), row("3", ["g"], ["b1", "b2", "b3"]),
            row("4", ["g"], ["b"], "es")]  # fmt: skip
    assert [(n, p["rejected"]) for n, p in list_duels(rows, None)] == [
        (0, "b"), (2, "b1"), (2, "b2"), (2, "b3"), (3, "b"),
    ]  # fmt: skip
    assert [n for n, _ in list_duels(rows, 1)] == [0, 3]
