"""`python -m icr.experiments.rl_process SPEC.json`: one training against a reward model, with its measurements.

On several processes under `python -m torch.distributed.run`, as `loops.train`.
"""

from __future__ import annotations

import sys
from functools import partial

from icr.base.progress import EventFile
from icr.experiments.rl_heldout import write_measurement
from loops.rl import train_policy
from loops.rl_spec import RLSpec
from loops.train import train_process


def run(spec: RLSpec, events: EventFile) -> dict[str, object]:
    """As `loops.rl.train_policy`."""
    return train_policy(spec, events, partial(write_measurement, spec.work, spec.beta))


def main() -> int:
    return train_process(RLSpec, run)


if __name__ == "__main__":
    sys.exit(main())
