"""`icr rm eval` and `icr rm bench --dry-run`: what judges would be asked, and what it would cost. Nothing is sent."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

from eval.estimate import Expected, Forecast, Planned, expect_cost
from eval.judges.prompts import find_prompts
from eval.reward_models.bench_rows import read_bench
from eval.reward_models.benching import list_duels
from eval.reward_models.evaluate import Asking, Split, pairs_of, select_rows
from eval.reward_models.judged import BENCHMARK, make_questions, pick_asked
from eval.reward_models.rated import list_ties, rater, rating_questions, wording_of
from eval.reward_models.scoring import by_language
from prompts.preferences.make import load_data
from prompts.preferences.rows import PairRow


def expect_questions(asking: Asking, data: Path, split: Split, languages: Sequence[str] | None, out: Path) -> Forecast:
    """What each judge would be asked by `icr rm eval`; the arguments are those of `evaluate_models`."""
    found = load_data(data, "--data")
    pairs = pairs_of(found.kind, select_rows(found, split, languages, f"--data: {data}"))
    asked = pick_asked(pairs, asking.most)
    return Forecast(_expect(asking, [pairs[n] for of in asked.values() for n in of], out))


def expect_bench_questions(asking: Asking, source: str, lang: str, out: Path) -> Forecast:
    """What each judge would be asked by `icr rm bench`, its ratings of Ties apart; the arguments are those of
    `bench_models`."""
    rows = read_bench(source, lang)
    judges = _expect(asking, [pair for _, pair in list_duels(rows, asking.most)], out)
    ties = [rows[n] for n in list_ties(rows, asking.most)]
    for judge in filter(None, map(rater, asking.judges if ties else [])):
        planned = Planned(rating_questions(ties, wording_of(judge)), "", {}, "ratings")
        label = f"{judge.name}, ratings of Ties: "
        judges.append(expect_cost(judge.config, judge.name, judge.cache(out), planned, label))
    return Forecast(judges)


def _expect(asking: Asking, pairs: Sequence[PairRow], out: Path) -> list[Expected]:
    different = [pair for pair in pairs if pair["chosen"] != pair["rejected"]]  # identical ones are ties unasked
    found = []
    for judge in asking.judges:
        wording = find_prompts(judge.config, BENCHMARK).one
        questions = [q for lang, rows in by_language(different).items() for q in make_questions(lang, rows, wording)]
        planned = Planned(questions, "", {})
        found.append(expect_cost(judge.config, judge.name, judge.cache(out), planned, f"{judge.name}: "))
    return found
