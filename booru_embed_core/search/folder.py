"""The files of a folder for search: its metadata, and the Parquet parts of the vectors. ``build`` writes them."""

from __future__ import annotations

import hashlib
import os
import warnings
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray
from pydantic import AliasChoices, ConfigDict, Field

from booru_embed_core.errors import cannot_be_read
from booru_embed_core.filesystem import file_sha256
from booru_embed_core.json_files import Count, FileName, SealedModel, Sha256, read_json
from booru_embed_core.posts.arrow import read_parquet
from booru_embed_core.search.posts_table import POSTS_FILE, TAGS_FILE
from booru_embed_core.search.vector_index import INDEX_FILE, Float16, SearchError
from booru_embed_core.version_file import verify_version

FORMAT_VERSION: Final = 1
METADATA_FILE: Final = "search.json"
PART_FILES: Final = "part-*.parquet"
MAPPED_FILES: Final = (INDEX_FILE, POSTS_FILE, TAGS_FILE)
"""Files that searches read anywhere at any time, so they are verified when the folder is opened."""
REMEDY: Final = "rebuild it with `booru-embed index`"
_MAX_THREADS: Final = 4

_Positive = Annotated[int, Field(ge=1, lt=2**31)]


class UnverifiedWarning(UserWarning):
    """A folder of an older build has no checksums."""


class IndexMetadata(SealedModel):
    """The content of ``search.json``."""

    model_config = ConfigDict(populate_by_name=True)

    format_version: int = FORMAT_VERSION
    num_posts: Annotated[int, Field(ge=1, lt=2**40)]
    """Posts in the Parquet parts and in the index."""
    dim: _Positive
    """Length of a vector."""
    vocab_hash: str
    """Hash of the vocabulary whose tag indices are stored."""
    part_posts: _Positive
    """Posts in each Parquet part but the last."""
    # The second is its name in folders of booru-embed 0.1.
    nprobe: Annotated[int, Field(ge=1, lt=2**31, validation_alias=AliasChoices("nprobe", "probes"))]
    """Inverted lists that a query reads."""
    recall: float
    """recall@10 of the index on the queries that it was tuned on."""
    index: str
    """Kind of index, and the version of faiss."""
    practice: str = ""
    """A warning if the vectors are of a practice run's model; else empty."""
    file_bytes: dict[FileName, Count]
    """The size of each file."""
    sha256: dict[FileName, Sha256] | None = None
    """The SHA-256 of each file; None in folders of older builds."""

    def write(self, folder: Path) -> None:
        """Writes ``search.json`` into `folder`."""
        (folder / METADATA_FILE).write_text(self.to_json(), encoding="utf-8")


def read_metadata(folder: Path) -> IndexMetadata:
    """The metadata in ``search.json`` of `folder`.

    Raises:
        SearchError: the file is missing, damaged, or has another format.
    """
    metadata = read_json(
        folder / METADATA_FILE,
        IndexMetadata,
        SearchError,
        REMEDY,
        missing="make it with `booru-embed index` or materialize post_embeddings",
        format_version=FORMAT_VERSION,
    )
    needed = {*MAPPED_FILES, *(part_name(number) for number in range(num_parts(metadata)))}
    for names in (set(metadata.file_bytes), needed if metadata.sha256 is None else set(metadata.sha256)):
        if names != needed:
            different = sorted(needed.symmetric_difference(names))[0]
            raise SearchError(
                f"{folder / METADATA_FILE}: {metadata.num_posts:,} posts in parts of {metadata.part_posts:,} are not "
                f"in the files that it lists: {different}; {REMEDY}"
            )
    return metadata


def num_parts(metadata: IndexMetadata) -> int:
    """Number of Parquet parts; no more than the listed files, whatever the number of posts."""
    return min(-(-metadata.num_posts // metadata.part_posts), len(metadata.file_bytes) + 1)


def check_sizes(folder: Path, metadata: IndexMetadata) -> None:
    """Raises a `SearchError` if a file of `folder` has another size than when it was written."""
    # Reading beyond the end of a truncated mmapped file would kill the process.
    for name, num_bytes in metadata.file_bytes.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != num_bytes:
            raise SearchError(f"{folder / name}: has {size} bytes instead of {num_bytes}; {REMEDY}")
    vector_bytes = 2 * metadata.dim * metadata.num_posts
    if metadata.file_bytes[INDEX_FILE] < vector_bytes:
        raise SearchError(
            f"{folder / METADATA_FILE}: {metadata.num_posts:,} vectors of {metadata.dim:,} numbers take "
            f"{vector_bytes:,} bytes, but {INDEX_FILE} has {metadata.file_bytes[INDEX_FILE]:,}; {REMEDY}"
        )


def verify_files(folder: Path, metadata: IndexMetadata) -> bool:
    """Whether checksums cover `folder`; if so, `MAPPED_FILES` are read once and compared, several at a time.

    That takes 1.1 to 2.4 CPU seconds a gigabyte; 5.8 million posts of 128 numbers have 2.8 GB. Parts are verified when
    they are first read (`verify_part`). A folder of an older build has checksums only as a version in its warehouse;
    then all its files are read. Without any, an `UnverifiedWarning` says so.

    Raises:
        SearchError: a file was changed.
    """
    if metadata.sha256 is None:
        is_verified = verify_version(folder / METADATA_FILE, SearchError, REMEDY)
        if not is_verified:
            line = f"{folder / METADATA_FILE}: lists no checksums, so a changed bit is not noticed; {REMEDY}"
            warnings.warn(line, UnverifiedWarning, stacklevel=3)
        return is_verified
    expected = metadata.sha256
    with ThreadPoolExecutor(min(_MAX_THREADS, os.cpu_count() or 1)) as pool:
        for name, found in zip(MAPPED_FILES, pool.map(lambda name: _hash(folder / name), MAPPED_FILES), strict=True):
            _compare(folder / name, found, expected[name])
    return True


def verify_part(file: Path, content: bytes | memoryview | pa.Buffer, metadata: IndexMetadata) -> None:
    """Raises a `SearchError` unless `content` is that of the part `file`; does nothing without checksums."""
    if metadata.sha256 is not None:
        _compare(file, hashlib.sha256(memoryview(content)).hexdigest(), metadata.sha256[file.name])


def _hash(file: Path) -> str:
    try:
        return file_sha256(file)
    except OSError as error:
        raise SearchError(f"{file}: {cannot_be_read(error, REMEDY)}") from None


def _compare(file: Path, found: str, expected: str) -> None:
    if found != expected:
        raise SearchError(f"{file}: was changed: its SHA-256 is not that in {METADATA_FILE}; {REMEDY}")


def read_vectors(folder: Path) -> Float16:
    """All vectors of the Parquet parts in `folder`, float16 ``[N, E]``, in the order of the packed file.

    Raises:
        SearchError: ``search.json`` is there, and a part is missing or not the one that it names.
    """
    if (folder / METADATA_FILE).exists():
        metadata = read_metadata(folder)
        files = [folder / part_name(number) for number in range(num_parts(metadata))]
        for file in files:
            if metadata.sha256 is not None:
                _compare(file, _hash(file), metadata.sha256[file.name])
    else:  # while the folder is built
        files = sorted(folder.glob(PART_FILES))
    num_posts = sum(int(pq.read_metadata(file).num_rows) for file in files)
    vectors = np.empty((num_posts, pq.read_schema(files[0]).field("vector").type.list_size), np.float16)
    start = 0
    for file in files:
        part = part_vectors(file)
        vectors[start : start + len(part)] = part
        start += len(part)
    return vectors


def part_vectors(file: Path) -> Float16:
    """The vectors of one Parquet part, float16 ``[n, E]``."""
    table = read_parquet(file, ["vector"])
    flat: NDArray[np.float16] = pc.list_flatten(table["vector"]).to_numpy()
    return flat.reshape(table.num_rows, -1)


def part_name(number: int) -> str:
    """The file name of Parquet part `number`, counted from 0."""
    return f"part-{number:05d}.parquet"
