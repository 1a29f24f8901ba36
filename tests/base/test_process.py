"""What every worker's environment holds, whatever the user's is."""

from __future__ import annotations

import pytest

from icr.base.process import make_environment


def test_openmps_threads_sleep_where_they_wait_unless_the_user_says_otherwise(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("GOMP_SPINCOUNT", raising=False)
    assert make_environment()["GOMP_SPINCOUNT"] == "1000"
    monkeypatch.setenv("GOMP_SPINCOUNT", "7")
    assert make_environment()["GOMP_SPINCOUNT"] == "7"


def test_no_telemetry_is_sent_whatever_the_user_has_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DO_NOT_TRACK", "0")
    made = make_environment({"ADDED": "yes"})
    assert (made["DO_NOT_TRACK"], made["HF_HUB_DISABLE_TELEMETRY"], made["ADDED"]) == ("1", "1", "yes")
