"""The small public reward-model data beside the checkout; tests that need it are skipped where it is not there."""

from __future__ import annotations

from pathlib import Path

import pytest

RM = Path(__file__).resolve().parents[3] / "shared" / "data" / "rm"
needs_rm = pytest.mark.skipif(not RM.is_dir(), reason="needs the data in ../shared/data/rm")
SEAHORSE = {"de": "de", "en": "en-US", "es": "es-ES", "ru": "ru", "tr": "tr", "vi": "vi"}
"""Language → the part of a file's name."""
