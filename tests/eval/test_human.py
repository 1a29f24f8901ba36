"""`icr human`: pairs that tell nothing of who wrote what, and what becomes of the votes."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path

import pytest

from eval.audit.people import read_labels
from eval.audit.verdicts import read_evaluation
from eval.human import KEY, LABELS, PAIRS, agree_among, draw_pairs, export_pairs, import_votes, read_votes
from eval.rates import win_rate
from eval.xalpaca.answers import read_answers
from eval.xalpaca.pairwise import VERDICTS
from icr.base.errors import ConfigError, UserError
from icr.base.files import read_json, write_json, write_rows
from icr.commands.main import app
from tests.helpers.judging import write_answers

LANGUAGES = ["de", "es"]
N = 8


def texts(word: str) -> dict[str, str]:
    return {f"p{n}": f"{word} {n}, =1+1 </script>" for n in range(N)}


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Ours against theirs; the last answers are identical."""
    for lang in LANGUAGES:
        write_answers(tmp_path / "ours", lang, {**texts("ours"), "same": "equal"})
        write_answers(tmp_path / "theirs", lang, {**texts("theirs"), "same": "equal"})
    return tmp_path / "ours", tmp_path / "theirs"


def vote(out: Path, name: str, choose: dict[str, str], default: str) -> Path:
    """A rater's file: for each pair the vote for `ours` or `theirs`, as the pair shows it."""
    key = read_json(out / KEY)["pairs"]
    rows = list(csv.DictReader((out / PAIRS).read_text(encoding="utf-8-sig").splitlines()))
    with open(out / f"{name}.csv", "w", encoding="utf-8-sig", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["pair", "vote"])
        for row in rows:
            named = key[row["pair"]]
            wanted = choose.get(f"{named['lang']} {named['id']}", default)
            side = {"ours": named["model"], "theirs": "AB".replace(named["model"], "")}.get(wanted, wanted)
            writer.writerow([int(row["pair"]), side.lower()])  # as a spreadsheet writes it
    return out / f"{name}.csv"


def test_pairs_tell_nothing(folders: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    ours, theirs = folders
    out = tmp_path / "out"
    command = ["human", "export", str(ours), "--baseline", str(theirs), "--languages", "de,es", "--out", str(out)]
    app([*command, "--limit", "6"], standalone_mode=False)
    printed = capsys.readouterr().out
    assert "12 pairs" in printed and "identical answers, left out: de 1, es 1" in printed
    key = read_json(out / KEY)["pairs"]
    rows = list(csv.DictReader((out / PAIRS).read_text(encoding="utf-8-sig").splitlines()))
    assert list(rows[0]) == ["pair", "lang", "prompt", "A", "B", "vote"] and len(rows) == len(key) == 12
    for row in rows:
        assert row[key[row["pair"]]["model"]].startswith("ours") and not row["vote"]
    assert {named["model"] for named in key.values()} == {"A", "B"}
    assert [row["lang"] for row in rows] != sorted(row["lang"] for row in rows)
    again, _ = draw_pairs(ours, theirs, LANGUAGES, 6, 42)
    assert [pair.first for pair in again] == [row["A"] for row in rows]
    assert [pair.id for pair in draw_pairs(ours, theirs, LANGUAGES, 6, 43)[0]] != [pair.id for pair in again]
    html = (out / "vote.html").read_text(encoding="utf-8")
    data = re.search(r'<script type="application/json" id="data">(.*?)</script>', html, re.DOTALL)
    assert data is not None
    assert [pair["A"] for pair in json.loads(data[1])] == [row["A"] for row in rows]
    assert {pair["language"] for pair in json.loads(data[1])} == {"German", "Spanish"}
    assert not re.search(r"https?://|src=|\bours\.|model", data[1]) and "https://" not in html and "src=" not in html
    with pytest.raises(UserError, match="has pairs already"):
        export_pairs(ours, theirs, LANGUAGES, out, 6, 42)
    with pytest.raises(UserError, match="all answers are identical"):
        draw_pairs(ours, ours, LANGUAGES, None, 42)


def test_everything_wrong_with_an_export_is_said_at_once(folders: tuple[Path, Path], tmp_path: Path) -> None:
    """Folders, languages and the output, and no problem twice: nobody can have answers in a language that is none."""
    ours, theirs = folders
    export_pairs(ours, theirs, LANGUAGES, tmp_path / "out", None, 42)
    (theirs / "es.parquet").unlink()
    with pytest.raises(ConfigError) as raised:
        export_pairs(ours, theirs, ["xx", "de", "de", "es", "fr"], tmp_path / "out", None, 42)
    assert [(problem.what, problem.where) for problem in raised.value.problems] == [
        ("the folder has pairs already", f"--out: {tmp_path / 'out'}"),
        ("'xx' is not an ISO 639-1 language code", "--languages"),
        ("listed twice: de", "--languages"),
        ("the baseline has no answers in es", str(theirs)),
        ("there are no answers in fr", str(ours)),
        ("the baseline has no answers in fr", str(theirs)),
    ]
    with pytest.raises(ConfigError) as raised:
        export_pairs(tmp_path / "none", tmp_path / "nor", ["xx", "de"], tmp_path / "new", None, 42)
    wheres = [problem.where for problem in raised.value.problems]
    assert wheres == ["--languages", "ANSWERS", "--baseline"] and not (tmp_path / "new").exists()


def test_votes_become_rates_and_agreement(folders: tuple[Path, Path], tmp_path: Path) -> None:
    ours, theirs = folders
    out = tmp_path / "out"
    export_pairs(ours, theirs, LANGUAGES, out, None, 42)
    ann = vote(out, "ann", {"de p0": "theirs", "de p1": "tie"}, "ours")
    bob = vote(out, "bob", {"de p0": "theirs", "de p1": "theirs", "es p3": ""}, "ours")
    evaluation = judged(ours, theirs, tmp_path / "judged")
    result = import_votes(out, [ann, bob], [evaluation])
    assert result["raters"] == {"ann": 16, "bob": 15}
    expected = [0.0, 0.25, *[1.0] * 6]
    assert result["languages"]["de"]["win_rate"] == pytest.approx(win_rate(expected)[0])
    assert result["languages"]["de"]["n"] == 8 and result["languages"]["es"]["win_rate"] == 100
    assert result["average"]["win_rate"] == pytest.approx((win_rate(expected)[0] + 100) / 2)
    assert result["people"]["pairs"] == 15 and result["people"]["share"] == pytest.approx(14 / 15)
    # the judge prefers ours everywhere: people do on all but de p0 and de p1
    assert result["judges"][str(evaluation)] == {"n": 16, "share": 14 / 16}
    labels = read_labels(out / LABELS, read_evaluation(evaluation).languages)
    assert labels["de"]["p0"] == 0 and labels["de"]["p1"] == 0.25 and labels["es"]["p3"] == 1


def judged(ours: Path, theirs: Path, out: Path) -> Path:
    """A finished evaluation whose judge always prefers ours."""
    for lang, answers in read_answers(ours).items():
        write_answers(out / "answers", lang, {a.id: a.text for a in answers})
        rows = [
            {"prompt_id": a.id, "order": order, "preference": 1.0, "reason": None, "raw": "", "shortened": False}
            for a in answers for order in ("policy-first", "baseline-first")
        ]  # fmt: skip
        write_rows(out / "verdicts" / f"{lang}.parquet", rows, VERDICTS)
        others = {a.id: a for a in read_answers(theirs)[lang]}
        compared = [
            {"id": a.id, "instruction": a.instruction, "output_1": others[a.id].text, "output_2": a.text}
            for a in answers
        ]  # fmt: skip
        write_json(out / "alpaca_eval" / lang / "annotations.json", compared)
    write_json(out / "summary.json", {"judge": "x", "languages": {lang: {} for lang in LANGUAGES}, "average": {}})
    return out


def test_agreement_by_hand() -> None:
    votes = {"a": {"1": 1.0, "2": 0.0}, "b": {"1": 1.0, "2": 1.0}, "c": {"3": 0.5}}
    found = agree_among(votes)
    assert found["pairs"] == 2 and found["share"] == 0.5
    # values 1 1 / 0 1: D_o = 2/4, D_e = 2·3·1/(4·3) = 1/2
    assert found["alpha"] == pytest.approx(0.0)
    assert agree_among({"c": {"3": 0.5}}) == {"pairs": 0, "share": None, "alpha": None}


def test_bad_votes_are_named(tmp_path: Path) -> None:
    key = {"pairs": {"0001": {"id": "p", "lang": "de", "model": "B"}}}
    file = tmp_path / "v.csv"
    file.write_text("pair,vote,rater\n1,A,x\n0001,b,x\n9,A,x\n1,maybe,y\n1,A,z,extra\n")
    with pytest.raises(ConfigError) as caught:
        read_votes([file, tmp_path / "none.csv"], key)
    text = str(caught.value)
    for what in ("x votes twice on pair 0001", "pair 0009 was not exported", "unknown vote maybe", "none.csv not found",
                 "too many fields", f"{file}:3"):  # fmt: skip
        assert what in text, text
    file.write_text("pair;vote\n1;a\n")
    assert read_votes([file], key) == {"v": {"0001": 0.0}}
    file.write_text("pair,vote\n1,\n")
    with pytest.raises(ConfigError, match="no file has a vote"):
        read_votes([file], key)
    file.write_text("pair,choice\n1,A\n")
    with pytest.raises(ConfigError, match="column vote is missing"):
        read_votes([file], key)
    with pytest.raises(UserError, match="no exported pairs"):
        import_votes(tmp_path, [file], [])
