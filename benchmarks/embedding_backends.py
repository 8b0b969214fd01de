"""Measures numpy, torch and `auto`: from the start of a process to a completion, and to the vectors of some captions.

Each figure is the CPU time of a process of its own, its start included; the builds and the backends take turns, and
the median of the rounds counts. Captions are sets of 15 tags in mean, drawn by frequency, and read as text.

``python -m benchmarks.embedding_backends CHECKPOINT [LARGE] [--before REVISION]``: a checkpoint, one of 131,072 tags
(untrained, made here if it is not given), and the revision that the start is compared with.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np

from benchmarks._builds import ROOT, cpu_seconds, unpack
from booru_embed_core.tags.vocab import Vocab

BEFORE: Final = "1b2652f"
ROUNDS: Final = 5
SIZES: Final = (1, 10, 1000, 100_000)
BACKENDS: Final = ("numpy", "torch", "auto")
MAX_OVER_BEST: Final = 1.2
"""What `auto` may cost over the faster backend."""
MAX_START_SECONDS: Final[Mapping[str, float]] = {"sample": 0.5, "131,072 tags": 1.0, "import": 0.3}
_MANY: Final = 10_000
"""Captions that are embedded once, and not in every round."""
_COMPLETE: Final = "from booru_embed_core.cli.main import main; main()"
_IMPORT: Final = "import booru_embed_core"
_NAME: Final = "from booru_embed_core import BooruEmbedder"
_EMBED: Final = """
import json, sys
from booru_embed_core import BooruEmbedder
captions = json.load(open(sys.argv[2], encoding="utf-8"))
BooruEmbedder.load(sys.argv[1], backend=sys.argv[3]).embed(captions)
"""
_LOAD: Final = """
import sys, time
from booru_embed_core import BooruEmbedder
import booru_embed_core.embedder.numpy_network
if sys.argv[2] == "torch":
    import booru_embed_core.embedder.torch_network
started = time.process_time()
BooruEmbedder.load(sys.argv[1], backend=sys.argv[2], precision="fp32")
print(time.process_time() - started)
"""


def alternated(ways: Mapping[str, Callable[[], float]], rounds: int) -> dict[str, float]:
    """The median of each way's seconds; the ways take turns."""
    found: dict[str, list[float]] = {name: [] for name in ways}
    for _ in range(rounds):
        for name, seconds in ways.items():
            found[name].append(seconds())
    return {name: round(statistics.median(values), 3) for name, values in found.items()}


def start(checkpoints: Mapping[str, Path], caption: str, before: Path, rounds: int) -> dict[str, dict[str, float]]:
    """CPU seconds to a completion of `caption`, and of the import, with the build `before` and this one."""
    cases = {name: (_COMPLETE, "complete", caption, "-c", str(folder)) for name, folder in checkpoints.items()}
    cases |= {"import": (_IMPORT,), "import of BooruEmbedder": (_NAME,)}
    builds = {"before": before, "now": ROOT}
    return {
        name: alternated(
            {which: lambda build=build, given=given: cpu_seconds(given, build)[0] for which, build in builds.items()},
            rounds,
        )
        for name, given in cases.items()
    }


def captions_of(vocab: Vocab, num: int, seed: int = 0) -> list[str]:
    """`num` captions of tags drawn by frequency."""
    numbers = np.random.default_rng(seed)
    shares = vocab.counts.clip(1) / vocab.counts.clip(1).sum()
    lengths = numbers.poisson(15, num)
    tags = numbers.choice(vocab.num_tags, int(lengths.sum()), p=shares)
    return [", ".join(vocab.tags[tag] for tag in set(row.tolist())) for row in np.split(tags, np.cumsum(lengths)[:-1])]


def matrix(checkpoint: Path, sizes: Sequence[int], rounds: int, folder: Path) -> dict[str, dict[str, float]]:
    """By number of captions, the CPU seconds of each backend, and those of `auto` over the faster one's."""
    vocab, found = Vocab.load(checkpoint), {}
    for size in sizes:
        file = folder / "captions.json"
        file.write_text(json.dumps(captions_of(vocab, size)), encoding="utf-8")
        given = {name: (_EMBED, str(checkpoint), str(file), name) for name in BACKENDS}
        ways = {name: lambda given=given[name]: cpu_seconds(given)[0] for name in BACKENDS}
        seconds = alternated(ways, 1 if size > _MANY else rounds)
        found[f"{size}"] = {**seconds, "auto_over_best": round(seconds["auto"] / min(seconds.values()), 3)}
        print(size, found[f"{size}"], flush=True)
    return found


def largest_difference(checkpoint: Path, num: int = _MANY) -> dict[str, float]:
    """The largest difference of a number between numpy and torch in float32, over `num` captions."""
    from booru_embed_core.embedder.embedder import BooruEmbedder

    by = [BooruEmbedder.load(checkpoint, "cpu", "fp32", backend) for backend in ("numpy", "torch")]
    captions = captions_of(by[0].vocab, num, 1)
    vectors = [embedder.embed(captions) for embedder in by]
    few = captions[: num // 10]
    shares = [np.stack([embedder.probabilities(caption) for caption in few]) for embedder in by]
    return {
        "captions": num,
        "embeddings": float(np.abs(vectors[0] - vectors[1]).max()),
        "completed_captions": len(few),
        "probabilities": float(np.abs(shares[0] - shares[1]).max()),
    }


def light(checkpoint: Path, tokens: Path | None, num_posts: int, rounds: int, folder: Path) -> dict[str, Any]:
    """By precision, the size of the weights, seconds to load them and to complete, and the recall that is lost."""
    from functools import partial

    from booru_embed_core.embedder.backend import load_network
    from booru_embed_core.export.formats import CheckpointSource, export
    from booru_embed_core.export.quantization_loss import quantization_loss
    from booru_embed_core.schema import ExportFormat
    from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE, read_config
    from booru_embed_core.training.weights_layout import Precision

    folders, vocab = {"float32": checkpoint}, Vocab.load(checkpoint)
    for precision in (Precision.HALF, Precision.INT8):
        folders[precision.value] = folder / precision.value
        export(ExportFormat.LIGHT, CheckpointSource.open(checkpoint, precision=precision), folders[precision.value])
    found: dict[str, Any] = {name: {"bytes": (at / WEIGHTS_FILE).stat().st_size} for name, at in folders.items()}
    for backend in ("numpy", "torch"):
        ways = {
            name: lambda at=at, backend=backend: float(cpu_seconds((_LOAD, str(at), backend))[1])
            for name, at in folders.items()
        }
        for name, seconds in alternated(ways, rounds).items():
            found[name][f"load_seconds_{backend}"] = seconds
    caption = vocab.tags[0]
    ways = {
        name: lambda at=at: cpu_seconds((_COMPLETE, "complete", caption, "-c", str(at)))[0]
        for name, at in folders.items()
    }
    for name, seconds in alternated(ways, rounds).items():
        found[name]["complete_seconds"] = seconds
    if tokens is not None:
        loads = {name: partial(load_network, at, read_config(at), "cpu", "fp32") for name, at in folders.items()}
        for name in ("half", "int8"):
            loss = quantization_loss(loads["float32"], loads[name], tokens, vocab, num_posts)
            found[name]["recall"] = {metric: one._asdict() for metric, one in loss.recall.items()}
            found["posts"] = loss.num_posts
    return found


def large_checkpoint(checkpoint: Path, folder: Path, num_tags: int = 131_072) -> Path:
    """An untrained checkpoint of `num_tags`: those of `checkpoint`, then numbered ones."""
    import torch

    from benchmarks.embedding import untrained_embedder
    from booru_embed_core.embedder.torch_network import TorchNetwork
    from booru_embed_core.settings import ModelSettings
    from booru_embed_core.tags.build import save_vocab
    from booru_embed_core.training.checkpoint import save_checkpoint

    small = Vocab.load(checkpoint)
    is_general = small.categories == 0
    names = [tag for tag, known in zip(small.tags, is_general, strict=True) if known]
    names += [f"tag_{number}_(of_the_benchmark)" for number in range(num_tags - len(names))]
    counts = np.sort(np.concatenate([small.counts[is_general], np.full(num_tags - int(is_general.sum()), 5)]))[::-1]
    vocab = Vocab(tuple(names), np.zeros(num_tags, np.uint8), counts.astype(np.int64))
    made, out = folder / "vocab", folder / "large"
    for one in (made, out):
        one.mkdir()
    save_vocab(vocab, made)
    untrained = untrained_embedder(vocab, ModelSettings(), "cpu", torch.float32)
    assert isinstance(untrained.network, TorchNetwork)
    save_checkpoint(out, untrained.network.model, untrained.config, made)
    return out


def main(
    checkpoint: Path,
    large: Path | None,
    before: str,
    rounds: int,
    sizes: Sequence[int],
    num_posts: int,
    only_start: bool = False,
) -> None:
    """Prints the figures and writes them; with `only_start`, those of the start, beside the others as they are."""
    from benchmarks._results import RESULTS, about, write

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        unpack(before, folder / "before")
        large = large or large_checkpoint(checkpoint, folder)
        figures: dict[str, Any] = {
            "before": before,
            "rounds": rounds,
            "load_average_before": round(os.getloadavg()[0], 2),
        }
        checkpoints = {"sample": checkpoint, "131,072 tags": large}
        figures["start"] = start(checkpoints, "1girl, cat ears", folder / "before", rounds)
        figures["start_commit"] = about()["commit"]
        print(figures["start"], flush=True)
        if only_start:
            file = RESULTS / "embedding_backends.json"
            file.write_text(json.dumps({**json.loads(file.read_text("utf-8")), **figures}, indent=2) + "\n", "utf-8")
            return
        figures["largest_difference"] = largest_difference(checkpoint)
        print(figures["largest_difference"], flush=True)
        tokens = _tokens_of(checkpoint)
        figures["light"] = {
            "sample": light(checkpoint, tokens, num_posts, rounds, folder / "light"),
            "131,072 tags": light(large, None, 0, rounds, folder / "light_large"),
        }
        print(figures["light"], flush=True)
        figures["matrix"] = matrix(checkpoint, sizes, rounds, folder)
    write("embedding_backends", figures)


def _tokens_of(checkpoint: Path) -> Path | None:
    """The packed file of a checkpoint's warehouse."""
    from booru_embed_core.tokens.packed_file import PACKED_FILE
    from booru_embed_core.training.checkpoint_config import read_config

    file = checkpoint.resolve().parent.parent / "packed_tokens" / read_config(checkpoint).packed_tokens / PACKED_FILE
    return file if file.exists() else None


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.embedding_backends", description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", type=Path, help="checkpoint of the sample")
    parser.add_argument("large", type=Path, nargs="?", help="checkpoint of 131,072 tags")
    parser.add_argument("--before", default=BEFORE, help="git revision to take turns with (default: %(default)s)")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds (default: %(default)s)")
    parser.add_argument("--sizes", type=int, nargs="+", default=SIZES, help="numbers of captions")
    parser.add_argument("--posts", type=int, default=5000, help="test posts for the recall that is lost")
    parser.add_argument("--only-start", action="store_true", help="measure the start again, and keep the rest")
    asked = parser.parse_args()
    given = (asked.checkpoint, asked.large, asked.before, asked.rounds, asked.sizes, asked.posts)
    main(*given, only_start=asked.only_start)
