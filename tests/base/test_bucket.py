"""Buckets, of which the one that is here is a folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from icr.base.bucket import Bucket
from icr.base.errors import UserError


def test_what_is_put_is_there_whole(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("hello")
    bucket = Bucket((tmp_path / "far" / "away").as_uri(), "--mirror")
    assert bucket.list() == {} and not bucket.has("x/a.txt")
    bucket.put(tmp_path / "a.txt", "x/a.txt")
    bucket.put(tmp_path / "a.txt", "b.txt")
    assert {name: stored.size for name, stored in bucket.list().items()} == {"x/a.txt": 5, "b.txt": 5}
    assert bucket.has("x/a.txt") and not bucket.has("x")
    bucket.get("x/a.txt", tmp_path / "back" / "a.txt")
    assert (tmp_path / "back" / "a.txt").read_text() == "hello"


def test_a_file_that_cannot_be_copied_leaves_nothing_of_its_name(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: object) -> None:
        args[1].write(b"hel")  # type: ignore[attr-defined]
        raise OSError("the line is cut")

    (tmp_path / "a.txt").write_text("hello")
    bucket = Bucket((tmp_path / "far").as_uri(), "--mirror")
    monkeypatch.setattr("icr.base.bucket.shutil.copyfileobj", fail)
    with pytest.raises(OSError, match="the line is cut"):
        bucket.put(tmp_path / "a.txt", "a.txt")
    assert not bucket.has("a.txt")


@pytest.mark.parametrize("uri", ["/a/b", "ftp://a/b", "bucket"])
def test_another_address_is_refused(uri: str) -> None:
    with pytest.raises(UserError, match="is not the address of a bucket") as error:
        Bucket(uri, "cluster.models")
    assert error.value.where == "cluster.models"


def test_a_bucket_out_of_reach_is_a_users_error(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="cannot be reached"):
        Bucket("s3://icr-test/a?endpoint_override=127.0.0.1:1&scheme=http&region=x&request_timeout=1", "--mirror")
