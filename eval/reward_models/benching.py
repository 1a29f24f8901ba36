"""`icr rm bench`: reward models, implicit rewards and judges on RewardBench and its like."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from itertools import combinations
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

import numpy as np

from eval.reward_models.accuracy import agree_on
from eval.reward_models.bench import Scores, is_right, longer_wins, summarise
from eval.reward_models.bench_rows import TIES, BenchRow, read_bench
from eval.reward_models.evaluate import NO_JUDGES, Asking, name_kinds
from eval.reward_models.flat import make_csv, without_lists
from eval.reward_models.judged import JudgeRow, ask_judge, read_orders
from eval.reward_models.rated import list_ties, rate, rater
from eval.reward_models.rows import Asked, RewardRow, Workplace, open_workplace
from eval.reward_models.scoring import TextScorer
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import write_json, write_text
from prompts.preferences.rows import PairRow

if TYPE_CHECKING:
    from rich.console import Console

RIGHT = 0.5
"""What a judge's right answer is worth; a wrong one is worth the preference for it over the right one."""


def bench_models(
    rows: Sequence[RewardRow],
    source: str,
    lang: str,
    out: Path,
    console: Console,
    precision: Asked = "auto",
    asking: Asking = NO_JUDGES,
) -> Fields:
    """Figures of each row on a benchmark, in OUT/bench.json, OUT/bench.csv and OUT/scores-NAME.jsonl.

    Args:
        rows: may be empty: what length alone gets is always there.
        source: a file or a data set on the hub.
        lang: of benchmark rows that do not name theirs.

    Returns:
        `models` (name → language → figures), `kinds` (name → what it is), `judges` (name → who it is, its cost, and by
        language the rows `asked` and those `unscored`; `ratings`: prompt and cost of what it was asked about Ties),
        `agreement` (a row for each two and language) and `longer` (language → subset → percent).

    Raises:
        ConfigError: everything that is wrong with the benchmark's rows.
        UserError, StageFailed: as `evaluate_models`.
    """
    items = read_bench(source, lang)
    longer = longer_wins(items)
    scored: dict[str, list[Scores]] = {}
    with open_workplace(rows, out, console, precision, asking.models) as at:
        for row in rows:
            scored[row.name] = _score(row.open(at), items)
        judges: dict[str, Fields] = {}
        for judge in asking.judges:
            scored[judge.name], judges[judge.name] = _judge(judge, items, at, asking.most)
    result: Fields = {
        "rows": len(items),
        "longer": longer,
        "kinds": name_kinds(rows, asking),
        "models": {name: summarise(items, scores) for name, scores in scored.items()},
        "judges": judges,
    }
    result["agreement"] = _compare(items, scored, result["kinds"])
    for name, scores in scored.items():
        write_text(out / f"scores-{name}.jsonl", _score_file(items, scores))
    write_json(out / "bench.json", result)
    write_text(out / "bench.csv", make_csv(_flatten(result["models"], longer)))
    return result


def _flatten(
    models: Mapping[str, Mapping[str, Fields]], longer: Mapping[str, Mapping[str, float | None]]
) -> list[Fields]:
    return [
        {
            "model": name,
            "language": lang,
            "subset": subset,
            **without_lists(figures),
            "longer": longer[lang][subset],
        }
        for name, languages in models.items()
        for lang, found in languages.items()
        for subset, figures in found["subsets"].items()
    ]


def _score(scorer: TextScorer, rows: Sequence[BenchRow]) -> list[Scores]:
    texts = [(row.prompt, text) for row in rows for text in (*row.chosen, *row.rejected)]
    values = iter(scorer.scores(texts))
    return [([next(values) for _ in row.chosen], [next(values) for _ in row.rejected]) for row in rows]


def list_duels(rows: Sequence[BenchRow], most: int | None) -> list[tuple[int, PairRow]]:
    """(place of the row, pair) of what judges are asked: the right answer with each wrong one.

    Those of Ties are not among them: their prompts have several right answers.

    Args:
        most: rows of each language.
    """
    left = dict.fromkeys((row.lang for row in rows), len(rows) if most is None else most)
    found = []
    for place, row in enumerate(rows):
        if row.subset == TIES or len(row.chosen) > 1 or not left[row.lang]:
            continue
        left[row.lang] -= 1
        found += [
            (place, PairRow(id=row.id, lang=row.lang, prompt=row.prompt, chosen=row.chosen[0], rejected=wrong,
                            source="", group=row.group, margin=None))
            for wrong in row.rejected
        ]  # fmt: skip
    return found


def _judge(judge: JudgeRow, rows: Sequence[BenchRow], at: Workplace, most: int | None) -> tuple[list[Scores], Fields]:
    """What a judge says, in the form of scores, and its entry under `judges`, see `bench_models`.

    The right answer has RIGHT, a wrong one the preference for it: the right one is best where it wins every pair. In
    Ties every answer has its grade. A row that the judge was not asked about has no scores, and a pair without a
    verdict in one of its orders, or an answer without a grade, has none either.
    """
    duels, ties, rating = list_duels(rows, most), list_ties(rows, most), rater(judge)
    if ties and rating is None:
        at.machine.note(f"Ties is left out for {judge.name}: a custom judge compares answers and does not rate them")
        ties = []
    if not duels and not ties:
        do = "leave --judge out"
        raise UserError("no row has one right answer, so there is nothing to ask a judge", where="--judge", do=do)
    found: dict[int, Scores] = {}
    if duels:
        verdicts = ask_judge(judge, [pair for _, pair in duels], at)
        orders = {lang: iter(read_orders(of)) for lang, of in verdicts.items()}
        wrong: dict[int, list[float | None]] = {}
        for place, pair in duels:
            both = next(orders[pair["lang"]])
            wrong.setdefault(place, []).append(None if both is None else 1 - fmean(both))
        found |= {place: ([RIGHT], values) for place, values in wrong.items()}
    if ties and rating is not None:
        found |= dict(zip(ties, rate(rating, [rows[n] for n in ties], at), strict=True))
    missing = {n: None in (*chosen, *rejected) for n, (chosen, rejected) in found.items()}
    counts = {
        lang: {
            "asked": sum(rows[n].lang == lang for n in missing),
            "unscored": sum(rows[n].lang == lang and lacks for n, lacks in missing.items()),
        }
        for lang in sorted({rows[n].lang for n in found})
    }
    scores = [found.get(n) or ([None] * len(row.chosen), [None] * len(row.rejected)) for n, row in enumerate(rows)]
    ratings = {"ratings": rating.summary(at.out)} if ties and rating is not None else {}
    return scores, {**judge.summary(at.out), "languages": counts, **ratings}


def _compare(
    rows: Sequence[BenchRow], scored: Mapping[str, Sequence[Scores]], kinds: Mapping[str, str]
) -> list[Fields]:
    """How far every two rows of the table agree, row by row of the benchmark, in each language. Ties has no right."""
    rights = {name: np.array([_right(of) for of in scores], dtype=np.float64) for name, scores in scored.items()}
    languages = sorted({row.lang for row in rows})
    found = []
    for one, other in combinations(rights, 2):
        for lang in languages:
            own = np.array([row.lang == lang for row in rows])
            groups = [row.group for row in rows if row.lang == lang]
            agreed = agree_on(rights[one][own], rights[other][own], groups)
            found.append({"rows": [one, other], "kinds": [kinds[one], kinds[other]], "language": lang, **agreed})
    return found


def _right(scores: Scores) -> float:
    chosen, rejected = ([value for value in side if value is not None] for side in scores)
    if len(scores[0]) > 1 or len(chosen) + len(rejected) < len(scores[0]) + len(scores[1]):
        return float("nan")
    return is_right(chosen, rejected)


def _score_file(rows: Sequence[BenchRow], scores: Sequence[Scores]) -> str:
    """One object a row, with the scores of its answers, for other tools."""
    lines = (
        {"id": row.id, "subset": row.subset, "language": row.lang, "scores_chosen": list(chosen),
         "scores_rejected": list(rejected)}
        for row, (chosen, rejected) in zip(rows, scores, strict=True)
    )  # fmt: skip
    return "".join(json.dumps(line, ensure_ascii=False) + "\n" for line in lines)
