"""What is run while writes fail: every asset that writes a product, and the commands that write files.

Each stage works in a folder of its own that is whole before it begins. An asset's folder is a project whose earlier
stages are newer than its own product, so that it has an old version to keep and a new one to publish.
"""

from __future__ import annotations

import contextlib
import csv
import gc
import gzip
import importlib
import io
import itertools
import os
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import dagster as dg
import numpy as np

from booru_embed_core.cli import main as cli
from booru_embed_core.search import build
from booru_embed_dagster.assets import evaluation, posts, search, tags, tokens, training
from booru_embed_dagster.presentation import tag_map
from booru_embed_dagster.resources import Pipeline
from booru_embed_dagster.training.launcher import TrainingFailedError, why_it_ended
from booru_embed_dagster.training.reasons import reserve_room
from booru_embed_dagster.training.worker import Job, run_job
from tests.dagster.light_helpers import PIXEL
from tests.dagster.project_helpers import SAMPLE

NUM_POSTS = 100
SETTINGS = """
[warehouse]
path = "warehouse"
keep_versions = 1
[duckdb]
threads = 1
memory_limit = "500MB"
[posts]
export = ["export/*.csv"]
[vocab]
keep_percentile = {percentile}
min_count = 2
[tokens]
validation_share = 0.2
test_share = 0.2
[model]
width = 16
num_layers = 1
num_heads = 2
ffn_width = 16
embedding_dim = 8
matryoshka_dims = [4]
dropout = 0.0
[training]
num_epochs = 2
batch_posts = 16
learning_rate = 0.02
initial_vectors = "random"
checkpoint_every_steps = 4
keep_states = 2
precision = "fp32"
device = "cpu"
[evaluation]
baselines = ["popularity"]
"""
COMMAND_FOLDER = "command"
PRELOADED = (
    "booru_embed_core.embedder.embed_file",
    "booru_embed_core.evaluation.markdown",
    "booru_embed_core.evaluation.scorers",
    "booru_embed_core.export.formats",
    "booru_embed_core.posts.ingest",
    "booru_embed_core.training.loop",
    "dateutil.relativedelta",
    "pyarrow.csv",
    "pyarrow.dataset",
    "scipy.sparse.linalg",
    "torch._dynamo",
    "torch.utils.tensorboard",
)
PRELOADED_FOR = {
    "export onnx": (
        "booru_embed_core.embedder.onnx_network",
        "booru_embed_core.export.onnx_graphs",
        "booru_embed_core.export.quantization_loss",
        "onnxruntime.quantization",
    ),
    "export sentence-transformers": ("booru_embed_core.export.sentence_transformers",),
}


class FailedInOneLineError(Exception):
    """The stage failed with a line of its own."""


@dataclass(frozen=True)
class Stage:
    """One thing that writes.

    Attributes:
        name: of the asset or the command.
        run: does it in a folder; raises `FailedInOneLineError` where it fails as it should.
        output: of a command, the name of what it writes; empty for an asset.
    """

    name: str
    run: Callable[[Path], None]
    output: str = ""


def train_here(context: Any, job: Job, output: Path) -> dict[str, float | str]:
    """What `launch_training` does, in this process."""
    reserve_room(job.out_dir, 0)
    delivered: list[dict[str, Any]] = []
    code = run_job(job, context.log.info, delivered.append, lambda: False)
    if code:
        output.touch()
        raise TrainingFailedError(why_it_ended(job.out_dir, output, code))
    return delivered[0]


def lighten() -> None:
    """Nothing is drawn, the search of commands has several parts, and training stays in this process."""
    import torch

    torch.set_num_threads(1)
    training.launch_training = train_here  # type: ignore[assignment]
    for module in (evaluation, posts, search, tags, tokens, training):
        module.materialized = lambda _, draft, **metadata: draft.product  # type: ignore[assignment]  # no run to tell of
        module.plots = NoPlots()  # type: ignore[attr-defined]
    tag_map._MIN_FOR_TSNE = 10**9  # type: ignore[misc]
    build.PART_POSTS = 64  # type: ignore[misc]


class NoPlots:
    """Draws one pixel for every plot."""

    def __getattr__(self, name: str) -> Callable[..., bytes]:
        return lambda *_, **__: PIXEL


def preload(names: Iterable[str]) -> None:
    """Imports what the stages of these names import late: each child would do so again."""
    for module in itertools.chain(PRELOADED, *(PRELOADED_FOR.get(name, ()) for name in names)):
        importlib.import_module(module)
    gc.freeze()  # else each child's collector writes to the pages of all these objects, and so copies them


def asset(module: Any, name: str) -> Stage:
    """The stage of the asset `name`, called without a run: what Dagster stores is not part of it."""
    definition = getattr(module, name)

    def run(folder: Path) -> None:
        function = definition.op.compute_fn.decorated_fn
        pipeline = Pipeline(settings_file=str(folder / "settings.toml"))
        log = SimpleNamespace(log=SimpleNamespace(info=lambda *_: None, warning=lambda *_: None))
        try:
            function(log, pipeline) if "context" in function.__wrapped__.__code__.co_varnames else function(pipeline)
        except dg.Failure as error:
            if error.__cause__ is not None:
                raise AssertionError(f"a stack trace with {error.description}") from error
            raise FailedInOneLineError(error.description) from None

    return Stage(name, run)


def command(name: str, output: str, *arguments: str) -> Stage:
    """The stage of a command line; ``{}`` in an argument is the stage's folder, ``{w}`` the warehouse beside it."""

    def run(folder: Path) -> None:
        words = [word.format(folder, w=folder.parent / "warehouse") for word in arguments]
        sys.argv = ["booru-embed", *words]
        errors = io.StringIO()
        with contextlib.redirect_stderr(errors), contextlib.redirect_stdout(io.StringIO()):
            try:
                cli.main()
            except SystemExit as stopped:
                code = stopped.code
        if code:
            lines = [line for line in errors.getvalue().splitlines() if line.startswith("error: ")]
            assert len(lines) == 1, errors.getvalue()
            assert "Traceback" not in errors.getvalue(), errors.getvalue()
            raise FailedInOneLineError(lines[0])

    return Stage(name, run, output)


ASSETS = (
    asset(posts, "posts"),
    asset(tags, "tag_frequencies"),
    asset(tags, "vocab_cost"),
    asset(tags, "vocab"),
    asset(tokens, "packed_tokens"),
    asset(tokens, "caption_lengths"),
    asset(training, "checkpoint"),
    asset(evaluation, "evaluation"),
    asset(evaluation, "tag_embeddings"),
    asset(search, "post_embeddings"),
)
_CHECKPOINT = ("-c", "{w}/checkpoint/current")
COMMANDS = (
    command("ingest", "posts", "ingest", "{}/export.csv", "-o", "{}/posts"),
    command("ingest csv", "posts", "ingest", "{}/export.csv", "-o", "{}/posts", "--to", "csv"),
    command(
        "embed --file", "vectors.npy", "embed", "-f", "{}/captions.txt", "-o", "{}/vectors.npy", "--batch-size", "32",
        "--on-unknown", "zero", *_CHECKPOINT,
    ),
    command("index", "search", "index", "-o", "{}/search", *_CHECKPOINT, "--packed", "{w}/packed_tokens/current"),
    *(
        command(f"export {form}", "exported", "export", form, "-o", "{}/exported", *_CHECKPOINT)
        for form in ("hub", "sentence-transformers", "onnx", "parquet", "word2vec", "projector")
    ),
)  # fmt: skip
STAGES = {stage.name: stage for stage in (*ASSETS, *COMMANDS)}


def make_project(folder: Path) -> None:
    """A project before its first run."""
    (folder / "export").mkdir(parents=True)
    (folder / "tmp").mkdir()
    with gzip.open(SAMPLE, "rt", encoding="utf-8", newline="") as source:
        text = "".join(itertools.islice(source, NUM_POSTS + 1))
    (folder / "export" / "posts.csv").write_text(text, encoding="utf-8")
    (folder / "settings.toml").write_text(SETTINGS.format(percentile=95), encoding="utf-8")


def grow_project(folder: Path) -> None:
    """Some more posts and another cut: every stage has something new to write."""
    with gzip.open(SAMPLE, "rt", encoding="utf-8", newline="") as source:
        lines = itertools.islice(source, NUM_POSTS + 1, NUM_POSTS + 21)
        with (folder / "export" / "posts.csv").open("a", encoding="utf-8", newline="") as out:
            out.writelines(lines)
    (folder / "settings.toml").write_text(SETTINGS.format(percentile=90), encoding="utf-8")


def make_command_folder(folder: Path, project: Path) -> None:
    """What the commands read and write: an export, captions, and vectors of an earlier call."""
    (folder / "tmp").mkdir(parents=True)
    shutil.copyfile(project / "export" / "posts.csv", folder / "export.csv")
    with (folder / "export.csv").open(encoding="utf-8", newline="") as source:
        captions = [row["tag_string_general"] for row in csv.DictReader(source)]
    (folder / "captions.txt").write_text("\n".join(captions) + "\n", encoding="utf-8")
    np.save(folder / "vectors.npy", np.zeros((2, 8), np.float32))


def use_folder(folder: Path) -> None:
    """Temporary files of this process go below `folder`, where their writes fail too."""
    os.environ["TMPDIR"] = str(folder / "tmp")
    tempfile.tempdir = None
