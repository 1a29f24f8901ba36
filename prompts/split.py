"""`icr prompts split`: a folder of parallel prompts as two, one to train on and one to judge on."""

from __future__ import annotations

import hashlib
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from icr.base.errors import UserError
from icr.base.files import atomic_folder
from prompts.audit import find_languages
from prompts.load import Prompt, load_prompts
from prompts.overlap import same_text
from prompts.tables import find_file
from prompts.translate import write_prompts

TRAIN, HELDOUT = "train", "heldout"


@dataclass(frozen=True)
class Split:
    """What was written: prompts by language."""

    train: dict[str, int]
    heldout: dict[str, int]
    repeated: int
    """English prompts whose text, in some language, another one has. All of them are in the training part."""
    skipped: list[str]
    """Files whose name is not a language code."""


def split_prompts(folder: Path, count: int, out: Path, seed: int) -> Split:
    """Write `out`/train and `out`/heldout, each with one LANG.jsonl per language of the folder.

    The held-out ids are the same in all languages. Which ids these are depends on the seed and the ids alone: not on
    their order, nor on the machine. A prompt whose text stands under two ids is not held out.

    Args:
        count: prompts to hold out, per language.

    Raises:
        UserError: there is no folder, no English file, too few prompts that can be held out, or `out` has files.
        ConfigError: as `load_prompts`.
    """
    if not folder.is_dir():
        raise UserError(f"folder {folder} not found", do="name a folder of LANG.jsonl files")
    if find_file(folder, "en") is None:
        raise UserError("the folder has no en.jsonl", where=str(folder), do="add it: prompts are joined by it")
    if used := [part for part in (TRAIN, HELDOUT) if (out / part).exists()]:
        do = "choose another folder with --out: nothing is overwritten"
        raise UserError(f"already exists: {' and '.join(used)}", where=f"--out: {out}", do=do)
    languages, skipped = find_languages(folder)
    prompts = load_prompts(str(folder), languages, key="FOLDER")
    free, repeated = _candidates(prompts, len(languages))
    if not 0 < count <= len(free) or count == sum(p.lang == "en" for p in prompts):
        what = f"{count} prompts cannot be held out: only {len(free)} are in all of {', '.join(languages)}"
        raise UserError(what, where="--held-out", do="hold out fewer, so that some are left to train on")
    kept_out = set(sorted(free, key=lambda id: _draw(id, seed))[:count])
    parts = {
        TRAIN: [prompt for prompt in prompts if prompt.id not in kept_out],
        HELDOUT: [prompt for prompt in prompts if prompt.id in kept_out],
    }
    for name, part in parts.items():
        with atomic_folder(out / name) as tmp:
            for lang in languages:
                write_prompts(tmp / f"{lang}.jsonl", {p.id: p.messages for p in part if p.lang == lang})
    sizes = {name: dict(Counter(prompt.lang for prompt in part)) for name, part in parts.items()}
    return Split(sizes[TRAIN], sizes[HELDOUT], repeated, skipped)


def _candidates(prompts: Sequence[Prompt], languages: int) -> tuple[list[str], int]:
    """Ids that are there in all languages and whose texts no other id has; how many share a text with another."""
    texts = Counter((prompt.lang, same_text(prompt)) for prompt in prompts)
    shared = {prompt.id for prompt in prompts if texts[prompt.lang, same_text(prompt)] > 1}
    found = Counter(prompt.id for prompt in prompts)
    return [id for id, count in found.items() if count == languages and id not in shared], len(shared)


def _draw(id: str, seed: int) -> str:
    return hashlib.sha256(f"{seed}\n{id}".encode()).hexdigest()
