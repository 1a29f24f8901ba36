"""Data sets on the hub, named `hf:org/name@revision:config:split`. Their code is never run."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, NamedTuple

from icr.base.content import TIMEOUT, hub_revision
from icr.base.errors import UserError

if TYPE_CHECKING:
    from datasets import Dataset

HUB = "hf:"
FORM = "hf:org/name@revision:config:split"
EXAMPLES = "hf:org/name, hf:org/name:config, hf:org/name::split, hf:org/name@revision:config:split"
_NAME = re.compile(r"hf:([\w.-]+/[\w.-]+)(?:@([^@:]+))?(?::([^:]*))?(?::([^:]*))?")


class HubName(NamedTuple):
    """A data set on the hub."""

    repository: str
    revision: str | None
    """A branch, a tag or a commit."""
    config: str | None
    split: str

    @classmethod
    def parse(cls, name: str, key: str) -> HubName:
        """Read `hf:org/name@revision:config:split`. Every part after the name may be absent or empty.

        Raises:
            UserError: it has another form.
        """
        found = _NAME.fullmatch(name)
        if found is None:
            raise UserError(f"{name} is not the name of a data set on the hub", where=key, do=f"write it as {EXAMPLES}")
        repository, revision, config, split = found.groups()
        return cls(repository, revision, config or None, split or "train")


def is_hub_name(name: str) -> bool:
    return name.startswith(HUB)


def read_hub(name: str, key: str) -> Iterator[tuple[str, object]]:
    """(place, row) of a data set on the hub, or of its copy in the local cache where the hub cannot be reached.

    Args:
        key: the config key, for messages.

    Raises:
        UserError: the name has another form; the data set, revision, config or split is not there; the hub cannot be
            reached and the cache has no copy of this revision.
    """
    asked = HubName.parse(name, key)
    data = _load(asked, name, key)
    yield from ((f"{name}, row {number}", dict(row)) for number, row in enumerate(data, 1))


def _load(asked: HubName, name: str, key: str) -> Dataset:
    import datasets

    commit = _ask(asked, name, key)
    place = f"hf://datasets/{asked.repository}"  # never a folder of that name
    try:
        with _only_errors(offline=commit is None):
            data = datasets.load_dataset(place, asked.config, split=asked.split, revision=asked.revision)
    except Exception as error:  # datasets raises many kinds; each means that the user cannot have this data set
        if commit is None:
            what = f"the hub cannot be reached, and the local cache has no {name}"
            do = "check the network and HF_HUB_OFFLINE, or use a local file or folder"
            raise UserError(what, where=key, do=do) from error
        what = f"the data set {name} cannot be loaded: {' '.join(str(error).split())[:300] or type(error).__name__}"
        do = f"check the config, the split and the network; the forms of a name are {EXAMPLES}"
        raise UserError(what, where=key, do=do) from error
    if commit is None and asked.revision:
        _check_cached(data, asked, name, key)
    return data


def _ask(asked: HubName, name: str, key: str) -> str | None:
    """The commit to load; None if the hub cannot be reached. One question, which is not repeated.

    Raises:
        UserError: the hub has no such data set or revision, or keeps it from this user.
    """
    import httpx2
    from huggingface_hub import HfApi, constants
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError, RevisionNotFoundError

    if constants.is_offline_mode():
        return None
    try:
        return HfApi().dataset_info(asked.repository, revision=asked.revision, timeout=TIMEOUT).sha
    except GatedRepoError as error:
        do = "ask for access on the data set's page, and log in with `hf auth login`"
        raise UserError(f"the data set {name} is gated", where=key, do=do) from error
    except RepositoryNotFoundError as error:
        do = "check the name; for a private data set, log in with `hf auth login`"
        raise UserError(f"the hub has no data set {asked.repository}", where=key, do=do) from error
    except RevisionNotFoundError as error:
        what = f"the data set {asked.repository} has no revision {asked.revision}"
        raise UserError(what, where=key, do="name one of its branches, tags or commits") from error
    except (httpx2.HTTPError, OSError, ValueError):
        return None


def _check_cached(data: Dataset, asked: HubName, name: str, key: str) -> None:
    """Offline, datasets takes the latest copy in the cache whatever the revision; the copy's folder is its commit.

    Raises:
        UserError: the copy is of another revision.
    """
    commit = hub_revision(asked.repository, "dataset", asked.revision)
    folders = {part for file in data.cache_files for part in str(file["filename"]).split("/")}
    if commit not in folders:
        what = f"the hub cannot be reached, and the local cache has another revision of {asked.repository}"
        do = "check the network and HF_HUB_OFFLINE, or leave @revision out to take what is in the cache"
        raise UserError(what, where=f"{key}: {name}", do=do)


@contextmanager
def _only_errors(*, offline: bool) -> Iterator[None]:
    """No notes of the library's on stderr; `offline`: it takes what is in its cache, and tries nothing else."""
    import datasets
    from datasets.utils import logging

    verbosity, was_offline = logging.get_verbosity(), datasets.config.HF_HUB_OFFLINE
    logging.set_verbosity(logging.CRITICAL)
    datasets.config.HF_HUB_OFFLINE = was_offline or offline
    try:
        yield
    finally:
        logging.set_verbosity(verbosity)
        datasets.config.HF_HUB_OFFLINE = was_offline
