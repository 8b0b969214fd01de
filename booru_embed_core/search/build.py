"""Embeds all posts of a packed file, one Parquet part after another, and writes the folder that `PostSearch` opens.

An interrupted run resumes: the footer of each part names the weights and the packed file that it was made from, and a
part is kept if both are the same. The same holds for the parts of the index.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from booru_embed_core.disk_space import check_room, search_bytes, still_needed
from booru_embed_core.filesystem import (
    SCRATCH_PREFIX,
    atomic_file,
    file_sha256,
    move_folder,
    remove,
    removed_on_error,
    sync,
    sync_tree,
)
from booru_embed_core.model.inference import encode_sets
from booru_embed_core.outputs import check_output_folder, claimed_folder
from booru_embed_core.posts.arrow import schema_of
from booru_embed_core.schema import RATINGS
from booru_embed_core.search.folder import FORMAT_VERSION, PART_FILES, IndexMetadata, part_name, part_vectors
from booru_embed_core.search.index_file import help_to_write, write_index
from booru_embed_core.search.posts_table import POSTS_FILE, TAGS_FILE, write_posts_table
from booru_embed_core.search.vector_index import INDEX_FILE, SearchError
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.batches import read_batch
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.restored import whole_tags
from booru_embed_core.training.checkpoint import load_checkpoint
from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE
from booru_embed_core.training.distributed import ONE_RANK, Ranks
from booru_embed_core.training.hardware import pick_device, pick_dtype
from booru_embed_core.training.parts import KEPT_FILES, Parts
from booru_embed_core.vectors import unit_vectors

PART_POSTS: Final = 16_384
"""Posts per Parquet part: 15 seconds on one core."""
NUM_QUERIES: Final = 512
"""Number of queries that the index is tuned on."""
_TAG_POSTS: Final = 65_536
"""Posts whose tags are in memory at once."""
_QUERY_TAGS: Final = 4
_SEED: Final = 7
_MADE_FROM: Final = b"made_from"
_DRAFT: Final = "index"
_KEPT: Final = (
    *(name for files in (PART_FILES, KEPT_FILES) for name in (files, f"{files}.partial")),
    _DRAFT,
    f"{SCRATCH_PREFIX}*",
)
"""What an interrupted or killed run leaves; scratch folders are of booru-embed 0.2."""

Log = Callable[[str], object]


def vectors_schema(dim: int) -> pa.Schema:
    """The columns of a Parquet part: post_id, rating (a letter), score, vector (float16, unit length)."""
    vector = pa.list_(pa.field("element", pa.float16(), nullable=False), dim)
    return schema_of({"post_id": pa.int64(), "rating": pa.string(), "score": pa.int32(), "vector": vector})


class _Embedding:
    """A checkpoint on a device, and a packed file whose records it embeds."""

    def __init__(self, checkpoint_dir: Path, packed_path: Path, device: str, precision: str) -> None:
        on = pick_device(device)
        self.model, config, self.vocab = load_checkpoint(checkpoint_dir, on)
        self.practice = config.practice_note
        self.packed = PackedFile.open(packed_path, self.vocab.hash)
        self.dtype = pick_dtype(precision, on)
        sources = (checkpoint_dir / WEIGHTS_FILE, packed_path)
        self.made_from = hashlib.sha256(b"".join(bytes.fromhex(file_sha256(file)) for file in sources)).hexdigest()
        if not self.packed.num_posts:
            raise SearchError(f"{packed_path}: has no posts to search; ingest some posts")

    def tags_of(self, rows: NDArray[np.int64]) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
        """The tag indices of `rows`, concatenated, int64 ``[T]``, and the number of each row, int64 ``[n]``."""
        batch = read_batch(self.packed, rows)
        self.packed.check_local_ids(batch.tokens.numpy(), batch.field_lengths.numpy(), self.vocab)
        tags = batch.tag_indices(tuple(self.vocab.sizes.values())).numpy()
        return tags, np.diff(batch.cu_seqlens.numpy()).astype(np.int64)

    @torch.inference_mode()
    def embed(self, tags: NDArray[np.int64], lengths: NDArray[np.int64]) -> NDArray[np.float32]:
        """Embeddings float32 ``[S, E]`` of unit length, without ratings and scores, as for a query without them."""
        pooled = encode_sets(self.model, tags, lengths, dtype=self.dtype)
        return unit_vectors(self.model.embed(pooled).float().cpu().numpy())

    def queries(self) -> NDArray[np.float32]:
        """Embeddings ``[NUM_QUERIES, E]`` of captions as people type them: one to four tags of random posts."""
        generator = np.random.default_rng(_SEED)
        rows = generator.integers(0, self.packed.num_posts, NUM_QUERIES)
        tags, lengths = self.tags_of(rows)
        records = np.split(tags, np.cumsum(lengths)[:-1])
        captions = [generator.permutation(record)[: generator.integers(1, _QUERY_TAGS + 1)] for record in records]
        return self.embed(np.concatenate(captions), np.array([len(caption) for caption in captions], np.int64))


def index_posts(
    checkpoint_dir: Path,
    packed_path: Path,
    out_dir: Path,
    work_dir: Path,
    device: str = "auto",
    precision: str = "auto",
    log: Log = print,
    ranks: Ranks = ONE_RANK,
) -> IndexMetadata:
    """Writes the files that `PostSearch` opens into `out_dir`; returns their metadata.

    With several ranks the first one calls this and the others `help_to_index`. The bytes are the same for any number.

    Args:
        checkpoint_dir: folder of the model.
        packed_path: packed file of the posts, made with the checkpoint's vocabulary.
        out_dir: an existing, empty folder.
        work_dir: an existing folder that keeps finished parts, so that the same call can resume. All ranks see it.
        device: as in `BooruEmbedder.load`.
        precision: of the network, as in `BooruEmbedder.load`; vectors are always float16.
        log: receives lines of progress.
        ranks: this one and those that help.

    Raises:
        RankLostError: another rank ended; finished parts stay.
        CheckpointError, PackedFileError, VocabError: a file is damaged, or they do not belong together.
        SearchError: the packed file has no posts.
        DiskError: the disk of `out_dir` has no room for the vectors.
    """
    embedding = _agreed(_Embedding(checkpoint_dir, packed_path, device, precision), ranks)
    return _index(embedding, out_dir, work_dir, log, ranks)


def help_to_index(
    checkpoint_dir: Path,
    packed_path: Path,
    work_dir: Path,
    ranks: Ranks,
    device: str = "auto",
    precision: str = "auto",
    log: Log = print,
) -> None:
    """Does this rank's share of the work of `index_posts`, which the first of `ranks` calls with the same arguments.

    Raises:
        ValueError: as `index_posts`.
    """
    embedding = _agreed(_Embedding(checkpoint_dir, packed_path, device, precision), ranks)
    parts = embed_parts(embedding, work_dir, log, ranks)
    of_index = _index_parts(embedding, work_dir, ranks)
    help_to_write(*_indexed(embedding, parts, of_index))
    of_index.num_taken()


def _agreed(embedding: _Embedding, ranks: Ranks) -> _Embedding:
    ranks.check_agreement("the checkpoint or the packed file", embedding.made_from[:16])
    return embedding


def _index(embedding: _Embedding, out_dir: Path, work_dir: Path, log: Log, ranks: Ranks = ONE_RANK) -> IndexMetadata:
    packed, vocab = embedding.packed, embedding.vocab
    needed = search_bytes(packed.num_posts, embedding.model.config.settings.embedding_dim)
    check_room(out_dir, still_needed(needed, work_dir), "post embeddings")
    parts = [_shared(file, out_dir) for file in embed_parts(embedding, work_dir, log, ranks)]
    log("writing the posts of each tag")
    write_posts_table(out_dir, packed.post_id, packed.rating, packed.score, _tags(packed, vocab), vocab.num_tags)
    log("building the index")
    started = time.monotonic()
    of_index = _index_parts(embedding, work_dir, ranks)
    index, recall = write_index(out_dir / INDEX_FILE, *_indexed(embedding, parts, of_index))
    if num_taken := of_index.num_taken():
        log(f"{num_taken} parts of the index were finished before")
    log(
        f"index: {index.num_rows:,} posts in {index.num_lists:,} lists, recall@10 {recall:.3f} with {index.nprobe} "
        f"lists per query, {time.monotonic() - started:,.0f} s"
    )
    files = sorted([*out_dir.glob(PART_FILES), *(out_dir / name for name in (POSTS_FILE, TAGS_FILE, INDEX_FILE))])
    metadata = IndexMetadata(
        format_version=FORMAT_VERSION,
        num_posts=packed.num_posts,
        dim=index.dim,
        vocab_hash=vocab.hash,
        part_posts=PART_POSTS,
        nprobe=index.nprobe,
        recall=recall,
        index=index.kind,
        practice=embedding.practice,
        file_bytes={file.name: file.stat().st_size for file in files},
        sha256={file.name: file_sha256(file) for file in files},
    )
    metadata.write(out_dir)
    return metadata


def _index_parts(embedding: _Embedding, work_dir: Path, ranks: Ranks) -> Parts:
    return Parts(ranks, work_dir, embedding.made_from).of(str(PART_POSTS).encode())


def _indexed(
    embedding: _Embedding, files: list[Path], parts: Parts
) -> tuple[int, Callable[[], Iterator[NDArray[np.float16]]], NDArray[np.float32], Parts, int]:
    """What `write_index` and `help_to_write` are told."""
    return embedding.packed.num_posts, lambda: map(part_vectors, files), embedding.queries(), parts, len(files)


def _shared(file: Path, folder: Path) -> Path:
    """`file` in `folder`: a second name of it, which takes no room, or a copy where the disk has no such names."""
    try:
        os.link(file, folder / file.name)
    except OSError:
        shutil.copyfile(file, folder / file.name)
    return folder / file.name


def _tags(packed: PackedFile, vocab: Vocab) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """The tag indices of all posts, block after block, and the number of each post."""
    for start in range(0, packed.num_posts, _TAG_POSTS):
        yield whole_tags(packed, vocab, np.arange(start, min(start + _TAG_POSTS, packed.num_posts)))


def make_search_folder(checkpoint_dir: Path, packed_path: Path, out_dir: Path, log: Log = print) -> IndexMetadata:
    """Runs `index_posts` outside a warehouse; the new folder `out_dir` appears when it is complete.

    Finished parts are kept in ``<out_dir>.parts`` until then, so that the same call resumes after an interruption.
    Without a finished part nothing is left.

    Raises:
        SearchError: the parent of `out_dir` does not exist.
        ForeignPathError, FileExistsError: see `check_output_folder` and `claimed_folder`.
        KeyboardInterrupt: its message says what is kept.
        ValueError: as `index_posts`.
    """
    check_output_folder(out_dir, "--out")
    if not out_dir.absolute().parent.is_dir():
        raise SearchError(f"{out_dir.parent}: no such folder, for {out_dir.name}; create it first")
    embedding = _Embedding(checkpoint_dir, packed_path, "auto", "auto")  # the inputs are read before anything is made
    work_dir = out_dir.absolute().with_name(f"{out_dir.name}.parts")
    with claimed_folder(work_dir, _KEPT, "--out"):
        draft = work_dir / _DRAFT
        try:
            with removed_on_error(draft):
                remove(draft)
                draft.mkdir()
                metadata = _index(embedding, draft, work_dir, log)
                sync_tree(draft)
                move_folder(draft, out_dir)
                sync(work_dir.parent)
        except KeyboardInterrupt:
            raise KeyboardInterrupt(_kept(work_dir, out_dir)) from None
        for left in work_dir.iterdir():
            remove(left)
    return metadata


def _kept(work_dir: Path, out_dir: Path) -> str:
    num_parts = len(list(work_dir.glob(PART_FILES)))
    kept = f"up to {num_parts * PART_POSTS:,} embedded posts are kept in {out_dir}.parts: the same command goes on from"
    return f"{kept} there" if num_parts else ""


def embed_parts(embedding: _Embedding, work_dir: Path, log: Log, ranks: Ranks = ONE_RANK) -> list[Path]:
    """The Parquet parts of all posts, in `work_dir`; embeds only those that are not finished yet.

    Each of the `ranks` takes the next part that none has taken, until there are none; all return at the end.
    """
    num_posts = embedding.packed.num_posts
    files = [work_dir / part_name(number) for number in range(-(-num_posts // PART_POSTS))]
    num_made, num_kept, started = 0, 0, time.monotonic()
    for number in ranks.dealt("parts", len(files)):
        rows = np.arange(number * PART_POSTS, min((number + 1) * PART_POSTS, num_posts))
        if _is_finished(files[number], embedding.made_from, len(rows)):
            num_kept += len(rows)
            continue
        _write_part(files[number], embedding, rows)
        num_made += len(rows)
        rate = num_made * ranks.num_ranks / max(1e-9, time.monotonic() - started)
        left = (num_posts - int(rows[-1]) - 1) / rate
        log(f"{rows[-1] + 1:,} of {num_posts:,} posts embedded, {rate:,.0f} a second, {left:,.0f} s to go")
    if num_kept := int(ranks.sum(torch.tensor(num_kept))):
        log(f"{num_kept:,} of {num_posts:,} posts were embedded before")
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
    table = pa.Table.from_arrays(columns, schema=schema.with_metadata({_MADE_FROM: embedding.made_from}))
    with atomic_file(file) as partial:  # vectors hardly compress
        pq.write_table(
            table,
            partial,
            compression={"vector": "none", "post_id": "zstd", "rating": "zstd", "score": "zstd"},
            write_page_checksum=True,
        )


def _is_finished(file: Path, made_from: str, num_posts: int) -> bool:
    """Whether `file` is a whole part of these posts; one with a changed bit is not."""
    try:
        footer = pq.read_metadata(file)
        if (footer.metadata or {}).get(_MADE_FROM) != made_from.encode() or footer.num_rows != num_posts:
            return False
        return pq.read_table(file, partitioning=None, page_checksum_verification=True).num_rows == num_posts
    except (OSError, pa.ArrowException):
        return False
