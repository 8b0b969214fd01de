"""Compares percentiles of the vocabulary's cut: for each one a vocabulary, a short training, and its recall.

All vocabularies get the same questions. Some tags of each validation post are hidden, with or without a token; the
choice depends only on post and tag. There are two figures:

    recall of any tag   hits / min(k, hidden tags): a hidden tag without a token is a miss
    recall within       hits / min(k, hidden tags that have a token), over the posts that hide such a tag

Recall of any tag is comparable between vocabularies. Recall within favours a small vocabulary, whose hidden tags are
the frequent ones and which has fewer tags to rank: with one tag it is always 1. A model sees the visible tags that have
a token, so a small vocabulary also sees less, as it will in use. With the vocabulary {1girl, solo}, k = 10 and one tag
of each post hidden:

    post 11: 1girl solo hat   hidden: hat     without a token: a miss, not counted in "within"
    post 12: 1girl solo bow   hidden: solo    found: recall of any tag 1/2, within 1/1

Posts come from the validation split, so the choice of a percentile does not use the test split.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol

import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.evaluation.baselines import Scorer
from booru_embed_core.evaluation.metrics import rank_hidden
from booru_embed_core.evaluation.scorers import BottleneckScorer, PooledStates
from booru_embed_core.evaluation.tasks import HIDES, HeldOut, hold_out, sample_rows
from booru_embed_core.filesystem import atomic_file
from booru_embed_core.json_files import Count, JsonModel, read_json
from booru_embed_core.posts.arrow import schema_of
from booru_embed_core.settings import Settings, VocabSettings
from booru_embed_core.tags.build import build_vocab, save_vocab
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.batches import rows_of_split
from booru_embed_core.tokens.cooccurrence import CaptionMatrix, caption_matrix, captions_from_packed
from booru_embed_core.tokens.encode import EncodeReport, encode_posts
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_core.training.checkpoint import encoder_config, load_checkpoint
from booru_embed_core.training.hardware import pick_device, pick_dtype
from booru_embed_core.training.plan import plan_training

K: Final = 10
SWEEP_SCHEMA: Final = schema_of(
    {
        "percentile": pa.float64(),
        "vocab_size": pa.int64(),
        "coverage": pa.float64(),
        "num_tokens": pa.int64(),
        "packed_bytes": pa.int64(),
        "num_parameters": pa.int64(),
        "flops_per_epoch": pa.float64(),
        "seconds_per_epoch": pa.float64(),
        "recall_one": pa.float64(),
        "recall_half": pa.float64(),
        "recall_one_within": pa.float64(),
        "recall_half_within": pa.float64(),
    }
)
"""``coverage`` is the share of tag uses that are kept. ``recall_*`` is recall@10 of the embedding, with one tag or half
of the tags hidden. ``seconds_per_epoch`` depend on the machine's other load, ``flops_per_epoch`` do not."""

_ALL_TAGS: Final = VocabSettings(keep_percentile=100.0, min_count=1)


class _Row(JsonModel):
    """A finished percentile, as it is kept on disk."""

    vocab_size: Count
    coverage: float
    num_tokens: Count
    packed_bytes: Count
    num_parameters: Count
    flops_per_epoch: float
    seconds_per_epoch: float
    recall_one: float
    recall_half: float
    recall_one_within: float
    recall_half_within: float


class Train(Protocol):
    """Trains on a packed file, writes a checkpoint and returns the seconds that it took."""

    def __call__(self, packed_path: Path, vocab_dir: Path, work_dir: Path, out_dir: Path) -> float:
        """`work_dir` holds the states to resume from; `out_dir` is an empty folder."""


@dataclass(frozen=True, eq=False)
class Questions:
    """Held-out tasks on all tags of validation posts, the same for every vocabulary.

    The captions' columns are those of `vocab`, which has a token for each tag of the posts.
    """

    vocab: Vocab
    held_outs: dict[str, HeldOut]


def sweep_percentiles(
    posts_dir: Path,
    freq_dir: Path,
    work_dir: Path,
    settings: Settings,
    percentiles: Sequence[float],
    train: Train,
    report: Callable[[str], None] = lambda _: None,
) -> pa.Table:
    """A table of `SWEEP_SCHEMA` with a row for each of `percentiles`, ascending.

    A percentile replaces ``[vocab] keep_percentile``; a category's own value stays. Percentiles are processed one at a
    time and finished ones are kept in `work_dir`. After an interruption, finished percentiles are skipped and an
    interrupted training resumes. Two percentiles that keep the same tags are trained once.

    Args:
        posts_dir: the posts.
        freq_dir: their tag frequencies.
        work_dir: a folder for these inputs and settings only.
        settings: cut, splits, network and training; ``[training] num_epochs`` sets the length of a training.
        percentiles: in (0, 100].
        train: runs a training, in this process or another.
        report: called with a line for each percentile.

    Raises:
        VocabError: a percentile keeps no tag.
        ValueError: no validation post has two tags.
    """
    questions: Questions | None = None
    rows = []
    for percentile in sorted(set(percentiles)):
        cut = VocabSettings.model_validate(settings.vocab.model_dump() | {"keep_percentile": percentile})
        vocab = build_vocab(freq_dir, cut, report)
        folder = work_dir / vocab.hash[:16]
        done = folder / "row.json"
        if not done.exists():
            questions = questions or ask(posts_dir, freq_dir, work_dir, settings)
            row = _try_vocab(vocab, posts_dir, folder, settings, questions, train)
            with atomic_file(done) as partial:
                partial.write_text(json.dumps(row), encoding="utf-8")
        rows.append({"percentile": percentile, **read_json(done, _Row, ValueError, "remove it").model_dump()})
        report(_line(rows[-1]))
    return pa.Table.from_pylist(rows, schema=SWEEP_SCHEMA)


def cheapest_good(table: pa.Table, margin: float = 0.01) -> float:
    """The lowest percentile whose recall of any tag, with half hidden, is at most `margin` below the best.

    The default is .01, because two trainings that differ only in their seed may differ by .005.
    """
    percentiles, recalls = table["percentile"].to_numpy(), table["recall_half"].to_numpy()
    return float(percentiles[recalls >= recalls.max() - margin].min())


def ask(posts_dir: Path, freq_dir: Path, work_dir: Path, settings: Settings) -> Questions:
    """The questions on at most ``[evaluation] max_posts`` validation posts.

    Raises:
        ValueError: no validation post has two tags.
    """
    every = build_vocab(freq_dir, _ALL_TAGS, lambda _: None)
    folder = _empty(work_dir / "all_tags")
    encode_posts(posts_dir, every, folder, settings.tokens, folder)
    packed = PackedFile.open(folder / PACKED_FILE, every.hash)
    rows = sample_rows(packed, "validation", settings.evaluation)
    captions, post_ids = captions_from_packed(packed, every, rows), packed.post_id[rows]
    shutil.rmtree(folder)  # POSIX keeps mapped files readable
    held_outs = {str(hide): hold_out(captions, post_ids, hide, settings.evaluation.seed) for hide in HIDES}
    if not held_outs["one"].num_posts:
        raise ValueError("no validation post has two tags; give more posts or raise [tokens] validation_share")
    return Questions(every, held_outs)


def scorer_recall(scorer: Scorer, vocab: Vocab, questions: Questions) -> dict[str, float]:
    """``recall_one``, ``recall_half`` and both ``…_within`` of a scorer with the vocabulary `vocab`.

    Raises:
        ScoreError: a score is NaN or infinite.
    """
    columns = columns_in(vocab, questions.vocab)
    found = {}
    for hide, asked in questions.held_outs.items():
        num_hidden = asked.hidden.getnnz(axis=1)
        # Not `hold_out`: the hidden tags must not depend on the vocabulary, and possibly none of them has a token.
        visible = translate(asked.visible, columns, vocab.num_tags)
        hidden = translate(asked.hidden, np.where(_known(columns, vocab), columns, -1), vocab.num_tags)
        filtered = (visible + _unknown_tokens(vocab, asked.num_posts)).tocsr()
        (ranked,) = rank_hidden(scorer, [HeldOut(visible, hidden, filtered, asked.post_index)])
        rows = np.repeat(np.arange(asked.num_posts), np.diff(hidden.indptr))
        hits = np.bincount(rows[ranked.ranks <= K], minlength=asked.num_posts)
        num_within = np.diff(hidden.indptr)
        is_within = num_within > 0
        found[f"recall_{hide}"] = float((hits / np.minimum(K, num_hidden)).mean())
        within = hits[is_within] / np.minimum(K, num_within[is_within])
        found[f"recall_{hide}_within"] = float(within.mean()) if len(within) else 0.0
    return found


def columns_in(vocab: Vocab, every: Vocab) -> NDArray[np.int64]:
    """The tag index in `vocab` of each tag of `every`, int64 ``[every.num_tags]``.

    A tag without a token maps to the unknown token of its category, or to -1 if there is none.
    """
    indices = {tag: index for index, tag in enumerate(zip(vocab.categories.tolist(), vocab.tags, strict=True))}
    unknown = {int(vocab.categories[index]): int(index) for index in np.flatnonzero(vocab.is_unknown)}
    tags = zip(every.categories.tolist(), every.tags, strict=True)
    found = (indices.get((category_id, tag), unknown.get(category_id, -1)) for category_id, tag in tags)
    return np.fromiter(found, np.int64, every.num_tags)


def translate(captions: CaptionMatrix, columns: NDArray[np.int64], num_tags: int) -> CaptionMatrix:
    """`captions` with column c moved to ``columns[c]``, or dropped if that is -1, ``[num_posts, num_tags]``."""
    moved = columns[captions.indices]
    rows = np.repeat(np.arange(captions.shape[0]), np.diff(captions.indptr))
    # Several tags can map to one unknown token, which counts once.
    pairs = np.unique(rows[moved >= 0] * num_tags + moved[moved >= 0])
    indptr = np.concatenate(([0], np.cumsum(np.bincount(pairs // num_tags, minlength=captions.shape[0]))))
    return caption_matrix(pairs % num_tags, indptr, num_tags)


def _try_vocab(
    vocab: Vocab, posts_dir: Path, folder: Path, settings: Settings, questions: Questions, train: Train
) -> dict[str, Any]:
    """The row of `vocab`, all of `SWEEP_SCHEMA` but the percentile; only training states survive an interruption."""
    made = _empty(folder / "made")
    vocab_dir, packed_dir, out_dir = (_empty(made / name) for name in ("vocab", "packed_tokens", "checkpoint"))
    save_vocab(vocab, vocab_dir)
    encoded = encode_posts(posts_dir, vocab, packed_dir, settings.tokens, made)
    packed_path = packed_dir / PACKED_FILE
    row = _costs(PackedFile.open(packed_path, vocab.hash), vocab, encoded, settings)
    seconds = train(packed_path, vocab_dir, folder / "states", out_dir)
    model = load_checkpoint(out_dir, pick_device(settings.training.device))[0]
    row |= scorer_recall(BottleneckScorer(PooledStates(model)), vocab, questions)
    shutil.rmtree(made)
    shutil.rmtree(folder / "states", ignore_errors=True)
    return row | {"seconds_per_epoch": seconds / settings.training.num_epochs}


def _costs(packed: PackedFile, vocab: Vocab, encoded: EncodeReport, settings: Settings) -> dict[str, Any]:
    lengths = np.diff(packed.offsets).astype(np.int64)[rows_of_split(packed, "train")]
    device = pick_device(settings.training.device)
    dtype = pick_dtype(settings.training.precision, device)
    config = encoder_config(vocab, settings.model)
    plan = plan_training(config, settings.training, lengths, dtype, device.type == "cuda", vocab.counts)
    kept = sum(encoded.kept_uses.values())
    lost = sum(encoded.dropped_uses.values()) + sum(encoded.unknown_uses.values())
    return {
        "vocab_size": vocab.num_tags - int(vocab.is_unknown.sum()),
        "coverage": kept / max(1, kept + lost),
        "num_tokens": encoded.num_tokens,
        "packed_bytes": encoded.file_bytes,
        "num_parameters": plan.num_parameters,
        "flops_per_epoch": plan.flops * plan.num_steps_of_epoch,
    }


def _known(columns: NDArray[np.int64], vocab: Vocab) -> NDArray[np.bool_]:
    known: NDArray[np.bool_] = (columns >= 0) & ~vocab.is_unknown[columns]
    return known


def _unknown_tokens(vocab: Vocab, num_posts: int) -> CaptionMatrix:
    unknown = np.flatnonzero(vocab.is_unknown)
    indptr = np.arange(num_posts + 1) * len(unknown)
    return caption_matrix(np.tile(unknown, num_posts), indptr, vocab.num_tags)


def _line(row: dict[str, Any]) -> str:
    return (
        f"percentile {row['percentile']:g}: {row['vocab_size']:,} tags, {row['coverage']:.2%} of uses, "
        f"{row['seconds_per_epoch']:,.1f} s an epoch; recall@{K} of any tag, half hidden, {row['recall_half']:.3f}"
    )


def _empty(folder: Path) -> Path:
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    return folder
