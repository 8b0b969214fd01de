"""How well do linear probes predict rating and score from booru-embed's embedding and from PPMI-SVD?

No available corpus has real ratings and scores, so posts are generated. Each post is about two of 48 topics of 40 tags.
Topics have typical ratings, and topics and artists have a popularity. These and noise determine rating and score. A
model is trained on the posts, and the evaluation's probes are fitted to its embeddings. This takes a few CPU minutes.

``metadata_weight`` is 1 instead of the default 0.2, because an artist's effect on the score is learned only from the
score (docs/log.md).
"""

from __future__ import annotations

import csv
import tempfile
import time
from dataclasses import asdict
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch

from benchmarks._results import write
from booru_embed_core.evaluation.probes import run_probes
from booru_embed_core.evaluation.scorers import model_scorers
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.schema import RATINGS
from booru_embed_core.settings import (
    DuckdbSettings,
    EvaluationSettings,
    ModelSettings,
    PostsSettings,
    TokensSettings,
    TrainingSettings,
    VocabSettings,
)
from booru_embed_core.tags.build import build_vocab, save_vocab
from booru_embed_core.tags.frequency import count_tags
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.encode import encode_posts
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_core.training.checkpoint import load_checkpoint
from booru_embed_core.training.loop import train

NUM_POSTS: Final = 20_000
NUM_TOPICS: Final = 48
TAGS_OF_A_TOPIC: Final = 40
NUM_ARTISTS: Final = 300
NUM_COMMON: Final = 60
SEED: Final = 7
HEADER: Final = ("id", "rating", "score", "tag_string_general", "tag_string_artist", "tag_string_copyright")
OTHERS: Final = ("tag_string_character", "tag_string_meta")


def write_posts(path: Path, num_posts: int, seed: int) -> None:
    """Writes an export of `num_posts` posts, determined by `seed`."""
    numbers = np.random.default_rng(seed)
    leanings = 1.5 * numbers.standard_normal((NUM_TOPICS, len(RATINGS)))
    liked, standing = numbers.standard_normal(NUM_TOPICS), numbers.standard_normal(NUM_ARTISTS)
    shares = 0.6 / np.sqrt(1 + np.arange(TAGS_OF_A_TOPIC))  # of the posts about a topic
    commonness = 0.4 / np.sqrt(1 + np.arange(NUM_COMMON))
    with path.open("w", encoding="utf-8", newline="") as stream:
        out = csv.writer(stream, lineterminator="\n")
        out.writerow([*HEADER, *OTHERS])
        for post_id in range(1, num_posts + 1):
            topics = numbers.choice(NUM_TOPICS, 2, replace=False)
            artist = int(NUM_ARTISTS * numbers.random() ** 2)
            rating = int(np.argmax(leanings[topics].sum(0) + numbers.gumbel(size=len(RATINGS))))
            worth = liked[topics].sum() + standing[artist] + numbers.standard_normal()
            tags = [f"common_{tag}" for tag in np.flatnonzero(numbers.random(NUM_COMMON) < commonness)]
            for topic in topics:
                own = np.flatnonzero(numbers.random(TAGS_OF_A_TOPIC) < shares)
                tags += [f"topic_{topic}_{tag}" for tag in own]
            series = f"series_{topics[0] // 4}" if numbers.random() < 0.5 else ""
            score = int(np.exp(2 + 0.4 * rating + 0.6 * worth))
            out.writerow([post_id, RATINGS[rating], score, " ".join(tags), f"artist_{artist}", series, "", ""])


def prepare(folder: Path, num_posts: int) -> tuple[PackedFile, Vocab]:
    """Writes the packed file and the vocabulary of `num_posts` posts into `folder`."""
    export, resources = folder / "posts.csv", DuckdbSettings()
    write_posts(export, num_posts, SEED)
    for name in ("posts", "freq", "vocab", "packed"):
        (folder / name).mkdir()
    read_posts([export], folder / "posts", PostsSettings(), resources)
    count_tags(folder / "posts", folder / "freq", resources)
    vocab = build_vocab(folder / "freq", VocabSettings(keep_percentile=100.0))
    save_vocab(vocab, folder / "vocab")
    encode_posts(folder / "posts", vocab, folder / "packed", TokensSettings())
    return PackedFile.open(folder / "packed" / PACKED_FILE, vocab.hash), vocab


def measure(folder: Path, num_posts: int, model: ModelSettings, training: TrainingSettings) -> dict[str, Any]:
    """Trains a model in `folder` and returns sizes, CPU seconds and the probes' figures."""
    packed, vocab = prepare(folder, num_posts)
    checkpoint = folder / "checkpoint"
    checkpoint.mkdir()
    started = time.process_time()
    train(packed.path, folder / "vocab", folder / "work", checkpoint, model, training)
    cpu_seconds = time.process_time() - started
    trained = load_checkpoint(checkpoint)[0]
    found = run_probes(model_scorers(trained), packed, vocab, EvaluationSettings(), print)
    return {
        "num_posts": packed.num_posts,
        "num_tags": vocab.num_tags,
        "tokens_a_post": packed.num_tokens / packed.num_posts,
        "num_epochs": training.num_epochs,
        "metadata_weight": training.metadata_weight,
        "training_cpu_seconds": round(cpu_seconds, 1),
        "probes": {target: asdict(result) for target, result in found.items()},
    }


def main() -> None:
    """Prints the figures and writes them to ``results/probes.json``."""
    training = TrainingSettings(num_epochs=3, device="cpu", metadata_weight=1.0)
    with tempfile.TemporaryDirectory() as folder:
        figures = measure(Path(folder), NUM_POSTS, ModelSettings(), training)
    write("probes", {"threads": torch.get_num_threads(), **figures})
