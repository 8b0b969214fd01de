"""Checkpoint → its evaluation, and the embedding of every tag."""

from pathlib import Path
from typing import TYPE_CHECKING, Final

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from booru_embed_core.disk_space import check_room, tag_vectors_bytes
from booru_embed_core.export.tag_vectors import TAG_EMBEDDINGS_FILE, embeddings_table
from booru_embed_core.posts.arrow import strings
from booru_embed_core.schema import Category
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_dagster.assets import OWNERS
from booru_embed_dagster.automation.observation import settings_key
from booru_embed_dagster.presentation import plots
from booru_embed_dagster.presentation.metadata import (
    evaluation_metadata,
    materialized,
    picture,
    practice_metadata,
    table_metadata,
)
from booru_embed_dagster.presentation.tag_map import MAX_DRAWN_TAGS, map_tags, most_used
from booru_embed_dagster.resources import GPU_POOL, Pipeline, one_line_errors

if TYPE_CHECKING:
    from booru_embed_core.evaluation.report import Evaluation

EVALUATION_FILE: Final = "evaluation.json"
REPORT_FILE: Final = "report.md"
TASK_TITLES: Final = {"one": "one tag hidden", "half": "half of the tags hidden"}


@dg.asset(
    group_name="evaluation",
    owners=OWNERS,
    kinds={"pytorch", "scipy", "json"},
    pool=GPU_POOL,
    code_version="5",  # with first suggestions
    deps=["checkpoint", "packed_tokens", "vocab", settings_key("evaluation")],
)
@one_line_errors
def evaluation(pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """How well the embedding recovers hidden tags of unseen posts, beside baselines fitted on the same training posts.

    See the report below. `booru-embed-head` is the completion head, which reads the state before the bottleneck.
    """
    inputs = pipeline.current("checkpoint", "packed_tokens", "vocab")
    checkpoint, tokens, _ = inputs
    with pipeline.new_version(
        "evaluation", inputs=inputs, sections=["evaluation"], defined_by=[EVALUATION_FILE]
    ) as draft:
        result, report = evaluate(checkpoint.path, tokens.path / PACKED_FILE, pipeline)
        (draft.path / EVALUATION_FILE).write_text(result.to_json() + "\n", encoding="utf-8")
        (draft.path / REPORT_FILE).write_text(report, encoding="utf-8")
        tasks = {TASK_TITLES[hide]: task.models for hide, task in result.tasks.items() if task.num_posts}
        plot = picture(plots.recall(tasks), draft.path / "recall.png")
    return materialized(pipeline, draft, **evaluation_metadata(result), report=dg.MetadataValue.md(report), plot=plot)


def evaluate(checkpoint_dir: Path, packed_path: Path, pipeline: Pipeline) -> tuple["Evaluation", str]:
    """The evaluation of a checkpoint on the test posts of a packed file, and its report as Markdown.

    Raises:
        ValueError: the checkpoint was trained with other splits and may have seen the test posts.
    """
    from booru_embed_core.evaluation.markdown import render_markdown
    from booru_embed_core.evaluation.report import run_evaluation
    from booru_embed_core.evaluation.scorers import model_scorers
    from booru_embed_core.training.checkpoint import load_checkpoint
    from booru_embed_core.training.hardware import pick_device

    settings = pipeline.settings
    model, config, vocab = load_checkpoint(checkpoint_dir, pick_device(settings.training.device))
    packed = PackedFile.open(packed_path, vocab.hash)
    if packed.split_settings != config.splits:
        raise ValueError(f"{checkpoint_dir}: trained with other splits than {packed_path} has; materialize checkpoint")
    log = dg.get_dagster_logger().info
    dropped = vocab.implications if config.splits.drop_implied else None
    practice = (config.practice_note,) if config.practice_note else ()
    result = run_evaluation(model_scorers(model, dropped), packed, vocab, settings.evaluation, log, practice)
    return result, render_markdown(result)


@dg.asset(
    group_name="evaluation",
    owners=OWNERS,
    kinds={"pytorch", "parquet"},
    pool=GPU_POOL,
    code_version="2",
    deps=["checkpoint", "vocab"],
)
@one_line_errors
def tag_embeddings(pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """The embedding of each single tag and its position on a map of all tags, as Parquet."""
    from booru_embed_core.embedder.embedder import BooruEmbedder

    inputs = pipeline.current("checkpoint", "vocab")
    embedder = BooruEmbedder.load(inputs[0].path, pipeline.settings.training.device, "fp32")
    with pipeline.new_version("tag_embeddings", inputs=inputs, defined_by=[TAG_EMBEDDINGS_FILE]) as draft:
        check_room(draft.path, tag_vectors_bytes(embedder.vocab.num_tags, embedder.embedding_dim), "tag_embeddings")
        table = with_positions(embeddings_table(embedder))
        pq.write_table(table, draft.path / TAG_EMBEDDINGS_FILE, compression="zstd")
        plot = picture(draw_map(table), draft.path / "tag_map.png")
    practice = practice_metadata(embedder.config.practice_note)
    return materialized(pipeline, draft, **table_metadata(table), **practice, plot=plot)


def with_positions(table: pa.Table) -> pa.Table:
    """`table` with columns x and y (float32): the map positions of the most used tags, null for the others."""
    shown = most_used(table["count"].to_numpy())
    vectors = pc.list_flatten(table["vector"]).to_numpy()
    positions = np.full((len(table), 2), np.nan, dtype=np.float32)
    positions[shown] = map_tags(vectors.reshape(len(table), -1)[shown])
    for axis, name in enumerate(("x", "y")):
        column = pa.array(positions[:, axis], pa.float32(), from_pandas=True)  # NaN is null
        table = table.append_column(name, column)
    return table


def draw_map(table: pa.Table) -> bytes:
    """PNG of the most used tags of a table `with_positions`."""
    shown = table.take(most_used(table["count"].to_numpy(), MAX_DRAWN_TAGS))
    x, y, counts = (shown[name].to_numpy() for name in ("x", "y", "count"))
    categories = [Category(str(name)) for name in shown["category"].to_pylist()]
    return plots.tag_map(x, y, categories, counts, strings(shown["tag"]))
