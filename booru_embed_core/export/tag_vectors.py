"""The vectors of tags for other programs: a Parquet table, the word2vec format, TensorBoard's projector."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO, Final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import DTypeLike, NDArray

from booru_embed_core.embedder.neighbours import embeddings_of_tags
from booru_embed_core.schema import CATEGORIES

if TYPE_CHECKING:
    from booru_embed_core.embedder.embedder import BooruEmbedder

TAG_EMBEDDINGS_FILE: Final = "tag_embeddings.parquet"
WORD2VEC_FILE: Final = "tags.word2vec.txt"
VECTORS_FILE: Final = "vectors.tsv"
METADATA_FILE: Final = "metadata.tsv"
PROJECTOR_CONFIG_FILE: Final = "projector_config.pbtxt"  # TensorBoard looks for this name
_ROWS_AT_ONCE: Final = 1024
"""Rows that are read together: Arrow takes many times their size, and leaves holes in memory that grow with it."""
_BUFFER_BYTES: Final = 1 << 20
_PROJECTOR_CONFIG: Final = f"""embeddings {{
  tensor_name: "tags"
  tensor_path: "{VECTORS_FILE}"
  metadata_path: "{METADATA_FILE}"
}}
"""


def embeddings_table(embedder: BooruEmbedder) -> pa.Table:
    """One row per tag in the order of the vocabulary: tag, category, count, vector (float32, unit length).

    Unknown tokens are not tags and have no row.
    """
    vocab, known = embedder.vocab, _known(embedder)
    vectors = embeddings_of_tags(embedder.network, known)
    categories = [CATEGORIES[category_id].value for category_id in vocab.categories[known].tolist()]
    flat = pa.array(vectors.reshape(-1), pa.float32())
    columns = {
        "tag": pa.array([vocab.tags[tag_index] for tag_index in known.tolist()], pa.string()),
        "category": pa.array(categories, pa.string()),
        "count": pa.array(vocab.counts[known], pa.int64()),
        "vector": pa.FixedSizeListArray.from_arrays(flat, vectors.shape[1]),
    }
    return pa.table(columns)


def read_vectors(source: Path | BinaryIO, num_rows: int, dtype: DTypeLike = np.float32) -> NDArray[Any]:
    """The vectors of ``tag_embeddings.parquet``, `dtype` ``[num_rows, E]``, read a few thousand rows at a time.

    Raises:
        ValueError, LookupError, OSError, pa.ArrowException: there is no such column, or it is not that of `num_rows`
            vectors of one length.
    """
    found = np.empty((num_rows, 0), dtype)
    row = 0
    with pq.ParquetFile(source, buffer_size=_BUFFER_BYTES, pre_buffer=False) as parquet:
        for batch in parquet.iter_batches(_ROWS_AT_ONCE, columns=["vector"], use_threads=False):
            numbers = np.asarray(pc.list_flatten(batch.column("vector")).to_numpy(zero_copy_only=False), np.float32)
            vectors = numbers.reshape(batch.num_rows, -1)
            if not row:
                found = np.empty((num_rows, vectors.shape[1]), dtype)
            if vectors.shape[1] != found.shape[1] or row + len(vectors) > num_rows:
                raise ValueError(f"not {num_rows} vectors of one length")
            found[row : row + len(vectors)] = vectors
            row += len(vectors)
    if row != num_rows:
        raise ValueError(f"{row} vectors in {num_rows} rows")
    return found


def write_parquet(embedder: BooruEmbedder, out_dir: Path) -> None:
    """Writes ``tag_embeddings.parquet``, as the asset of that name."""
    pq.write_table(embeddings_table(embedder), out_dir / TAG_EMBEDDINGS_FILE, compression="zstd")


def write_word2vec(embedder: BooruEmbedder, out_dir: Path) -> None:
    """Writes ``tags.word2vec.txt``: a line of two counts, then one line per tag with its spelling and vector.

    Raises:
        ValueError: a tag contains a line break.
    """
    spellings, vectors = _spelled(embedder, "\n\r")
    lines = (f"{spelling} {numbers}" for spelling, numbers in zip(spellings, _rows(vectors, " "), strict=True))
    _write(out_dir / WORD2VEC_FILE, f"{len(vectors)} {vectors.shape[1]}", lines)


def write_projector(embedder: BooruEmbedder, out_dir: Path) -> None:
    """Writes ``vectors.tsv``, ``metadata.tsv`` (tag, category, count), and the config that TensorBoard looks for.

    Raises:
        ValueError: a tag contains a line break or a tab.
    """
    vocab, known = embedder.vocab, _known(embedder)
    spellings, vectors = _spelled(embedder, "\n\r\t")
    rows = zip(spellings, vocab.categories[known].tolist(), vocab.counts[known].tolist(), strict=True)
    _write(out_dir / VECTORS_FILE, None, _rows(vectors, "\t"))
    labels = (f"{spelling}\t{CATEGORIES[category].value}\t{count}" for spelling, category, count in rows)
    _write(out_dir / METADATA_FILE, "tag\tcategory\tcount", labels)
    (out_dir / PROJECTOR_CONFIG_FILE).write_text(_PROJECTOR_CONFIG, encoding="utf-8")


def _known(embedder: BooruEmbedder) -> NDArray[np.int64]:
    return np.flatnonzero(~embedder.vocab.is_unknown)


def _spelled(embedder: BooruEmbedder, separators: str) -> tuple[list[str], NDArray[np.float32]]:
    """A unique spelling for each tag, without `separators`, and the vectors of the tags."""
    known = _known(embedder)
    every = embedder.tokenizer.spellings
    spellings = [every[tag_index] for tag_index in known.tolist()]
    for spelling in spellings:
        if any(separator in spelling for separator in separators):
            raise ValueError(f"tag {spelling!r} contains a separator of this format; export parquet instead")
    return spellings, embedder.tag_embeddings()[known]


def _rows(vectors: NDArray[np.float32], separator: str) -> Iterator[str]:
    """Each of `vectors` ``[n, E]`` as text; nine digits distinguish any two float32."""
    return (separator.join(f"{x:.9g}" for x in vector) for vector in vectors.tolist())


def _write(file: Path, header: str | None, lines: Iterator[str]) -> None:
    with file.open("w", encoding="utf-8", newline="\n") as stream:
        if header is not None:
            stream.write(header + "\n")
        stream.writelines(line + "\n" for line in lines)
