"""A tiny corpus with something to learn, models of a few thousand parameters, and a checkpoint trained on it."""

from __future__ import annotations

import functools
import shutil
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch

from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.model.objective import CaptionBatch
from booru_embed_core.schema import NUM_SCORE_BINS, RATINGS, SPECIAL_TOKENS
from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_core.training.loop import TrainReport, train
from tests.core.export_helpers import csv_bytes, row, walk

# The order of sums in a product of matrices, and so the last bit, depends on the number of threads.
torch.set_num_threads(1)

TOPICS = (
    ("1girl", "cat_ears", "tail", "whiskers", "paw_pose", "bell", "collar"),
    ("1boy", "sword", "armor", "cape", "helmet", "shield", "horse"),
    ("scenery", "sky", "cloud", "tree", "river", "mountain", "no_humans"),
)
EVERYWHERE = ("solo", "smile", "standing")
ARTISTS = ("artist_a", "artist_b", "artist_c")
COPYRIGHTS = ("overwatch", "vocaloid", "original")
CHARACTERS = ("tracer_(overwatch)", "hatsune_miku", "river_spirit")
METAS = ("highres", "absurdres", "commentary")
CATEGORY_SIZES = (7, 3, 0, 4, 2)
NUM_SPECIAL = len(SPECIAL_TOKENS)


def model_settings(**values: object) -> ModelSettings:
    """A tiny network, every value named: defaults are free to change."""
    tiny = {
        "trunk": "attention",
        "width": 32,
        "num_layers": 2,
        "num_heads": 2,
        "ffn_width": 48,
        "feed_forward_first": True,
        "decoder_width": 40,
        "embedding_dim": 16,
        "matryoshka_dims": (4, 8),
        "dropout": 0.0,
    }
    return ModelSettings.model_validate({**tiny, **values})


def training_settings(**values: object) -> TrainingSettings:
    """A short training on the CPU in float32."""
    short = {
        "seed": 7,
        "num_epochs": 2,
        "batch_posts": 16,
        "learning_rate": 1e-2,
        "warmup_share": 0.1,
        "weight_decay": 0.05,
        "clip_norm": 1.0,
        "initial_vectors": "random",
        "decay": "cosine",
        "split_draws": 1,
        "whole_share": 0.5,
        "precision": "fp32",
        "device": "cpu",
        "duplicate_weight": 0.1,
        "contrastive_weight": 0.1,
        "contrastive_temperature": 0.1,
        "metadata_weight": 0.2,
        "metadata_keep_share": 0.5,
        "checkpoint_every_steps": 1000,
    }
    return TrainingSettings.model_validate({**short, **values})


def beyond_bounds(**values: object) -> TrainingSettings:
    """`training_settings` with values that a settings file may not have."""
    return training_settings().model_copy(update=values)


def encoder(category_sizes: tuple[int, ...] = CATEGORY_SIZES, seed: int = 0, **values: object) -> SetEncoder:
    """An untrained network in which no parameter is zero, so that nothing is equal for the wrong reason."""
    torch.manual_seed(seed)
    config = EncoderConfig(settings=model_settings(**values), num_special=NUM_SPECIAL, category_sizes=category_sizes)
    model = SetEncoder(config)
    with torch.no_grad():
        for parameter in model.parameters():
            if not parameter.any():
                parameter.normal_(std=0.2)
    return model.eval()


def captions(rows: list[list[int]], seed: int = 0) -> CaptionBatch:
    """Captions of tag indices, with ratings and score deciles of `seed`."""
    generator = torch.Generator().manual_seed(seed)
    return CaptionBatch(
        tags=torch.tensor([tag for tags in rows for tag in tags], dtype=torch.int64),
        lengths=torch.tensor([len(tags) for tags in rows], dtype=torch.int64),
        ratings=torch.randint(len(RATINGS), (len(rows),), generator=generator),
        score_bins=torch.randint(NUM_SCORE_BINS, (len(rows),), generator=generator),
        max_length=max((len(tags) for tags in rows), default=0),
    )


def random_captions(num: int, num_tags: int, seed: int) -> list[list[int]]:
    """Sets of up to `num_tags` - 1 different tags, some of them empty."""
    numbers = np.random.default_rng(seed)
    return [numbers.permutation(num_tags)[: numbers.integers(0, num_tags)].tolist() for _ in range(num)]


@dataclass(frozen=True)
class Corpus:
    """A vocabulary and a packed file on disk."""

    export: Path
    vocab_dir: Path
    packed_path: Path

    @property
    def vocab(self) -> Vocab:
        return Vocab.load(self.vocab_dir)

    @property
    def packed(self) -> PackedFile:
        return PackedFile.open(self.packed_path)


@dataclass(frozen=True)
class Trained:
    """A checkpoint that lies in a warehouse beside the packed file that it was trained on."""

    corpus: Corpus
    checkpoint: Path
    report: TrainReport


def topic_posts(num_posts: int, seed: int = 1) -> list[dict[str, object]]:
    """Posts about one of three topics; rating and score go with the topic."""
    numbers = np.random.default_rng(seed)

    def some(tags: tuple[str, ...], share: float) -> list[str]:
        return [tag for tag in tags if numbers.random() < share]

    posts = []
    for number in range(num_posts):
        topic = int(numbers.integers(len(TOPICS)))
        other = TOPICS[(topic + 1) % len(TOPICS)]
        rating = RATINGS[topic] if numbers.random() < 0.8 else RATINGS[3]
        posts.append(
            row(
                1000 + 3 * number,
                " ".join(some(TOPICS[topic], 0.75) + some(other, 0.05) + some(EVERYWHERE, 0.3)),
                rating=rating,
                score=int(numbers.integers(0, 10)) + 20 * topic,
                artist=" ".join(some((ARTISTS[topic],), 0.3)),
                copyright=" ".join(some((COPYRIGHTS[topic],), 0.5)),
                character=" ".join(some((CHARACTERS[topic],), 0.5)),
                meta=" ".join(some(METAS, 0.3)),
            )
        )
    return posts


@functools.cache
def corpus(base: Path) -> Corpus:
    """Three hundred posts about `TOPICS`, below the folder `base`; made once."""
    base.mkdir(parents=True)
    export = base / "posts.csv"
    export.write_bytes(csv_bytes(topic_posts(300)))
    walked = walk(export, base / "walked")
    folder = base / "warehouse" / "packed_tokens" / "v1"
    folder.mkdir(parents=True)
    shutil.copyfile(walked.packed_path, folder / PACKED_FILE)
    return Corpus(export, walked.vocab_dir, folder / PACKED_FILE)


@functools.cache
def trained(base: Path) -> Trained:
    """A checkpoint trained on `corpus` for some epochs; made once."""
    made = corpus(base)
    out_dir = base / "warehouse" / "checkpoint" / "v1"
    out_dir.mkdir(parents=True)
    settings = training_settings(num_epochs=6)
    report = train(made.packed_path, made.vocab_dir, base / "work", out_dir, model_settings(), settings)
    return Trained(made, out_dir, report)
