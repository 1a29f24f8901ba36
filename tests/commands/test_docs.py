"""Every `icr` command in the docs exists, with the options that it is shown with."""

from __future__ import annotations

import re
import shlex
from contextlib import suppress
from pathlib import Path

import pytest
import typer
import yaml
from typer.core import TyperGroup

from icr.commands.main import app
from icr.config.load import make_config
from icr.endpoint.ends import find_end

ROOT = Path(__file__).parents[2]
UsageError = typer.BadParameter.__mro__[1]
"""Of the click inside typer."""
MissingParameter = next(kind for kind in typer.BadParameter.__subclasses__() if kind.__name__ == "MissingParameter")
"""Likewise."""
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]


ICR = typer.main.get_command(app)


def commands(page: Path) -> list[str]:
    """The commands of a page: lines of code blocks, and code in running text and tables that has an argument."""
    text = page.read_text(encoding="utf-8").replace("\\\n", " ")
    blocks = re.findall(r"^```\w*\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    lines += re.findall(r"`([^`\n]+)`", re.sub(r"^```.*?^```", "", text, flags=re.MULTILINE | re.DOTALL))
    found = [re.sub(r"^\$ ", "", line.strip()) for line in lines]
    return [line for line in found if re.match(r"icr \w", line)]


def parse(line: str) -> None:
    """Parse a command line as `icr` would, and run nothing. `…` is a value, or words that are left out on purpose."""
    words = shlex.split(line, comments=True)[1:]
    if "…" not in words:
        return _parse(words)
    try:
        _parse(words)
    except UsageError:
        with suppress(MissingParameter):
            _parse([word for word in words if word != "…"])
    return None


def _parse(words: list[str]) -> None:
    command = ICR
    while isinstance(command, TyperGroup) and words and not words[0].startswith("-"):
        context = command.context_class(command)
        found, words = command.resolve_command(context, words)[1:]
        assert found is not None
        command = found
    if words:  # a bare name in running text is no call
        command.make_context(command.name, words)


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.stem)
def test_commands_of_the_docs_exist(page: Path) -> None:
    for line in commands(page):
        try:
            parse(line)
        except UsageError as error:
            pytest.fail(f"{page.name}: {line}: {error}")


def anchors(page: Path) -> set[str]:
    """The headings of a page as links name them."""
    headings = re.findall(r"^#+ (.+)$", page.read_text(encoding="utf-8"), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).strip().replace(" ", "-") for heading in headings}


@pytest.mark.parametrize(
    "page", [*PAGES, ROOT / "ARCHITECTURE.md", ROOT / "CONTRIBUTING.md"], ids=lambda page: page.stem
)
def test_links_lead_somewhere(page: Path) -> None:
    text = re.sub(r"^```.*?^```", "", page.read_text(encoding="utf-8"), flags=re.MULTILINE | re.DOTALL)
    for link in re.findall(r"\]\(([^)\s]+)\)", text):
        name, _, anchor = link.partition("#")
        if "://" in name:
            continue
        target = (page.parent / name).resolve() if name else page
        assert target.exists(), f"{page.name}: {link}"
        if anchor:
            assert anchor in anchors(target), f"{page.name}: {link}"


def test_the_index_has_every_page_and_readme_is_short() -> None:
    index = (ROOT / "docs" / "README.md").read_text(encoding="utf-8")
    assert not [page.name for page in PAGES if page.name != "README.md" and page.name not in index]
    assert len((ROOT / "README.md").read_text(encoding="utf-8").splitlines()) <= 150


def test_the_page_on_low_resource_languages_has_a_config() -> None:
    text = (ROOT / "docs" / "low-resource.md").read_text(encoding="utf-8")
    block = re.search(r"^```yaml\n(.*?)^```", text, re.MULTILINE | re.DOTALL)
    assert block
    config = make_config(yaml.safe_load(block.group(1)))
    assert config.prompts.languages == ["en", "th", "sw"] and config.train.lora


JUDGES = re.compile(r"openai:([\w.@-]+)|\bmodel: ([\w.@/-]+)|judge\.model=([\w.@/-]+)")


@pytest.mark.parametrize("page", [*PAGES, *sorted((ROOT / "configs").glob("*.yaml"))], ids=lambda page: page.stem)
def test_nothing_depends_on_a_hosted_model_whose_end_is_known(page: Path) -> None:
    named = {name for found in JUDGES.findall(page.read_text(encoding="utf-8")) for name in found if name}
    assert not [name for name in named if find_end(name, "https://api.openai.com/v1", None)]


def test_a_hosted_model_whose_end_is_known_would_be_found() -> None:
    [found] = JUDGES.findall("icr judge xalpaca a --judge openai:gpt-5-2025-08-07 --baseline b")
    assert find_end(found[0], "https://api.openai.com/v1", None)


def test_options_that_do_not_exist_are_found() -> None:
    with pytest.raises(UsageError):
        parse("icr prompts check folder --thoroughly")
    with pytest.raises(UsageError):
        parse("icr prompts cheque folder")
    with pytest.raises(UsageError):
        parse("icr judge xalpaca model --judge local:x")  # --baseline and others are required
    parse("icr data get ultrafeedback --clone a --clone b")
