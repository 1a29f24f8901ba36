"""Hosted models whose end is known: a dated table, which the user's own comes before."""

from __future__ import annotations

from datetime import date
from pathlib import Path
from typing import Any

import pytest

from eval.judges.asking import Judging
from icr.base.errors import UserError
from icr.config.schema import Judge
from icr.endpoint.ends import describe_end, describe_ends, find_end
from tests.helpers.judging import Inline

OPENAI = "https://api.openai.com/v1"


@pytest.mark.parametrize(
    ("model", "url", "end"),
    [
        ("gpt-4o", OPENAI, date(2027, 1, 14)),
        ("gpt-4o-2024-08-06", OPENAI, date(2027, 1, 14)),
        ("gpt-4.1-mini-2025-04-14", OPENAI, date(2027, 1, 14)),
        ("gpt-4-0613", OPENAI, date(2026, 10, 23)),
        ("gpt-4-turbo-2024-04-09", OPENAI, date(2026, 10, 23)),
        ("o3", "https://eu.api.openai.com/v1", date(2026, 12, 11)),
        ("gpt-5.1", OPENAI, None),
        ("gpt-4o", "http://[::1/v1", None),
        ("gpt-4o", "http://localhost:8000/v1", None),  # whoever serves that name
        ("gpt-4o", "https://notopenai.com/v1", None),
        ("Qwen3-30B-A3B-Instruct-2507@0d7cf23", OPENAI, None),
    ],
)
def test_the_end_of_a_model_and_of_its_snapshots(model: str, url: str, end: date | None) -> None:
    assert find_end(model, url, None) == end


def test_the_user_is_told_in_time_and_afterwards() -> None:
    (before,) = describe_end("gpt-4o", OPENAI, None, date(2026, 11, 29))
    (after,) = describe_end("gpt-4o", OPENAI, None, date(2027, 1, 14))
    assert "will no longer be available from 2027-01-14" in before and "judge.ends" in before
    assert "is no longer available since 2027-01-14" in after
    assert not describe_end("gpt-5.1", OPENAI, None, date(2026, 11, 29))


def test_a_command_tells_it_of_each_of_several_judges(tmp_path: Path) -> None:
    config = Judge.model_validate({"kind": "openai", "judges": [{"model": "gpt-4o"}, {"model": "open"}], "model": "x"})
    assert ["gpt-4o" in line for line in describe_ends(config)] == [True]
    here, machine = config.model_copy(update={"base_url": "http://localhost:8000/v1"}), Inline()
    assert describe_ends(here) == []
    there: Any = machine
    for _ in range(2):
        Judging.of(Judge(kind="openai", model="o3"), None, there, "key", tmp_path / "cache.sqlite")
    assert any("the judge o3" in note for note in machine.watcher.notes)


def test_the_users_dates_come_first(tmp_path: Path) -> None:
    table = tmp_path / "ends.yaml"
    table.write_text("gpt-4o: null\nmine: 2028-02-01\n")
    assert find_end("gpt-4o", OPENAI, str(table)) is None
    assert find_end("mine", "http://localhost/v1", str(table)) == date(2028, 2, 1)
    assert find_end("o3", OPENAI, str(table)) == date(2026, 12, 11)


@pytest.mark.parametrize("text", ["- mine", "mine: soon", "mine: ["])
def test_a_table_that_is_none_says_what_it_should_be(tmp_path: Path, text: str) -> None:
    (tmp_path / "ends.yaml").write_text(text)
    with pytest.raises(UserError, match="file of end dates cannot be read") as caught:
        find_end("mine", OPENAI, str(tmp_path / "ends.yaml"))
    assert "2027-06-30" in caught.value.do
