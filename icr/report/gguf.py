"""A round's model as a GGUF file, by the converter of llama.cpp, which is not a Python package."""

from __future__ import annotations

import shlex
import shutil
import subprocess
import sys
from pathlib import Path

from icr.base.errors import UserError
from icr.base.files import atomic_path
from icr.base.rundir import RoundDir

SCRIPT = "convert_hf_to_gguf.py"
REPOSITORY = "https://github.com/ggml-org/llama.cpp"
OUTTYPE = "bf16"
"""The precision of the weights that a training saves."""


def export_gguf(at: RoundDir, out: Path, converter: Path | None) -> int:
    """Write the GGUF file `out`; how many tensors it has.

    Args:
        converter: a clone of llama.cpp or its convert_hf_to_gguf.py; None: the one on PATH.

    Raises:
        UserError: no converter, or it failed; then there is no file.
    """
    model = at.find_model()
    program = _find_converter(converter, model, out)
    with atomic_path(out) as tmp:
        command = [*program, *_arguments(model, tmp)]
        done = subprocess.run(command, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace")
        if done.returncode or not tmp.is_file():
            said = done.stdout.strip().splitlines() or [f"it ended with {done.returncode}"]
            raise UserError(
                f"the converter failed: {said[-1]}",
                where=program[-1],
                do=f"run it to see all that it says: {shlex.join([*program, *_arguments(model, out)])}; "
                "a newer llama.cpp may know the model",
            )
        return _count_tensors(tmp, program[-1])


def _find_converter(given: Path | None, model: Path, out: Path) -> list[str]:
    """The program with its first words. A script of a clone runs in this Python, which has what it imports."""
    if given is None:
        if found := shutil.which(SCRIPT):
            return [found]
        raise UserError(
            "the converter of llama.cpp is not on this machine's PATH",
            where="--to gguf",
            do=f"get it: git clone --depth 1 {REPOSITORY}; then add --converter llama.cpp. "
            f"It is run as: {shlex.join([f'llama.cpp/{SCRIPT}', *_arguments(model, out)])}",
        )
    script = given / SCRIPT if given.is_dir() else given
    if not script.is_file():
        do = f"name a clone of llama.cpp, or its {SCRIPT}: git clone --depth 1 {REPOSITORY}"
        raise UserError(f"file {script} not found", where="--converter", do=do)
    return [sys.executable, str(script)]


def _arguments(model: Path, out: Path) -> list[str]:
    return [str(model), "--outfile", str(out), "--outtype", OUTTYPE]


def _count_tensors(file: Path, converter: str) -> int:
    """Read back what the converter has written."""
    from gguf import GGUFReader

    try:
        count = len(GGUFReader(file).tensors)
    except (OSError, ValueError, IndexError, KeyError) as error:
        raise UserError(
            f"the converter wrote no GGUF file: {error}", where=converter, do=f"name the {SCRIPT} of llama.cpp"
        ) from error
    return count
