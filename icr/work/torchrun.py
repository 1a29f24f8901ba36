"""`python -m icr.work.torchrun ARGS`: torchrun, ended together with its parent."""

from __future__ import annotations

import os
import sys

from icr.base.process import die_with_parent

if __name__ == "__main__":
    die_with_parent()
    os.environ["PYTHONSAFEPATH"] = "1"  # of the ranks, also where a launcher brings no environment
    from torch.distributed.run import main

    main(sys.argv[1:])
