"""Devices and types of number: what a setting names, or the best there is."""

from __future__ import annotations

import pytest
import torch

from booru_embed_core.training.hardware import pick_device, pick_dtype


def test_a_gpu_that_is_not_there_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    assert pick_device("auto") == pick_device("cpu") == torch.device("cpu")
    with pytest.raises(ValueError, match='device = "cuda", but torch finds no GPU; install a CUDA build'):
        pick_device("cuda")


@pytest.mark.parametrize(("native", "wanted"), [(True, torch.bfloat16), (False, torch.float32)])
def test_auto_precision_is_bf16_where_the_processor_multiplies_it(
    monkeypatch: pytest.MonkeyPatch, native: bool, wanted: torch.dtype
) -> None:
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: {"avx512_bf16": native, "amx_bf16": False})
    cpu = torch.device("cpu")
    assert pick_dtype("auto", cpu) == wanted
    assert pick_dtype("bf16", cpu) == torch.bfloat16
    assert pick_dtype("fp32", cpu) == torch.float32
