"""CUDA tensors without a GPU: torch's `FakeTensorMode`, and what it lacks to run the GPU's branches on any machine.

Fake tensors have a shape, a dtype and a device and no numbers. Every operation checks that its tensors are on one
device, so a tensor on the wrong one fails here as it would on a GPU. What numbers would decide is answered:

* How many rows pass a mask: half of them. How many are distinct: four. What `bincount` finds: `minlength` numbers.
* A number that the host reads: 1, and no flag is set. Random numbers come from the CPU's generator.
* `backward` walks the graph in Python: torch's own engine asks CUDA for streams. Each node runs as it would.

A build of torch without CUDA ends the process when a graph is made of CUDA tensors, so it gets the meta device's guard,
which does nothing, for as long as a test runs.
"""

from __future__ import annotations

import ctypes
import os
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.overrides import TorchFunctionMode

_GUARDS = "_ZN3c104impl26device_guard_impl_registryE"
"""torch's table of device guards by type of device (c10/core/impl/DeviceGuardImplInterface.h)."""
_CUDA, _META, _NUM_TYPES = 1, 14, 22
_NUM_DISTINCT = 4


def _numbered(value: Any) -> Any:
    """`value`, but a number for "cuda": fake tensors show a device without one as "meta"."""
    is_cuda = isinstance(value, str | torch.device) and value in ("cuda", torch.device("cuda"))
    return torch.device("cuda", 0) if is_cuda else value


class _Answers(TorchFunctionMode):
    """Answers for fake tensors what only numbers could."""

    def __torch_function__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        name, given = getattr(func, "__name__", ""), {key: _numbered(value) for key, value in (kwargs or {}).items()}
        if func is Tensor.to:
            args = tuple(map(_numbered, args))
        if name == "item":
            return 1 if not args[0].dtype.is_floating_point else 1.0
        if name in ("__int__", "__index__"):
            return 1
        if name == "__float__":
            return 1.0
        if name == "__bool__":
            return False
        if name == "tolist":
            return torch.ones(args[0].shape, device="cpu").tolist() if args[0].ndim else 1
        if func is torch.tensor and given.get("device") is not None:  # a build without CUDA would fill it there
            return func(*args, **{**given, "device": "cpu"}).to(given["device"])
        if name == "bincount":
            return args[0].new_empty(given["minlength"], dtype=torch.int64)
        if name == "unique":
            return args[0][:_NUM_DISTINCT].clone()
        if name == "nonzero":
            return args[0].new_empty(max(1, len(args[0]) // 2), args[0].ndim, dtype=torch.int64)
        if name == "__getitem__" and isinstance(args[1], Tensor) and args[1].dtype == torch.bool:
            rows = torch.arange(max(1, len(args[1]) // 2), device=args[1].device)
            return func(args[0], rows)
        return func(*args, **given)


def _backward(loss: Tensor) -> None:
    """`Tensor.backward` for one rank, in Python."""
    assert loss.grad_fn is not None
    order, seen = [], set()

    def visit(node: Any) -> None:
        if node in seen:
            return
        seen.add(node)
        for after, _ in node.next_functions:
            if after is not None:
                visit(after)
        order.append(node)

    visit(loss.grad_fn)
    grads: dict[Any, dict[int, Tensor]] = defaultdict(dict)
    grads[loss.grad_fn][0] = torch.ones_like(loss)
    with torch.no_grad():
        for node in reversed(order):
            arrived = grads.pop(node, {})
            if hasattr(node, "variable"):
                (grad,) = arrived.values()
                held = node.variable
                assert (grad.device, grad.dtype, grad.shape) == (held.device, held.dtype, held.shape)
                held.grad = grad if held.grad is None else held.grad + grad
                continue
            sizes = node._input_metadata
            inputs = [arrived[i] if i in arrived else _zeros(meta) for i, meta in enumerate(sizes)]
            edges = node.next_functions
            if hasattr(node, "apply"):  # a class of ours, which returns None for arguments that are no tensors
                outputs = _tuple(node.apply(*inputs))
                outputs = tuple(grad for grad, needed in zip(outputs, node.needs_input_grad, strict=False) if needed)
                edges = [edge for edge in edges if edge[0] is not None]
            else:
                outputs = _tuple(node(*inputs))
            for (after, number), grad in zip(edges, outputs, strict=True):
                if after is not None and grad is not None:
                    meta = after._input_metadata[number]  # torch's engine sums what was broadcast, and casts
                    assert grad.device == meta.device, (node, after)
                    grad = grad.sum_to_size(meta.shape).to(meta.dtype)
                    held = grads[after].get(number)
                    grads[after][number] = grad if held is None else held + grad


def _zeros(meta: Any) -> Tensor:
    return torch.zeros(meta.shape, dtype=meta.dtype, device=meta.device)


def _tuple(outputs: Any) -> tuple[Any, ...]:
    return outputs if isinstance(outputs, tuple) else (outputs,)


def _apply(module: nn.Module, change: Callable[[Tensor], Tensor], recurse: bool = True) -> nn.Module:
    """`Module._apply` by new parameters: torch's own cannot swap fake ones, which have weak references."""
    for inner in module.modules():
        for name, parameter in inner._parameters.items():
            if parameter is not None:
                inner._parameters[name] = nn.Parameter(change(parameter.detach()), parameter.requires_grad)
        for name, buffer in inner._buffers.items():
            if buffer is not None:
                inner._buffers[name] = change(buffer.detach())
    return module


class _CpuGenerator(torch.Generator):
    """The CPU's, whatever device is asked for."""

    def __new__(cls, device: object = "cpu") -> torch.Generator:  # type: ignore[misc]
        return super().__new__(cls, "cpu")


@contextmanager
def _guarded() -> Iterator[None]:
    """A device guard for CUDA where this build of torch has none."""
    try:
        library = ctypes.CDLL(os.fspath(Path(torch.__file__).parent / "lib" / "libc10.so"))
        guards = (ctypes.c_void_p * _NUM_TYPES).in_dll(library, _GUARDS)
    except (OSError, ValueError):
        pytest.skip("this build of torch hides its device guards")
    own = guards[_CUDA]
    guards[_CUDA] = own or guards[_META]
    try:
        yield
    finally:
        guards[_CUDA] = own


@contextmanager
def fake_cuda(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """A block in which torch has one GPU, whose tensors have no numbers; tensors made before are real."""
    monkeypatch.setattr(torch, "Generator", _CpuGenerator)
    monkeypatch.setattr(torch.Tensor, "backward", _backward)
    monkeypatch.setattr(nn.Module, "_apply", _apply)
    # In inference mode no tensor becomes fake.
    monkeypatch.setattr(torch.inference_mode, "__enter__", torch.no_grad.__enter__)
    monkeypatch.setattr(torch.inference_mode, "__exit__", torch.no_grad.__exit__)
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "current_device", lambda: 0)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda: True)
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: (1 << 36, 1 << 36))
    monkeypatch.setattr(FakeTensorMode, "may_turn_const", lambda *_: False)  # it would copy numbers to the GPU
    with _guarded(), FakeTensorMode(allow_non_fake_inputs=True), _Answers():
        yield
