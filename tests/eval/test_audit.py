"""The estimators of an audit: by hand, against leaving prompts out one by one, and on planted biases."""

from __future__ import annotations

import io
import math
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console

from benchmarks.audit import PLANTED, TRUTHS, narrower, rows, runs, steady
from eval.audit.estimators import agreement, correct, kappa, regress
from eval.audit.people import read_labels
from eval.audit.summary import audit, biases
from eval.audit.verdicts import Evaluated, Judged
from eval.clusters import Part, estimate
from eval.xalpaca.pairwise import ORDERS, VerdictRow
from icr.base.errors import UserError
from icr.report.audit_table import audit_tables


def judged(id: str, said: list[float | None], longer: int = 0, wrong: int = 0, lang: str = "de") -> Judged:
    verdicts = [
        VerdictRow(prompt_id=id, order=order, preference=value, reason=None, raw="", shortened=False)
        for order, value in zip(ORDERS, said, strict=False)
    ]
    return Judged(id, lang, f"Frage {id}", "x" * (1000 + longer), "y" * 1000, verdicts, wrong)


def test_a_regression_on_nothing_is_the_mean() -> None:
    x = np.random.default_rng(0).normal(size=9)
    ids = [f"p{n}" for n in range(9)]
    (part,) = regress(np.ones((9, 1)), x, ids)
    mean = Part.of(dict(zip(ids, x.tolist(), strict=True)))
    assert part.value == pytest.approx(mean.value) and part.moves == pytest.approx(mean.moves)


def test_moves_are_what_leaving_a_prompt_out_changes() -> None:
    """Two verdicts a prompt, three coefficients; each fit without a prompt is made by numpy."""
    rng = np.random.default_rng(1)
    ids = [str(n) for n in range(8) for _ in range(2)]
    x = np.column_stack([np.ones(16), np.tile([1.0, -1.0], 8), np.repeat(rng.normal(size=8), 2)])
    y = rng.normal(size=16)
    whole = np.linalg.lstsq(x, y)[0]
    for k, part in enumerate(regress(x, y, ids)):
        assert part.value == pytest.approx(whole[k])
        for id, move in part.moves.items():
            rest = np.array(ids) != id
            without = np.linalg.lstsq(x[rest], y[rest])[0]
            assert move == pytest.approx(math.sqrt(7 / 8) * (whole[k] - without[k]))


def test_a_coefficient_of_one_prompt_alone_is_refused() -> None:
    x = np.column_stack([np.ones(4), [0.0, 0.0, 0.0, 1.0]])
    with pytest.raises(ValueError, match="one prompt alone"):
        regress(x, np.arange(4.0), ["a", "b", "c", "d"])


def test_kappa_by_hand() -> None:
    """Cohen's example of two labels: 20 yes-yes, 15 no-no, 5 and 10 apart: p_o = .7, p_e = .5, κ = .4."""
    given = [(2, 2)] * 20 + [(2, 0)] * 5 + [(0, 2)] * 10 + [(0, 0)] * 15
    pairs = {str(n): [pair] for n, pair in enumerate(given)}
    part = kappa(pairs)
    assert part is not None and part.value == pytest.approx(0.4)
    assert agreement(pairs).value == pytest.approx(70.0)
    # without one (2, 2): p_o = 34/49, p_e = (24 · 29 + 25 · 20)/49²
    chance = (24 * 29 + 25 * 20) / 49**2
    assert part.moves["0"] == pytest.approx(math.sqrt(49 / 50) * (0.4 - (34 / 49 - chance) / (1 - chance)))
    # the known large-sample error of κ here (Fleiss, Cohen and Everitt 1969) is .127
    assert estimate([part]).se == pytest.approx(0.127, abs=0.006)
    assert kappa({"a": [(2, 2)], "b": [(2, 2)]}) is None


def test_labels_correct_a_judge_by_hand() -> None:
    """λ and the error by the equations; without a judge that knows anything, the labels alone remain."""
    rng = np.random.default_rng(2)
    f = {str(n): float(v) for n, v in enumerate(rng.normal(50, 10, 40))}
    y = {id: f[id] + 5 + float(rng.normal(0, 3)) for id in list(f)[:10]}
    labelled, rest = np.array([f[id] for id in y]), np.array(list(f.values())[10:])
    people = np.array(list(y.values()))
    power = np.cov(people, labelled)[0, 1] / ((1 + 10 / 30) * np.array(list(f.values())).var(ddof=1))
    got = correct(y, f)
    assert got.power == pytest.approx(power) and got.power > 0
    pale = correct(y, {id: value / 10 for id, value in f.items()})  # the same judge with less contrast
    assert pale.power == pytest.approx(10 * power) and pale.part.value == pytest.approx(got.part.value)
    assert got.part.value == pytest.approx(got.power * rest.mean() + (people - got.power * labelled).mean())
    variance = got.power**2 * rest.var(ddof=1) / 30 + (people - got.power * labelled).var(ddof=1) / 10
    assert sum(move**2 for move in got.part.moves.values()) == pytest.approx(variance)
    assert len(got.part.moves) == 40
    blind = correct(y, dict.fromkeys(f, 50.0))
    assert blind.power == 0 and blind.part.value == pytest.approx(people.mean())
    assert correct(y, {id: f[id] for id in y}).part.value == pytest.approx(people.mean())  # none is left to infer
    against = correct(y, {id: -value for id, value in f.items()})
    assert against.power == 0, "a judge that says the opposite is not used"


def test_what_the_judge_says_in_other_languages_corrects_as_well_by_hand() -> None:
    """λ of both by least squares; the other languages are left alone where they tell nothing, or the opposite."""
    rng = np.random.default_rng(3)
    truth = {str(n): float(v) for n, v in enumerate(rng.normal(50, 10, 400))}
    f, g = ({id: value + float(rng.normal(0, 10)) for id, value in truth.items()} for _ in range(2))
    y = {id: truth[id] for id in list(f)[:100]}
    got, alone = correct(y, f, g), correct(y, f)
    columns = np.array([list(f.values()), list(g.values())])
    people = np.array(list(y.values()))
    covariances = [np.cov(people, column[:100])[0, 1] for column in columns]
    power, elsewhere = np.linalg.solve(np.cov(columns), covariances) / (1 + 100 / 300)
    assert (got.power, got.elsewhere) == pytest.approx((power, elsewhere)) and min(power, elsewhere) > 0
    told = power * columns[0] + elsewhere * columns[1]
    assert got.part.value == pytest.approx(told[100:].mean() + (people - told[:100]).mean())
    variance = told[100:].var(ddof=1) / 300 + (people - told[:100]).var(ddof=1) / 100
    assert estimate([got.part]).se == pytest.approx(math.sqrt(variance)) and variance < estimate([alone.part]).se ** 2
    for other in (f, {id: -value for id, value in g.items()}, dict.fromkeys(f, 1.0)):
        same = correct(y, f, other)
        assert same.elsewhere == 0 and same.part.value == pytest.approx(alone.part.value)


@pytest.mark.parametrize("soft", [True, False], ids=["probabilities", "labels"])
def test_planted_biases_are_found(soft: bool) -> None:
    """A part of `benchmarks.audit`: 15 runs of five languages; three standard errors of .95 are .08."""
    audits = runs(15, soft, seed=7)
    for row in rows("", audits):
        assert row["covered"] > 0.87, row
        assert row["mean"] == pytest.approx(TRUTHS[row["figure"]], rel=0.25)
    if soft:
        assert min(narrower(audits)) > 0.25
    assert set(PLANTED) <= {row["figure"] for row in rows("", audits)}


def test_a_judge_that_throws_coins_corrects_more_if_it_is_asked_more_often() -> None:
    """By the formula, 13 % of the interval at one asking and 26 % at five (docs/audit.md)."""
    once, often = (narrower(runs(8, False, seed=5, times=times)) for times in (1, 5))
    assert once[0] < 0.2 < often[0] and once[1] < 0.25 < often[1]


def test_a_judge_of_labels_that_says_the_same_each_time_needs_nine_of_ten_to_be_peoples() -> None:
    """With 60 of 200 prompts labelled a quarter is reached there (docs/audit.md), which the formula says as well."""
    for agree, low, high in ((0.8, 0.1, 0.2), (0.9, 0.25, 0.3)):
        found, rho2 = steady(60, agree, 200), (2 * agree - 1) ** 2
        assert low < found < high and found == pytest.approx(1 - math.sqrt(1 - 0.7 * rho2), abs=0.04)


def test_the_win_rate_is_corrected_by_the_mean_of_all_askings_if_all_prompts_were_asked_again() -> None:
    rng = np.random.default_rng(4)
    items = [judged(str(n), [float(v) for v in rng.random(2).round(3)], longer=n) for n in range(20)]
    items += [judged("half", [0.9, None]), Judged("same", "de", "", "z", "z", judged("same", [0.5, 0.5]).verdicts, 0)]
    asked = [item for item in items if item.preference is not None and not item.identical]
    again = {item.id: dict(zip(ORDERS, rng.random(2).round(3).tolist(), strict=True)) for item in asked}
    again["3"] = {ORDERS[0]: 1.0}  # one order is missing, and so this asking
    labels = {"de": {str(n): float(rng.random() < 0.5) for n in range(10)}}
    said = {item.id: float(np.mean([item.preference, np.mean(list(again[item.id].values()))])) for item in asked}
    said |= {"3": items[3].preference or 0.0, "same": 0.5}
    by_hand = correct({id: 100 * v for id, v in labels["de"].items()}, {id: 100 * v for id, v in said.items()})
    whole = audit(evaluated(de=items), labels, {"de": [again]})
    got, shown = whole["languages"]["de"], Console(record=True, file=io.StringIO(), width=120)
    shown.print(audit_tables(whole))
    assert got["askings"] == 2 and "corrected by the mean of 2 verdicts on each question: de" in shown.export_text()
    assert got["corrected"]["value"] == pytest.approx(by_hand.part.value) and got["power"] == by_hand.power
    assert got["judge_alone"]["value"] == pytest.approx(100 * np.mean(list(said.values())))
    first = audit(evaluated(de=items), labels)["languages"]["de"]
    assert got["people_agree"] == first["people_agree"]
    part = {id: of for id, of in again.items() if id != "5"}  # a prompt was not asked about again
    partly = audit(evaluated(de=items), labels, {"de": [part]})["languages"]["de"]
    assert partly["corrected"] == first["corrected"] and partly["askings"] == 1


def test_too_few_prompts_give_a_reason_and_not_a_figure() -> None:
    items = [judged(str(n), [0.8, 0.6], longer=100 * n) for n in range(5)]
    assert biases([(i, o, v) for i in items for o, v in i.scored])["position"] == (
        "5 prompts are too few; an interval needs 6"
    )
    items += [judged(str(n), [0.7, 0.4], longer=50 * n, wrong=n == 9) for n in range(5, 10)]
    found = biases([(i, o, v) for i in items for o, v in i.scored])
    assert isinstance(found["position"], Part) and "are needed, and there are 1" in str(found["language"])
    same = [judged(str(n), [0.7, 0.4], longer=100) for n in range(8)]  # the length is the constant's
    assert "cannot be told apart" in str(biases([(i, o, v) for i in same for o, v in i.scored])["verbosity"])


def evaluated(**languages: list[Judged]) -> Evaluated:
    return Evaluated(Path(), {"judge": "j", "baseline": "b", "orders": "both"}, languages)


def test_an_audit_counts_what_it_leaves_out() -> None:
    items = [judged(str(n), [0.8, 0.6] if n % 2 else [0.7, 0.2], longer=10 * n**2) for n in range(12)]
    items += [judged("half", [0.9, None], longer=7), judged("none", [None, None], longer=9)]
    items.append(Judged("same", "de", "", "z", "z", judged("same", [0.5, 0.5]).verdicts, 0))
    labels = {"de": {str(n): float(n % 2) for n in range(8)} | {"6": 1.0, "none": 1.0}}
    again = {"de": [{"1": {"policy-first": 0.9, "baseline-first": 0.3}}]}
    found = audit(evaluated(de=items, es=[]), labels, again)
    de = found["languages"]["de"]
    assert (de["n"], de["identical"], de["verdicts"], de["unscored"]) == (14, 1, 25, 3)
    assert (de["labelled"], de["labelled_without_verdict"], de["repeated"]) == (8, 1, 2)
    assert de["orders_agree"]["value"] == pytest.approx(50.0)  # odd ones win twice, even ones flip
    assert de["repeats_agree"]["value"] == pytest.approx(50.0)
    assert de["people_agree"]["value"] == pytest.approx(100 * 7 / 8)  # even ones are lost, at .45
    assert found["average"]["position"]["languages"] == ["de"]
    assert found["languages"]["es"]["position"]["value"] is None


def test_peoples_labels_are_read_by_id_and_by_number(tmp_path: Path) -> None:
    languages = {"de": [judged("p7", [1.0]), judged("p8", [1.0])], "es": [judged("p7", [1.0], lang="es")]}
    file = tmp_path / "people.csv"
    file.write_text("id,index,lang,preference,label\np7,,de,0.25,\n,0,de,,model\np7,,es,,Tie\n")
    assert read_labels(file, languages) == {"de": {"p7": 0.625}, "es": {"p7": 0.5}}
    file.write_text("id,lang,label\np7,fr,model\np9,de,model\np7,de,good\np7,,model\n,de,tie\n")
    with pytest.raises(UserError) as caught:
        read_labels(file, languages)
    for part in ("fr was not judged", "prompt p9 was not judged in de", "unknown label good", "has no lang",
                 "neither id nor index", "people.csv:2", "people.csv:6"):  # fmt: skip
        assert part in str(caught.value)
    file.write_text("index,preference\n2,1\n0,1.5\n1,nan\n")
    with pytest.raises(UserError) as caught:
        read_labels(file, {"de": languages["de"]})
    for part in ("no prompt has the index 2", "preference 1.5 is not", "preference nan is not"):
        assert part in str(caught.value)
    with pytest.raises(UserError, match="file not found"):
        read_labels(tmp_path / "no.csv", languages)
