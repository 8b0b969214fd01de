"""Device and dtype of a training: those that the settings name, or the best available."""

from __future__ import annotations

import importlib.util
import os
import shutil
from collections.abc import Callable
from typing import Any

import torch

from booru_embed_core.model.attention import pick_backend
from booru_embed_core.model.encoder import SetEncoder


def pick_device(name: str) -> torch.device:
    """The device that a setting names; "auto" is the GPU if there is one.

    Raises:
        ValueError: "cuda" without a GPU.
    """
    if name == "cuda" and not torch.cuda.is_available():
        raise ValueError(
            'device = "cuda", but torch finds no GPU; install a CUDA build of torch or set device = "auto"'
        )
    return torch.device("cuda" if name == "cuda" or (name == "auto" and torch.cuda.is_available()) else "cpu")


def pick_dtype(precision: str, device: torch.device) -> torch.dtype:
    """The trunk's compute dtype; "auto" is bf16 if the hardware supports it natively, else float32."""
    if precision == "auto":
        if device.type == "cuda":
            native = torch.cuda.is_bf16_supported()
        else:
            capabilities = torch.cpu.get_capabilities()
            native = bool(capabilities.get("avx512_bf16") or capabilities.get("amx_bf16"))
        return torch.bfloat16 if native else torch.float32
    return torch.bfloat16 if precision == "bf16" else torch.float32


def compile_for_device(model: SetEncoder, device: torch.device, dtype: torch.dtype) -> None:
    """Compiles the blocks of `model` if flash attention runs on `device` in `dtype`.

    Without Triton or a C compiler nothing is compiled, and training is slower.

    Outside the trunk everything stays float32, but matmuls may round their inputs to TF32. A GPU multiplies TF32
    several times as fast, and scoring all tags is a large part of a step.
    """
    if pick_backend(device, dtype) == "buckets":
        return
    torch.set_float32_matmul_precision("high")
    if _can_compile():
        compile_blocks(model)


def _can_compile() -> bool:
    """Whether Triton and the C compiler it calls are installed; many GPU containers lack a compiler."""
    compilers = (os.environ.get("CC", "cc"), "gcc", "clang")
    return importlib.util.find_spec("triton") is not None and any(map(shutil.which, compilers))


def compile_blocks(model: SetEncoder, backend: str | Callable[..., Any] = "inductor") -> None:
    """Compiles each block and the pool in place, for any number of tokens and sets.

    Blocks differ only in weights, so they share one graph; compiling the whole network would not share it. Parameters
    keep their names. The buckets backend is never compiled: buckets differ between batches, so each would recompile.
    """
    for block in (*model.blocks, model.pool):
        block.compile(dynamic=True, backend=backend)
