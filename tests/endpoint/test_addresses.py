"""Addresses of every form: with parameters, with a user and a password, with keys, which are used and never shown."""

from __future__ import annotations

import os
from base64 import b64encode
from pathlib import Path

import pytest

from icr.base.errors import UserError
from icr.base.secrets import find_secrets, hide, hide_in, reveal
from icr.config.load import dump_config, make_section
from icr.config.schema import Endpoint as Settings
from icr.config.schema import Judge
from icr.endpoint.address import Address
from tests.commands.test_judge_cli import prefers_longer, write_public
from tests.helpers.command import icr
from tests.helpers.endpoints import endpoint, item, judge, shares, verdicts_on
from tests.helpers.stub_server import Stub, fault, says

SECRET = "pw-4711-secret"


@pytest.fixture(autouse=True)
def no_key(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in [name for name in os.environ if name.startswith(("OPENAI_", "ICR_ADDRESS_"))]:
        monkeypatch.delenv(name)


@pytest.mark.parametrize(
    ("address", "shown"),
    [
        ("http://localhost:8000/v1", "http://localhost:8000/v1"),
        (f"https://me:{SECRET}@host/v1", "https://***@host/v1"),
        (f"https://host/v1?api_key={SECRET}&api-version=1", "https://host/v1?api_key=***&api-version=1"),
        (f"https://host/v1?sig={SECRET}", "https://host/v1?sig=***"),
        ("https://host/v1?api-version=2024-10-21", "https://host/v1?api-version=2024-10-21"),
        ("https://***@host/v1", "https://***@host/v1"),
        ("http://[::1/v1", "http://[::1/v1"),
        (f"me:{SECRET}@host/v1", "***@host/v1"),
        ("localhost:8000", "localhost:8000"),
    ],
)
def test_what_settings_hold_of_an_address(address: str, shown: str) -> None:
    assert hide(address) == shown
    assert SECRET not in shown and (reveal(shown) == address or address == "https://***@host/v1")
    assert hide_in(f"icr judge --set 'judge.base_url={address}' --x").count(SECRET) == 0
    assert hide_in("icr judge --judge openai:open-model@0d7cf23") == "icr judge --judge openai:open-model@0d7cf23"


@pytest.mark.parametrize(
    ("address", "shown"), [("localhost:8000/v1", "localhost:8000/v1"), (f"me:{SECRET}@host/v1", "host/v1")]
)
def test_what_is_not_a_web_address_is_shown_as_it_was_written(address: str, shown: str) -> None:
    with pytest.raises(UserError, match="not a web address") as caught:
        Address.find(Settings(base_url=address))
    assert SECRET not in str(caught.value) and f": {shown}" in caught.value.where


def test_secrets_of_an_address_are_known_to_be_secrets() -> None:
    assert find_secrets(f"https://me:{SECRET}@host/v1?token=abc&v=1") == [f"me:{SECRET}", SECRET, "abc"]
    assert find_secrets("https://host/v1?api-version=1") == []


def test_an_address_with_a_user_is_asked_with_its_password(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with Stub(lambda request, before: says("A")) as stub:
        url = stub.url.replace("http://", f"http://me:{SECRET}%21@")
        assert shares(verdicts_on(judge(tmp_path, url), item())) == [1.0]
        ((_, _, headers),) = stub.sent
    assert headers["authorization"] == "Basic " + b64encode(f"me:{SECRET}!".encode()).decode()


def test_parameters_of_an_address_stay_behind_its_path(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("OPENAI_API_KEY", "azures-key")
    address = "https://name.openai.azure.com/openai/deployments/d?api-version=2024-10-21"
    found = Address.find(Settings(base_url=address))
    expected = "https://name.openai.azure.com/openai/deployments/d/chat/completions?api-version=2024-10-21"
    assert found.chat == expected and found.headers["api-key"] == "azures-key"
    with Stub(lambda request, before: says("A")) as stub:
        asked = judge(tmp_path, f"{stub.url}/?api-version=1&key={SECRET}")
        assert shares(verdicts_on(asked, item())) == [1.0]
        ((_, _, headers),) = stub.sent
        assert stub.paths == [f"/v1/chat/completions?api-version=1&key={SECRET}"]
        assert headers["api-key"] == "azures-key"


def test_a_key_in_the_address_is_in_no_message(tmp_path: Path) -> None:
    with Stub(lambda request, before: fault(401, f"wrong: {SECRET}")) as stub:
        url = f"{stub.url}?token={SECRET}"
        with pytest.raises(UserError, match="rejects the key") as caught:
            verdicts_on(judge(tmp_path, url), item())
    with pytest.raises(UserError, match="does not answer") as gone:
        verdicts_on(judge(tmp_path, url, attempts=1), item())
    assert SECRET not in str(caught.value) + str(gone.value)


def test_settings_and_their_files_hold_none(tmp_path: Path) -> None:
    config = make_section(Judge, {"kind": "openai", "base_url": f"https://me:{SECRET}@host/v1"})
    for text in (dump_config(config), config.model_dump_json(), repr(config)):
        assert SECRET not in text
    assert Judge.model_validate_json(config.model_dump_json()) == config
    assert Address.find(config).url == f"https://me:{SECRET}@host/v1"


def test_a_command_that_was_not_given_the_key_again_says_so(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="which icr does not save") as caught:
        endpoint(tmp_path, "https://***@host/v1")
    assert "OPENAI_BASE_URL" in caught.value.do


def test_a_whole_command_leaves_no_key_behind(tmp_path: Path) -> None:
    for name, text in {"ours": "Antwort {} und noch viel mehr", "theirs": "{} kurz"}.items():
        write_public(tmp_path / name, name, "de", {n: text.format(n) for n in range(1, 9)})
    with Stub(prefers_longer) as stub:
        words = ["judge", "xalpaca", "ours", "--judge", "openai:m", "--baseline", "theirs", "--languages", "de",
                 "--out", "out", "--set", f"judge.base_url={stub.url}?api_key={SECRET}"]  # fmt: skip
        done = icr(*words, cwd=tmp_path)
        assert stub.paths[0].endswith(f"?api_key={SECRET}")
    files = [path for path in tmp_path.rglob("*") if path.is_file()]
    assert tmp_path / "out" / "evaluation.yaml" in files
    assert not [path for path in files if SECRET.encode() in path.read_bytes()]
    assert SECRET not in done.stdout + done.stderr
