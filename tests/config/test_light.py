"""What a user may set is known without loading anything heavy."""

from __future__ import annotations

import subprocess
import sys

HEAVY = ("torch", "transformers", "pyarrow", "numpy", "vllm", "trl", "deepspeed")


def test_the_config_room_imports_nothing_heavy() -> None:
    code = "import sys, icr.config.schema, icr.config.load, icr.config.plain; "
    code += f"print([name for name in {HEAVY} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_a_run_starts_without_what_its_workers_need() -> None:
    """The driver of `icr iterate`, `icr plan` and `icr status` waits or reads: torch alone takes seconds."""
    code = "import sys, icr.planning.start, icr.rounds.controller, icr.report.live, icr.rounds.preflight, "
    code += "icr.report.status, icr.report.transfer_status; "
    code += "print([name for name in ('torch', 'transformers', 'openai', 'matplotlib') if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
