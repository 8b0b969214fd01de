"""Rows per second of ``booru-embed embed --file``, from Parquet to Parquet; and the time of one caption beside a peer.

The command runs as a process of its own, start included, with captions as text and as lists of tags. `without_network`
is the same work in this process with a network that answers at once: reading, looking up tags, keeping, writing.

One caption is embedded by the library as it ships, and by sentence-transformers from the same model as
``booru-embed export sentence-transformers`` writes it. They alternate, on one thread, with the same captions.

``BOORU_EMBED_CHECKPOINT`` is the checkpoint (data/warehouse), ``BOORU_EMBED_CAPTIONS`` the number of captions (8,000),
``BOORU_EMBED_BEFORE`` the checkout of a build before, which is then measured beside this one.
"""

from __future__ import annotations

import os
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from numpy.typing import NDArray

from benchmarks._builds import ROOT, cpu_seconds
from benchmarks._results import write
from benchmarks.embedding import sample_captions
from booru_embed_core.embedder.caption_files import CaptionFile, InputFormat
from booru_embed_core.embedder.embed_file import embed_file
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.job_identity import JobSettings
from booru_embed_core.embedder.locate import find_checkpoint
from booru_embed_core.embedder.network import TagSets
from booru_embed_core.export.formats import CheckpointSource, export
from booru_embed_core.schema import ExportFormat

FORMS = ("text", "lists")
ROUNDS = 2
NUM_SINGLE = 400
_MAIN = "from booru_embed_core.cli.main import main; main()"


class Instant:
    """A network that answers with ones at once."""

    def __init__(self, dim: int) -> None:
        self.dim = dim

    def embeddings(self, sets: TagSets) -> NDArray[np.float32]:
        """Float32 ones ``[n, E]``."""
        return np.ones((len(sets.lengths), self.dim), np.float32)


def write_captions(file: Path, captions: list[str], form: str) -> None:
    """Writes the columns ``id`` and ``caption``, which is text, or a list of tags."""
    column: list[Any] = [caption.split(" ") for caption in captions] if form == "lists" else captions
    pq.write_table(pa.table({"id": pa.array(range(len(captions)), pa.int64()), "caption": column}), file)


def command_seconds(checkout: Path, checkpoint: Path, file: Path, output: Path) -> float:
    """CPU seconds of the command of `checkout`, start included."""
    arguments = ["embed", "--file", str(file), "--output", str(output), "--checkpoint", str(checkpoint)]
    return cpu_seconds([_MAIN, *arguments], checkout, OMP_NUM_THREADS="1")[0]


def seconds_without_network(embedder: BooruEmbedder, file: Path, output: Path) -> float:
    """CPU seconds of the same work in this process, by `Instant`."""
    network, embedder.network = embedder.network, Instant(embedder.embedding_dim)  # type: ignore[assignment]
    started = time.process_time()
    embed_file(embedder, CaptionFile(file, InputFormat.PARQUET, None, None), output, JobSettings(on_unknown="zero"))
    embedder.network = network
    return time.process_time() - started


def file_figures(embedder: BooruEmbedder, checkpoint: Path, captions: list[str]) -> dict[str, Any]:
    """Rows per CPU second by form and build; builds alternate."""
    builds = {"now": ROOT}
    if before := os.environ.get("BOORU_EMBED_BEFORE"):
        builds["before"] = Path(before).absolute()
    figures: dict[str, Any] = {}
    with tempfile.TemporaryDirectory() as name:
        for form in FORMS:
            file, output = Path(name, f"{form}.parquet"), Path(name, "vectors.parquet")
            write_captions(file, captions, form)
            seconds: dict[str, list[float]] = {build: [] for build in builds}
            for _ in range(ROUNDS):
                for build, checkout in builds.items():
                    output.unlink(missing_ok=True)
                    seconds[build].append(command_seconds(checkout, checkpoint, file, output))
            bare = min(seconds_without_network(embedder, file, output) for _ in range(ROUNDS))
            figures[form] = {
                "rows_per_cpu_second": {build: len(captions) / min(found) for build, found in seconds.items()},
                "rounds_cpu_seconds": seconds,
                "without_network_rows_per_cpu_second": len(captions) / bare,
            }
            print(form, figures[form], flush=True)
    return figures


def single_figures(embedder: BooruEmbedder, checkpoint: Path, captions: list[str]) -> dict[str, Any]:
    """CPU milliseconds of one caption, by the library and by sentence-transformers from the same model."""
    from sentence_transformers import SentenceTransformer

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name, "exported")
        export(ExportFormat.SENTENCE_TRANSFORMERS, CheckpointSource.open(checkpoint), folder)
        model = SentenceTransformer(str(folder), device="cpu")
        light = BooruEmbedder.load(checkpoint, backend="numpy")  # what the library takes without torch
        ways = {
            "ours": lambda caption: embedder.embed([caption]),
            "ours, numpy": lambda caption: light.embed([caption]),
            "sentence-transformers": lambda caption: model.encode([caption], show_progress_bar=False),
        }
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for number, caption in enumerate(captions):
            found = {}
            for way, embed in ways.items():
                started = time.process_time()
                found[way] = embed(caption)
                taken[way].append(1000 * (time.process_time() - started))
            assert number or np.allclose(list(found.values()), found["ours"], atol=0.02), "both compute the same model"
    return {
        way: {"median_cpu_ms": float(np.median(each[20:])), "p95_cpu_ms": float(np.percentile(each[20:], 95))}
        for way, each in taken.items()
    }


def main() -> None:
    """Prints the figures and writes them."""
    torch.set_num_threads(1)
    num = int(os.environ.get("BOORU_EMBED_CAPTIONS", "8000"))
    checkpoint = find_checkpoint(os.environ.get("BOORU_EMBED_CHECKPOINT", "data/warehouse")).absolute()
    embedder = BooruEmbedder.load(checkpoint, "cpu")
    captions = [caption for caption in sample_captions(num, embedder.vocab) if caption]
    figures = {
        "captions": len(captions),
        "mean_tags": sum(len(caption.split(" ")) for caption in captions) / len(captions),
        "file": file_figures(embedder, checkpoint, captions),
        "one_caption": single_figures(embedder, checkpoint, captions[:NUM_SINGLE]),
    }
    print(figures["one_caption"])
    write("embedding_files", {"figures": figures})


if __name__ == "__main__":
    main()
