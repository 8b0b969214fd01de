"""Whole posts from records without implied tags.

A record of ``[tokens] drop_implied`` holds the tags that no other tag of the post implies. Implications of the posts
have exceptions: a few posts with ``witch_hat`` lack ``hat``. ``absent.npy`` beside the packed file lists them, uint32
``[num_absent, 2]``: row and tag index, ascending. So a post is its record, what that implies, and not what is absent:

    post: dress, witch_hat, hat    record: dress, witch_hat    implied: hat    absent: none
    post: dress, witch_hat         record: dress, witch_hat    implied: hat    absent: hat
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import NUM_CATEGORIES
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import PackedFile, PackedFileError, record_lengths

ABSENT_FILE: Final = "absent.npy"
_REMEDY: Final = "materialize packed_tokens again"


@dataclass(frozen=True)
class Reduced:
    """Tag sets without implied tags.

    Attributes:
        keep: which tags stay, bool ``[T]``.
        absent: set and tag index of the implied tags that a set lacks, int64 ``[num_absent, 2]``, ascending.
    """

    keep: NDArray[np.bool_]
    absent: NDArray[np.int64]


def reduce_sets(implications: Implications, tags: NDArray[np.integer], lengths: NDArray[np.int64]) -> Reduced:
    """The sets of tag indices `tags` ``[T]``, of `lengths` ``[n]``, without implied tags; nothing is lost."""
    keep = implications.is_kept(tags, lengths)
    sets = np.repeat(np.arange(len(lengths)), lengths)
    implied, num_implied = implications.effects_of_each(tags[keep])
    expected = np.unique(np.repeat(sets[keep], num_implied) * implications.num_tags + implied)
    missing = np.setdiff1d(expected, sets * implications.num_tags + tags, assume_unique=True)
    return Reduced(keep, np.stack(np.divmod(missing, max(1, implications.num_tags)), axis=1))


def restore_sets(
    implications: Implications, tags: NDArray[np.integer], lengths: NDArray[np.int64], absent: NDArray[np.integer]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """What `reduce_sets` was given, each set ascending: tag indices ``[T]`` and lengths ``[n]``."""
    num_tags = max(1, implications.num_tags)
    sets = np.repeat(np.arange(len(lengths)), lengths)
    implied, num_implied = implications.effects_of_each(tags)
    every = np.union1d(sets * num_tags + tags, np.repeat(sets, num_implied) * num_tags + implied)
    whole = np.setdiff1d(every, absent[:, 0].astype(np.int64) * num_tags + absent[:, 1], assume_unique=True)
    return whole % num_tags, np.bincount(whole // num_tags, minlength=len(lengths))


def write_absent(absent: NDArray[np.integer], out_dir: Path) -> None:
    """Writes ``absent.npy`` beside the packed file in `out_dir`."""
    np.save(out_dir / ABSENT_FILE, absent.astype(np.uint32))


def whole_tags(
    packed: PackedFile, vocab: Vocab, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """All tags of the posts `rows`, as tag indices ``[T]``, and their numbers ``[n]``, with implied tags restored.

    Raises:
        PackedFileError: the file was made with another vocabulary or other implications, or ``absent.npy`` is missing.
    """
    tags, lengths = _stored_tags(packed, vocab, rows)
    if packed.implications_sha256 is None:
        return tags, lengths
    if packed.implications_sha256 != vocab.implications.sha256:
        raise PackedFileError(f"{packed.path}: was made with other implications than those of the vocab; {_REMEDY}")
    absent = read_absent(packed)
    first, last = (np.searchsorted(absent[:, 0], rows, side=side) for side in ("left", "right"))
    counts = last - first
    ends = np.cumsum(counts)
    places = np.repeat(first - (ends - counts), counts) + np.arange(counts.sum())
    own = np.stack([np.repeat(np.arange(len(rows)), counts), absent[places, 1]], axis=1)
    return restore_sets(vocab.implications, tags, lengths, own)


def read_absent(packed: PackedFile) -> NDArray[np.uint32]:
    """Row and tag index of what the posts of `packed` lack, uint32 ``[num_absent, 2]``."""
    file = packed.path.with_name(ABSENT_FILE)
    try:
        absent = np.load(file, allow_pickle=False)
    except FileNotFoundError:
        raise PackedFileError(f"{file}: no such file; {_REMEDY}") from None
    except ValueError:
        raise PackedFileError(f"{file}: damaged; {_REMEDY}") from None
    if absent.dtype != np.uint32 or absent.ndim != 2 or absent.shape[1] != 2:
        raise PackedFileError(f"{file}: {absent.dtype} {absent.shape} instead of uint32 [n, 2]; {_REMEDY}")
    return np.asarray(absent)


def whole_packed(packed: PackedFile, vocab: Vocab) -> PackedFile:
    """`packed` with whole posts, in memory; itself where it lacks nothing.

    Raises:
        PackedFileError: as `whole_tags`.
    """
    if packed.implications_sha256 is None:
        return packed
    tags, lengths = whole_tags(packed, vocab, np.arange(packed.num_posts))
    sets = np.repeat(np.arange(len(lengths)), lengths)
    fields = np.bincount(sets * NUM_CATEGORIES + vocab.categories[tags], minlength=NUM_CATEGORIES * len(lengths))
    field_lengths = fields.reshape(-1, NUM_CATEGORIES).astype(np.uint16)
    tokens = vocab.local_ids[tags]
    offsets = np.concatenate([np.zeros(1, np.uint64), np.cumsum(record_lengths(field_lengths), dtype=np.uint64)])
    return PackedFile(
        path=packed.path,
        tokens=tokens.astype(np.uint16) if packed.tokens.dtype == np.uint16 else tokens.astype(np.uint32),
        offsets=offsets,
        field_lengths=field_lengths,
        post_id=packed.post_id,
        rating=packed.rating,
        score=packed.score,
        vocab_hash=packed.vocab_hash,
        split_settings=packed.split_settings,
    )


def _stored_tags(
    packed: PackedFile, vocab: Vocab, rows: NDArray[np.int64]
) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The tags of the records `rows`, as tag indices, and their numbers."""
    packed.check_vocab(vocab)
    fields = packed.field_lengths[rows]
    lengths = record_lengths(fields).astype(np.int64)
    ends = np.cumsum(lengths)
    places = np.repeat(packed.offsets[rows].astype(np.int64) - (ends - lengths), lengths) + np.arange(lengths.sum())
    tokens = packed.tokens[places]
    packed.check_local_ids(tokens, fields, vocab)
    starts = np.tile(vocab.category_offsets[:-1] - vocab.num_special, len(rows))
    return np.repeat(starts, fields.ravel()) + tokens, lengths
