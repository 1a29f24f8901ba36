"""Hosted models whose end is known: a dated table, which the user's own comes before."""

from __future__ import annotations

from datetime import date
from pathlib import Path

import pytest

from icr.base.errors import UserError
from icr.endpoint.ends import describe_end, find_end

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
