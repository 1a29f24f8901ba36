"""The user's cache: what any evaluation has paid for is free in all others, from the same server alone."""

from __future__ import annotations

from pathlib import Path

import pytest

from icr.config.schema import Endpoint as Settings
from icr.config.schema import Judge
from icr.endpoint.cache import Cache
from icr.endpoint.endpoint import Endpoint
from icr.endpoint.reply import Reply
from icr.endpoint.shared import find_user_cache
from tests.helpers.endpoints import asks
from tests.helpers.judging import Steps
from tests.helpers.stub_server import Stub, says


def open_in(folder: Path, url: str, user: Path, **options: object) -> Endpoint:
    settings = Settings.model_validate({"base_url": url, **options})
    return Endpoint("m", folder / "c.sqlite", settings, shared=user / "answers.sqlite")


def test_another_folder_and_more_items_pay_for_what_is_new(tmp_path: Path) -> None:
    with Stub(lambda request, before: says(f"answer {len(stub.sent)}")) as stub:
        first = open_in(tmp_path / "a", stub.url, tmp_path / "user").ask(asks(5), lambda more: None)
        other = open_in(tmp_path / "b", stub.url, tmp_path / "user")
        second = other.ask(asks(8), lambda more: None)
        assert len(stub.sent) == 8 and second[:5] == first
        assert (other.cost.calls, other.cost.cached) == (3, 5)
        # the folder is whole without the user's cache
        assert len(Cache(tmp_path / "b" / "c.sqlite")) == 8 and other.cost_of().calls == 8
        open_in(tmp_path / "c", stub.url, tmp_path / "user", system="Judge.").ask(asks(5), lambda more: None)
        assert len(stub.sent) == 13  # other messages


def test_another_servers_answers_are_never_taken(tmp_path: Path) -> None:
    said = []
    for name in ("one", "two"):
        with Stub(lambda request, before, name=name: says(name)) as stub:  # type: ignore[misc]
            (reply,) = open_in(tmp_path / name, stub.url, tmp_path / "user").ask(asks(1), lambda more: None)
            assert isinstance(reply, Reply)
            said.append(reply.choices[0].message.content)
    assert said == ["one", "two"]


@pytest.mark.parametrize("shared", [True, False])
def test_nor_are_they_taken_in_one_folder_where_the_environment_names_the_server(
    tmp_path: Path, shared: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    user = tmp_path / "user" / "answers.sqlite" if shared else None
    said = []
    with Stub(lambda request, before: says("one")) as one, Stub(lambda request, before: says("two")) as two:
        for stub in (one, two, one):
            monkeypatch.setenv("OPENAI_BASE_URL", stub.url)
            (reply,) = Endpoint("m", tmp_path / "c.sqlite", Settings(), shared=user).ask(asks(1), lambda more: None)
            assert isinstance(reply, Reply)
            said.append(reply.choices[0].message.content)
        assert said == ["one", "two", "one"] and len(one.sent) == len(two.sent) == 1
        if shared:  # the config names the same server elsewhere
            open_in(tmp_path / "a", one.url, tmp_path / "user").ask(asks(1), lambda more: None)
            assert len(one.sent) == 1


def test_an_answer_that_cannot_be_read_is_requested_again(tmp_path: Path) -> None:
    with Stub(lambda request, before: says("A")) as stub:
        open_in(tmp_path / "a", stub.url, tmp_path / "user").ask(asks(1), lambda more: None)
        Cache(tmp_path / "user" / "answers.sqlite")._db.execute("UPDATE answers SET answer = '{'")
        open_in(tmp_path / "b", stub.url, tmp_path / "user").ask(asks(1), lambda more: None)
        assert len(stub.sent) == 2


def test_a_cache_that_cannot_be_used_is_said_and_done_without(tmp_path: Path) -> None:
    (tmp_path / "user").write_text("a file, not a folder")
    steps = Steps()
    with Stub(lambda request, before: says("A")) as stub:
        settings = Settings(base_url=stub.url)
        shared = tmp_path / "user" / "answers.sqlite"
        asked = Endpoint("m", tmp_path / "a" / "c.sqlite", settings, steps, shared=shared)
        asked.ask(asks(2), lambda more: None)
    assert asked.cost.calls == 2 and [note for note in steps.notes if "cannot be used" in note]


def test_a_dry_run_counts_what_the_user_has_and_makes_no_file(tmp_path: Path) -> None:
    with Stub(lambda request, before: says("A")) as stub:
        shared, settings = tmp_path / "user" / "answers.sqlite", Settings(base_url=stub.url)
        dry = Endpoint("m", tmp_path / "b" / "c.sqlite", settings, shared=shared, dry=True)
        assert (dry.estimate(asks(3)).calls, shared.exists()) == (3, False)
        open_in(tmp_path / "a", stub.url, tmp_path / "user").ask(asks(2), lambda more: None)
        dry = Endpoint("m", tmp_path / "b" / "c.sqlite", settings, shared=shared, dry=True)
        assert (dry.estimate(asks(3)).calls, dry.estimate(asks(3)).cached) == (1, 2)
    assert not (tmp_path / "b").exists()


def test_where_the_users_cache_is(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find_user_cache(Judge()) is None  # of the tests
    monkeypatch.setenv("ICR_JUDGE_CACHE", str(tmp_path / "e"))
    assert find_user_cache(Judge()) == tmp_path / "e" / "answers.sqlite"
    assert find_user_cache(Judge(cache=str(tmp_path / "c"))) == tmp_path / "c" / "answers.sqlite"
    assert find_user_cache(Judge(cache="none")) is None
    monkeypatch.delenv("ICR_JUDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "xdg"))
    assert find_user_cache(Judge()) == tmp_path / "xdg" / "icr" / "judge" / "answers.sqlite"
