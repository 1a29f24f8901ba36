"""`icr human`: blinded pairs of answers for people, and what their votes say."""

from __future__ import annotations

import csv
import io
import random
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import Literal

from eval.audit.verdicts import read_evaluation
from eval.krippendorff import nominal_alpha
from eval.rates import average_rate, explained, language_rate, no_rate, percent
from eval.xalpaca.answers import Answer, load_baseline, read_outputs
from eval.xalpaca.items import discrete_preference
from icr.base.errors import UserError
from icr.base.fields import Fields
from icr.base.files import check_folder, read_object, write_json, write_text
from icr.base.problems import Collector
from icr.languages import check_languages

PAIRS, KEY, LABELS, RESULT = "pairs.csv", "key.json", "labels.csv", "people.json"
COLUMNS = ("pair", "lang", "prompt", "A", "B", "vote")
VOTES: Mapping[str, float] = {"a": 1.0, "b": 0.0, "tie": 0.5}
"""For the answer that is shown as A."""
LABEL_OF = {1.0: "model", 0.0: "baseline", 0.5: "tie"}
NAME = "win_rate"
FORM = "write A, B or tie, or leave it empty"


@dataclass(frozen=True)
class Shown:
    """Two answers as people see them."""

    pair: str
    """Its name, which tells nothing."""
    id: str
    lang: str
    prompt: str
    first: str
    second: str
    model: Literal["A", "B"]
    """Which of them is the model's."""


def draw_pairs(
    model: Path, baseline: Path, languages: Sequence[str], limit: int | None, seed: int
) -> tuple[list[Shown], dict[str, int]]:
    """Pairs in an order and with sides that a coin decides. Of identical answers there is nothing to ask.

    Args:
        model, baseline: folders of answers, as `icr judge xalpaca` takes them; joined by id.
        limit: prompts of each language, drawn at random.

    Returns:
        The pairs, and by language how many prompts were left out for identical answers.

    Raises:
        ConfigError: every language that is none, answers that cannot be read, and prompts that the baseline does not
            answer.
        UserError: nothing to ask.
    """
    found = Collector()
    found.attempt(None, check_languages, languages, "--languages")
    read = {lang: found.attempt(None, _read_both, model, baseline, lang) for lang in languages}
    found.raise_any()
    rng = random.Random(seed)
    drawn, same = [], {}
    for lang, both in read.items():
        assert both is not None
        answers, others = both
        differ = [a for a in answers if a.text != others[a.id]]
        same[lang] = len(answers) - len(differ)
        picked = differ if limit is None or limit >= len(differ) else rng.sample(differ, limit)
        drawn += [(lang, a, others[a.id]) for a in picked]
    if not drawn:
        raise UserError("all answers are identical", where=f"{model}, {baseline}", do="name answers of two models")
    rng.shuffle(drawn)
    pairs = []
    for number, (lang, answer, other) in enumerate(drawn, 1):
        side: Literal["A", "B"] = "A" if rng.random() < 0.5 else "B"
        first, second = (answer.text, other) if side == "A" else (other, answer.text)
        pairs.append(Shown(f"{number:04d}", answer.id, lang, answer.instruction, first, second, side))
    return pairs, same


def _read_both(model: Path, baseline: Path, lang: str) -> tuple[list[Answer], dict[str, str]]:
    """The model's answers in a language, and the baseline's by id. Raises ConfigError: what is wrong with either."""
    check_languages([lang], "--languages")
    found = Collector()
    answers: list[Answer] = found.attempt([], read_outputs, model, lang)
    others = found.attempt({}, load_baseline, baseline, {lang: answers}, key="--baseline")
    found.raise_any()
    return answers, others[lang]


def export_pairs(
    model: Path, baseline: Path, languages: Sequence[str], out: Path, limit: int | None, seed: int
) -> tuple[list[Shown], dict[str, int]]:
    """OUT/pairs.csv for people, and OUT/key.json, which says whose answers they are. Returns as `draw_pairs`.

    Raises:
        ConfigError, UserError: as `draw_pairs`; OUT has pairs already.
    """
    found = Collector()
    if (out / KEY).exists():
        found.add(
            "the folder has pairs already",
            where=f"--out: {out}",
            do="name a new folder: votes on these pairs need its key.json",
        )
    drawn = found.attempt(None, draw_pairs, model, baseline, languages, limit, seed)
    found.raise_any()
    assert drawn is not None
    pairs, same = drawn
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\r\n")
    writer.writerow(COLUMNS)
    writer.writerows((p.pair, p.lang, p.prompt, p.first, p.second, "") for p in pairs)
    write_text(out / PAIRS, "\ufeff" + text.getvalue())  # without the mark, spreadsheets guess another encoding
    named = {p.pair: {"id": p.id, "lang": p.lang, "model": p.model} for p in pairs}
    facts = {"model": model.name, "baseline": baseline.name, "seed": seed, "identical": same}
    write_json(out / KEY, {**facts, "pairs": named})
    return pairs, same


def read_votes(files: Sequence[Path], key: Fields) -> dict[str, dict[str, float]]:
    """Rater → pair → vote for the model: 1, 0 or 0.5. A file without the column `rater` is one rater's.

    Raises:
        ConfigError: every bad row of every file; a rater who votes twice on a pair; no vote.
    """
    found, votes = Collector(), defaultdict[str, dict[str, float]](dict)
    for file in files:
        for where, row in found.attempt([], _read_rows, file):
            if None in row:
                do = "put a text that has commas between quotes"
                found.add("a row with too many fields", where=where, do=do)
                continue
            vote = (row.get("vote") or "").strip().lower()
            if not vote:
                continue
            pair, rater = (row["pair"] or "").strip(), (row.get("rater") or "").strip() or file.stem
            pair = pair.zfill(4) if pair.isdecimal() else pair  # spreadsheets drop leading zeros
            if pair not in key["pairs"]:
                found.add(f"pair {pair} was not exported here", where=where, do="name the folder of these pairs")
            elif vote not in VOTES:
                found.add(f"unknown vote {row['vote']}", where=where, do=FORM)
            elif pair in votes[rater]:
                do = "keep one of the votes, or name the raters in a column `rater`"
                found.add(f"{rater} votes twice on pair {pair}", where=where, do=do)
            else:
                value = VOTES[vote]
                votes[rater][pair] = value if key["pairs"][pair]["model"] == "A" else 1 - value
    if not any(votes.values()) and not found.problems:
        found.add("no file has a vote", where=", ".join(map(str, files)), do=f"in the column vote, {FORM}")
    found.raise_any()
    return {rater: of for rater, of in votes.items() if of}


def _read_rows(file: Path) -> list[tuple[str, dict[str, str]]]:
    """(file:line, row) of a csv of votes."""
    if not file.is_file():
        raise UserError(f"file {file} not found", where="CSV", do="check the path")
    try:
        text = file.read_text(encoding="utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError("the file is not UTF-8", where=str(file), do="save it as CSV UTF-8") from error
    first = text.partition("\n")[0]
    reader = csv.DictReader(io.StringIO(text, newline=""), delimiter=";" if ";" in first and "," not in first else ",")
    absent = [name for name in ("pair", "vote") if name not in (reader.fieldnames or [])]
    if absent:
        what = f"column {', '.join(absent)} is missing"
        raise UserError(what, where=f"{file}:1", do="keep the columns pair and vote of pairs.csv")
    return [(f"{file}:{reader.line_num}", row) for row in reader]


def import_votes(folder: Path, files: Sequence[Path], judges: Sequence[Path]) -> Fields:
    """Win rates by people, their agreement with each other, and with judges; FOLDER/people.json and labels.csv.

    Args:
        folder: of `export_pairs`.
        judges: evaluations of the same answers by `icr judge xalpaca`.

    Returns:
        `languages` and `average` (win rates of the model in percent, intervals over prompts), `raters` (votes of
        each), `people` (agreement) and `judges`.

    Raises:
        UserError, ConfigError: no such folder; votes or evaluations that cannot be read.
    """
    check_folder(folder, "FOLDER")
    if not (folder / KEY).is_file():
        do = "name the --out folder of icr human export"
        raise UserError("the folder has no exported pairs", where=str(folder), do=do)
    key = read_object(folder / KEY)
    votes = read_votes(files, key)
    by_pair: defaultdict[str, list[float]] = defaultdict(list)
    for of in votes.values():
        for pair, value in of.items():
            by_pair[pair].append(value)
    result = {
        "model": key["model"],
        "baseline": key["baseline"],
        **_rates(key, by_pair),
        "raters": {rater: len(of) for rater, of in votes.items()},
        "people": agree_among(votes),
        "judges": {str(judge): agree_with(judge, key, by_pair) for judge in judges},
    }
    write_json(folder / RESULT, result)
    write_text(folder / LABELS, _labels(key, votes))
    return result


def _rates(key: Fields, by_pair: Mapping[str, Sequence[float]]) -> Fields:
    """A prompt counts with the mean of its votes."""
    values: defaultdict[str, dict[str, float]] = defaultdict(dict)
    for pair, of in by_pair.items():
        named = key["pairs"][pair]
        values[named["lang"]][named["id"]] = sum(of) / len(of)
    languages = sorted({named["lang"] for named in key["pairs"].values()})
    parts = {lang: percent(values[lang]) if values[lang] else None for lang in languages}
    rows = {
        lang: {"n": len(values[lang]), **explained(language_rate(NAME, part) if part else no_rate(NAME, "no vote"))}
        for lang, part in parts.items()
    }
    return {"languages": rows, "average": explained(average_rate(NAME, parts))}


def agree_among(votes: Mapping[str, Mapping[str, float]]) -> Fields:
    """`pairs` of votes by two people on one pair of answers, the `share` of them that are alike, and Krippendorff's
    `alpha` (nominal); None where nobody shares a pair of answers with another."""
    alike = [
        one[pair] == other[pair] for one, other in combinations(votes.values(), 2) for pair in one.keys() & other.keys()
    ]
    every = sorted({pair for of in votes.values() for pair in of})
    alpha = nominal_alpha([[of.get(pair) for of in votes.values()] for pair in every])
    return {"pairs": len(alike), "share": sum(alike) / len(alike) if alike else None, "alpha": alpha}


def agree_with(evaluation: Path, key: Fields, by_pair: Mapping[str, Sequence[float]]) -> Fields:
    """How often a judge and people call the same answer better (or both a draw), on the `n` prompts that both decided.

    People's word is what the mean of their votes says.

    Raises:
        UserError: there is no finished evaluation.
    """
    judged = {
        (lang, item.id): item.preference
        for lang, items in read_evaluation(evaluation).languages.items()
        for item in items
        if item.preference is not None
    }
    alike = []
    for pair, of in by_pair.items():
        named = key["pairs"][pair]
        preference = judged.get((named["lang"], named["id"]))
        if preference is not None:
            alike.append(discrete_preference(preference) == discrete_preference(sum(of) / len(of)))
    return {"n": len(alike), "share": sum(alike) / len(alike) if alike else None}


def _labels(key: Fields, votes: Mapping[str, Mapping[str, float]]) -> str:
    """A csv as `icr judge audit --human` reads it: a row a vote."""
    text = io.StringIO()
    writer = csv.writer(text, lineterminator="\n")
    writer.writerow(("id", "lang", "label", "rater"))
    for rater, of in votes.items():
        for pair, value in sorted(of.items()):
            writer.writerow((key["pairs"][pair]["id"], key["pairs"][pair]["lang"], LABEL_OF[value], rater))
    return text.getvalue()
