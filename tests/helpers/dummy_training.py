"""`python -m tests.helpers.dummy_training SPEC`: a training that fails at once, by the user's fault or not."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import ClassVar

from icr.base.errors import UserError
from icr.base.process import reported
from icr.base.progress import EventFile
from loops.spec import TrainSpec


class DummySpec(TrainSpec):
    """`objective` says whose fault it is."""

    program: ClassVar[str] = "tests.helpers.dummy_training"


def fail(objective: str) -> Mapping[str, object]:
    if objective == "user":
        raise UserError("no such scheduler: nonsense", where="train.scheduler", do="name another one")
    raise ValueError("these data cannot be read")


if __name__ == "__main__":
    given = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    sys.exit(reported(lambda: fail(given["objective"]), EventFile(Path(given["events"]))))
