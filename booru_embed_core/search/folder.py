"""The files of a folder for search: its metadata, and the Parquet parts of the vectors. ``build`` writes them."""

from __future__ import annotations

import json
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.errors import first_line
from booru_embed_core.posts.arrow import read_parquet
from booru_embed_core.search.vector_index import Float16, SearchError

FORMAT_VERSION: Final = 1
METADATA_FILE: Final = "search.json"
PART_FILES: Final = "part-*.parquet"
REMEDY: Final = "rebuild it with `booru-embed index`"


@dataclass(frozen=True)
class IndexMetadata:
    """The content of ``search.json``.

    Attributes:
        format_version: version of the folder's format.
        num_posts: number of posts in the Parquet parts and in the index.
        dim: length of a vector.
        vocab_hash: hash of the vocabulary whose tag indices are stored.
        part_posts: posts in each Parquet part but the last.
        nprobe: inverted lists that a query reads.
        recall: recall@10 of the index on the queries that it was tuned on.
        index: kind of index, and the version of faiss.
        file_bytes: the size of each file.
    """

    format_version: int
    num_posts: int
    dim: int
    vocab_hash: str
    part_posts: int
    nprobe: int
    recall: float
    index: str
    file_bytes: dict[str, int]

    def write(self, folder: Path) -> None:
        """Writes ``search.json`` into `folder`."""
        (folder / METADATA_FILE).write_text(json.dumps(asdict(self), indent=2) + "\n", encoding="utf-8")


def read_metadata(folder: Path) -> IndexMetadata:
    """The metadata in ``search.json`` of `folder`.

    Raises:
        SearchError: the file is missing or has another format.
    """
    file = folder / METADATA_FILE
    try:
        values = json.loads(file.read_text(encoding="utf-8"))
        version = values.get("format_version")
        if version != FORMAT_VERSION:
            raise SearchError(f"{file}: format_version {version!r} instead of {FORMAT_VERSION}; {REMEDY}")
        if "probes" in values:  # its name in folders of booru-embed 0.1
            values["nprobe"] = values.pop("probes")
        return IndexMetadata(**values)
    except (FileNotFoundError, NotADirectoryError):
        raise SearchError(
            f"{file}: no such file; make it with `booru-embed index` or materialize post_embeddings"
        ) from None
    except (json.JSONDecodeError, UnicodeDecodeError, TypeError, AttributeError) as error:
        raise SearchError(f"{file}: not the metadata of an index ({first_line(error)}); {REMEDY}") from None


def check_sizes(folder: Path, metadata: IndexMetadata) -> None:
    """Raises a `SearchError` if a file of `folder` has another size than when it was written."""
    # Reading beyond the end of a truncated mmapped file would kill the process.
    for name, num_bytes in metadata.file_bytes.items():
        size = (folder / name).stat().st_size if (folder / name).is_file() else None
        if size != num_bytes:
            raise SearchError(f"{folder / name}: has {size} bytes instead of {num_bytes}; {REMEDY}")


def read_vectors(folder: Path) -> Float16:
    """All vectors of the Parquet parts in `folder`, float16 ``[N, E]``, in the order of the packed file."""
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
