"""MT-Bench's questions and references, in the forms in which they are published."""

from __future__ import annotations

import ast
import re
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TypeGuard, cast

import langcodes

from eval.notes import Notes
from icr.base.errors import ConfigError, UserError, some
from icr.base.fields import Fields
from icr.base.files import check_folder
from icr.config.schema import MtBench
from icr.languages import english_name, same_language
from prompts.ids import normalise_id
from prompts.tables import ROWS, Rows, find_file, read_file

TEMPERATURES = {
    "writing": 0.7,
    "roleplay": 0.7,
    "reasoning": 0.0,
    "math": 0.0,
    "coding": 0.0,
    "extraction": 0.0,
    "stem": 0.1,
    "humanities": 0.1,
}
"""At which each category is answered, as FastChat does it."""
REFERENCED = ("math", "reasoning", "coding")
"""Categories that are graded against a reference."""
BY_JUDGE = "judge"
"""The value of judge.mtbench.references that lets the judge write what is missing, and the source of what it wrote."""


@dataclass(frozen=True)
class Reference:
    """A question's reference answers, one a turn; "" where a turn has none."""

    turns: tuple[str, str] = ("", "")
    sources: tuple[str, str] = ("", "")
    """Where each is from: "questions", "file" or "judge"."""
    whole: bool = False
    """The reference could not be split into two turns: its text is used for both."""

    @property
    def empty(self) -> bool:
        return not any(self.turns)

    @property
    def missing(self) -> tuple[int, ...]:
        """The turns, from 0, that have none."""
        return () if self.whole else tuple(n for n, text in enumerate(self.turns) if not text)


@dataclass(frozen=True)
class MtQuestion:
    """One question of two turns, in one language."""

    id: int | str
    """As the file writes it: 81, or "81_DE"."""
    lang: str
    category: str
    turns: tuple[str, str]
    reference: Reference = Reference()

    @property
    def key(self) -> str:
        """What joins a question with its translations: "81" for 81 and for "81_DE"."""
        return question_key(self.id)

    def conversation(self, *said: str) -> list[tuple[str, str]]:
        """(role, text) up to the turn that comes after the answers `said`."""
        first = [("user", self.turns[0])]
        return first if not said else [*first, ("assistant", said[0]), ("user", self.turns[1])]

    @property
    def referenced(self) -> bool:
        """Whether it is graded against a reference."""
        return self.category in REFERENCED


Questions = dict[str, list[MtQuestion]]
"""By language."""


def question_key(id: object, where: str = "") -> str:
    """What joins a question with its translations and answers: "81" for 81, 81.0, "81" and "81_DE".

    Raises:
        UserError: as `prompts.ids.normalise_id`, and for what counts as no id.
    """
    text = normalise_id(id, where)
    if text is None:
        raise UserError("question_id is missing", where=where, do="add a number such as 81 or 81_DE")
    return re.sub(r"^(\d+)[_-][A-Za-z]{2,3}$", r"\1", text)


def load_questions(config: MtBench, languages: Sequence[str], reporter: Notes | None = None) -> Questions:
    """The questions that the config names, each with its reference where it is graded against one.

    A reference of the folder `config.references` goes before one in the question file.

    Args:
        reporter: gets notes on references that could not be split and on turns without one.

    Raises:
        ConfigError: all defects of the files at once.
        UserError: a question that needs a reference has none, and the judge is not asked to write it.
    """
    questions = read_questions(Path(config.questions), languages, config.limit)
    if config.references not in (None, BY_JUDGE):
        questions = _with_references(questions, Path(config.references or ""))
    needing = [q for of_lang in questions.values() for q in of_lang if q.referenced]
    missing = [q for q in needing if q.reference.empty]
    if missing and config.references != BY_JUDGE:
        raise UserError(
            f"{len(missing)} of {len(needing)} questions of the categories {', '.join(REFERENCED)} have no reference: "
            f"{some(f'{q.lang} {q.id}' for q in missing)}",
            where=f"judge.mtbench.questions: {config.questions}",
            do="set judge.mtbench.references to judge (the judge writes what is missing), or to a folder of references",
        )
    if reporter:
        _tell(questions, reporter, config.references == BY_JUDGE)
    return questions


def read_questions(folder: Path, languages: Sequence[str], limit: int | None = None) -> Questions:
    """The questions of `folder`/LANG.jsonl, in FastChat's format, in the files' order.

    Args:
        limit: keep the first N questions of each category.

    Raises:
        ConfigError: a missing file, lines that are not questions of two turns, unknown categories, duplicate ids.
    """
    problems: list[UserError] = []
    questions: Questions = {}
    check_folder(folder, "judge.mtbench.questions")
    for lang in languages:
        rows = [_question(value, lang, where, problems) for where, value in _lines(folder, lang, problems)]
        found = [q for q in rows if q is not None]
        refuse_duplicates([q.key for q in found], str(folder / f"{lang}.jsonl"), problems)
        seen: Counter[str] = Counter()
        questions[lang] = []
        for question in found:
            seen[question.category] += 1
            if limit is None or seen[question.category] <= limit:
                questions[lang].append(question)
        if not found and not problems:
            where = str(folder / f"{lang}.jsonl")
            problems.append(UserError("no questions", where=where, do=f"add some, or remove {lang} from the languages"))
    if problems:
        raise ConfigError(problems)
    return questions


def _lines(folder: Path, lang: str, problems: list[UserError]) -> Rows:
    where = f"judge.mtbench.questions: {folder}"
    try:
        if file := find_file(folder, lang, ROWS):
            yield from read_file(file, problems)
            return
    except UserError as error:
        problems.append(error)
        return
    do = f"add the file, or remove {lang} from the languages"
    problems.append(UserError(f"{lang}.jsonl not found", where=where, do=do))


def _question(value: object, lang: str, where: str, problems: list[UserError]) -> MtQuestion | None:
    """A line as a question; its defects go to `problems`."""
    if not isinstance(value, dict):
        problems.append(UserError("not a JSON object", where=where, do="write FastChat's question format"))
        return None
    id, category, turns = (value.get(name) for name in ("question_id", "category", "turns"))
    defects: list[UserError] = []

    def refuse(what: str, do: str) -> None:
        defects.append(UserError(what, where=where, do=do))

    try:
        question_key(id)
    except UserError as error:
        refuse(error.what, error.do)
    if not isinstance(category, str) or category not in TEMPERATURES:
        refuse(f"question {id}: unknown category {category!r}", f"write one of {', '.join(TEMPERATURES)}")
    if not _is_two_texts(turns):
        refuse(f"question {id} does not have two turns", "write `turns` as a list of two texts")
    other = _other_language(value.get("lang"), lang)
    if other:
        refuse(f"question {id} has the language {value['lang']}", f"put it in {other}.jsonl")
    reference = read_reference(value.get("reference"), "questions")
    if isinstance(reference, str):
        refuse(f"question {id}: {reference}", "write `reference` as a list of two texts, or remove it")
    problems.extend(defects)
    if defects or isinstance(reference, str):
        return None
    needed = reference if category in REFERENCED else Reference()
    given = id if isinstance(id, int) else normalise_id(id, where)
    return MtQuestion(given, lang, category, (turns[0], turns[1]), needed)  # type: ignore[arg-type,index]


def _is_two_texts(turns: object) -> TypeGuard[list[str]]:
    return isinstance(turns, list) and len(turns) == 2 and all(isinstance(t, str) and t.strip() for t in turns)


def _other_language(said: object, lang: str) -> str | None:
    """The code of the language that `said` ("German") names, when that is not `lang`."""
    if not isinstance(said, str) or said.lower() in (lang, english_name(lang).lower()):
        return None
    try:
        code = langcodes.find(said).to_tag()
    except LookupError:
        return None
    return None if same_language(code, lang) else code


def read_reference(value: object, source: str) -> Reference | str:
    """The value of `reference`, or what is wrong with it.

    Published files have a list of two, either of them "" or a number, and nothing, null or "" in place of it. In
    others the list was written as Python source and then machine-translated, which broke its quotes in places: such a
    text is not guessed apart but kept whole, for both turns.
    """
    if isinstance(value, str):
        text = value.strip()
        try:
            parsed = ast.literal_eval(text) if text.startswith("[") else text
        except (ValueError, SyntaxError, MemoryError, RecursionError):
            parsed = text
        if isinstance(parsed, str):
            return Reference((parsed, ""), (source if parsed else "", ""), whole=bool(parsed))
        value = parsed
    if value is None:
        return Reference()
    if not isinstance(value, list) or len(value) > 2:
        return "its reference is not a list of two"
    if not all(part is None or isinstance(part, str | int | float) for part in value):
        return "its reference has an element that is not a text"
    texts = ["" if part is None else str(part).strip() for part in [*value, None, None][:2]]
    return Reference((texts[0], texts[1]), (source if texts[0] else "", source if texts[1] else ""))


def _with_references(questions: Questions, folder: Path) -> Questions:
    """The questions with the references of `folder`/LANG.jsonl, in FastChat's answer format, where it has one."""
    problems: list[UserError] = []
    if not folder.is_dir():
        raise UserError(f"folder {folder} not found", where="judge.mtbench.references",
                        do="name a folder of LANG.jsonl, or `judge`")  # fmt: skip
    joined = {}
    for lang, of_lang in questions.items():
        file = find_file(folder, lang, ROWS)
        given = read_choices(file, problems) if file else {}
        joined[lang] = [
            replace(q, reference=Reference(given[q.key], ("file", "file"))) if q.referenced and q.key in given else q
            for q in of_lang
        ]
    if problems:
        raise ConfigError(problems)
    return joined


def read_choices(file: Path, problems: list[UserError]) -> dict[str, tuple[str, str]]:
    """The two turns by question key, from a file of FastChat's answer format (references have it, too)."""
    found: list[tuple[str, tuple[str, str]]] = []
    for where, value in read_file(file, problems):
        try:
            found.append(_read_choice(value, where))
        except UserError as error:
            problems.append(error)
    refuse_duplicates([key for key, _ in found], str(file), problems)
    return dict(found)


def _read_choice(value: object, where: str) -> tuple[str, tuple[str, str]]:
    try:
        fields = cast(Fields, value)
        turns = fields["choices"][0]["turns"]
        key, texts = fields["question_id"], (turns[0], turns[1])
    except (KeyError, IndexError, TypeError):
        texts = (None, None)
    if not all(isinstance(text, str) for text in texts):
        do = 'write {"question_id": …, "choices": [{"turns": [first, second]}]}'
        raise UserError("not an answer with two turns", where=where, do=do)
    return question_key(key, where), texts


def refuse_duplicates(keys: Sequence[str], where: str, problems: list[UserError]) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        problems.append(UserError(f"question ids that appear twice: {some(twice)}", where=where, do="keep one of each"))


def _tell(questions: Questions, reporter: Notes, by_judge: bool) -> None:
    for lang, of_lang in questions.items():
        whole = [str(q.id) for q in of_lang if q.reference.whole]
        partly = [str(q.id) for q in of_lang if q.referenced and not q.reference.empty and q.reference.missing]
        if whole:
            one = len(whole) == 1
            reporter.note(
                f"{lang}: {len(whole)} reference{'' if one else 's'} could not be split into two turns; both turns see "
                f"all of {'it' if one else 'each'}: {some(whole)}"
            )
        if partly and not by_judge:
            reporter.note(f"{lang}: {len(partly)} questions have a reference for one turn only: {some(partly)}")
