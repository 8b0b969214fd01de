"""Does a completion ever repeat a tag of its input?

The inputs are 10,000 random sets of 0 to 256 tags as people type them: in any order, with underscores or spaces,
escaped, in capitals, with repeated and unknown tags. `BooruEmbedder.complete` completes each set.

``BOORU_EMBED_CHECKPOINT`` names the checkpoint's folder; the default is ``data/warehouse/checkpoint/current``.
"""

from __future__ import annotations

import os
import time
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks._results import write
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.results import UnknownTagsWarning

NUM_INPUTS: Final = 10_000
MAX_TAGS: Final = 256
SEED: Final = 11
_STYLES: Final = (
    lambda tag: tag,
    lambda tag: tag.replace("_", " "),
    lambda tag: tag.replace("(", r"\(").replace(")", r"\)"),
    lambda tag: tag.upper(),
)


def random_inputs(spellings: Sequence[str], num: int, seed: int) -> Iterator[str]:
    """`num` captions of 0 to `MAX_TAGS` of the tags `spellings`, some with repeated and unknown tags."""
    numbers = np.random.default_rng(seed)
    for _ in range(num):
        size = int(numbers.integers(min(MAX_TAGS, len(spellings)) + 1))
        drawn = numbers.permutation(len(spellings))[:size]
        repeated = numbers.choice(drawn, size // 4) if size else drawn
        styles = numbers.integers(len(_STYLES), size=size + len(repeated))
        tags = [_STYLES[style](spellings[tag]) for style, tag in zip(styles, [*drawn, *repeated], strict=True)]
        if size and numbers.random() < 0.5:
            tags.insert(0, f"nobody knows {numbers.integers(1000)}")
        yield "".join(f"{tag}, " for tag in tags)  # between commas, spaces are part of a tag


def count(embedder: BooruEmbedder, captions: Sequence[str]) -> dict[str, int]:
    """Counts of the tags that `complete` offers for `captions`: in total, from the input, and offered twice."""
    num_offered = num_repeated = num_twice = 0
    for caption in captions:
        offered = [(one.category, one.tag) for one in embedder.complete(caption)]
        given = embedder.tokenizer.decode(embedder.tokenizer.encode(caption).token_ids)
        num_offered += len(offered)
        num_repeated += len(set(offered) & set(given))
        num_twice += len(offered) - len(set(offered))
    return {"num_offered": num_offered, "num_repeated": num_repeated, "num_twice": num_twice}


def measure(embedder: BooruEmbedder) -> dict[str, Any]:
    """Counts over `NUM_INPUTS` random inputs, with their sizes and CPU seconds."""
    spellings = [
        spelling
        for spelling, unknown in zip(embedder.tokenizer.spellings, embedder.vocab.is_unknown, strict=True)
        if not unknown
    ]
    captions = list(random_inputs(spellings, NUM_INPUTS, SEED))
    started = time.process_time()
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnknownTagsWarning)
        found = count(embedder, captions)
    return {
        "num_inputs": NUM_INPUTS,
        "num_tags": embedder.vocab.num_tags,
        **found,
        "cpu_seconds": round(time.process_time() - started, 1),
    }


def main() -> None:
    """Prints the counts and writes them to ``results/repeats.json``."""
    checkpoint = Path(os.environ.get("BOORU_EMBED_CHECKPOINT", "data/warehouse/checkpoint/current"))
    if not checkpoint.exists():
        print(f"{checkpoint}: no such checkpoint, nothing counted; train one or set BOORU_EMBED_CHECKPOINT")
        return
    figures = measure(BooruEmbedder.load(checkpoint))
    print(", ".join(f"{name} {figure:,}" for name, figure in figures.items()))
    write("repeats", figures)
