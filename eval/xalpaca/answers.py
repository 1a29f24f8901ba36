"""Answers to the held-out prompts: the policy's own, and the baseline's that they are compared with."""

from __future__ import annotations

import json
from collections import Counter, defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from eval.notes import Notes
from icr.base.conversation import Conversation, dump_conversation, load_conversation, show_conversation, wrap_text
from icr.base.errors import UserError, some
from icr.base.fields import Fields
from icr.base.files import read_rows, write_rows
from icr.base.progress import Silent
from icr.config.schema import Judge
from icr.rows import RESPONSES, Response
from prompts.load import Prompt, load_heldout

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
    """The answers in `source`/LANG.json, .jsonl or .parquet, each with its instruction.

    Raises:
        UserError: no such file, an id twice, or an answer without its instruction.
    """
    if (source / f"{lang}.parquet").is_file():
        return _answers(source / f"{lang}.parquet")
    file = _public_file(source, lang)
    rows = list(_rows(file))
    bare = sum(not isinstance(row.get("instruction"), str) for row in rows)
    if bare:
        raise UserError(f"{bare} answers have no `instruction`", where=str(file), do="add the prompt of each answer")
    # the public English files have no ids: their instruction is one
    answers = [
        Answer(str(_key(row) or row["instruction"].strip()), wrap_text(row["instruction"]), row["output"], False)
        for row in rows
    ]
    _refuse_duplicates((a.id for a in answers), str(file))
    return answers


def _answers(file: Path) -> list[Answer]:
    answers = [
        Answer(row["prompt_id"], load_conversation(row["prompt"]), row["response"], row["finish_reason"] == "length")
        for row in read_rows(file)
    ]
    _refuse_duplicates((a.id for a in answers), str(file))
    return answers


def load_baseline(source: Path, answers: dict[str, list[Answer]], reporter: Notes | None = None) -> Baseline:
    """The baseline's answer to every prompt that `answers` holds, joined by id.

    Args:
        source: an answers folder of a run (LANG.parquet), or a folder of LANG.json (one array) or LANG.jsonl
            (one object a line) with `output` and `id` or `instruction_id`. Objects without an id are joined by
            their `instruction`, which then has to be the prompt's text.
        answers: what `read_answers` returns for the policy.
        reporter: gets a note when answers of the same id were given to other words.

    Raises:
        UserError: a language or a prompt that the baseline does not cover, an id twice, a file that cannot be read.
    """
    if not source.is_dir():
        raise UserError(
            "folder of baseline answers not found",
            where=f"judge.baseline: {source}",
            do="name a folder of LANG.json or LANG.jsonl answers, or use round-0",
        )
    return {lang: _baseline_of(source, lang, of_lang, reporter or Silent()) for lang, of_lang in answers.items()}


def _baseline_of(source: Path, lang: str, answers: Sequence[Answer], reporter: Notes) -> dict[str, str]:
    own = source / f"{lang}.parquet"
    if own.is_file():
        file, outputs = own, _Outputs({a.id: a.text for a in _answers(own)}, {}, {})
    else:
        file = _public_file(source, lang)
        outputs = _read_public(file)
    joined = {a.id: outputs.by_id.get(a.id, outputs.by_text.get(a.instruction.strip())) for a in answers}
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


def _public_file(source: Path, lang: str) -> Path:
    found = [f for f in (source / f"{lang}.json", source / f"{lang}.jsonl") if f.is_file()]
    if not found:
        raise UserError(
            f"the baseline has no answers in {lang}",
            where=str(source),
            do=f"add {lang}.json or {lang}.jsonl, or leave {lang} out",
        )
    if len(found) > 1:
        raise UserError(
            f"the baseline has two files of answers in {lang}",
            where=f"{found[0]} and {found[1]}",
            do="keep one of the two files",
        )
    return found[0]


@dataclass(frozen=True)
class _Outputs:
    """A baseline's answers in one language."""

    by_id: dict[str, str]
    by_text: dict[str, str]
    """By instruction, of the objects without an id."""
    asked: dict[str, str]
    """The instructions by id, where they are given."""


def _read_public(file: Path) -> _Outputs:
    rows = list(_rows(file))
    named = [(str(key), row) for row in rows if (key := _key(row)) is not None]
    nameless = [(row["instruction"].strip(), row) for row in rows if _key(row) is None]
    _refuse_duplicates((key for key, _ in named), str(file))
    _refuse_duplicates((text for text, _ in nameless), str(file))
    return _Outputs(
        {key: row["output"] for key, row in named},
        {text: row["output"] for text, row in nameless},
        {key: row["instruction"] for key, row in named if isinstance(row.get("instruction"), str)},
    )


def _key(row: Mapping[str, object]) -> object:
    key = row.get("instruction_id", row.get("id"))
    return None if key == "" else key


def _rows(file: Path) -> Iterator[Fields]:
    for place, row in _values(file):
        if not isinstance(row, dict):
            raise UserError("not a JSON object", where=place, do="write objects with `id` and `output`")
        if not isinstance(row.get("output"), str):
            raise UserError("an answer without `output`", where=place, do="add the answer's text as `output`")
        if _key(row) is None and not isinstance(row.get("instruction"), str):
            raise UserError("an answer with neither id nor instruction", where=place, do="add the prompt's `id`")
        yield row


def _values(file: Path) -> Iterator[tuple[str, object]]:
    """(place, value) of each element of a .json array, or of each line of a .jsonl file."""
    try:
        text = file.read_text(encoding="utf-8")
    except UnicodeDecodeError as error:
        raise UserError("not UTF-8", where=str(file), do="save the file as UTF-8") from error
    if file.suffix == ".json":
        values = _parse(text, file, 0)
        if not isinstance(values, list):
            raise UserError("not a JSON array", where=str(file), do="write one array of objects, or name it .jsonl")
        yield from ((f"{file}, element {number}", value) for number, value in enumerate(values, 1))
        return
    # not splitlines(): JSON strings may hold U+2028 and its like unescaped
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            yield f"{file}:{number}", _parse(line, file, number - 1)


def _parse(text: str, file: Path, lines_before: int) -> object:
    try:
        found: object = json.loads(text)
    except json.JSONDecodeError as error:
        place = f"{file}:{lines_before + error.lineno}"
        raise UserError(f"not JSON: {error.msg}", where=place, do="fix the file") from error
    return found


def _refuse_duplicates(keys: Iterable[str], where: str) -> None:
    twice = [key for key, count in Counter(keys).items() if count > 1]
    if twice:
        raise UserError(
            f"{len(twice)} prompts are answered more than once: {some(twice)}",
            where=where,
            do="keep one answer per prompt",
        )


def check_baseline(folder: Path, heldout: list[Prompt]) -> None:
    """The baseline must answer every held-out prompt; checked now, not after the first round."""
    asked: dict[str, list[Answer]] = defaultdict(list)
    for prompt in heldout:
        asked[prompt.lang].append(Answer(prompt.id, prompt.messages, "", False))
    load_baseline(folder, asked)


def is_answers(folder: Path) -> bool:
    """Whether a folder holds answers (LANG.json, LANG.jsonl, LANG.parquet, LANG/MODEL.jsonl), and no model."""
    if not folder.is_dir() or (folder / "config.json").exists():
        return False
    return any(any(folder.glob(pattern)) for pattern in ("*.json", "*.jsonl", "*.parquet", "*/*.jsonl"))


def write_answers(source: Path, languages: Sequence[str], out: Path) -> None:
    """Answers in the public files' form as the rows that the judge reads.

    Raises:
        UserError: a language without answers, an answer without its instruction, an id twice.
    """

    for lang in languages:
        rows: list[Response] = [
            {"prompt_id": a.id, "lang": lang, "sample": 0, "prompt": dump_conversation(a.prompt), "response": a.text,
             "token_ids": [], "finish_reason": "length" if a.truncated else "given", "prompt_ids": []}
            for a in read_outputs(source, lang)
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
