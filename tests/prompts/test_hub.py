"""Data sets on the hub: their names, and what is said when they cannot be had. The hub is never asked."""

from __future__ import annotations

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from huggingface_hub import HfApi, constants
from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

from icr.base.conversation import wrap_text
from icr.base.errors import UserError
from icr.config.load import load_config
from prompts.hub import HubName
from prompts.load import load_english, load_heldout, load_prompts
from prompts.preferences.english import describe_pairs, read_alignment
from tests.helpers.hub_cache import COMMIT, write_cached

ROWS = [{"prompt": "one", "prompt_id": 1, "chosen": []}, {"prompt": "two", "prompt_id": 2, "chosen": []}]


@pytest.mark.parametrize(
    ("name", "parts"),
    [
        ("hf:org/name", ("org/name", None, None, "train")),
        ("hf:org/name@v1.0", ("org/name", "v1.0", None, "train")),
        ("hf:org/name:es", ("org/name", None, "es", "train")),
        ("hf:org/name::test", ("org/name", None, None, "test")),
        ("hf:Org-1/ultra_feed.x-y@refs/pr/1::train_prefs", ("Org-1/ultra_feed.x-y", "refs/pr/1", None, "train_prefs")),
        (f"hf:org/name@{COMMIT}:es:test", ("org/name", COMMIT, "es", "test")),
    ],
)
def test_names(name: str, parts: tuple[str | None, ...]) -> None:
    assert HubName.parse(name, "prompts.path") == parts


@pytest.mark.parametrize("name", ["hf:", "hf:name", "hf:org/name/more", "hf:org/name@", "hf:/org/name", "hf:a/b:c:d:e"])
def test_what_is_no_name(name: str) -> None:
    with pytest.raises(UserError, match="is not the name") as caught:
        load_prompts(name, ["en"])
    assert caught.value.where == "prompts.path" and "hf:org/name::split" in caught.value.do


@pytest.fixture
def online(monkeypatch: pytest.MonkeyPatch) -> Callable[[Any, Any], list[Any]]:
    """Sets what the hub's answer is, and what datasets gives; returns the list of what datasets was asked for."""
    import datasets

    def answer(info: Any, rows: Any) -> list[Any]:
        asked: list[Any] = []

        def dataset_info(self: HfApi, repo_id: str, **options: Any) -> Any:
            assert options["timeout"] == 5
            if isinstance(info, Exception):
                raise info
            return type("Info", (), {"sha": info})

        def load_dataset(path: str, name: str | None, *, split: str, revision: str | None) -> Any:
            asked.append((path, name, split, revision, datasets.config.HF_HUB_OFFLINE))
            if isinstance(rows, Exception):
                raise rows
            return datasets.Dataset.from_list(rows)

        monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", False)
        monkeypatch.setattr(HfApi, "dataset_info", dataset_info)
        monkeypatch.setattr(datasets, "load_dataset", load_dataset)
        return asked

    return answer


def test_a_data_set_is_read_with_its_revision_config_and_split(online: Callable[..., list[Any]]) -> None:
    asked = online(COMMIT, ROWS)
    prompts = {"1": wrap_text("one"), "2": wrap_text("two")}
    assert load_english("hf:org/feedback@v2:en:train_prefs").prompts == prompts
    assert load_english("hf:org/feedback").prompts == prompts
    assert asked == [
        ("hf://datasets/org/feedback", "en", "train_prefs", "v2", False),
        ("hf://datasets/org/feedback", None, "train", None, False),
    ]
    online(COMMIT, [{"id": 1, "lang": lang, "instruction": lang} for lang in ("en", "es", "fr")])
    assert [p.text for p in load_prompts("hf:org/parallel", ["en", "es"])] == ["en", "es"]


def test_pairs_of_the_hub_without_a_preference_are_left_out_and_counted(
    online: Callable[..., list[Any]], tmp_path: Path
) -> None:
    def row(chosen: str, rejected: str) -> dict[str, Any]:
        sides = [[*wrap_text("Hi"), {"role": "assistant", "content": text}] for text in (chosen, rejected)]
        return {"prompt": "Hi", "chosen": sides[0], "rejected": sides[1]}

    rows = [row("Hello!", "No."), row("Same.", "Same."), row("Hello!", " "), row("Hello!", "Go.")]
    online(COMMIT, rows)
    found = read_alignment("hf:org/feedback")
    assert [pair["rejected"] for pair in found.pairs] == ["No.", "Go."]
    assert list(describe_pairs(found, 2)) == [
        "alignment.pairs: 2 rows are left out: 1 same response twice, 1 empty"
    ]  # fmt: skip


def response(status: int) -> httpx2.Response:
    return httpx2.Response(status, request=httpx2.Request("GET", "https://hub.invalid"))


@pytest.mark.parametrize(
    ("answer", "rows", "what"),
    [
        (RepositoryNotFoundError("no", response=response(404)), ROWS, "the hub has no data set org/name"),
        (GatedRepoError("no", response=response(403)), ROWS, "the data set hf:org/name@v1 is gated"),
        (RevisionNotFoundError("no", response=response(404)), ROWS, "org/name has no revision v1"),
        (
            httpx2.ConnectTimeout("slow"),
            FileNotFoundError("x"),
            "the hub cannot be reached, and the local cache has no",
        ),
        (COMMIT, ValueError("Unknown split.\nShould be one of ['a']."), r"Unknown split. Should be one of \['a'\]"),
    ],
)
def test_what_cannot_be_had_is_said_in_one_line(
    online: Callable[..., list[Any]], answer: Any, rows: Any, what: str, capfd: pytest.CaptureFixture[str]
) -> None:
    online(answer, rows)
    with pytest.raises(UserError, match=what) as caught:
        load_english("hf:org/name@v1")
    assert "\n" not in caught.value.what and caught.value.where == "--source" and caught.value.do
    assert capfd.readouterr() == ("", "")


def test_a_hub_out_of_reach_is_not_asked_again_and_again(
    monkeypatch: pytest.MonkeyPatch, own_data_cache: None, capfd: pytest.CaptureFixture[str]
) -> None:
    """With the real libraries, and a port on which nobody listens."""
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    monkeypatch.setattr(constants, "ENDPOINT", "http://127.0.0.1:9")
    began = time.monotonic()
    with pytest.raises(UserError, match="the hub cannot be reached, and the local cache has no hf:org/never-seen"):
        load_prompts("hf:org/never-seen", ["en"])
    assert time.monotonic() - began < 5
    assert capfd.readouterr() == ("", "")


def test_out_of_reach_the_copy_in_the_cache_is_read_if_it_is_the_revision(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With the real library: its cache, as a download leaves it."""
    import datasets

    monkeypatch.setattr(datasets.config, "HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr(datasets.config, "HF_HUB_OFFLINE", True)
    rows = [{key: row[key] for key in ("prompt", "prompt_id")} for row in ROWS]
    write_cached(tmp_path, "org/name", "default", {"train": rows})
    for name in ("hf:org/name", f"hf:org/name@{COMMIT}", "hf:org/name:default:train"):
        assert list(load_english(name).prompts) == ["1", "2"]
    with pytest.raises(UserError, match="the local cache has another revision of org/name"):
        load_english(f"hf:org/name@{'2' * 40}")
    with pytest.raises(UserError, match="the local cache has no hf:org/name:other"):
        load_english("hf:org/name:other")


@pytest.mark.parametrize("key", ["prompts.path", "judge.prompts", "alignment.pairs"])
def test_a_name_of_the_hub_is_no_path_and_a_path_is_no_name(tmp_path: Path, key: str) -> None:
    path = tmp_path / "c.yaml"
    path.write_text(
        "models: {reference: a/c}\nprompts: {path: p, languages: [en]}\nalignment: {pairs: p}\njudge: {prompts: p}\n"
    )
    section, name = key.split(".")

    def resolved(value: str) -> str:
        return str(getattr(getattr(load_config(path, [f"{key}={value}"]), section), name))

    assert resolved("hf:org/name@v1:es:test") == "hf:org/name@v1:es:test"
    assert resolved("data/ultrafeedback") == str(Path.cwd() / "data" / "ultrafeedback")
    with pytest.raises(UserError, match=r"folder .*data/ultrafeedback not found") as caught:
        load_prompts(resolved("data/ultrafeedback"), ["en"], key=key)
    assert "hf:org/name" in caught.value.do


def test_m_arena_hard_has_a_config_for_each_language(online: Callable[..., list[Any]]) -> None:
    """Its public columns; a language of its prompts is in the name alone, and ids join the languages."""
    rows = [
        {"question_id": f"328c149ed45a41c0b9d6f14659e6359{n}", "category": "arena-hard-v0.1", "cluster": "ABC",
         "prompt": f"Write SQL {n}"}
        for n in range(3)
    ]  # fmt: skip
    asked = online(COMMIT, rows)
    found = load_heldout("hf:CohereLabs/m-ArenaHard:{lang}:test", ["en", "de"], 2)
    place = "hf://datasets/CohereLabs/m-ArenaHard"
    assert {call[:3] for call in asked} == {(place, "en", "test"), (place, "de", "test")}
    assert [(p.id[-1], p.lang) for p in found] == [("0", "en"), ("0", "de"), ("1", "en"), ("1", "de")]
    assert found[0].messages == wrap_text("Write SQL 0")


def test_a_path_may_have_a_file_for_each_language(tmp_path: Path) -> None:
    for lang in ("en", "sw"):
        (tmp_path / lang).mkdir()
        (tmp_path / lang / "test.jsonl").write_text('{"question_id": 7, "prompt": "' + lang + '"}\n')
    found = load_heldout(str(tmp_path / "{lang}" / "test.jsonl"), ["sw"])
    assert [(p.id, p.lang, p.messages) for p in found] == [("7", "sw", wrap_text("sw"))]
    with pytest.raises(UserError, match=r"(?s)file .*fr/test\.jsonl not found"):
        load_heldout(str(tmp_path / "{lang}" / "test.jsonl"), ["sw", "fr"])
