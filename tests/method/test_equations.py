"""The map from the paper's equations to functions, in the docstring of the package."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

import icr

ROOT = Path(__file__).resolve().parents[2]
ENTRY = re.compile(r"^    Eq\. (\d+) +(\S+\.py)(?: (\w+))?  ", re.MULTILINE)
ENTRIES = [(int(number), file, name) for number, file, name in ENTRY.findall(icr.__doc__ or "")]


def numbers_in(text: str) -> set[int]:
    """The equations that a docstring names: "Eq. 9, 12 and 13" or "equation 7"."""
    found = re.findall(r"(?:Eq\. ?|[Ee]quations? )(\d+(?:(?:, | and )\d+)*)", text)
    return {int(number) for one in found for number in re.findall(r"\d+", one)}


def test_every_equation_is_on_the_map() -> None:
    assert sorted({number for number, _, _ in ENTRIES}) == list(range(7, 18))


@pytest.mark.parametrize(("number", "file", "name"), ENTRIES)
def test_the_function_is_there_short_and_says_its_number(number: int, file: str, name: str) -> None:
    """Where the map names a file alone, the file's own docstring says it."""
    tree = ast.parse((ROOT / file).read_text(encoding="utf-8"))
    node: ast.Module | ast.FunctionDef = tree
    if name:
        node = next(n for n in tree.body if isinstance(n, ast.FunctionDef) and n.name == name)
        code = [n for n in node.body if not (isinstance(n, ast.Expr) and isinstance(n.value, ast.Constant))]
        assert sum((n.end_lineno or 0) - n.lineno + 1 for n in code) <= 15
    assert number in numbers_in(ast.get_docstring(node) or ""), f"{file} {name}"


def test_numbers_are_read_from_words() -> None:
    assert numbers_in("Eq. 9, 12 and 13: R; equation 7") == {9, 12, 13, 7}
    assert numbers_in("9 of 12") == set()
