"""What an audit reads of an evaluation: each verdict beside what it might depend on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.folders import evaluation_inside, verdicts_folder
from eval.terms import read_summary_of, unjudged
from eval.xalpaca.answers import Answer, read_answers
from eval.xalpaca.pairwise import VerdictRow
from icr.base.errors import UserError, some
from icr.base.fields import Fields
from icr.base.files import check_folder, read_json, read_rows
from icr.languages import detect, same_language

DO = "name the folder of a finished icr judge xalpaca, or RUN/round-N/judge"


@dataclass(frozen=True)
class Judged:
    """A prompt in one language: both answers, and what the judge said."""

    id: str
    lang: str
    instruction: str
    ours: str
    """The model's answer."""
    theirs: str
    """The baseline's."""
    verdicts: Sequence[VerdictRow]
    """One for each order that was asked."""
    wrong: int
    """1: the model's answer is in the wrong language and the baseline's is not; −1: the other way round; else 0."""

    @property
    def identical(self) -> bool:
        """The judge was not asked."""
        return self.ours == self.theirs

    @property
    def scored(self) -> list[tuple[str, float]]:
        """(order, preference of the model) of each verdict that there is."""
        return [(row["order"], row["preference"]) for row in self.verdicts if row["preference"] is not None]

    @property
    def preference(self) -> float | None:
        """The mean over the orders; None unless every order that was asked has a verdict, as in the win rate."""
        values = [value for _, value in self.scored]
        return sum(values) / len(values) if values and len(values) == len(self.verdicts) else None

    @property
    def longer(self) -> float:
        """How much longer the model's answer is, in hundreds of characters."""
        return (len(self.ours) - len(self.theirs)) / 100


@dataclass(frozen=True)
class Evaluated:
    """One finished evaluation on X-AlpacaEval or another set of prompts."""

    folder: Path
    summary: Fields
    languages: Mapping[str, Sequence[Judged]]


def read_evaluation(folder: Path, most: int | None = None) -> Evaluated:
    """What `icr judge xalpaca` or a round's judge stage has left in a folder.

    Args:
        most: read the first so many prompts of each language alone.

    Raises:
        UserError: there is no finished evaluation, nobody judged it, or a file cannot be read.
    """
    check_folder(folder)
    summary = read_summary_of(folder, "xalpaca")
    if not summary or not (folder / "answers").is_dir():
        inside = evaluation_inside(folder, "xalpaca")
        raise UserError("no finished evaluation found", where=str(folder), do=f"name {inside}" if inside else DO)
    if unjudged(summary):
        raise UserError("these are the baseline's own answers, which are not judged", where=str(folder), do=DO)
    answers = read_answers(folder / "answers")
    return Evaluated(folder, summary, {lang: _read_language(folder, lang, of[:most]) for lang, of in answers.items()})


def _read_language(folder: Path, lang: str, answers: Sequence[Answer]) -> list[Judged]:
    baseline = read_compared(folder, lang)
    verdicts: dict[str, list[VerdictRow]] = {}
    path = verdicts_folder(folder, "xalpaca") / f"{lang}.parquet"
    if not path.is_file():
        raise UserError("the verdicts are missing", where=str(path), do=DO)
    for row in read_rows(path):
        verdicts.setdefault(row["prompt_id"], []).append(row)
    if missing := [a.id for a in answers if a.id not in baseline]:
        what = f"{len(missing)} answers in {lang} were not compared: {some(missing)}"
        raise UserError(what, where=str(folder), do="judge again into another folder")
    return [
        Judged(a.id, lang, a.instruction, a.text, theirs, verdicts.get(a.id, []), _wrong(a.text, theirs, lang))
        for a in answers
        for theirs in [baseline[a.id]]
    ]


def read_compared(folder: Path, lang: str) -> dict[str, str]:
    """Prompt id → the baseline's answer that was compared, out of AlpacaEval's files.

    Raises:
        UserError: the file cannot be read, or it is of an icr whose annotations have no ids.
    """
    path = folder / "alpaca_eval" / lang / "annotations.json"
    try:
        return {str(row["id"]): row["output_1"] for row in read_json(path)}
    except (OSError, ValueError, KeyError, TypeError) as error:
        what = f"the answers that were compared cannot be read: {type(error).__name__}: {error}"
        raise UserError(what, where=str(path), do="judge again into another folder") from error


def _wrong(ours: str, theirs: str, lang: str) -> int:
    """Unknown languages pass, as in the share of right language."""
    return int(not same_language(detect(ours), lang)) - int(not same_language(detect(theirs), lang))
