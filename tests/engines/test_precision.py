"""The one rule for precision: bf16 only where the hardware computes it."""

from __future__ import annotations

import pytest
import torch

from icr.engines.precision import has_bf16, resolve_precision


@pytest.fixture
def capable(monkeypatch: pytest.MonkeyPatch) -> pytest.MonkeyPatch:
    """A processor with bf16 instructions, none of them switched off."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": True})
    monkeypatch.delenv("ONEDNN_MAX_CPU_ISA", raising=False)
    return monkeypatch


def test_auto_is_bf16_where_there_are_instructions_for_it(capable: pytest.MonkeyPatch) -> None:
    assert resolve_precision("auto", gpu=False) == "bf16"


@pytest.mark.parametrize("isa", ["AVX2", "avx512_core", "AVX512_CORE_VNNI", "SSE41"])
def test_auto_is_fp32_where_they_are_switched_off(capable: pytest.MonkeyPatch, isa: str) -> None:
    capable.setenv("ONEDNN_MAX_CPU_ISA", isa)
    assert not has_bf16()
    assert resolve_precision("auto", gpu=False) == "fp32"


def test_isa_with_bf16_keeps_it(capable: pytest.MonkeyPatch) -> None:
    capable.setenv("ONEDNN_MAX_CPU_ISA", "AVX512_CORE_BF16")
    assert has_bf16()


def test_auto_is_fp32_on_a_processor_without_them(capable: pytest.MonkeyPatch) -> None:
    capable.setattr(torch.cpu, "get_capabilities", lambda: {"avx2": True, "avx512_f": True})
    assert resolve_precision("auto", gpu=False) == "fp32"
    assert resolve_precision("auto", gpu=True) == "bf16"


@pytest.mark.parametrize("asked", ["fp32", "bf16"])
def test_what_is_asked_for_is_kept(capable: pytest.MonkeyPatch, asked: str) -> None:
    capable.setattr(torch.cpu, "get_capabilities", dict)
    assert resolve_precision(asked, gpu=False) == asked
