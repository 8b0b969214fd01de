"""Checkpoint → its evaluation, and the embedding of every tag."""

from collections.abc import Sequence
from typing import Final

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from booru_embed_core.disk_space import check_room, tag_vectors_bytes
from booru_embed_core.evaluation.evaluation_file import EVALUATION_FILE, REPORT_FILE, read_evaluation
from booru_embed_core.export.tag_vectors import TAG_EMBEDDINGS_FILE, embeddings_table
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
