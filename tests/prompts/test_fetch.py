"""`icr data get`: from repositories with the public ones' layout into the form that recipes name."""

from __future__ import annotations

import json
import subprocess
from pathlib import Path

import pytest
from typer.testing import CliRunner

from eval.mtbench.questions import load_questions
from eval.xalpaca.answers import check_baseline, read_outputs
from icr.base.errors import UserError
from icr.commands.data import data_app
from icr.config.schema import MtBench
from prompts.fetch import CHECKSUMS, README, fetch
from prompts.load import load_heldout, load_prompts
from tests.helpers.command import icr
from tests.helpers.public_repositories import IDENTITY, Public, git

BASELINE = "answers/gpt-4-turbo-2024-04-09"


def silent(text: str) -> None:
    pass


def tree(folder: Path) -> dict[str, bytes]:
    return {str(file.relative_to(folder)): file.read_bytes() for file in folder.rglob("*") if file.is_file()}


def test_prompts_are_fetched_and_joined_by_id(public: Public, tmp_path: Path) -> None:
    notes: list[str] = []
    done = fetch("ultrafeedback", tmp_path, note=notes.append)
    assert done.new and done.rows["es.jsonl"] == 3 and "fetching 9 files of https://github.com/ZNLP" in notes[0]
    # the translations are in another order, and one has no English partner
    found = load_prompts(str(done.folder), ["en", "sw", "zh"])
    assert [(p.id, p.lang, p.text) for p in found][3:5] == [("u2", "en", "en train 2"), ("u2", "sw", "sw train 2")]
    assert done.left_out == [
        "sw: prompts without an English partner: 1 (u9)",
        "zh: prompts that are empty or have another's id: 2 (u3, u8)",
    ]
    assert (found[5].id, found[5].text) == ("u2", "zh train 2") and found[-1].text == "zh train 3"
    readme = (done.folder / README).read_text(encoding="utf-8")
    assert "MIT" in readme and "u9" in readme and next(iter(public.sets["ultrafeedback"].paths)).commit in readme
    assert {path.name for path in tmp_path.iterdir()} == {"ultrafeedback"}


def test_answers_have_the_ids_of_their_prompts(public: Public, tmp_path: Path) -> None:
    done = fetch("x_alpacaeval", tmp_path, public.clones, silent)
    languages = ["en", "es", "ru", "de", "fr", "bn", "sw", "th"]
    heldout = load_heldout(str(done.folder), languages)
    assert len(heldout) == 24
    check_baseline(done.folder / BASELINE, heldout)
    # the English answers have no ids and are in another order
    english = read_outputs(done.folder / BASELINE, "en")
    assert (english[0].id, english[0].text) == ("1", "gpt-4-turbo-2024-04-09 en 1")
    assert len(done.rows) == 13 + 9 + 3 * 5


def test_questions_without_hints_and_references_as_texts(public: Public, tmp_path: Path) -> None:
    done = fetch("mt_bench", tmp_path, public.clones, silent)
    assert done.left_out == ["th: questions with an empty turn: 1 (81)"]
    given = MtBench(questions=str(done.folder), references=str(done.folder / "references"))
    questions = load_questions(given, ["en", "ja", "ru", "th"])
    assert [len(of_lang) for of_lang in questions.values()] == [8, 8, 8, 7]
    assert {q.reference.turns for q in questions["ru"] if q.referenced} == {("a proof", "127")}
    written = load_questions(MtBench(questions=str(done.folder), references="judge"), ["en"])["en"]
    assert all(q.reference.empty for q in written)  # so that the judge writes every reference


def test_a_clone_gives_the_same_files_as_the_network(
    public: Public, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))  # as inside a git hook
    fetch("mt_bench", tmp_path / "network", note=silent)
    fetch("mt_bench", tmp_path / "clone", public.clones, silent)
    bare = [tmp_path / "bare" / folder.parent.name for folder in public.clones]
    monkeypatch.delenv("GIT_DIR")
    for folder, place in zip(public.clones, bare, strict=True):
        subprocess.run(["git", "clone", "--quiet", "--bare", str(folder), str(place)], check=True)
    fetch("mt_bench", tmp_path / "bare clone", bare, silent)
    assert tree(tmp_path / "network") == tree(tmp_path / "clone") == tree(tmp_path / "bare clone")


def test_the_pinned_commit_counts_and_not_the_newest(public: Public, tmp_path: Path) -> None:
    folder = tmp_path / "paper"
    subprocess.run(["git", "clone", "--quiet", str(public.root / "ZNLP/Implicit-Cross-Lingual-Rewarding"), str(folder)],
                   check=True)  # fmt: skip
    (folder / "data/ultrafeedback_binarized/subset/random_5000/en.jsonl").write_text("not JSON")
    git(folder, *IDENTITY, "commit", "--quiet", "-am", "later")
    assert fetch("ultrafeedback", tmp_path / "data", [folder], silent).rows["en.jsonl"] == 3


def test_data_that_are_there_are_kept(public: Public, tmp_path: Path) -> None:
    first = fetch("ultrafeedback", tmp_path, public.clones, silent)
    before = tree(first.folder)
    again = fetch("ultrafeedback", tmp_path, note=pytest.fail)  # nothing is fetched
    assert not again.new and again.rows == first.rows
    subprocess.run(["sha256sum", "--check", "--quiet", CHECKSUMS], cwd=first.folder, check=True)
    (first.folder / "sw.jsonl").write_text("mine\n")
    with pytest.raises(UserError, match=r"1 files were changed or removed \(sw.jsonl\), and icr does not replace them"):
        fetch("ultrafeedback", tmp_path, public.clones, silent)
    assert {k: v for k, v in tree(first.folder).items() if k != "sw.jsonl"} == {
        k: v for k, v in before.items() if k != "sw.jsonl"
    }
    (tmp_path / "mt_bench").mkdir()
    (tmp_path / "mt_bench" / "notes.txt").write_text("mine")
    with pytest.raises(UserError, match="other data, and icr does not replace them"):
        fetch("mt_bench", tmp_path, public.clones, silent)
    (tmp_path / "x_alpacaeval").mkdir()  # an empty folder is no data
    assert fetch("x_alpacaeval", tmp_path, public.clones, silent).new


def test_data_of_another_commit_are_kept(public: Public, tmp_path: Path) -> None:
    done = fetch("ultrafeedback", tmp_path, public.clones, silent)
    sums = done.folder / CHECKSUMS
    sums.write_text(sums.read_text().replace(next(iter(public.sets["ultrafeedback"].paths)).commit, "1" * 40))
    with pytest.raises(UserError, match="data of another commit"):
        fetch("ultrafeedback", tmp_path, public.clones, silent)


def test_what_is_missing_is_one_message(public: Public, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(
        UserError, match=r"no clone of NLP-Core-Team/FastChat here has the commit [0-9a-f]{40}"
    ) as caught:
        fetch("mt_bench", tmp_path, [public.root / "ServiceNow/FastChat"], silent)
    assert "git fetch --depth 1 https://github.com/NLP-Core-Team/FastChat" in caught.value.do
    with pytest.raises(UserError, match="nowhere not found"):
        fetch("mt_bench", tmp_path, [tmp_path / "nowhere"], silent)
    with pytest.raises(UserError, match="unknown data set ultrafeedbak") as caught:
        fetch("ultrafeedbak", tmp_path)
    assert caught.value.do == "did you mean ultrafeedback?"
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.file://{tmp_path}/gone/.insteadOf")
    with pytest.raises(UserError, match="ZNLP/Implicit-Cross-Lingual-Rewarding cannot be fetched: ") as caught:
        fetch("ultrafeedback", tmp_path, note=silent)
    assert "\n" not in caught.value.what and "--clone" in caught.value.do
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UserError, match="git is not installed"):
        fetch("ultrafeedback", tmp_path, note=silent)
    assert not list(tmp_path.iterdir())


def test_a_clone_that_lacks_a_file(public: Public, tmp_path: Path) -> None:
    """Clones with --filter have commits without the content of their files."""
    partial = tmp_path / "partial"
    source = public.root / "ZNLP/Implicit-Cross-Lingual-Rewarding"
    subprocess.run(["git", "clone", "--quiet", "--bare", "--filter=blob:none", f"file://{source}", str(partial)],
                   check=True)  # fmt: skip
    git(partial, "config", "remote.origin.url", f"file://{tmp_path}/gone")
    with pytest.raises(UserError, match=r"the clone does not have the file data/.*/en\.jsonl"):
        fetch("ultrafeedback", tmp_path, [partial], silent)
    assert not (tmp_path / "ultrafeedback").exists()


def test_the_command(public: Public, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(data_app, ["get", "ultrafeedback", "mt_bench"])
    assert done.exit_code == 0, done.output
    assert "en 3, es 3" in done.output and "references: en 8" in done.output
    assert "left out: th: questions with an empty turn: 1 (81)" in done.output and "README.md" in done.output
    assert json.loads((tmp_path / "data/ultrafeedback/es.jsonl").read_text().splitlines()[0])["instruction_id"] == "u1"
    again = CliRunner().invoke(data_app, ["get", "ultrafeedback"])
    assert again.exit_code == 0 and "already there, unchanged" in again.output
    refused = icr("data", "get", "nothing", "--out", tmp_path / "new", code=2)
    assert "ultrafeedback, x_alpacaeval, mt_bench" in refused.stderr and not (tmp_path / "new").exists()
