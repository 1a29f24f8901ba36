"""From grades to `summary.json`: averages per language, category and turn, with errors and counts."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Literal, TypedDict

from eval.clusters import Part, estimate
from eval.judges.prompts import built_in
from eval.judges.wording import Prompts
from eval.mtbench.grade import BENCHMARK, Grade, points_of
from eval.mtbench.questions import REFERENCED, TEMPERATURES
from eval.mtbench.sampling import NO_ROOM
from eval.rates import explained, missing_for
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import read_rows, write_json
from icr.languages import detect, same_language

if TYPE_CHECKING:
    from eval.mtbench.answers import TurnAnswer

Scale = tuple[float, float]
"""The lowest and the highest grade."""
NO_GRADE = "no question has a grade"


def question_grades(verdicts: Sequence[Grade]) -> dict[str, float]:
    """Each question's mean over its scored turns: its two turns are no independent draws."""
    turns: defaultdict[str, list[float]] = defaultdict(list)
    for row in verdicts:
        if row["grade"] is not None:
            turns[row["key"]].append(row["grade"])
    return {key: sum(grades) / len(grades) for key, grades in turns.items()}


def summarise(
    out: Path,
    languages: Sequence[str],
    asked: Fields | None = None,
    prompts: Prompts | None = None,
) -> Fields:
    """Write and return `out`/summary.json, from `out`/verdicts and `out`/answers.

    Grades are on the scale of the judge's prompt, shares 0 to 1, lengths in characters. `n` counts questions with a
    grade for at least one turn.
    What cannot be computed is None, with the reason in `why`.

    Args:
        languages: those that were judged, in the order in which they are shown.
        asked: what else is known of the judge, its address and cost; kept as it is.
        prompts: what the judge was asked with; icr's own where there is none.

    Raises:
        UserError: a language was not judged.
    """
    verdicts: dict[str, list[Grade]] = {}
    answers: dict[str, list[TurnAnswer]] = {}
    for lang in languages:
        verdicts[lang] = read_rows(_find(out / "verdicts" / f"{lang}.parquet", lang))
        answers[lang] = read_rows(_find(out / "answers" / f"{lang}.parquet", lang))
    prompts = prompts or built_in()[BENCHMARK]
    grades = points_of(prompts)
    scale = (grades[0], grades[-1])
    rows = {lang: _language(lang, verdicts[lang], answers[lang], scale) for lang in languages}
    summary: Fields = {
        "judge": next(row["judge"] for of_lang in verdicts.values() for row in of_lang),
        **prompts.summary(),
        "scale": list(scale),
        "model": next(row["model"] for of_lang in answers.values() for row in of_lang),
        "languages": rows,
        "average": _average(verdicts, rows, scale),
        **(asked or {"cost": None}),
    }
    write_json(out / "summary.json", summary)
    return summary


def _find(file: Path, lang: str) -> Path:
    """The file itself. Raises UserError when it is not there."""
    if not file.is_file():
        raise UserError(f"MT-Bench was not judged in {lang}", where=str(file), do="run icr judge mtbench first")
    return file


def _language(lang: str, verdicts: Sequence[Grade], answers: Sequence[TurnAnswer], scale: Scale) -> Fields:
    needing = [row for row in verdicts if row["category"] in REFERENCED]
    grades = question_grades(verdicts)
    means = _means({lang: verdicts}, scale)
    facts = _facts(lang, answers)
    row: Fields = {
        "n": len(grades),
        **means,
        "unscored": len({r["key"] for r in verdicts}) - len(grades),
        "unscored_turns": sum(r["grade"] is None for r in verdicts),
        "reasons": dict(Counter(r["reason"] for r in verdicts if r["reason"] is not None).most_common()),
        "shortened": sum(r["shortened"] for r in verdicts),
        "references": dict(Counter(r["reference"] or "none" for r in needing).most_common()),
        **facts,
        "why": means["why"] | facts["why"],
    }
    return explained(row)


def _average(verdicts: Mapping[str, Sequence[Grade]], rows: Mapping[str, Fields], scale: Scale) -> Fields:
    """Unweighted means over the languages; None where one language has none, as no other round could compare."""
    means = _means(verdicts, scale)
    lengths = [row["mean_length"] for row in rows.values()]
    return explained({**means, "mean_length": sum(lengths) / len(lengths)})


def _means(verdicts: Mapping[str, Sequence[Grade]], scale: Scale) -> Fields:
    """average, its error and interval; the same by category and by turn."""

    def only(field: Literal["category", "turn"], value: object) -> Fields:
        chosen = {lang: [r for r in of_lang if r[field] == value] for lang, of_lang in verdicts.items()}
        return explained(_mean_row(chosen, scale))

    found = {row["category"] for of_lang in verdicts.values() for row in of_lang}
    return _mean_row(verdicts, scale) | {
        "categories": {category: only("category", category) for category in TEMPERATURES if category in found},
        "turns": {str(turn): only("turn", turn) for turn in (1, 2)},
    }


def _mean_row(verdicts: Mapping[str, Sequence[Grade]], scale: Scale) -> Fields:
    groups = {lang: question_grades(of_lang) for lang, of_lang in verdicts.items()}
    missing = [lang for lang, grades in groups.items() if not grades]
    names = ("average", "average_se", "low", "high")
    if missing:
        reason = NO_GRADE if len(groups) == 1 else missing_for(missing)
        return dict.fromkeys(names) | {"why": dict.fromkeys(names, reason)}
    found = estimate([Part.of(grades) for grades in groups.values()], scale)
    row: Fields = dict(zip(names, (found.value, found.se, found.low, found.high), strict=True))
    return row | {"why": {key: found.why for key, value in row.items() if value is None}}


def _facts(lang: str, answers: Sequence[TurnAnswer]) -> Fields:
    """What needs no judge, over both turns."""
    texts = [row["response"] for row in answers]
    known = [code for text in texts if (code := detect(text)) is not None]
    finished = [row["finish_reason"] for row in answers]
    given = all(reason is None for reason in finished)
    why = {} if known else {"right_language": "no answer has a known language"}
    return {
        "mean_length": sum(map(len, texts)) / len(texts),
        "right_language": sum(same_language(code, lang) for code in known) / len(known) if known else None,
        "language_unknown": len(texts) - len(known),
        "truncated": None if given else finished.count("length") / len(finished),
        "no_room": finished.count(NO_ROOM),
        "why": why | ({"truncated": "the given answers do not record this"} if given else {}),
    }


class GradeRow(TypedDict):
    """A language by one model, for tables and plots. The `average` has neither n, unscored_turns nor right_language."""

    language: str
    round: int | str
    n: int | None
    average: float | None
    average_se: float | None
    low: float | None
    high: float | None
    unscored_turns: int | None
    mean_length: float | None
    right_language: float | None
    turn_1: float | None
    turn_2: float | None
    categories: dict[str, float | None]
    """Averages by name."""


def mtbench_rows(summaries: Mapping[int, Fields] | Mapping[str, Fields]) -> list[GradeRow]:
    """A row per language and summary, the languages' average last.

    Args:
        summaries: by round or by name, in the order in which they are shown.
    """
    languages = dict.fromkeys(lang for summary in summaries.values() for lang in summary["languages"])
    rows: list[GradeRow] = []
    for lang in [*languages, "average"]:
        for name, summary in summaries.items():
            row = summary["average"] if lang == "average" else summary["languages"].get(lang)
            if row is None:
                continue
            rows.append(
                {
                    "language": lang,
                    "round": name,
                    "n": row.get("n"),
                    "average": row.get("average"),
                    "average_se": row.get("average_se"),
                    "low": row.get("low"),
                    "high": row.get("high"),
                    "unscored_turns": row.get("unscored_turns"),
                    "mean_length": row.get("mean_length"),
                    "right_language": row.get("right_language"),
                    "turn_1": row["turns"]["1"]["average"],
                    "turn_2": row["turns"]["2"]["average"],
                    "categories": {category: of["average"] for category, of in row["categories"].items()},
                }
            )
    return rows
