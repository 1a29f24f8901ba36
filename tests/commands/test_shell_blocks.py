"""Every line of every block of shell in the docs: the program takes it as it is written. Nothing is run."""

from __future__ import annotations

import argparse
import ast
import importlib
import importlib.util
import re
import shlex
import tomllib
from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path

import pytest

from tests.commands.test_docs import PAGES, ROOT, parse

SHELLS = [*PAGES, ROOT / "CONTRIBUTING.md"]
SOURCES = ("icr", "loops", "prompts", "eval", "benchmarks")
UNCHECKED = {
    "ray get-auth-token --generate": "Ray's own parser can be read only by importing Ray, which starts threads",
    "ray start --head": "as above",
    "ray start --address HOST:6379": "as above",
}
"""Line → why nothing here can check it."""


@cache
def shell_lines(page: Path) -> tuple[str, ...]:
    """The commands of a page's blocks: of a block with prompts the lines after `$`, else all of one that begins with
    a command. Comments are left out."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    found = []
    for language, block in re.findall(r"^```(\w*)\n(.*?)^```", text, re.MULTILINE | re.DOTALL):
        if language:
            continue
        lines = [line for line in block.splitlines() if line.strip()]
        prompted = [line[2:] for line in lines if line.startswith("$ ")]
        if prompted or _program(lines[0]) in CHECKS:
            found += prompted or lines
    return tuple(" ".join(re.sub(r"\s#\s.*", "", line).split()) for line in found)


def _program(line: str) -> str:
    """The program of a line, without the programs that only say where it runs."""
    words = re.sub(r"^chrt -r 1 taskset -c \d ", "", line).split()
    return words[0].removeprefix(".venv/bin/") if words else ""


def check_make(words: Sequence[str]) -> None:
    text = (ROOT / "Makefile").read_text(encoding="utf-8")
    for word in words:
        name, given, _ = word.partition("=")
        known = rf"\$\((?:or \$\()?{name}\b" if given else rf"^{name}:"
        assert re.search(known, text, re.MULTILINE), f"make knows no {name}"


def check_pip(words: Sequence[str]) -> None:
    assert words[0] == "install", words[0]
    packages = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    for word in words[1:]:
        name, _, extras = word.rstrip("]").partition("[")
        if name not in ("-e", "--no-deps", ".", packages["name"]):
            assert f'"{name}"' in sources() or f"{name}/" in sources(), f"no code asks for {name}"
        for extra in filter(None, extras.split(",")):
            assert extra in packages["optional-dependencies"], f"extra {extra} not found"


@cache
def sources() -> str:
    """All of the code."""
    files = [file for name in SOURCES for file in sorted((ROOT / name).rglob("*.py"))]
    return "\n".join(file.read_text(encoding="utf-8") for file in files)


def check_python(words: Sequence[str]) -> None:
    """The module exists, and its parser takes the words. Of its main() only what makes the parser is executed."""
    assert words[0] == "-m", words[0]
    module = importlib.import_module(words[1])
    file = Path(str(module.__file__))
    tree = ast.parse(file.read_text(encoding="utf-8"))
    main = next(node for node in tree.body if isinstance(node, ast.FunctionDef) and node.name == "main")
    makes = [line for line in main.body if "parse_args()" not in ast.unparse(line)]
    assert len(makes) < len(main.body), f"{words[1]} has no parser in main()"
    end = next(n for n, line in enumerate(main.body) if "parse_args()" in ast.unparse(line))
    names = dict(vars(module))
    exec(compile(ast.Module(main.body[:end], []), str(file), "exec"), names)
    parser = next(value for value in names.values() if isinstance(value, argparse.ArgumentParser))
    try:
        parser.parse_args(list(words[2:]))
    except SystemExit as error:
        raise AssertionError(f"{words[1]} does not take {' '.join(words[2:])}") from error


def check_vllm(words: Sequence[str]) -> None:
    """vLLM makes its options from the fields of classes, which are read as text: its import is slow."""
    assert words[0] == "serve" and not words[1].startswith("-"), words
    spec = importlib.util.find_spec("vllm")
    if spec is None or spec.origin is None:
        pytest.skip("vLLM is not installed")
    root = Path(spec.origin).parent
    files = [root / "engine" / "arg_utils.py", *root.glob("entrypoints/**/cli_args.py")]
    fields = {name for file in files for name in re.findall(r"^    (\w+): ", file.read_text("utf-8"), re.MULTILINE)}
    for word in words[2:]:
        if word.startswith("--"):
            assert word[2:].partition("=")[0].replace("-", "_") in fields, f"vLLM has no {word}"


def check_export(words: Sequence[str]) -> None:
    name, given, _ = words[0].partition("=")
    assert given and (f'"{name}"' in sources()), f"no code reads {name}"


def check_icr(words: Sequence[str]) -> None:
    parse(shlex.join(["icr", *words]))


CHECKS: dict[str, Callable[[Sequence[str]], None]] = {
    "icr": check_icr,
    "make": check_make,
    "pip": check_pip,
    "python": check_python,
    "vllm": check_vllm,
    "export": check_export,
    "ray": lambda words: pytest.fail(f"ray {' '.join(words)}: nothing can check it"),
}


def check(line: str) -> None:
    words = shlex.split(re.sub(r"\$\(which (\w+)\)", r"\1", line))
    program = _program(line)
    assert program in CHECKS, f"what checks {line}?"
    CHECKS[program](words[next(n for n, word in enumerate(words) if word.endswith(program)) + 1 :])


@pytest.mark.parametrize("page", SHELLS, ids=lambda page: page.stem)
def test_every_line_is_taken(page: Path) -> None:
    for line in shell_lines(page):
        if line not in UNCHECKED:
            check(line)


def test_what_nothing_checks_is_in_the_docs() -> None:
    every = {line for page in SHELLS for line in shell_lines(page)}
    assert UNCHECKED.keys() <= every
    assert len(every) > 100


@pytest.mark.parametrize(
    "line",
    [
        "make nothing",
        "make bench-rm SEEHORSE=x",
        "pip install -e '.[cpu]'",
        "pip install --no-deps no-such-package",
        "python -m benchmarks.nothing",
        "python -m benchmarks.cluster --minutes 3",
        "python -m benchmarks.transfer --modle gemma",
        "vllm serve M --max-model-length 8",
        "export OPENAI_URL=x",
        "icr rm data SOURCE… --ouT x",
        "icr judge xalpaca MODEL --bseline x …",
        "curl http://localhost",
        "ray stop",
    ],
)
def test_what_is_wrong_is_found(line: str) -> None:
    with pytest.raises((Exception, pytest.fail.Exception)):
        check(line)


def variables() -> Iterator[tuple[str, str]]:
    for page in SHELLS:
        yield from ((page.name, name) for name in re.findall(r"\bICR_[A-Z_]+", page.read_text(encoding="utf-8")))


def test_every_variable_of_icr_is_read_by_the_code() -> None:
    assert len(dict(variables())) > 2
    assert not [(page, name) for page, name in variables() if f'"{name}"' not in sources()]
