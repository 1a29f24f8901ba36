"""Prompts that stand twice, or both in training and held out; limits that are larger than what is there."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from icr.base.errors import ConfigError, UserError
from icr.rounds.preflight import load_checked
from prompts.load import Prompt, load_prompts
from prompts.overlap import check_overlap, describe_prompts, find_overlap
from tests.conftest import write_prompts
from tests.helpers.command import icr


def prompt(id: str, text: str, lang: str = "en") -> Prompt:
    messages = [{"role": "user", "content": text}]
    return Prompt(id, lang, messages, messages)  # type: ignore[arg-type]


def test_an_overlap_is_of_one_language_and_of_texts() -> None:
    train = [prompt("1", "Name a river."), prompt("2", "Hotel", "es"), prompt("3", "Name a lake.")]
    heldout = [prompt("1", "Name a sea."), prompt("7", " Name a\nriver. "), prompt("8", "Hotel", "de")]
    assert find_overlap(train, heldout) == {"en": ["7"]}
    assert check_overlap(train, heldout[:1], allowed=False) == []
    with pytest.raises(UserError, match=r"1 of 3 held-out prompts are also training prompts \(en 1: 7\)") as caught:
        check_overlap(train, heldout, allowed=False)
    assert "icr prompts split" in caught.value.do and "prompts.allow_overlap: true" in caught.value.do
    (note,) = check_overlap(train, heldout, allowed=True)
    assert note.startswith("1 of 3 held-out prompts are also training prompts")


def test_what_is_unusual_in_a_set_of_prompts() -> None:
    prompts = [prompt(str(n), f"Name {n % 4} rivers.") for n in range(5)] + [prompt("0", "Hola", "es")]
    found = list(describe_prompts(prompts, 9, "prompts.path", "prompts.limit"))
    assert found == [
        "prompts.limit is 9, but there are only 5 prompts: all are used",
        "prompts.path: of 5 prompts, some are not there in every language (missing: es 4)",
        "prompts.path: 1 prompts have the same text as another one of their language (en 1: 4)",
    ]
    assert list(describe_prompts(prompts[:4], 4, "prompts.path", "prompts.limit")) == []
    assert list(describe_prompts([], 4, "prompts.path", "prompts.limit")) == []


def test_a_run_that_is_judged_on_its_training_prompts_is_refused(
    tiny_config: Callable[..., Path], tmp_path: Path
) -> None:
    folder = str(write_prompts(tmp_path / "all", range(6)))
    same = {"prompts": {"path": folder}, "judge": {"prompts": folder}}
    with pytest.raises(ConfigError, match="18 of 18 held-out prompts are also training prompts"):
        load_checked(tiny_config(tmp_path / "a", **same))
    allowed = {"prompts": {"path": folder, "allow_overlap": True, "limit": 2}, "judge": {"prompts": folder, "limit": 8}}
    _, inputs = load_checked(tiny_config(tmp_path / "b", **allowed))
    assert inputs.notes == [
        "judge.limit is 8, but there are only 6 prompts: all are used",
        "6 of 18 held-out prompts are also training prompts (en 2: p0, p1; es 2: p0, p1; ru 2: p0, p1): their win "
        "rates say little about other prompts",
    ]


def test_limits_above_what_is_there_are_notes_of_validate(tiny_config: Callable[..., Path], tmp_path: Path) -> None:
    pairs = tmp_path / "pairs.jsonl"
    pairs.write_text('{"prompt": "p", "chosen": "c", "rejected": "r"}\n')
    align = {"models": {"policy": None}, "alignment": {"pairs": str(pairs), "limit": 24, "batch_size": 1}}
    shown = icr("validate", tiny_config(tmp_path, prompts={"limit": 3000}, **align)).stdout
    assert "18 prompts in en, es, ru, 12 held out" in shown
    assert "note: prompts.limit is 3000, but there are only 6 prompts: all are used" in shown
    assert "note: alignment.limit is 24, but there are only 1 pairs: all are used" in shown


# icr prompts split


def test_a_split_holds_the_same_ids_out_in_all_languages(tmp_path: Path) -> None:
    folder = write_prompts(tmp_path / "all", range(20))
    for lang, missing in (("es", "p3"), ("ru", "p4")):
        lines = (folder / f"{lang}.jsonl").read_text(encoding="utf-8").splitlines()
        (folder / f"{lang}.jsonl").write_text("\n".join(x for x in lines if f'"{missing}"' not in x), encoding="utf-8")
    with open(folder / "en.jsonl", "a", encoding="utf-8") as handle:
        handle.write(json.dumps({"id": "again", "instruction": "Name 5 animals that live in the sea."}))
    (folder / "notes.txt").write_text("x")
    out = tmp_path / "out"
    shown = icr("prompts", "split", folder, "--held-out", 6, "--out", out).stdout
    assert f"{out}/train: en 15, es 13, ru 13" in shown and f"{out}/heldout: en 6, es 6, ru 6" in shown
    assert "not held out, as their text stands under two ids: 2 prompts" in shown and "notes.txt" in shown
    heldout, train = (load_prompts(str(out / part), ["en", "es", "ru"]) for part in ("heldout", "train"))
    ids = {p.id for p in heldout}
    assert len(ids) == 6 and len(heldout) == 18 and not ids & {p.id for p in train}
    assert not ids & {"p3", "p4", "p5", "again"}
    before = load_prompts(str(folder), ["en", "es", "ru"])
    assert sorted((p.id, p.lang, p.text) for p in heldout + train) == sorted((p.id, p.lang, p.text) for p in before)
    assert find_overlap(train, heldout) == {}
    # the same seed draws the same ids, whatever the order of lines; another seed draws others
    lines = (folder / "en.jsonl").read_text(encoding="utf-8").splitlines()
    (folder / "en.jsonl").write_text("\n".join(reversed(lines)), encoding="utf-8")
    drawn = {}
    for seed in (42, 7):
        icr("prompts", "split", folder, "--held-out", 6, "--out", tmp_path / str(seed), "--seed", seed)
        drawn[seed] = {p.id for p in load_prompts(str(tmp_path / str(seed) / "heldout"), ["en"])}
    assert drawn[42] == ids != drawn[7]


def test_a_split_overwrites_nothing_and_leaves_something_to_train_on(tmp_path: Path) -> None:
    folder, out = write_prompts(tmp_path / "all", range(4)), tmp_path / "out"
    for count in (4, 5):
        wrong = icr("prompts", "split", folder, "--held-out", count, "--out", out, code=2).stderr
        assert f"{count} prompts cannot be held out: only 4 are in all of" in wrong
    assert not out.exists()
    (out / "heldout").mkdir(parents=True)
    (out / "heldout" / "en.jsonl").write_text("mine")
    wrong = icr("prompts", "split", folder, "--held-out", 1, "--out", out, code=2).stderr
    assert "already exists: heldout" in wrong and "nothing is overwritten" in wrong
    assert (out / "heldout" / "en.jsonl").read_text() == "mine" and not (out / "train").exists()
    absent = icr("prompts", "split", tmp_path / "no", "--held-out", 1, "--out", out, code=2).stderr
    assert f"folder {tmp_path / 'no'} not found" in absent
