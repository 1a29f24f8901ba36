"""What a run folder knows of itself."""

from __future__ import annotations

from pathlib import Path

import pytest

from icr.base.errors import UserError
from icr.base.files import write_json
from icr.base.rundir import RunDir


def test_the_first_models_of_a_run_that_has_not_begun_are_said_to_be_missing(tmp_path: Path) -> None:
    run = RunDir(tmp_path / "run")
    with pytest.raises(UserError, match="has not begun") as caught:
        run.first_models()
    assert caught.value.do == f"start it: icr iterate --run {run.path}"
    write_json(run.round(0).path / "model.json", {"policy": "org/a", "reference": "org/b"})
    assert run.first_models() == {"policy": "org/a", "reference": "org/b"}
