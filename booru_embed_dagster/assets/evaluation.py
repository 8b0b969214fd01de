"""Checkpoint → its evaluation, and the embedding of every tag."""

from collections.abc import Sequence
from pathlib import Path
from typing import Final

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from booru_embed_core.disk_space import check_room, tag_vectors_bytes
from booru_embed_core.evaluation.evaluation_file import EVALUATION_FILE, REPORT_FILE, read_evaluation
from booru_embed_core.export.tag_vectors import TAG_EMBEDDINGS_FILE, embeddings_table
from booru_embed_core.memory import trim_memory
from booru_embed_core.posts.arrow import strings
from booru_embed_core.schema import Category
from booru_embed_core.tokens.packed_file import PACKED_FILE
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
from booru_embed_dagster.training.launcher import do_stage
from booru_embed_dagster.training.stages import StageJob
from booru_embed_dagster.warehouse.versions import Product
from booru_embed_dagster.warehouse.warehouse import Draft

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
def evaluation(context: dg.AssetExecutionContext, pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """How well the embedding recovers hidden tags of unseen posts, beside baselines fitted on the same training posts.

    See the report below. `booru-embed-head` is the completion head, which reads the state before the bottleneck. An
    interrupted run keeps its finished parts when this is materialized again from the same inputs.
    """
    inputs = pipeline.current("checkpoint", "packed_tokens", "vocab")
    with pipeline.new_version(
        "evaluation", inputs=inputs, sections=["evaluation"], defined_by=[EVALUATION_FILE]
    ) as draft:
        do_stage(context, _evaluation_job(pipeline, draft, inputs), draft.scratch / "output.log")
        result = read_evaluation(draft.path / EVALUATION_FILE)
        report = (draft.path / REPORT_FILE).read_text(encoding="utf-8")
        tasks = {TASK_TITLES[hide]: task.models for hide, task in result.tasks.items() if task.num_posts}
        plot = picture(plots.recall(tasks), draft.path / "recall.png")
    pipeline.warehouse.clear_work("evaluation")
    return materialized(pipeline, draft, **evaluation_metadata(result), report=dg.MetadataValue.md(report), plot=plot)


def _evaluation_job(pipeline: Pipeline, draft: Draft, inputs: Sequence[Product]) -> StageJob:
    checkpoint, tokens, _ = inputs
    return StageJob(
        stage="evaluation",
        checkpoint_dir=checkpoint.path,
        packed_path=tokens.path / PACKED_FILE,
        work_dir=pipeline.warehouse.work_folder("evaluation", draft.inputs_key),
        out_dir=draft.path,
        device=pipeline.settings.training.device,
        num_processes=pipeline.settings.processes.evaluation,
        evaluation=pipeline.settings.evaluation,
    )


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
    inputs = pipeline.current("checkpoint", "vocab")
    with pipeline.new_version("tag_embeddings", inputs=inputs, defined_by=[TAG_EMBEDDINGS_FILE]) as draft:
        table, practice_note = embedded_tags(inputs[0].path, pipeline.settings.training.device, draft.path)
        table = with_positions(table)
        pq.write_table(table, draft.path / TAG_EMBEDDINGS_FILE, compression="zstd")
        plot = picture(draw_map(table), draft.path / "tag_map.png")
    practice = practice_metadata(practice_note)
    return materialized(pipeline, draft, **table_metadata(table), **practice, plot=plot)


def embedded_tags(checkpoint_dir: Path, device: str, out_dir: Path) -> tuple[pa.Table, str]:
    """The table of the tags' embeddings and the practice note of a checkpoint, whose memory is free again.

    Raises:
        DiskError: the disk of `out_dir` has no room for the table.
    """
    from booru_embed_core.embedder.embedder import BooruEmbedder

    embedder = BooruEmbedder.load(checkpoint_dir, device, "fp32", "torch")
    check_room(out_dir, tag_vectors_bytes(embedder.vocab.num_tags, embedder.embedding_dim), "tag_embeddings")
    table, practice_note = embeddings_table(embedder), embedder.config.practice_note
    del embedder
    trim_memory()
    return table, practice_note


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
