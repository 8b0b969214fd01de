"""Devices and dtypes: the configured one, or the best available."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from booru_embed_core.model import attention
from booru_embed_core.model import encoder as encoder_module
from booru_embed_core.model.objective import objective
from booru_embed_core.training import hardware
from booru_embed_core.training.hardware import compile_blocks, compile_for_device, pick_device, pick_dtype
from tests.core.model_helpers import captions, encoder, random_captions, training_settings


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


def test_blocks_are_compiled_where_flash_attention_runs(monkeypatch: pytest.MonkeyPatch) -> None:
    model, calls = encoder(), []
    monkeypatch.setattr(hardware, "compile_blocks", lambda of: calls.append(of))
    monkeypatch.setattr(torch, "set_float32_matmul_precision", lambda precision: calls.append(precision))
    monkeypatch.setattr(hardware.importlib.util, "find_spec", lambda name: name if name == "triton" else None)
    monkeypatch.setattr(hardware.shutil, "which", lambda name: name if name == "gcc" else None)
    compile_for_device(model, torch.device("cpu"), torch.bfloat16)
    compile_for_device(model, torch.device("cuda"), torch.float32)
    assert not calls
    compile_for_device(model, torch.device("cuda"), torch.bfloat16)
    assert calls == ["high", model]
    monkeypatch.setattr(hardware.shutil, "which", lambda _: None)
    compile_for_device(model, torch.device("cuda"), torch.bfloat16)
    assert calls == ["high", model, "high"]


def _dense_kernel(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, *_: Any) -> Tensor:
    """A traceable CPU implementation of a varlen kernel."""

    def sets(cu_seqlens: Tensor, num: int) -> Tensor:
        return torch.bucketize(torch.arange(num), cu_seqlens[1:].long(), right=True)

    other = sets(cu_q, len(q))[:, None] != sets(cu_k, len(k))
    scores = torch.einsum("qhd,khd->hqk", q, k) * q.shape[-1] ** -0.5
    return torch.einsum("hqk,khd->qhd", scores.masked_fill(other, -torch.inf).softmax(-1), v)


@pytest.mark.slow
@pytest.mark.filterwarnings("ignore")  # torch's tracer warns of what it does itself
def test_compiled_steps_are_eager_steps_and_one_graph_serves_all_sizes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Traced as on a GPU, except for the kernels compiled from the graphs, which differ on a CPU."""
    monkeypatch.setattr(encoder_module, "pick_backend", lambda *_: "varlen")
    monkeypatch.setattr(attention, "_torch_varlen", lambda: _dense_kernel)
    num_graphs: list[int] = []

    def backend(graph: torch.fx.GraphModule, inputs: list[Tensor]) -> Any:
        num_graphs.append(1)
        return graph.forward

    def steps(is_compiled: bool) -> list[Tensor]:
        model = encoder()
        if is_compiled:
            compile_blocks(model, backend)
        found = []
        for seed, num in ((0, 12), (1, 17), (2, 9)):
            batch = captions(random_captions(num, 16, seed), seed)
            generator = torch.Generator().manual_seed(seed)
            model.zero_grad()
            total = objective(model, batch, training_settings(), generator, torch.float32).total
            total.backward()
            found += [total.detach(), *(p.grad.clone() for p in model.parameters() if p.grad is not None)]
            num_graphs.append(0)
        return found

    eager, num_graphs[:] = steps(is_compiled=False), []
    for one, other in zip(eager, steps(is_compiled=True), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-5, atol=1e-7)
    first_step = num_graphs.index(0)
    assert sum(num_graphs[:first_step]) > 0
    assert not sum(num_graphs[first_step:]), "another size was compiled anew"
    torch._dynamo.reset()
