"""Bring a public set into a folder: fetched or read from a clone, converted, with its source and licence beside it."""

from __future__ import annotations

import difflib
import hashlib
import json
import tempfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.errors import UserError, some
from icr.base.fields import Fields
from icr.base.files import atomic_folder
from prompts.clones import Repository, fetch_clone, find_clone
from prompts.public_sets import SETS, Converted, PublicSet, read_texts

README, CHECKSUMS = "README.md", "checksums.sha256"


@dataclass(frozen=True)
class Fetched:
    """What a folder of a set has now."""

    folder: Path
    new: bool
    """False: it was there already, unchanged."""
    rows: dict[str, int]
    """Rows of each file."""
    left_out: Sequence[str]


def fetch(name: str, out: Path, clones: Sequence[Path] = (), note: Callable[[str], None] = print) -> Fetched:
    """Bring the set `name` into the folder `out`/`name`, which is whole or absent.

    Args:
        clones: clones of the repositories on this machine. Without any, the files are fetched.
        note: gets a line before each repository is fetched.

    Raises:
        UserError: an unknown set; a folder that has other data, which is never replaced; git or the network is
            missing; a clone without the files.
    """
    if name not in SETS:
        near = difflib.get_close_matches(name, SETS, n=1)
        do = f"did you mean {near[0]}?" if near else f"write one of {', '.join(SETS)}"
        raise UserError(f"unknown data set {name}", do=do)
    wanted, folder = SETS[name], out / name
    if folder.exists() and not (folder.is_dir() and not any(folder.iterdir())):
        _check_same(folder, wanted)
        return Fetched(folder, False, {path: _count_lines(folder / path) for path in _listed(folder)}, [])
    made = _convert(wanted, clones, note)
    with atomic_folder(folder) as temporary:
        for path, rows in made.files.items():
            _write_rows(temporary / path, rows)
        (temporary / README).write_text(_readme(name, wanted, made), encoding="utf-8")
        (temporary / CHECKSUMS).write_text(_checksums(temporary, wanted), encoding="utf-8")
    return Fetched(folder, True, {path: len(rows) for path, rows in made.files.items()}, made.left_out)


def _convert(wanted: PublicSet, clones: Sequence[Path], note: Callable[[str], None]) -> Converted:
    if clones:
        found = {source: find_clone(source, clones) for source in wanted.paths}
        return wanted.convert(read_texts(wanted, found))
    with tempfile.TemporaryDirectory(prefix="icr-data-") as temporary:
        fetched = {}
        for number, (source, paths) in enumerate(wanted.paths.items()):
            note(f"fetching {len(paths)} files of {source.url}, commit {source.commit[:7]}")
            place = Path(temporary) / str(number)
            place.mkdir()
            fetched[source] = fetch_clone(source, paths, place)
        return wanted.convert(read_texts(wanted, fetched))


def _write_rows(file: Path, rows: Sequence[Fields]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    lines = (json.dumps(row, ensure_ascii=False) + "\n" for row in rows)
    file.write_text("".join(lines), encoding="utf-8")


def _readme(name: str, wanted: PublicSet, made: Converted) -> str:
    lines = [f"# {name}", "", wanted.about, "", f"Written by `icr data get {name}`.", ""]
    lines += [f"- Source: {_source(source)}" for source in wanted.paths]
    lines += [f"- Licence: {wanted.licence}"]
    lines += [f"- Left out: {what}" for what in made.left_out]
    lines += [f"- `sha256sum -c {CHECKSUMS}` shows whether a file has changed.", ""]
    return "\n".join(lines)


def _source(source: Repository) -> str:
    return f"{source.url} at commit {source.commit}"


def _checksums(folder: Path, wanted: PublicSet) -> str:
    """The sources as comments, and a line per file as `sha256sum` reads it."""
    lines = [f"# {_source(source)}" for source in wanted.paths]
    files = sorted(file for file in folder.rglob("*") if file.is_file() and file.name != CHECKSUMS)
    lines += [f"{_hash(file)}  {file.relative_to(folder).as_posix()}" for file in files]
    return "\n".join(lines) + "\n"


def _hash(file: Path) -> str:
    return hashlib.sha256(file.read_bytes()).hexdigest()


def _listed(folder: Path) -> list[str]:
    """The set's data files, as its checksums list them."""
    lines = (folder / CHECKSUMS).read_text(encoding="utf-8").split("\n")
    return [path for line in lines if line and line[0] != "#" and (path := line[66:]) != README]


def _count_lines(file: Path) -> int:
    return file.read_bytes().count(b"\n")


def _check_same(folder: Path, wanted: PublicSet) -> None:
    """Raises UserError unless the folder has this set, from the same commits and unchanged."""
    do = "rename or remove the folder, or choose another one with --out"
    if not (folder / CHECKSUMS).is_file():
        raise UserError("the folder has other data, and icr does not replace them", where=str(folder), do=do)
    lines = (folder / CHECKSUMS).read_text(encoding="utf-8").splitlines()
    if [line for line in lines if line.startswith("#")] != [f"# {_source(source)}" for source in wanted.paths]:
        raise UserError(
            "the folder has the data of another commit, and icr does not replace them", where=str(folder), do=do
        )
    given = [(line[:64], line[66:]) for line in lines if not line.startswith("#")]
    changed = [path for sha, path in given if not (folder / path).is_file() or _hash(folder / path) != sha]
    if changed:
        what = f"{len(changed)} files were changed or removed ({some(changed)}), and icr does not replace them"
        raise UserError(what, where=str(folder), do=do)
