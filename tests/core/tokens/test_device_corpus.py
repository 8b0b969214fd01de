"""Batches gathered on a device equal those read from the file, bit for bit."""

from __future__ import annotations

import dataclasses

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.tokens.batches import Batch, EpochBatches, read_batch
from booru_embed_core.tokens.device_corpus import DeviceCorpus, device_bytes, fits_on
from booru_embed_core.tokens.packed_file import PackedFile
from tests.core.model_helpers import corpus
from tests.core.tokens.packed_helpers import RECORDS, packed_of

CPU = torch.device("cpu")


def assert_same(found: Batch, wanted: Batch, device: torch.device) -> None:
    for field in dataclasses.fields(Batch):
        found_value, wanted_value = getattr(found, field.name), getattr(wanted, field.name)
        if isinstance(wanted_value, torch.Tensor):
            assert (found_value.dtype, found_value.device.type) == (wanted_value.dtype, device.type), field.name
            assert torch.equal(found_value.cpu(), wanted_value), field.name
        else:
            assert found_value == wanted_value, field.name


@given(records=RECORDS, data=st.data())
@settings(deadline=None)
def test_a_batch_is_that_of_the_file(records: list[list[list[int]]], data: st.DataObject) -> None:
    num = len(records)
    ratings = data.draw(st.lists(st.integers(0, 3), min_size=num, max_size=num))
    scores = data.draw(st.lists(st.integers(-(2**31), 2**31 - 1), min_size=num, max_size=num))
    rows = np.array(data.draw(st.lists(st.integers(0, num - 1), max_size=10)), np.int64)
    packed = packed_of(records, ratings, scores)
    assert_same(DeviceCorpus(packed, CPU).read(rows), read_batch(packed, rows), CPU)


def test_local_ids_beyond_16_bits_are_read() -> None:
    packed = packed_of([[[1], [], [2], [], []], [[], [3], [], [], []]])
    wide = dataclasses.replace(packed, tokens=packed.tokens.astype(np.uint32) + 70_000)
    assert DeviceCorpus(wide, CPU).read(np.array([1, 0])).tokens.tolist() == [70_003, 70_001, 70_002]


def test_long_fields_keep_their_length() -> None:
    """Lengths above 32,767 are negative as int16."""
    packed = packed_of([[[5] * 40_000, [], [65_535], [], []]])
    batch = DeviceCorpus(packed, CPU).read(np.array([0]))
    assert batch.field_lengths.tolist() == [[40_000, 0, 1, 0, 0]]
    assert batch.tokens[-1] == 65_535


@pytest.mark.parametrize("row", [-1, 2])
def test_a_row_that_the_file_has_not_is_an_error(row: int) -> None:
    with pytest.raises(IndexError):
        DeviceCorpus(packed_of([[[1], [], [], [], []]] * 2), CPU).read(np.array([0, row]))


@pytest.fixture(name="packed")
def packed_fixture(tmp_path_factory: pytest.TempPathFactory) -> PackedFile:
    return corpus(tmp_path_factory.getbasetemp() / "tiny").packed


def test_an_epoch_is_drawn_the_same_way(packed: PackedFile) -> None:
    rows, drawn = np.arange(packed.num_posts), DeviceCorpus(packed, CPU).read
    on_device = EpochBatches(packed, rows, 64, 3, read_rows=drawn).read_from(0, 1, 2)
    from_file = EpochBatches(packed, rows, 64, 3).read_from(0, 1, 2)
    for found, wanted in zip(on_device, from_file, strict=True):
        assert_same(found, wanted, CPU)


def test_it_takes_the_bytes_that_it_says(packed: PackedFile) -> None:
    tensors = [value for value in vars(DeviceCorpus(packed, CPU)).values() if isinstance(value, torch.Tensor)]
    assert sum(tensor.nbytes for tensor in tensors) == device_bytes(packed)


def test_it_goes_to_a_gpu_with_room_for_four_of_it(packed: PackedFile, monkeypatch: pytest.MonkeyPatch) -> None:
    cuda, needed = torch.device("cuda"), 4 * device_bytes(packed)
    for free, wanted in ((needed - 1, False), (needed, True)):
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _, free=free: (free, 2 * free))
        assert fits_on(packed, cuda) is wanted
    assert not fits_on(packed, CPU)


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="no CUDA device")
def test_a_gpu_draws_what_the_file_gives(packed: PackedFile) -> None:
    gpu = torch.device("cuda")
    rows = np.random.default_rng(0).permutation(packed.num_posts)
    found, wanted = DeviceCorpus(packed, gpu).read(rows), read_batch(packed, rows)
    assert_same(found, wanted, gpu)
    sizes = [9, 8, 7, 6, 5]
    assert torch.equal(found.tag_indices(sizes).cpu(), wanted.tag_indices(sizes))
