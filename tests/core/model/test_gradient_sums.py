"""Gradients in bf16 of a tag and of the summary token that occur thousands of times in a batch.

A sum in bf16 stands still where a term is below half of its last digit, 256 terms of the same size. torch (2.13) adds
the gradients of ``embedding(ids, table)`` and of ``table[ids]`` row by row in the table's dtype.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from torch.nn import functional as F

from booru_embed_core.model.attention import SetLayout, attend
from booru_embed_core.model.encoder import SUMMARY_ID, SetEncoder
from booru_embed_core.model.pooled_states import pool
from booru_embed_core.model.sampled_network import SampledNetwork
from booru_embed_core.model.tag_sample import TagSampler
from tests.core.model_helpers import NUM_SPECIAL, encoder

NUM_SETS = 4_000
FEW, MANY = (7, 3, 0, 4, 2), (12_000, 3, 0, 4, 2)
"""Sizes of vocabularies with fewer rows than the batch has tokens, so that the first block works on distinct rows, and
with more."""
TAG = 3


def difference(found: Tensor, wanted: Tensor) -> float:
    return float((found.float() - wanted).norm() / wanted.norm())


def rounded(model: SetEncoder) -> SetEncoder:
    """`model` with weights that bf16 has: what differs is the sums."""
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.copy_(parameter.bfloat16())
    return model.train()


def other_tags(num_tags: int) -> Tensor:
    """int64 ``[NUM_SETS, 4]``: random tags of each set, so that errors of rounding differ between sets."""
    return torch.randint(TAG + 1, num_tags, (NUM_SETS, 4), generator=torch.Generator().manual_seed(1))


def gradients(model: SetEncoder, tags: Tensor, dtype: torch.dtype, row: int) -> tuple[Tensor, Tensor]:
    """Of the summary token and of the table's `row`, when sets of that tag and `tags` are drawn one way."""
    token_ids = torch.cat([torch.tensor([[SUMMARY_ID, row]]).expand(NUM_SETS, 2), tags], 1)
    model.zero_grad()
    pooled = model(token_ids.ravel(), torch.full((NUM_SETS,), token_ids.shape[1]), token_ids.shape[1], dtype)
    (pooled * torch.linspace(-1, 1, pooled.shape[1])).sum().backward()
    grad = model.tokens.weight.grad
    assert grad is not None
    return grad[SUMMARY_ID].clone(), grad[row].clone()


@pytest.mark.parametrize("trunk", ["attention", "deepsets"])
@pytest.mark.parametrize("sizes", [FEW, MANY], ids=["distinct rows", "a row for each token"])
def test_of_the_whole_network(sizes: tuple[int, ...], trunk: str) -> None:
    model = rounded(encoder(sizes, num_layers=1, trunk=trunk))
    others = NUM_SPECIAL + other_tags(sum(sizes))
    wide = gradients(model, others, torch.float32, NUM_SPECIAL + TAG)
    narrow = gradients(model, others, torch.bfloat16, NUM_SPECIAL + TAG)
    for name, found, wanted in zip(("summary", "tag"), narrow, wide, strict=True):
        assert difference(found, wanted) < 0.01, name


def test_of_sampled_rows() -> None:
    network = SampledNetwork(rounded(encoder(MANY, num_layers=1)))
    sampler = TagSampler(torch.arange(sum(MANY), 0, -1), 64, torch.device("cpu"))
    others = other_tags(30)
    sample = sampler.draw(torch.arange(30), torch.Generator().manual_seed(2))
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        network.load(sample)
        row = NUM_SPECIAL + int(sample.local(torch.tensor(TAG)))
        found.append(gradients(network, NUM_SPECIAL + sample.local(others), dtype, row))
    for name, narrow, wide in zip(("summary", "tag"), found[1], found[0], strict=True):
        assert difference(narrow, wide) < 0.01, name


@pytest.mark.parametrize("pooling", [False, True], ids=["attention", "pool"])
@pytest.mark.parametrize("backend", ["buckets", "varlen"])
def test_of_attention_over_looked_up_rows(backend: str, pooling: bool, monkeypatch: pytest.MonkeyPatch) -> None:
    """Keys and values of distinct tokens, of which one is in every set; a kernel is replaced by the mean of values."""
    monkeypatch.setattr("booru_embed_core.model.attention._torch_varlen", lambda: lambda q, k, v, *_: q + k + v)
    lengths, heads = torch.full((NUM_SETS,), 3), 2
    rows = torch.stack([torch.zeros(NUM_SETS), torch.ones(NUM_SETS), 2 + torch.arange(NUM_SETS) % 3], 1).long().ravel()
    generator = torch.Generator().manual_seed(1)
    tables = [torch.randn(5, heads, 16, generator=generator).bfloat16() for _ in range(3)]
    layout = SetLayout.build(lengths, 3, heads, backend)  # type: ignore[arg-type]
    found = []
    for dtype in (torch.float32, torch.bfloat16):
        given = [table.to(dtype).requires_grad_() for table in tables]
        if not pooling:
            mixed = attend(*given, layout, rows)
        elif backend == "buckets":
            states = [F.embedding(rows, table.float().flatten(1)).view(-1, heads, 16).to(dtype) for table in given[1:]]
            queries = given[0].float().index_select(0, torch.zeros(NUM_SETS, dtype=torch.int64)).to(dtype)
            mixed = pool(queries, *states, layout)
        else:
            pytest.skip("a kernel has a query per set and is given rows by the encoder")
        mixed.sum().backward()
        found.append([table.grad for table in given])
    for index, (narrow, wide) in enumerate(zip(found[1], found[0], strict=True)):
        if wide.abs().max() > 1e-3 * NUM_SETS:  # the gradients of queries and keys cancel where all outputs count alike
            assert difference(narrow, wide) < 0.01, index
