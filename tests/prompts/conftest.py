from __future__ import annotations

import pytest

from tests.helpers.inline import translate_inline


@pytest.fixture(autouse=True)
def inline(monkeypatch: pytest.MonkeyPatch) -> None:
    """Jobs of translation are done in this process; commands that are killed are processes and start their own."""
    translate_inline(monkeypatch)
