"""What a training runs on: the device and the type of number that the settings name, or the best there is."""

from __future__ import annotations

import torch


def pick_device(name: str) -> torch.device:
    """The device that a setting names; "auto" is the GPU where there is one.

    Raises:
        ValueError: "cuda" without a GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            'device = "cuda", but torch finds no GPU; install a CUDA build of torch or set device = "auto"'
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The dtype that the trunk computes in; "auto" is bf16 where the hardware multiplies it natively."""
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported()
        else:
            capabilities = torch.cpu.get_capabilities()
            native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32
