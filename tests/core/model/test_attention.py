"""Attention over packed sets: every backend agrees with a loop over the sets, forward and backward."""

from __future__ import annotations

import importlib.util
import inspect
import math
from collections.abc import Callable

import pytest
import torch
from hypothesis import example, given, settings
from hypothesis import strategies as st
from torch import Tensor
from torch.nn import functional as F

import tests.core.model_helpers  # noqa: F401  one thread
from booru_embed_core.model import attention
from booru_embed_core.model.attention import Backend, SetLayout, attend, order_by_length, pick_backend
from booru_embed_core.model.pooled_states import pool

LENGTHS = st.one_of(
    st.lists(st.just(1), min_size=1, max_size=8),
    st.lists(st.integers(1, 9), min_size=1, max_size=8),
    st.tuples(st.integers(1, 12), st.integers(1, 6)).map(lambda pair: [pair[0]] * pair[1]),
    st.tuples(st.lists(st.integers(1, 3), max_size=6), st.integers(40, 90)).map(lambda pair: [*pair[0], pair[1]]),
).map(sorted)


def loop(queries: Tensor, keys: Tensor, values: Tensor, lengths: list[int], weights: Tensor | None = None) -> Tensor:
    """One set at a time through torch's own attention; `queries` has a row per token, or one per set."""
    pooling = len(queries) == len(lengths) != sum(lengths)
    parts = []
    log_weights = torch.zeros(len(keys)) if weights is None else weights.log()
    by_set = zip(
        queries.split([1] * len(lengths) if pooling else lengths),
        *(x.split(lengths) for x in (keys, values, log_weights.to(keys.dtype))),
        strict=True,
    )
    for q, k, v, log_weight in by_set:
        heads_first = (x.transpose(0, 1)[None] for x in (q, k, v))
        mask = None if weights is None else log_weight.expand(len(q), -1)
        parts.append(F.scaled_dot_product_attention(*heads_first, attn_mask=mask)[0].transpose(0, 1))
    return torch.cat(parts)


def inputs(
    lengths: list[int], num_queries: int, heads: int, head_dim: int, dtype: torch.dtype, seed: int = 0
) -> tuple[list[Tensor], Tensor]:
    """Queries, keys and values that require gradients, and the gradient of the output."""
    generator = torch.Generator().manual_seed(seed)
    sizes = (num_queries, sum(lengths), sum(lengths))
    tensors = [torch.randn(size, heads, head_dim, generator=generator, dtype=torch.float64) for size in sizes]
    grad = torch.randn(num_queries, heads, head_dim, generator=generator, dtype=torch.float64)
    return [tensor.to(dtype).requires_grad_() for tensor in tensors], grad.to(dtype)


def with_gradients(attend_: Callable[..., Tensor], tensors: list[Tensor], grad: Tensor) -> list[Tensor]:
    """The output and the gradients of `tensors`."""
    output = attend_(*tensors)
    return [output, *torch.autograd.grad(output, tensors, grad)]


def function_of(pooling: bool) -> Callable[..., Tensor]:
    return pool if pooling else attend


def buckets(lengths: list[int], heads: int) -> SetLayout:
    return SetLayout.build(torch.tensor(lengths), max(lengths), heads, "buckets")


def assert_same(found: list[Tensor], wanted: list[Tensor], tolerance: float) -> None:
    for name, one, other in zip(("output", "queries", "keys", "values"), found, wanted, strict=True):
        assert one.shape == other.shape, name
        assert one.isfinite().all(), name
        one, other = one.detach().double(), other.detach().double()
        worst = (one - other).abs().max() / other.abs().max().clamp(min=1)
        assert worst <= tolerance, name


@given(lengths=LENGTHS, heads=st.sampled_from([1, 2, 3]), pooling=st.booleans(), seed=st.integers(0, 2**31))
@example(lengths=[1], heads=1, pooling=True, seed=0)
@example(lengths=[4, 4, 8], heads=2, pooling=False, seed=0)  # no slot is padding
@example(lengths=[1, 1, 1], heads=2, pooling=True, seed=0)  # a query per token and per set are the same
@settings(max_examples=60, deadline=None)
def test_buckets_equal_the_loop_forward_and_backward(lengths: list[int], heads: int, pooling: bool, seed: int) -> None:
    layout = buckets(lengths, heads)
    tensors, grad = inputs(lengths, len(lengths) if pooling else sum(lengths), heads, 8, torch.float64, seed)
    found = with_gradients(lambda *qkv: function_of(pooling)(*qkv, layout), tensors, grad)
    wanted = with_gradients(lambda *qkv: loop(*qkv, lengths), tensors, grad)
    assert_same(found, wanted, 1e-12)


@given(lengths=LENGTHS, pooling=st.booleans(), seed=st.integers(0, 2**31))
@settings(max_examples=20, deadline=None)
def test_weighted_buckets_equal_the_loop_forward_and_backward(lengths: list[int], pooling: bool, seed: int) -> None:
    weights = torch.rand(sum(lengths), generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 3 + 1e-6
    layout = SetLayout.build(torch.tensor(lengths), max(lengths), 2, "buckets", weights=weights)
    tensors, grad = inputs(lengths, len(lengths) if pooling else sum(lengths), 2, 8, torch.float64, seed)
    found = with_gradients(lambda *qkv: function_of(pooling)(*qkv, layout), tensors, grad)
    wanted = with_gradients(lambda *qkv: loop(*qkv, lengths, weights), tensors, grad)
    assert_same(found, wanted, 1e-12)


@pytest.mark.parametrize("pooling", [False, True])
@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_weights_of_one_change_no_bit(dtype: torch.dtype, pooling: bool) -> None:
    lengths = [1, 1, 2, 3, 4, 5, 7, 8, 13, 30]
    tensors, _ = inputs(lengths, len(lengths) if pooling else sum(lengths), 3, 8, dtype)
    ones = SetLayout.build(torch.tensor(lengths), 30, 3, "buckets", weights=torch.ones(sum(lengths)))
    plain = function_of(pooling)(*tensors, buckets(lengths, 3))
    assert torch.equal(function_of(pooling)(*tensors, ones), plain)


def test_the_kernels_take_no_weights() -> None:
    with pytest.raises(AssertionError, match="the kernels take no weights"):
        SetLayout.build(torch.tensor([1]), 1, 1, "varlen", weights=torch.ones(1))


@pytest.mark.parametrize("pooling", [False, True])
@pytest.mark.parametrize(("dtype", "tolerance"), [(torch.float32, 1e-5), (torch.bfloat16, 2e-2)])
def test_buckets_equal_the_loop_in_lower_precision(dtype: torch.dtype, tolerance: float, pooling: bool) -> None:
    lengths = [1, 1, 2, 3, 4, 5, 7, 8, 13, 13, 30, 61]
    layout = buckets(lengths, 3)
    tensors, grad = inputs(lengths, len(lengths) if pooling else sum(lengths), 3, 32, dtype)
    found = with_gradients(lambda *qkv: function_of(pooling)(*qkv, layout), tensors, grad)
    assert all(tensor.dtype == dtype for tensor in found)
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    wanted = with_gradients(lambda *qkv: loop(*qkv, lengths), exact, grad.double())
    # Some keys have gradients near zero, so errors are relative to the largest value of each tensor.
    scaled = [(one.double() / other.abs().max(), other / other.abs().max()) for one, other in zip(found, wanted)]  # noqa: B905
    assert_same([one for one, _ in scaled], [other for _, other in scaled], tolerance)


@pytest.mark.parametrize(
    ("dtype", "tolerance"), [(torch.float64, 1e-12), (torch.float32, 1e-5), (torch.bfloat16, 2e-2)]
)
def test_a_table_of_distinct_tokens_gives_what_its_rows_laid_out_give(dtype: torch.dtype, tolerance: float) -> None:
    lengths = [1, 1, 2, 3, 4, 5, 7, 8, 13, 13, 30, 61]
    layout = buckets(lengths, 3)
    rows = torch.randint(5, (sum(lengths),), generator=torch.Generator().manual_seed(1))
    tables, _ = inputs([6], 6, 3, 8, dtype)  # a row that no token is has a gradient too: none
    grad = torch.randn(len(rows), 3, 8, generator=torch.Generator().manual_seed(2), dtype=torch.float64)
    found = with_gradients(lambda *qkv: attend(*qkv, layout, rows), tables, grad.to(dtype))
    assert all(tensor.dtype == dtype for tensor in found)
    assert not found[1][5].any()
    exact = [table.detach().double().requires_grad_() for table in tables]
    wanted = with_gradients(lambda *qkv: loop(*(x[rows] for x in qkv), lengths), exact, grad)
    scale = [other.abs().max() for other in wanted]
    assert_same(
        [one.double() / by for one, by in zip(found, scale, strict=True)],
        [other / by for other, by in zip(wanted, scale, strict=True)],
        tolerance,
    )


def test_sharp_attention_is_exact_too() -> None:
    """Masked slots stay far below scores of some hundreds, which a learned temperature may reach."""
    lengths = [1, 2, 3, 5]
    tensors, grad = inputs(lengths, sum(lengths), 2, 8, torch.float64)
    tensors[0] = (tensors[0].detach() * 200).requires_grad_()
    layout = buckets(lengths, 2)
    found = with_gradients(lambda *qkv: attend(*qkv, layout), tensors, grad)
    assert_same(found, with_gradients(lambda *qkv: loop(*qkv, lengths), tensors, grad), 1e-10)


def test_the_gradient_is_the_derivative() -> None:
    lengths = [1, 2, 3, 5]
    layout = buckets(lengths, 2)
    for pooling, num_queries in ((False, sum(lengths)), (True, len(lengths))):
        tensors, _ = inputs(lengths, num_queries, 2, 3, torch.float64)
        function = function_of(pooling)
        assert torch.autograd.gradcheck(lambda *qkv, function=function: function(*qkv, layout), tuple(tensors))


def test_a_set_does_not_see_its_neighbours() -> None:
    lengths = [2, 3, 6]
    layout = buckets(lengths, 2)
    tensors, _ = inputs(lengths, sum(lengths), 2, 8, torch.float64)
    before = attend(*tensors, layout)
    changed = [tensor.detach().clone() for tensor in tensors]
    for tensor in changed:
        tensor[2:5] = torch.randn(3, 2, 8, dtype=torch.float64)
    after = attend(*changed, layout)
    assert torch.equal(before[:2], after[:2])
    assert torch.equal(before[5:], after[5:])
    assert not torch.isclose(before[2:5], after[2:5]).any()


@given(lengths=LENGTHS, heads=st.integers(1, 3))
@settings(max_examples=50, deadline=None)
def test_the_plan_places_every_token_once_and_pads_little(lengths: list[int], heads: int) -> None:
    plan = buckets(lengths, heads).plan
    assert plan is not None
    num_slots = sum(bucket.num_sets * bucket.width for bucket in plan.buckets)
    assert sum(bucket.num_sets for bucket in plan.buckets) == len(lengths)
    assert num_slots == len(plan.slot_tokens) >= sum(lengths)
    assert len(plan.to_slots) == num_slots * heads
    # Gathering into slots and back is the identity.
    assert torch.equal(plan.to_slots[plan.from_slots], torch.arange(sum(lengths) * heads))
    assert torch.equal(plan.slot_tokens[plan.token_slots], torch.arange(sum(lengths)))
    assert torch.equal(plan.sets, torch.repeat_interleave(torch.arange(len(lengths)), torch.tensor(lengths)))
    rows = torch.cat([plan.from_slots, plan.padding_rows])
    assert torch.equal(rows.sort().values, torch.arange(num_slots * heads))
    num_padding = sum(int(bucket.is_padding.sum()) for bucket in plan.buckets if bucket.is_padding is not None)
    assert num_padding == num_slots - sum(lengths)


def test_the_layout_says_where_sets_lie() -> None:
    layout = SetLayout.build(torch.tensor([1, 3, 3]), 9, 2, "varlen")
    assert layout.cu_seqlens.dtype == torch.int32
    assert layout.cu_seqlens.tolist() == [0, 1, 4, 7]
    assert (layout.num_sets, layout.max_seqlen, layout.plan) == (3, 9, None)


def test_sets_out_of_order_are_our_own_mistake() -> None:
    with pytest.raises(AssertionError, match="ascending length"):
        buckets([3, 2], 1)


@given(st.lists(st.integers(1, 5), min_size=1, max_size=20))
@settings(deadline=None)
def test_the_order_by_length_is_ascending_and_keeps_ties(lengths: list[int]) -> None:
    order = order_by_length(torch.tensor(lengths)).tolist()
    assert order == sorted(range(len(lengths)), key=lambda i: (lengths[i], i))


def test_the_backend_follows_device_and_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    cpu, cuda = torch.device("cpu"), torch.device("cuda")
    for dtype in (torch.float32, torch.bfloat16, torch.float16):
        assert pick_backend(cpu, dtype) == "buckets"
    assert pick_backend(cuda, torch.float32) == "buckets"
    monkeypatch.setattr(attention, "_flash_attn", lambda: None)
    assert pick_backend(cuda, torch.bfloat16) == pick_backend(cuda, torch.float16) == "varlen"
    monkeypatch.setattr(attention, "_flash_attn", lambda: len)
    assert pick_backend(cuda, torch.bfloat16) == pick_backend(cuda, torch.float16) == "flash-attn"
    assert pick_backend(cuda, torch.bfloat16, weighted=True) == pick_backend(cpu, torch.float32, True) == "buckets"


@pytest.mark.parametrize("backend", ["varlen", "flash-attn"])
@pytest.mark.parametrize("pooling", [False, True])
def test_kernels_are_called_with_the_layout(monkeypatch: pytest.MonkeyPatch, backend: Backend, pooling: bool) -> None:
    """The arguments passed to a kernel, checked by a stand-in that computes from them."""
    lengths = [1, 2, 5]

    def kernel(q: Tensor, k: Tensor, v: Tensor, cu_q: Tensor, cu_k: Tensor, max_q: int, max_k: int) -> Tensor:
        assert cu_q.dtype == cu_k.dtype == torch.int32
        assert int(cu_q.diff().max()) <= max_q
        assert int(cu_k.diff().max()) <= max_k
        parts = []
        for start, end, first, last in zip(cu_q, cu_q[1:], cu_k, cu_k[1:]):  # noqa: B905
            scores = torch.einsum("qhd,khd->hqk", q[start:end], k[first:last]) / math.sqrt(q.shape[-1])
            parts.append(torch.einsum("hqk,khd->qhd", scores.softmax(-1), v[first:last]))
        return torch.cat(parts)

    monkeypatch.setattr(attention, "_flash_attn" if backend == "flash-attn" else "_torch_varlen", lambda: kernel)
    layout = SetLayout.build(torch.tensor(lengths), 5, 2, backend)
    tensors, grad = inputs(lengths, len(lengths) if pooling else sum(lengths), 2, 8, torch.float64)
    found = with_gradients(lambda *qkv: function_of(pooling)(*qkv, layout), tensors, grad)
    assert_same(found, with_gradients(lambda *qkv: loop(*qkv, lengths), tensors, grad), 1e-12)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
@pytest.mark.parametrize("pooling", [False, True])
@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("backend", ["varlen", "flash-attn", "buckets"])
def test_gpu_kernels_equal_the_loop(backend: Backend, dtype: torch.dtype, pooling: bool) -> None:
    if backend == "flash-attn" and importlib.util.find_spec("flash_attn") is None:
        pytest.skip("flash-attn is not installed")
    lengths = [1, 1, 2, 3, 4, 5, 7, 8, 13, 13, 30, 61, 130]
    tensors, grad = inputs(lengths, len(lengths) if pooling else sum(lengths), 3, 64, dtype)
    on_gpu = [tensor.detach().cuda().requires_grad_() for tensor in tensors]
    layout = SetLayout.build(torch.tensor(lengths).cuda(), max(lengths), 3, backend)
    found = with_gradients(lambda *qkv: function_of(pooling)(*qkv, layout), on_gpu, grad.cuda())
    exact = [tensor.detach().double().requires_grad_() for tensor in tensors]
    wanted = with_gradients(lambda *qkv: loop(*qkv, lengths), exact, grad.double())
    scaled = [(one.cpu().double() / other.abs().max(), other / other.abs().max()) for one, other in zip(found, wanted)]  # noqa: B905
    assert_same([one for one, _ in scaled], [other for _, other in scaled], 2e-2)


# flash_attn 2.8, flash_attn/flash_attn_interface.py: the arguments that have no defaults, and the first that have.
FLASH_ATTN = ("q", "k", "v", "cu_seqlens_q", "cu_seqlens_k", "max_seqlen_q", "max_seqlen_k", "dropout_p")
# torch 2.10 and 2.13, torch/nn/attention/varlen.py: the names differ, the order does not.
TORCH_VARLEN = ("query", "key", "value", "cu_seq_q", "cu_seq_k", "max_q", "max_k")


@pytest.mark.parametrize("pooling", [False, True])
@pytest.mark.parametrize("backend", ["flash-attn", "varlen"])
def test_a_kernel_is_called_by_its_signature(backend: Backend, pooling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """As installed, or else as documented: each argument has the role that the kernel gives its place."""
    documented = FLASH_ATTN if backend == "flash-attn" else TORCH_VARLEN
    kernel = attention._flash_attn() if backend == "flash-attn" else attention._torch_varlen()
    names = documented if kernel is None else tuple(inspect.signature(kernel).parameters)
    assert names[: len(documented)] == documented
    calls: list[tuple[object, ...]] = []

    def called(*given: object) -> Tensor:
        calls.append(given)
        return queries

    finder = "_flash_attn" if backend == "flash-attn" else "_torch_varlen"
    monkeypatch.setattr(attention, finder, lambda: called)
    lengths = torch.tensor([2, 3])
    queries, keys, values = torch.randn(2 if pooling else 5, 2, 16), torch.randn(5, 2, 16), torch.randn(5, 2, 16)
    layout = SetLayout.build(lengths, 3, 2, backend)
    function_of(pooling)(queries, keys, values, layout)
    given = dict(zip(documented, calls[0], strict=False))
    assert len(given) == len(calls[0]) == 7, "dropout and all that follows keep their defaults"
    q, k, v, cu_q, cu_k, max_q, max_k = given.values()
    assert (q is queries, k is keys, v is values) == (True, True, True)
    assert isinstance(cu_q, Tensor)
    assert isinstance(cu_k, Tensor)
    assert (cu_q.dtype, cu_k.dtype) == (torch.int32, torch.int32)
    assert cu_q.tolist() == ([0, 1, 2] if pooling else [0, 2, 5])
    assert cu_k.tolist() == [0, 2, 5]
    assert (max_q, max_k) == (1 if pooling else 3, 3)
