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
