"""Compares posts per second of `BooruEmbedder.embed` and of a sentence-transformers model of the same size.

Both read the same captions as text, tags separated by spaces, and return vectors of unit length. The peer is a BERT
with the same width, heads and blocks (the pooling block counts as one) and as many weights in its inner layers as
SwiGLU has. Each tag is one word of its vocabulary, so that sequences have the same length. Its weights are random,
which costs the same.

There are two corpora: the sample's captions, and captions of log-normal lengths (mean 35, sigma .5). With default
settings, both models embed all captions of each corpus in alternating rounds. Then each precision, and several
batch sizes of the peer, embed a tenth of the captions. Captions of the second corpus are distinct; the sample's are
repeated if there are too few. Neither side caches repetitions.

``BOORU_EMBED_CAPTIONS`` is the number of captions (100,000), ``BOORU_EMBED_ROUNDS`` that of rounds (10), and
``BOORU_EMBED_THREADS`` that of CPU threads (2). With few captions, kernels that are built for new shapes weigh more.
"""

from __future__ import annotations

import gzip
import os
import tempfile
import time
from collections.abc import Callable
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from benchmarks._results import BOORU_EMBED, display_name, write
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.posts.read_posts import read_posts
from booru_embed_core.schema import NUM_SCORE_BINS, RATINGS
from booru_embed_core.settings import (
    DuckdbSettings,
    ModelSettings,
    PostsSettings,
    TokensSettings,
    TrainingSettings,
    VocabSettings,
)
from booru_embed_core.tags.build import build_vocab
from booru_embed_core.tags.frequency import count_tags
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.checkpoint import encoder_config
from booru_embed_core.training.checkpoint_config import CheckpointConfig
from booru_embed_core.training.hardware import pick_dtype

ROUNDS = int(os.environ.get("BOORU_EMBED_ROUNDS", "10"))
MEAN_LENGTH, SIGMA = 35, 0.5
SAMPLE = Path(__file__).parent.parent / "data/sample/danbooru2017_sfw_posts.csv.gz"
BATCHES_OF_PEER = (32, 128)  # the first is its default

Way = Callable[[list[str]], NDArray[np.float32]]


def sample_vocab() -> Vocab:
    """The sample's vocabulary with the default settings."""
    with tempfile.TemporaryDirectory() as folder:
        posts_dir, freq_dir = Path(folder) / "posts", Path(folder) / "freq"
        for made in (posts_dir, freq_dir):
            made.mkdir()
        read_posts([SAMPLE], posts_dir, PostsSettings(), DuckdbSettings())
        count_tags(posts_dir, freq_dir, DuckdbSettings())
        return build_vocab(freq_dir, VocabSettings())


def sample_captions(num: int, vocab: Vocab) -> list[str]:
    """`num` captions of the sample's general tags that `vocab` knows, repeated if there are too few posts."""
    known = set(vocab.tags)
    with gzip.open(SAMPLE, "rt", encoding="utf-8") as stream:
        next(stream)
        rows = [line.split(",")[4].split(" ") for line in islice(stream, num)]
    captions = [" ".join(tag for tag in row if tag in known) for row in rows]
    return [captions[i % len(captions)] for i in range(num)]


def lognormal_captions(num: int, vocab: Vocab, seed: int = 0) -> list[str]:
    """`num` captions of log-normal lengths, with tags drawn by frequency."""
    numbers = np.random.default_rng(seed)
    lengths = numbers.lognormal(np.log(MEAN_LENGTH) - SIGMA**2 / 2, SIGMA, num).round().clip(1, 200).astype(np.int64)
    tags = np.array(vocab.tags)
    log_use = np.log(vocab.counts.clip(1))
    captions = []
    for length in lengths.tolist():
        # The largest of log-use plus Gumbel noise draw tags by use, without replacement.
        noisy = log_use + numbers.gumbel(size=len(tags))
        captions.append(" ".join(tags[np.argpartition(-noisy, min(length, len(tags) - 1))[:length]]))
    return captions


def untrained_embedder(vocab: Vocab, shape: ModelSettings, device: str, dtype: torch.dtype) -> BooruEmbedder:
    """An untrained embedder, which costs the same as a trained one."""
    config = CheckpointConfig(
        vocab_hash=vocab.hash,
        num_special=vocab.num_special,
        category_sizes=tuple(vocab.sizes.values()),
        model=shape,
        training=TrainingSettings(),
        splits=TokensSettings(),
        packed_tokens="none",
        score_bin_edges=[[float(edge) for edge in range(NUM_SCORE_BINS - 1)]] * len(RATINGS),
        trained_ratings=(),
        num_train_posts=0,
        best_epoch=0,
        validation_loss=None,
    )
    model = SetEncoder(encoder_config(vocab, shape)).eval().to(device)
    return BooruEmbedder(TorchNetwork(model, dtype), config, vocab)


def peer(
    vocab: Vocab, shape: ModelSettings, device: str, dtype: torch.dtype, batch: int = BATCHES_OF_PEER[0]
) -> Way | None:
    """A function that embeds with a sentence-transformers model; None if that is not installed."""
    try:
        from sentence_transformers import SentenceTransformer, models
        from transformers import BertConfig, BertModel, PreTrainedTokenizerFast
    except ImportError:
        return None
    from tokenizers import Tokenizer, pre_tokenizers
    from tokenizers import models as token_models

    specials = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]"]
    words = {word: i for i, word in enumerate([*specials, *dict.fromkeys(vocab.tags)])}
    tokenizer = Tokenizer(token_models.WordLevel(words, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    fast = PreTrainedTokenizerFast(
        tokenizer_object=tokenizer, pad_token="[PAD]", unk_token="[UNK]", cls_token="[CLS]", sep_token="[SEP]",
        mask_token="[MASK]", model_max_length=256,
    )  # fmt: skip
    network = BertModel(
        BertConfig(
            vocab_size=len(words),
            hidden_size=shape.width,
            num_hidden_layers=shape.num_layers + 1,
            num_attention_heads=shape.num_heads,
            intermediate_size=shape.ffn_width * 3 // 2,
            max_position_embeddings=256,
        )
    )
    with tempfile.TemporaryDirectory() as folder:
        network.save_pretrained(folder)
        fast.save_pretrained(folder)
        transformer = models.Transformer(folder, max_seq_length=256)
        pooling = models.Pooling(shape.width)
        model = SentenceTransformer(modules=[transformer, pooling], device=device).to(dtype)

    def embed(captions: list[str]) -> NDArray[np.float32]:
        found: NDArray[np.float32] = model.encode(
            captions, batch_size=batch, show_progress_bar=False, normalize_embeddings=True
        )
        return found

    return embed


def measure(ways: dict[str, Way], captions: list[str], rounds: int = ROUNDS) -> dict[str, dict[str, Any]]:
    """Posts per second of each way over all captions, by CPU and wall seconds, and the first way's speed over it.

    Ratios are of the sums over rounds; for CPU seconds, the lowest and the highest ratio of a round are included.
    """
    cpu: dict[str, list[float]] = {name: [] for name in ways}
    wall: dict[str, list[float]] = {name: [] for name in ways}
    for embed in ways.values():
        embed(captions[:256])
    for round_ in range(rounds):
        chunk = captions[round_::rounds]
        for name, embed in ways.items():
            started, started_wall = time.process_time(), time.perf_counter()
            vectors = embed(chunk)
            cpu[name].append(time.process_time() - started)
            wall[name].append(time.perf_counter() - started_wall)
            assert len(vectors) == len(chunk)
            assert np.allclose(np.linalg.norm(vectors[:100].astype(np.float32), axis=1), 1, atol=0.02), name
    first = next(iter(ways))
    ratios = {name: [b / a for a, b in zip(cpu[first], cpu[name], strict=True)] for name in ways}
    return {
        name: {
            "posts_per_cpu_second": len(captions) / sum(cpu[name]),
            "posts_per_second": len(captions) / sum(wall[name]),
            "ours_over_it": sum(cpu[name]) / sum(cpu[first]),
            "ours_over_it_rounds": [min(ratios[name]), max(ratios[name])],
            "ours_over_it_wall": sum(wall[name]) / sum(wall[first]),
        }
        for name in ways
    }


def ways_of(vocab: Vocab, shape: ModelSettings, device: str) -> dict[str, Way]:
    """All ways to embed; the default settings of each model come first."""
    ways: dict[str, Way] = {}
    native = pick_dtype("auto", torch.device(device))
    for dtype in (native, torch.float32 if native == torch.bfloat16 else torch.bfloat16):
        ways[f"{BOORU_EMBED}, {str(dtype)[6:]}"] = untrained_embedder(vocab, shape, device, dtype).embed
    for dtype in (torch.float32, torch.bfloat16):
        for batch in BATCHES_OF_PEER:
            by_peer = peer(vocab, shape, device, dtype, batch)
            if by_peer is None:
                print("sentence-transformers is not installed; only booru-embed is measured")
                return ways
            ways[f"sentence-transformers, {str(dtype)[6:]}, batches of {batch}"] = by_peer
    return ways


def main() -> None:
    """Prints a table and writes the figures."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    torch.set_num_threads(int(os.environ.get("BOORU_EMBED_THREADS", "2")))
    num = int(os.environ.get("BOORU_EMBED_CAPTIONS", "100000"))
    load = round(os.getloadavg()[0], 2)
    vocab, shape = sample_vocab(), ModelSettings()
    ways = ways_of(vocab, shape, device)
    names = list(ways)
    shipped = {name: ways[name] for name in [names[0], *names[2:3]]}
    corpora = {"sample": sample_captions(num, vocab), "log-normal": lognormal_captions(num, vocab)}
    figures: dict[str, dict[str, Any]] = {}
    for name, captions in corpora.items():
        figures[name] = {
            "captions": num,
            "mean_tags": sum(len(caption.split(" ")) for caption in captions) / num,
            "as_they_ship": measure(shipped, captions),
            "each_way": measure(ways, captions[: num // 10], 3),
        }
        for table in ("as_they_ship", "each_way"):
            for way, figure in figures[name][table].items():
                print(
                    f"  {name:12}{display_name(way):50}" + "".join(f"{key} {value}  " for key, value in figure.items()),
                    flush=True,
                )
    has_peer = len(ways) > 2
    versions = {name: version(name) for name in ("sentence-transformers", "transformers") if has_peer}
    write(
        "embedding",
        {
            "device": device,
            "rounds": ROUNDS,
            "load_average_before": load,
            "model": shape.model_dump(),
            "versions": versions,
            "not_installed": [] if has_peer else ["sentence-transformers"],
            "figures": figures,
        },
    )


if __name__ == "__main__":
    main()
