"""Answers to the held-out prompts: the policy's own, and the baseline's that they are compared with."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.notes import Notes
from icr.base.conversation import Conversation, dump_conversation, load_conversation, show_conversation
from icr.base.errors import UserError, some
from icr.base.files import check_folder, read_columns, read_rows, write_rows
from icr.base.progress import Silent
from icr.config.schema import Judge
from icr.rows import RESPONSES, Response
from prompts.ids import read_id
from prompts.load import Prompt, load_heldout
from prompts.messages import TEXT_NAMES, read_prompt
from prompts.tables import ROWS, find_file, raise_all, read_file, suffix_of

Baseline = dict[str, dict[str, str]]
"""Language → prompt id → the baseline's answer."""


@dataclass(frozen=True)
class Answer:
    """One answer to one held-out prompt."""

    id: str
    prompt: Conversation
    text: str
    truncated: bool

    @property
    def instruction(self) -> str:
        """The prompt for judges and in AlpacaEval's files: a plain text as it is, else every turn under its role."""
        return show_conversation(self.prompt)


def read_answers(folder: Path) -> dict[str, list[Answer]]:
    """The answers in `folder`/LANG.parquet (rows of `icr.rows.RESPONSES`), by language.

    Raises:
        UserError: the file is not found, or an id appears twice.
    """
    files = sorted(p for p in folder.glob("*.parquet") if not p.name.startswith("."))
    if not files:
        raise UserError("no answers to judge found", where=str(folder), do="let the policy answer the prompts first")
    return {file.stem: _answers(file) for file in files}


def read_outputs(source: Path, lang: str) -> list[Answer]:
    """The answers in `source`/LANG.json, or another form of `prompts.tables`, each with its prompt.

    Raises:
        UserError: no such file, an id twice, or an answer without its instruction.
    """
    check_folder(source, "ANSWERS")
    file = _file_of(source, lang, "there are")
    if _is_own(file):
        return _answers(file)
    given = _read_given(file)
    bare = sum(row.prompt is None for row in given)
    if bare:
        raise UserError(f"{bare} answers have no `instruction`", where=str(file), do="add the prompt of each answer")
    # the public English files have no ids: their instruction is one
    answers = [Answer(row.id or row.asked, row.prompt, row.output, False) for row in given if row.prompt]
    _refuse_duplicates((a.id for a in answers), str(file))
    return answers


def _answers(file: Path) -> list[Answer]:
    answers = [
        Answer(row["prompt_id"], load_conversation(row["prompt"]), row["response"], row["finish_reason"] == "length")
        for row in read_rows(file)
    ]
    _refuse_duplicates((a.id for a in answers), str(file))
    return answers


def load_baseline(
    source: Path, answers: dict[str, list[Answer]], reporter: Notes | None = None, key: str = "judge.baseline"
) -> Baseline:
    """The baseline's answer to every prompt that `answers` holds, joined by id.

    Args:
        source: an answers folder of a run (LANG.parquet), or a folder of LANG.json, or another form of
            `prompts.tables`, with `output` and an id as prompts have it. Rows without an id are joined by their
            `instruction`, which then has to be the prompt's text.
        answers: what `read_answers` returns for the policy.
        reporter: gets a note when answers of the same id were given to other words.
        key: the config key or option that names the folder, for messages.

    Raises:
        UserError: a language or a prompt that the baseline does not cover, an id twice, a file that cannot be read.
    """
    do = f"name a folder of LANG.json or LANG.jsonl{', or round-0' if key == 'judge.baseline' else ''}"
    check_folder(source, key, do)
    return {lang: _baseline_of(source, lang, of_lang, reporter or Silent()) for lang, of_lang in answers.items()}


def _baseline_of(source: Path, lang: str, answers: Sequence[Answer], reporter: Notes) -> dict[str, str]:
    file = _file_of(source, lang, "the baseline has")
    outputs = _Outputs({a.id: a.text for a in _answers(file)}, {}, {}) if _is_own(file) else _read_public(file)
    joined = {a.id: outputs.find(a) for a in answers}
    missing = [id for id, text in joined.items() if text is None]
    if missing:
        raise UserError(
            f"the baseline has no answer to {len(missing)} of {len(answers)} prompts in {lang}: {some(missing)}",
            where=str(file),
            do="add these answers, or judge only prompts that the baseline answered",
        )
    asked = outputs.asked
    other = [a.id for a in answers if a.id in asked and asked[a.id].split() != a.instruction.split()]
    if other:
        reporter.note(
            f"{lang}: {len(other)} of {len(answers)} baseline answers have another instruction than the prompt "
            f"of the same id ({some(other)}): check that the ids mean the same prompts in both"
        )
    return {id: text for id, text in joined.items() if text is not None}


def _file_of(source: Path, lang: str, who: str) -> Path:
    if file := find_file(source, lang, ROWS):
        return file
    do = f"add {lang}.json or {lang}.jsonl, or leave {lang} out"
    raise UserError(f"{who} no answers in {lang}", where=str(source), do=do)


def _is_own(file: Path) -> bool:
    """Whether a file has rows of `icr.rows.RESPONSES`, and not what people write."""
    return file.suffix == ".parquet" and {"prompt_id", "prompt", "response"} <= set(read_columns(file))


@dataclass(frozen=True)
class _Outputs:
    """A baseline's answers in one language."""

    by_id: dict[str, str]
    by_text: dict[str, str]
    """By instruction, of the rows without an id."""
    asked: dict[str, str]
    """The instructions by id, where they are given."""

    def find(self, answer: Answer) -> str | None:
        """By id; else by instruction, where the baseline's row has no id or the answer has none of its own."""
        text = answer.instruction.strip()
        if answer.id in self.by_id or text in self.by_text:
            return self.by_id.get(answer.id, self.by_text.get(text))
        same = [id for id, asked in self.asked.items() if asked == text] if answer.id == text else []
        return self.by_id[same[0]] if len(same) == 1 else None


def _read_public(file: Path) -> _Outputs:
    rows = _read_given(file)
    named = [(row.id, row) for row in rows if row.id is not None]
    nameless = [(row.asked, row) for row in rows if row.id is None]
    _refuse_duplicates((key for key, _ in named), str(file))
    _refuse_duplicates((text for text, _ in nameless), str(file))
    return _Outputs(
        {key: row.output for key, row in named},
        {text: row.output for text, row in nameless},
        {key: row.asked for key, row in named if row.prompt},
    )


@dataclass(frozen=True)
class _Given:
    """A row of a file that people write."""

    id: str | None
    prompt: Conversation | None
    output: str

    @property
    def asked(self) -> str:
        """The prompt as a text that joins."""
        return show_conversation(self.prompt or []).strip()


def _read_given(file: Path) -> list[_Given]:
    """The rows of a file of answers.

    Raises:
        UserError: every row that is no answer, and a file that cannot be read.
    """
    problems: list[UserError] = []
    rows = []
    for where, value in read_file(file, problems):
        try:
            rows.append(_read_row(value, where))
        except UserError as error:
            problems.append(error)
    raise_all(problems)
    return rows


def _read_row(row: object, where: str) -> _Given:
    if not isinstance(row, dict):
        raise UserError("not a JSON object", where=where, do="write objects with `id` and `output`")
    output, id = row.get("output"), read_id(row, where)
    if not isinstance(output, str):
        raise UserError("an answer without `output`", where=where, do="add the answer's text as `output`")
    prompt = read_prompt(row, where) if any(row.get(name) for name in TEXT_NAMES) else None
    if id is None and prompt is None:
        raise UserError("an answer with neither id nor instruction", where=where, do="add the prompt's `id`")
    return _Given(id, prompt, output)


def _refuse_duplicates(keys: Iterable[str], where: str) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise UserError(
            f"{len(twice)} prompts are answered more than once: {some(twice)}",
            where=where,
            do="keep one answer per prompt",
        )


def check_baseline(folder: Path, heldout: list[Prompt], key: str = "judge.baseline") -> None:
    """The baseline must answer every held-out prompt; checked now, not after the first round. As `load_baseline`."""
    asked: dict[str, list[Answer]] = defaultdict(list)
    for prompt in heldout:
        asked[prompt.lang].append(Answer(prompt.id, prompt.messages, "", False))
    load_baseline(folder, asked, key=key)


def is_answers(folder: Path) -> bool:
    """Whether a folder holds answers (LANG.json, .jsonl, .csv or .parquet, LANG/MODEL.jsonl), and no model."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return False
    return any(suffix_of(file) in ROWS for file in folder.iterdir()) or any(folder.glob("*/*.jsonl"))


def given_answers(source: Path, languages: Sequence[str], limit: int | None) -> dict[str, list[Answer]]:
    """A folder's answers by language, or the first `limit` of each: in every language those to the same prompts, in the
    order of the English ones, or where there is no English, of the first language.

    Raises:
        UserError: as `read_outputs`.
    """
    found = {lang: read_outputs(source, lang) for lang in languages}
    if limit is None:
        return found
    order = {a.id: n for n, a in enumerate(found["en" if "en" in found else languages[0]])}
    return {lang: sorted(of, key=lambda a: order.get(a.id, len(order)))[:limit] for lang, of in found.items()}


def write_answers(answers: Mapping[str, Sequence[Answer]], out: Path) -> None:
    """Given answers as the rows that the judge reads."""
    for lang, of_lang in answers.items():
        rows: list[Response] = [
            {"prompt_id": a.id, "lang": lang, "sample": 0, "prompt": dump_conversation(a.prompt), "response": a.text,
             "token_ids": [], "finish_reason": "length" if a.truncated else "given", "prompt_ids": []}
            for a in of_lang
        ]  # fmt: skip
        write_rows(out / f"{lang}.parquet", rows, RESPONSES)


def heldout_prompts(judge: Judge, languages: Sequence[str], *, every: bool = False) -> list[Prompt]:
    """The prompts that the model is to answer; `every`: also those beyond `judge.limit`.

    Raises:
        UserError: no prompts are named.
        ConfigError: faulty ones.
    """
    if not judge.prompts:
        raise UserError("prompts are missing", where="--prompts", do="name a folder of LANG.json or LANG.jsonl")
    return load_heldout(judge.prompts, list(languages), None if every else judge.limit)
