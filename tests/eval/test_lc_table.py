"""Tables of judged pairs, difficulties and gamed pairs: what is read from them, and what is said of bad ones."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from eval.xalpaca.judged_pairs import read_difficulty, read_gamed, read_judged_pairs
from eval.xalpaca.lc import length_controlled
from icr.base.errors import UserError

pytestmark = pytest.mark.usefixtures("quiet")
HEADER = "index,preference,len_model,len_baseline\n"


def test_csv_gz_and_parquet_give_the_same_table(tmp_path: Path) -> None:
    text = "model,index,preference,len_model,len_baseline\nm,3,0.25,10,20\nm,0004,,,\nm,5.0,1,30,7\n"
    (tmp_path / "p.csv").write_text("\ufeff" + text)
    with gzip.open(tmp_path / "p.csv.gz", "wt") as file:
        file.write(text)
    columns = {"index": ["3", "0004", "5"], "preference": [0.25, None, 1], "len_model": [10, None, 30]}
    pq.write_table(pa.table(columns | {"len_baseline": [20, None, 7]}), tmp_path / "p.parquet")
    tables = [read_judged_pairs(tmp_path / name) for name in ("p.csv", "p.csv.gz", "p.parquet")]
    for table in tables:
        assert table.index == ("3", "0004", "5")
        np.testing.assert_array_equal(table.preference, [0.25, np.nan, 1])
        np.testing.assert_array_equal(table.len_model, [10, np.nan, 30])
        np.testing.assert_array_equal(table.scored().len_baseline, [20, 7])
    assert tables[0].where is not None and tables[0].where[2] == f"{tmp_path / 'p.csv'}:4"
    assert tables[2].where is not None and tables[2].where[2] == f"{tmp_path / 'p.parquet'} row 3"
    assert (tables[0].model, tables[2].model) == ("m", "the model")


def test_an_index_without_a_difficulty_is_named_by_file_and_line(tmp_path: Path) -> None:
    (tmp_path / "p.csv").write_text(HEADER + "0,0.1,1,2\n1,0.2,2,2\n2,0.3,3,2\n9,0.4,5,2\n")
    (tmp_path / "d.csv").write_text("index,difficulty\n0,1\n1,-1\n2,0.5\n")
    with pytest.raises(UserError, match=r"index 9 has no difficulty\n  where: .*p\.csv:5, column index"):
        length_controlled(read_judged_pairs(tmp_path / "p.csv"), read_difficulty(tmp_path / "d.csv"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "column preference, len_model, len_baseline not found; the table has no columns"),
        (HEADER, "no row"),
        (
            "index,preference,len_model\n0,1,2\n",
            "column len_baseline not found; the table has index, preference, len_model",
        ),
        (
            HEADER + "0,1,2,3\n7,yes,2,3\n",
            r"preference is 'yes', not a number \(index 7\)\n  where: .*bad\.csv:3, column pref",
        ),
        (HEADER + "0,1.2,2,3\n", r"preference is 1\.2, outside 0…1 .*\n.*\n.*subtract 1 from AlpacaEval's 1…2"),
        (HEADER + "0,-1,2,3\n", r"preference is -1, outside 0…1"),
        (HEADER + "0,nan,2,3\n", r"preference is nan, not a finite number .*\n.*\n.*leave the cell empty"),
        (HEADER + "0,inf,2,3\n", "preference is inf, not a finite number"),
        (HEADER + "0,1,-2,3\n", r"len_model is -2, but a length cannot be negative \(index 0\)"),
        (HEADER + "0,1,2,nan\n", "len_baseline is nan, not a finite number"),
        (HEADER + "0,1,,3\n", "len_model is empty"),
        (HEADER + "0,1,2\n", "len_baseline is empty"),
        (HEADER + "0,1,2,3,4\n", "line 2 has more cells than the header"),
        (
            HEADER + "0,1,2,3\n1,1,2,3\n0,1,2,3\n",
            r"index 0 is already in .*bad\.csv:2\n  where: .*bad\.csv:4, column index",
        ),
        (HEADER + ",1,2,3\n", "index is empty"),
        ("model,preference,len_model,len_baseline\na,1,2,3\nb,1,2,3\n", r"2 models \(a, b\)"),
    ],
)
def test_a_bad_table_is_named_by_file_line_and_column(tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "bad.csv").write_text(text)
    with pytest.raises(UserError, match=message) as caught:
        read_judged_pairs(tmp_path / "bad.csv")
    assert caught.value.do and str(tmp_path / "bad.csv") in caught.value.where


@pytest.mark.parametrize("name", ["bad.csv", "bad.csv.gz", "bad.parquet", "absent.csv"])
def test_a_file_that_is_no_table_is_refused(tmp_path: Path, name: str) -> None:
    for bad in ("bad.csv", "bad.csv.gz", "bad.parquet"):
        (tmp_path / bad).write_bytes(b"\x1f\xff\xfe\x00")
    with pytest.raises(UserError, match=r"cannot be read|file not found"):
        read_judged_pairs(tmp_path / name)


def test_difficulties_and_gamed_pairs_are_checked_too(tmp_path: Path) -> None:
    path = tmp_path / "table.csv"
    header = "model,index,len_model,len_baseline,preference\n"
    path.write_text(header + "verbose,0,10,5,0.9\nconcise,0,5,10,0.1\nverbose,1,20,5,0.8\n")
    assert [(table.model, table.index) for table in read_gamed(path)] == [("verbose", ("0", "1")), ("concise", ("0",))]
    for read, text, message in (
        (read_gamed, header + "verbose,0,10,5,\n", r"preference is empty.*\n.*table\.csv:2, column preference"),
        (read_gamed, header + ",0,10,5,0.5\n", "model is empty"),
        (read_gamed, header + "v,0,10,5,0.5\nv,0,10,5,0.5\n", "index 0 is already"),
        (read_gamed, HEADER + "0,1,2,3\n", "column model not found"),
        (read_difficulty, "index,difficulty\n0,hard\n", r"difficulty is 'hard', not a number \(index 0\)"),
        (read_difficulty, "index,difficulty\n0,1\n0,2\n", "index 0 is already"),
        (read_difficulty, "index,level\n0,1\n", "column difficulty not found"),
        (read_difficulty, "index,difficulty\n", "no row"),
    ):
        path.write_text(text)
        with pytest.raises(UserError, match=message):
            read(path)
