from __future__ import annotations

from pathlib import Path
from typing import get_args

import pytest

from icr.base.rundir import Stage
from icr.config.load import load_config
from icr.config.schema import CONFIGS
from icr.rounds.stages.kinds import KINDS
from icr.rounds.story import explain_stage


@pytest.mark.parametrize("kind", [*KINDS, "mine:Reward"])
def test_every_stage_is_explained_in_a_line(kind: str) -> None:
    config = load_config(Path(CONFIGS / "quickstart.yaml"), [f"reward.kind={kind}"])
    lines = {stage: explain_stage(config, 1, stage) for stage in get_args(Stage)}
    assert all(0 < len(line) < 118 and "\n" not in line for line in lines.values())
    assert lines["score"].endswith(", minus α × length")
    assert f"{config.sampling.n} times" in lines["sample"] and "round 0" in lines["judge"]
    assert "later rounds" in explain_stage(config, 0, "judge")
    without = load_config(Path(CONFIGS / "quickstart.yaml"), ["reward.length_penalty=none"])
    assert "α" not in explain_stage(without, 1, "score")
