"""All posts of a packed file embedded, part after part, and the folder that `PostSearch` opens.

An interrupted run goes on: a finished part says in its footer from which weights and which packed file it was made, and
is taken as it is where both are the same.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray
from torch.nn import functional as F

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.model.inference import encode_sets
from booru_embed_core.posts.arrow import schema_of
from booru_embed_core.schema import RATINGS
from booru_embed_core.search.post_search import FORMAT_VERSION, PART_FILES, IndexMetadata, part_name, read_vectors
from booru_embed_core.search.posts_table import POSTS_FILE, TAGS_FILE, write_posts_table
from booru_embed_core.search.vector_index import INDEX_FILE, SearchError, VectorIndex
from booru_embed_core.tokens.batches import read_batch
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.training.checkpoint import load_checkpoint
from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE
from booru_embed_core.training.hardware import pick_device, pick_dtype

PART_POSTS: Final = 16_384
"""A quarter of a minute on a core."""
NUM_QUERIES: Final = 512
"""That the index is tuned on."""
_QUERY_TAGS: Final = 4
_SEED: Final = 7
_MADE_FROM: Final = b"made_from"

Log = Callable[[str], None]


def vectors_schema(dim: int) -> pa.Schema:
    """Columns of the parts: post_id, rating (a letter), score, vector (float16, unit length)."""
    vector = pa.list_(pa.field("element", pa.float16(), nullable=False), dim)
    return schema_of({"post_id": pa.int64(), "rating": pa.string(), "score": pa.int32(), "vector": vector})


class _Embedding:
    """A checkpoint on a device, and the records of a packed file as its sets."""

    def __init__(self, checkpoint_dir: Path, packed_path: Path, device: str, precision: str) -> None:
        on = pick_device(device)
        self.model, _, self.vocab = load_checkpoint(checkpoint_dir, on)
        self.packed = PackedFile.open(packed_path, self.vocab.hash)
        self.dtype = pick_dtype(precision, on)
        self.made_from = hashlib.sha256(_digest(checkpoint_dir / WEIGHTS_FILE) + _digest(packed_path)).hexdigest()
        if not self.packed.num_posts:
            raise SearchError(f"{packed_path}: has no posts to search; ingest some")

    def tags_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tag indices of `rows`, end to end, and how many each has."""
        batch = read_batch(self.packed, rows)
        self.packed.check_local_ids(batch.tokens.numpy(), batch.field_lengths.numpy(), self.vocab)
        return batch.tag_indices(tuple(self.vocab.sizes.values())).numpy(), np.diff(batch.cu_seqlens.numpy()).astype(
            np.int64
        )

    @torch.inference_mode()
    def embed(self, tags: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """float32 ``[S, E]`` of unit length; rating and score are withheld, as in a query without them."""
        pooled = encode_sets(self.model, tags, lengths, dtype=self.dtype)
        return F.normalize(self.model.embed(pooled), dim=-1).float().cpu().numpy()

    def queries(self) -> NDArray[np.float32]:
        """Embeddings of captions as people type them: one to four tags of random posts."""
        numbers = np.random.default_rng(_SEED)
        rows = numbers.integers(0, self.packed.num_posts, NUM_QUERIES)
        tags, lengths = self.tags_of(rows)
        records = np.split(tags, np.cumsum(lengths)[:-1])
        asked = [numbers.permutation(record)[: numbers.integers(1, _QUERY_TAGS + 1)] for record in records]
        return self.embed(np.concatenate(asked), np.array([len(one) for one in asked], np.int64))


def index_posts(
    checkpoint_dir: Path,
    packed_path: Path,
    out_dir: Path,
    work_dir: Path,
    device: str = "auto",
    precision: str = "auto",
    log: Log = print,
) -> IndexMetadata:
    """What was made: `out_dir`, which is empty before, becomes a folder that `PostSearch` opens.

    Args:
        checkpoint_dir: of the model.
        packed_path: of the posts, made with the checkpoint's vocabulary.
        out_dir: is there.
        work_dir: is there; keeps finished parts, so that the same call goes on from them.
        device: as of `BooruEmbedder.load`, like `precision`.
        precision: of the network; vectors are float16 in any case.
        log: takes a line now and then.

    Raises:
        CheckpointError, PackedFileError, VocabError: one of them is damaged, or they do not belong together.
        SearchError: the packed file has no posts.
    """
    embedding = _Embedding(checkpoint_dir, packed_path, device, precision)
    packed, vocab = embedding.packed, embedding.vocab
    for file in embed_parts(embedding, work_dir, log):
        shutil.copyfile(file, out_dir / file.name)
    offsets = packed.offsets.astype(np.int64)
    tags = packed.global_token_ids(vocab) - vocab.num_special
    write_posts_table(out_dir, packed.post_id, packed.rating, packed.score, tags, offsets, vocab.num_tags)
    started = time.monotonic()
    index = VectorIndex.build(read_vectors(out_dir))
    recall = index.tune(embedding.queries())
    index.save(out_dir / INDEX_FILE)
    log(
        f"index: {index.num_rows:,} posts in {index.num_lists:,} lists, recall@10 {recall:.3f} with {index.probes} of "
        f"them a query, {time.monotonic() - started:,.0f} s"
    )
    files = sorted([*out_dir.glob(PART_FILES), *(out_dir / name for name in (POSTS_FILE, TAGS_FILE, INDEX_FILE))])
    facts = IndexMetadata(
        format_version=FORMAT_VERSION,
        num_posts=packed.num_posts,
        dim=index.dim,
        vocab_hash=vocab.hash,
        part_posts=PART_POSTS,
        probes=index.probes,
        recall=recall,
        index=index.kind,
        file_bytes={file.name: file.stat().st_size for file in files},
    )
    facts.write(out_dir)
    return facts


def make_search_folder(checkpoint_dir: Path, packed_path: Path, out_dir: Path, log: Log = print) -> IndexMetadata:
    """What `index_posts` made, for those who have no warehouse: `out_dir` appears when it is complete.

    Finished parts wait beside it, in ``<out_dir>.parts``, until then: the same call goes on after an interruption.

    Raises:
        SearchError: `out_dir` is there already, or the folder for it is not.
        ValueError: as `index_posts`.
    """
    if out_dir.exists():
        raise SearchError(f"{out_dir}: is there already; remove it, or name another folder")
    if not out_dir.parent.is_dir():
        raise SearchError(f"{out_dir.parent}: no such folder, for {out_dir.name}; create it first")
    work_dir = out_dir.with_name(out_dir.name + ".parts")
    work_dir.mkdir(exist_ok=True)
    with scratch_folder(work_dir) as folder:
        made = folder / "made"
        made.mkdir()
        facts = index_posts(checkpoint_dir, packed_path, made, work_dir, log=log)
        os.rename(made, out_dir)
    shutil.rmtree(work_dir)
    return facts


def embed_parts(embedding: _Embedding, work_dir: Path, log: Log) -> list[Path]:
    """The parts of all posts in `work_dir`, of which only those are made that are not there yet."""
    num_posts, files = embedding.packed.num_posts, []
    num_made, started = 0, time.monotonic()
    for number, start in enumerate(range(0, num_posts, PART_POSTS)):
        file = work_dir / part_name(number)
        files.append(file)
        rows = np.arange(start, min(start + PART_POSTS, num_posts))
        if _is_finished(file, embedding.made_from, len(rows)):
            continue
        _write_part(file, embedding, rows)
        num_made += len(rows)
        rate = num_made / max(1e-9, time.monotonic() - started)
        left = (num_posts - int(rows[-1]) - 1) / rate
        log(f"{rows[-1] + 1:,} of {num_posts:,} posts embedded, {rate:,.0f} a second, {left:,.0f} s to go")
    if num_made < num_posts:
        log(f"{num_posts - num_made:,} of {num_posts:,} posts had been embedded before")
    return files


def _write_part(file: Path, embedding: _Embedding, rows: NDArray[np.int64]) -> None:
    vectors = embedding.embed(*embedding.tags_of(rows)).astype(np.float16)
    packed, schema = embedding.packed, vectors_schema(vectors.shape[1])
    columns = [
        pa.array(packed.post_id[rows]),
        pa.array(np.array(RATINGS)[packed.rating[rows]]),
        pa.array(packed.score[rows]),
        pa.FixedSizeListArray.from_arrays(pa.array(vectors.reshape(-1)), type=schema.field("vector").type),
    ]
    partial = file.with_suffix(f".{os.getpid()}")  # nothing breaks where two processes do the same
    table = pa.Table.from_arrays(columns, schema=schema.with_metadata({_MADE_FROM: embedding.made_from}))
    # Vectors hardly shrink; a part is read as a whole.
    pq.write_table(table, partial, compression={"vector": "none", "post_id": "zstd", "rating": "zstd", "score": "zstd"})
    os.replace(partial, file)


def _is_finished(file: Path, made_from: str, num_posts: int) -> bool:
    try:
        footer = pq.read_metadata(file)
    except (FileNotFoundError, pa.ArrowInvalid):
        return False
    return (footer.metadata or {}).get(_MADE_FROM) == made_from.encode() and footer.num_rows == num_posts


def _digest(file: Path) -> bytes:
    with file.open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").digest()
