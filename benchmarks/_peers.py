"""Peer loaders of a packed file's records; each returns random batches of records, packed end to end.

They do less than booru-embed: only tokens and lengths of records, without fields, ratings and scores. Loaders with a
file format of their own or a Python object per record get a subset of the records, since their cost per record does not
depend on the number of records.

Two are marked as made by hand: they run a peer's loader over the packed file's memory layout, which the peer never
writes itself. They show how much of the speed is due to the layout.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import chain, islice
from pathlib import Path
from typing import Any, Final, TypeVar

import numpy as np
import torch
from numpy.typing import NDArray

from booru_embed_core.tokens.packed_file import PackedFile

SUBSET_RECORDS: Final = 100_000
"""Records for the loaders that get a subset."""
SHUFFLE_BUFFER: Final = 10_000

T = TypeVar("T")
Batches = Iterator[tuple[int, int]]
"""Records and tokens of each batch, counted after the batch is complete."""


@dataclass(frozen=True)
class Way:
    """A way to draw random batches."""

    name: str
    num_records: int
    """Number of records that it draws from."""
    start: Callable[[int], Batches]
    """Starts an epoch of batches with the given number of records each."""
    starts_on_the_clock: bool = False
    """Whether work before the first batch counts, and the whole epoch is measured."""
    by_hand: bool = False
    """Whether the loader runs over a memory layout that is not its own."""


def record(packed: PackedFile, row: int) -> NDArray[Any]:
    """The tokens of a record."""
    return packed.tokens[int(packed.offsets[row]) : int(packed.offsets[row + 1])]


def grouped(items: Iterator[T], size: int) -> Iterator[list[T]]:
    """Lists of `size` items; the last may be shorter. `items` must be an iterator, not a list."""
    while group := list(islice(items, size)):
        yield group


def concatenated(records: list[NDArray[Any]]) -> tuple[int, int]:
    """Numbers of records and tokens of the varlen batch of `records`, which it builds."""
    lengths = torch.tensor([len(tokens) for tokens in records])
    tokens = torch.from_numpy(np.concatenate(records).astype(np.int32))
    return len(lengths), len(tokens)


def torch_lists(packed: PackedFile, _: Path) -> Way:
    """torch's DataLoader over Python lists."""
    lists = [record(packed, row).tolist() for row in range(min(SUBSET_RECORDS, packed.num_posts))]

    def collate(records: list[list[int]]) -> tuple[torch.Tensor, torch.Tensor]:
        tokens = torch.tensor(list(chain.from_iterable(records)), dtype=torch.int32)
        return tokens, torch.tensor([len(tokens) for tokens in records])

    def start(batch_posts: int) -> Batches:
        loader = torch.utils.data.DataLoader(lists, batch_posts, shuffle=True, collate_fn=collate)  # type: ignore[arg-type]
        return ((len(lengths), len(tokens)) for tokens, lengths in loader)

    return Way("torch DataLoader over lists", len(lists), start)


class _Records(torch.utils.data.Dataset[NDArray[Any]]):
    """A packed file as a plain map-style dataset."""

    def __init__(self, packed: PackedFile) -> None:
        self.packed = packed

    def __len__(self) -> int:
        return self.packed.num_posts

    def __getitem__(self, row: int) -> NDArray[Any]:
        return record(self.packed, row)


def torch_packed(packed: PackedFile, _: Path) -> Way:
    """torch's DataLoader over the mapped packed file, record by record."""

    def start(batch_posts: int) -> Batches:
        rows = np.random.default_rng(0).permutation(packed.num_posts).tolist()
        return iter(torch.utils.data.DataLoader(_Records(packed), batch_posts, sampler=rows, collate_fn=concatenated))

    return Way("torch DataLoader, our file by hand", packed.num_posts, start, by_hand=True)


def hf_datasets(packed: PackedFile, folder: Path) -> Way:
    """Hugging Face datasets as commonly used, saved and mapped; the arrow format is faster than numpy and torch."""
    import datasets

    _hf_dataset(packed).save_to_disk(folder / "hf")
    dataset = datasets.load_from_disk(folder / "hf").with_format("arrow")
    return Way("Hugging Face datasets, arrow", packed.num_posts, lambda size: _drawn_by_hf(dataset, size))


def hf_datasets_one_chunk(packed: PackedFile, _: Path) -> Way:
    """Hugging Face datasets over one Arrow chunk in the packed file's memory; saving it would split the chunk."""
    dataset = _hf_dataset(packed).with_format("arrow")
    name = "Hugging Face datasets, one chunk by hand"
    return Way(name, packed.num_posts, lambda size: _drawn_by_hf(dataset, size), by_hand=True)


def _hf_dataset(packed: PackedFile) -> Any:
    """A list column over the packed file's memory."""
    import datasets
    import pyarrow as pa

    values = pa.Array.from_buffers(
        pa.from_numpy_dtype(packed.tokens.dtype), packed.num_tokens, [None, pa.py_buffer(packed.tokens.data)]
    )
    column = pa.LargeListArray.from_arrays(pa.array(packed.offsets.astype(np.int64)), values)
    return datasets.Dataset(pa.table({"tokens": column}))


def _drawn_by_hf(dataset: Any, batch_posts: int) -> Batches:
    order = np.random.default_rng(0).permutation(len(dataset))
    for first in range(0, len(order), batch_posts):
        drawn = dataset[order[first : first + batch_posts]]["tokens"].combine_chunks()
        tokens = torch.from_numpy(drawn.flatten().to_numpy().astype(np.int32))
        lengths = torch.from_numpy(np.diff(drawn.offsets.to_numpy()))
        yield len(lengths), len(tokens)


def webdataset(packed: PackedFile, folder: Path) -> Way:
    """webdataset: one tar file, shuffled through a buffer."""
    import webdataset as wds

    num = min(SUBSET_RECORDS, packed.num_posts)
    path = folder / "records.tar"
    with wds.TarWriter(str(path)) as sink:
        for row in range(num):
            sink.write({"__key__": f"{row:09}", "tokens": record(packed, row).tobytes()})

    def start(batch_posts: int) -> Batches:
        read = wds.WebDataset(str(path), shardshuffle=False).shuffle(SHUFFLE_BUFFER)
        arrays = (np.frombuffer(sample["tokens"], packed.tokens.dtype) for sample in read)
        return map(concatenated, grouped(arrays, batch_posts))

    return Way("webdataset", num, start)


def litdata(packed: PackedFile, folder: Path) -> Way:
    """litdata: its own chunks, shuffled by its StreamingDataset."""
    from litdata import StreamingDataset
    from litdata.streaming.writer import BinaryWriter

    num = min(SUBSET_RECORDS, packed.num_posts)
    writer = BinaryWriter(str(folder / "litdata"), chunk_bytes="16MB")
    for row in range(num):
        writer[row] = record(packed, row).copy()
    writer.done()
    writer.merge()

    def start(batch_posts: int) -> Batches:
        read = StreamingDataset(str(folder / "litdata"), shuffle=True)
        return map(concatenated, grouped((tokens for tokens in read), batch_posts))

    return Way("litdata", num, start)


def mosaicml_streaming(packed: PackedFile, folder: Path) -> Way:
    """MosaicML streaming: its own shards, indexed at random, which is faster than iterating."""
    from streaming import MDSWriter, StreamingDataset

    num = min(SUBSET_RECORDS, packed.num_posts)
    with MDSWriter(out=str(folder / "mds"), columns={"tokens": f"ndarray:{packed.tokens.dtype}"}) as sink:
        for row in range(num):
            sink.write({"tokens": record(packed, row).copy()})
    read = StreamingDataset(local=str(folder / "mds"), batch_size=1)

    def start(batch_posts: int) -> Batches:
        order = np.random.default_rng(0).permutation(num).tolist()
        return map(concatenated, grouped((read[row]["tokens"] for row in order), batch_posts))

    return Way("MosaicML streaming", num, start)


PEERS: Final = (
    torch_lists,
    hf_datasets,
    webdataset,
    litdata,
    mosaicml_streaming,
    torch_packed,
    hf_datasets_one_chunk,
)
