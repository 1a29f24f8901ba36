"""Rows of files, each with its place: jsonl, json, csv, tsv, parquet and txt, all of them also as .gz."""

from __future__ import annotations

import csv
import gzip
import io
import json
import re
import sys
import zlib
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from icr.base.errors import ConfigError, UserError, some

if TYPE_CHECKING:
    from _csv import Reader as CellReader

Rows = Iterator[tuple[str, object]]
"""(place, value): file:line, or the number of an element or a row where a file has no lines."""

MAX_PROBLEMS = 20
GZIP = ".gz"
SURROGATE = re.compile(r"\\u[dD][89a-fA-F]")
"""How JSON writes half a character. Only such an escape can bring one: the files are checked as UTF-8."""


def find_file(folder: Path, stem: str, suffixes: Sequence[str] = ()) -> Path | None:
    """The file `stem` of a folder, in any of the forms that are read.

    Args:
        suffixes: which forms count; without them, all.

    Raises:
        UserError: there are two.
    """
    names = [stem + suffix + end for suffix in suffixes or READERS for end in ("", GZIP)]
    found = [file for name in names if (file := folder / name).is_file()]
    if len(found) > 1:
        what = f"more than one file of {stem}: {some(file.name for file in found)}"
        raise UserError(what, where=str(folder), do="keep one of them")
    return found[0] if found else None


def suffix_of(file: Path) -> str:
    """What decides how a file is read: ".jsonl" for a.jsonl and for a.jsonl.gz."""
    return Path(file.name.lower().removesuffix(GZIP)).suffix


def stem_of(file: Path) -> str:
    """The name without what decides how the file is read: a for a.jsonl.gz."""
    return Path(file.name.removesuffix(GZIP)).stem


def read_file(file: Path, problems: list[UserError]) -> Rows:
    """The rows of a file. What cannot be read of it goes to `problems`, and the other rows come all the same.

    A row of a txt file is `{"id": line number, "instruction": line}`; lines without text are none.
    """
    reader = READERS.get(suffix_of(file))
    try:
        if reader is None:
            do = f"save it as one of {', '.join(READERS)}, plain or as {GZIP}"
            raise UserError(f"files named *{suffix_of(file)} are not read", where=str(file), do=do)
        yield from reader(file, problems)
    except UserError as error:
        problems.append(error)


def capped(problems: list[UserError]) -> list[UserError]:
    """The first problems, and how many more there are."""
    if len(problems) <= MAX_PROBLEMS:
        return problems
    rest = len(problems) - MAX_PROBLEMS
    return [*problems[:MAX_PROBLEMS], UserError(f"… and {rest} more such problems")]


def raise_all(problems: list[UserError]) -> None:
    """Nothing, where there are no problems.

    Raises:
        UserError: the only one.
        ConfigError: all of them.
    """
    if len(problems) == 1:
        raise problems[0]
    if problems:
        raise ConfigError(capped(problems))


def _read_jsonl(file: Path, problems: list[UserError]) -> Rows:
    text = _text(file)
    # not splitlines(): JSON strings may hold U+2028 and its like unescaped
    for number, line in enumerate(text.split("\n"), 1):
        bare = line.lstrip("\ufeff")  # files that were joined have a mark in their middle
        if not bare.strip():
            continue
        where = f"{file}:{number}"
        try:
            value = _parse(bare, where, "write one object a line, with no comma between them")
            if SURROGATE.search(bare):
                _refuse_surrogates(value, where)
            yield where, value
        except UserError as error:
            if text.lstrip().startswith("[") and not bare.startswith("{"):
                do = "rename it to *.json, or write one object a line"
                raise UserError("the file is one JSON array", where=str(file), do=do) from error
            problems.append(error)


def _read_json(file: Path, problems: list[UserError]) -> Rows:
    """The elements of one array."""
    text = _text(file)
    do = "write one array of objects, or rename the file to *.jsonl if it has one object a line"
    values = _parse(text, str(file), do, numbered=True)
    if not isinstance(values, list):
        raise UserError("not a JSON array", where=str(file), do=do)
    escaped = SURROGATE.search(text) is not None
    for number, value in enumerate(values, 1):
        where = f"{file}, element {number}"
        try:
            if escaped:
                _refuse_surrogates(value, where)
            yield where, value
        except UserError as error:
            problems.append(error)


def _parse(text: str, where: str, do: str, *, numbered: bool = False) -> object:
    """A JSON value.

    Args:
        numbered: `where` is a file, and the text all of it: the line of a fault is added.

    Raises:
        UserError: not JSON.
    """
    try:
        value: object = json.loads(text)
    except json.JSONDecodeError as error:
        at = f"{where}:{error.lineno}" if numbered else where
        raise UserError(f"not JSON: {error.msg}", where=at, do=do) from error
    except RecursionError as error:
        raise UserError("not readable JSON: nested too deeply", where=where, do=do) from error
    except ValueError as error:  # a number of thousands of digits
        raise UserError(f"not readable JSON: {error}", where=where, do=do) from error
    return value


def _refuse_surrogates(value: object, where: str) -> None:
    r"""Half of a character outside the first 65,536, such as "\ud83d" alone, is no text: no tokenizer or file takes it.

    Raises:
        UserError: the value has one.
    """
    parts = value if isinstance(value, dict) else {"": value}
    for name, part in parts.items():
        try:
            json.dumps({name: part}, ensure_ascii=False).encode()
        except UnicodeEncodeError as error:
            half = f"\\u{ord(error.object[error.start]):04x}"
            what = f"{half} is half a character (a lone surrogate)" + (
                f", in `{name}`" if name and name.isascii() else ""
            )
            raise UserError(what, where=where, do="write the whole character, or remove this half") from error


def _read_csv(file: Path, problems: list[UserError]) -> Rows:
    """A row's place is the line on which it begins: a quoted cell may have several."""
    quoted = "put cells with commas, quotes or line breaks in double quotes, and double the quotes in them"
    wrong = "separate cells with commas, and put cells with commas or line breaks in double quotes"
    reader = csv.reader(io.StringIO(_text(file), newline=""), strict=True)
    yield from _read_cells(file, reader, "csv", wrong, quoted, problems)


def _read_tsv(file: Path, problems: list[UserError]) -> Rows:
    """Cells between tabs as they are: a quotation mark is part of the text."""
    do = "separate cells with one tab, and write no tab or line break inside of them"
    reader = csv.reader(_text(file).split("\n"), delimiter="\t", quoting=csv.QUOTE_NONE)
    yield from _read_cells(file, reader, "tsv", do, do, problems)


def _read_cells(file: Path, reader: CellReader, kind: str, wrong: str, broken: str, problems: list[UserError]) -> Rows:
    """
    Args:
        wrong: what to do about a row with too many or too few cells.
        broken: what to do where the file cannot be taken apart.
    """
    csv.field_size_limit(sys.maxsize)
    try:
        header = [name.strip() for name in next(reader, [])]
        if twice := {name for name in header if name and header.count(name) > 1}:
            raise UserError(f"two columns are named {some(twice)}", where=f"{file}:1", do="rename one of them")
        begins = reader.line_num + 1
        for cells in reader:
            where, begins = f"{file}:{begins}", reader.line_num + 1
            if cells and len(cells) != len(header):
                what = f"the row has {len(cells)} cells, but there are {len(header)} columns"
                problems.append(UserError(what, where=where, do=wrong))
            elif cells:
                yield where, dict(zip(header, cells, strict=True))
    except csv.Error as error:
        raise UserError(f"not {kind}: {error}", where=f"{file}:{reader.line_num}", do=broken) from error


def _read_txt(file: Path, problems: list[UserError]) -> Rows:
    for number, line in enumerate(_text(file).split("\n"), 1):
        if line.strip():
            yield f"{file}:{number}", {"id": number, "instruction": line.removesuffix("\r")}


def _read_parquet(file: Path, problems: list[UserError]) -> Rows:
    import pyarrow as pa
    import pyarrow.parquet as pq

    number = 0
    try:
        for batch in pq.ParquetFile(pa.BufferReader(_bytes(file))).iter_batches(batch_size=1024):
            for row in batch.to_pylist():
                number += 1
                yield f"{file}, row {number}", row
    except (pa.ArrowException, UnicodeDecodeError, OSError) as error:
        what = f"not a parquet file: {str(error).splitlines()[0]}"
        raise UserError(what, where=str(file), do="write the file again") from error


def _text(file: Path) -> str:
    """A file's text, without the mark that Windows programs begin it with."""
    content = _bytes(file)
    try:
        return content.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        at = error.object[: error.start].count(b"\n") + 1
        raise UserError("not UTF-8", where=f"{file}:{at}", do="save the file as UTF-8") from error


def _bytes(file: Path) -> bytes:
    try:
        content = file.read_bytes()
        return gzip.decompress(content) if file.name.lower().endswith(GZIP) else content
    except (gzip.BadGzipFile, EOFError, zlib.error) as error:
        raise UserError(f"not a complete gzip file: {error}", where=str(file), do="write the file again") from error
    except OSError as error:
        do = "check the file and its permissions"
        raise UserError(f"the file cannot be read: {error.strerror}", where=str(file), do=do) from error


READERS: dict[str, Callable[[Path, list[UserError]], Rows]] = {
    ".jsonl": _read_jsonl,
    ".json": _read_json,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
    ".parquet": _read_parquet,
    ".txt": _read_txt,
}
ROWS = (".jsonl", ".json", ".csv", ".tsv", ".parquet")
"""The forms whose rows have fields."""
