"""Rows of RewardBench, Multilingual RewardBench and RewardBench 2, by their columns."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from icr.base.conversation import dump_conversation, wrap_text
from icr.base.errors import ConfigError, UserError
from icr.languages import language_code
from prompts.load import read_source
from prompts.messages import check_order, read_messages
from prompts.preferences.reading import named_language
from prompts.tables import capped

KEY = "--on"
TIES = "Ties"


@dataclass(frozen=True)
class BenchRow:
    """A prompt with its right and wrong answers; in RewardBench one of each."""

    id: str
    lang: str
    subset: str
    prompt: str
    """As tables hold it."""
    chosen: tuple[str, ...]
    rejected: tuple[str, ...]

    @property
    def group(self) -> str:
        return self.prompt


def read_bench(source: str, lang: str = "en") -> list[BenchRow]:
    """The rows of a benchmark.

    Args:
        source: a file or a data set on the hub.
        lang: of rows that do not name theirs.

    Raises:
        ConfigError: every bad row.
        UserError: no such source, or it is empty.
    """
    problems: list[UserError] = []
    rows: list[BenchRow] = []
    seen: dict[tuple[str, str, str], str] = {}
    for where, value in read_source(source, KEY, problems):
        try:
            row = _read(value if isinstance(value, dict) else {}, where, len(rows) + 1, lang)
            before = seen.setdefault((row.lang, row.subset, row.id), where)
            if before != where:
                raise UserError(f"id {row.id} appears twice", where=f"{where} and {before}", do="give each its own id")
            rows.append(row)
        except UserError as error:
            problems.append(error)
    if problems:
        raise ConfigError(capped(problems))
    if not rows:
        raise UserError("the benchmark has no rows", where=f"{KEY}: {source}", do="name another file")
    return rows


def _read(row: Mapping[str, object], where: str, number: int, lang: str) -> BenchRow:
    subset = row.get("subset") or row.get("source")
    if not isinstance(subset, str):
        what = "a benchmark row without `subset`"
        raise UserError(what, where=where, do="add the subset (in Multilingual RewardBench, `source`)")
    named = named_language(row, "language", "lang")
    code = lang if named is None else language_code(named)
    if code is None:
        raise UserError(f"the language {named!r} is unknown", where=where, do="write an ISO code, such as es")
    id = row.get("id")
    return BenchRow(
        id=str(number if id is None else id),
        lang=code,
        subset=subset,
        prompt=_prompt(row.get("prompt"), where),
        chosen=_answers(row.get("chosen"), "chosen", where),
        rejected=_answers(row.get("rejected"), "rejected", where),
    )


def _prompt(value: object, where: str) -> str:
    if isinstance(value, str) and value.strip():
        return dump_conversation(wrap_text(value))
    if isinstance(value, list):
        place = f"{where}, `prompt`"
        return dump_conversation(check_order(read_messages(value, place), place))
    raise UserError("`prompt` is not a text", where=where, do="write a text or a list of messages")


def _answers(value: object, name: str, where: str) -> tuple[str, ...]:
    texts = value if isinstance(value, list) else [value]
    if not texts or not all(isinstance(text, str) for text in texts):
        raise UserError(f"`{name}` is neither a text nor a list of texts", where=where, do="write the answer's text")
    return tuple(map(str, texts))
