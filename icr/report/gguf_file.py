"""A round's model as a GGUF file. llama.cpp has the converter, which knows each architecture; it is run as it is."""

from __future__ import annotations

import os
import shlex
import subprocess
import sys
from pathlib import Path
from tempfile import TemporaryDirectory

from icr.base.errors import UserError
from icr.base.files import atomic_path
from icr.base.rundir import RoundDir
from icr.report.export import trained_model

CONVERTER = "convert_hf_to_gguf.py"
CLONE = "git clone --depth 1 https://github.com/ggml-org/llama.cpp"


def find_converter(clone: Path) -> Path:
    """The converter in a clone of llama.cpp. Raises UserError."""
    if not (clone / CONVERTER).is_file():
        raise UserError(f"{clone} has no {CONVERTER}", where="--llama-cpp", do=f"name a clone of llama.cpp: {CLONE}")
    return clone / CONVERTER


def export_gguf(at: RoundDir, out: Path, clone: Path) -> int:
    """Convert a round's model; how many parameters the file has, by its own header.

    The type of the weights is the converter's choice: bf16 and fp16 stay what they are, fp32 gets fp16.

    Args:
        out: the .gguf file; it is whole or absent.
        clone: a clone of llama.cpp.

    Raises:
        UserError: no model, no converter, or the conversion failed.
    """
    model, script = trained_model(at), find_converter(clone)
    name = f"{at.path.parent.name} round {at.number}"  # else it would be that of the folder, model
    command = [sys.executable, str(script), str(model), "--model-name", name, "--outfile"]
    out.parent.mkdir(parents=True, exist_ok=True)
    # a folder of its own: the converter fills in {ftype} in the file's name, and may leave more than one file
    with TemporaryDirectory(prefix=f".{out.name}.", suffix=".tmp", dir=out.parent) as tmp, atomic_path(out) as whole:
        made = Path(tmp) / "model.gguf"
        done = subprocess.run(
            [*command, str(made)],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            encoding="utf-8",
            errors="replace",
        )
        by_hand = f"run it by hand to see all that it says: {shlex.join([*command, str(out)])}"
        if done.returncode:
            said = [line for line in done.stdout.splitlines() if line.strip()] or [f"exit status {done.returncode}"]
            raise UserError(f"the conversion failed: {said[-1].strip()}", where=str(script), do=by_hand)
        parameters = _count_parameters(made)
        if not parameters:
            raise UserError("the converter has not written a whole GGUF file", where=str(script), do=by_hand)
        os.replace(made, whole)
    return parameters


def _count_parameters(file: Path) -> int:
    """Of a GGUF file with all its weights; 0 for any other."""
    from gguf import GGUFReader

    try:
        return sum(int(tensor.n_elements) for tensor in GGUFReader(file).tensors)
    except (OSError, ValueError, LookupError):  # absent, not GGUF, or cut off
        return 0
