"""Files of a public git repository at one commit: from a clone on this machine, or fetched."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.errors import UserError

HOST = "https://github.com"


@dataclass(frozen=True)
class Repository:
    """A public repository at one commit, so that everybody gets the same files."""

    name: str
    """OWNER/NAME on GitHub."""
    commit: str

    @property
    def url(self) -> str:
        return f"{HOST}/{self.name}"


@dataclass(frozen=True)
class Clone:
    """A clone on this machine that has the repository's commit."""

    repository: Repository
    folder: Path

    def read(self, path: str) -> str:
        """The text of a file.

        Raises:
            UserError: the clone does not have the file's content (partial clones lack some), or it is not UTF-8.
        """
        where = f"{path} in {self.folder}"
        done = _git(self.folder, "cat-file", "blob", f"{self.repository.commit}:{path}")
        if done.returncode:
            do = "use a full clone, or leave out --clone to fetch the file"
            raise UserError(f"the clone does not have the file {path}: {_reason(done)}", where=where, do=do)
        try:
            return done.stdout.decode("utf-8")
        except UnicodeDecodeError as error:
            raise UserError("the file is not UTF-8", where=where, do="use a fresh clone of the repository") from error


def find_clone(repository: Repository, folders: Sequence[Path]) -> Clone:
    """The first of the user's clones that has the repository's commit.

    Raises:
        UserError: none has it, a folder is not found, or git is not installed.
    """
    for folder in folders:
        if not folder.is_dir():
            raise UserError(f"folder {folder} not found", where="--clone", do="name the folder of a clone")
        if _git(folder, "cat-file", "-e", f"{repository.commit}^{{commit}}").returncode == 0:
            return Clone(repository, folder)
    where = ", ".join(map(str, folders))
    raise UserError(
        f"no clone of {repository.name} here has the commit {repository.commit}",
        where=f"--clone: {where}",
        do=f"fetch it into your clone: git fetch --depth 1 {repository.url} {repository.commit}",
    )


def fetch_clone(repository: Repository, paths: Sequence[str], folder: Path) -> Clone:
    """Fetch `paths` of the repository into an empty folder: one commit, and where the host can do it no other files.

    Raises:
        UserError: git is not installed, or the repository cannot be fetched.
    """
    _check(repository, _git(folder, "init", "--quiet"))
    for key, value in (
        ("core.sparseCheckout", "true"),
        ("core.sparseCheckoutCone", "false"),
        ("remote.origin.url", repository.url),
        # a network that has gone silent ends the command
        ("http.lowSpeedLimit", "1000"),
        ("http.lowSpeedTime", "60"),
    ):
        _check(repository, _git(folder, "config", key, value))
    patterns = folder / ".git" / "info" / "sparse-checkout"
    patterns.parent.mkdir(exist_ok=True)
    patterns.write_text("".join(f"/{path}\n" for path in paths), encoding="utf-8")
    arguments = ("--quiet", "--depth", "1", "--filter=blob:none", "origin", repository.commit)
    _check(repository, _git(folder, "fetch", *arguments))
    # a checkout brings the content of all files in one request
    _check(repository, _git(folder, "checkout", "--quiet", repository.commit))
    return Clone(repository, folder)


def _check(repository: Repository, done: subprocess.CompletedProcess[bytes]) -> None:
    if done.returncode:
        raise UserError(
            f"{repository.name} cannot be fetched: {_reason(done)}",
            where=f"{repository.url}, commit {repository.commit}",
            do="check the network and the disk; without a network, name a clone that you have: --clone FOLDER",
        )


def _reason(done: subprocess.CompletedProcess[bytes]) -> str:
    """The line that git calls the error, else its last one."""
    lines = done.stderr.decode("utf-8", "replace").split("\n")
    told = [line.strip() for line in lines if line.strip()]
    fatal = [line for line in told if line.startswith(("fatal: ", "error: "))]
    return (fatal or told or [f"git ended with status {done.returncode}"])[-1]


def _git(folder: Path, *arguments: str) -> subprocess.CompletedProcess[bytes]:
    # variables such as GIT_DIR would point git to another repository than the folder
    environment = {name: value for name, value in os.environ.items() if name not in _MISLEADING}
    environment |= {"GIT_TERMINAL_PROMPT": "0", "LC_ALL": "C"}
    try:
        return subprocess.run(
            ["git", "-C", str(folder), *arguments], env=environment, stdin=subprocess.DEVNULL, capture_output=True
        )
    except FileNotFoundError as error:
        raise UserError("git is not installed", do="install git; the public data are in git repositories") from error


_MISLEADING = ("GIT_DIR", "GIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_OBJECT_DIRECTORY", "GIT_COMMON_DIR")
