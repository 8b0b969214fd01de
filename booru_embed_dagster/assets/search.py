"""Checkpoint and packed tokens → the searchable embedding of every post."""

import dagster as dg

from booru_embed_core.tokens.packed_file import PACKED_FILE
from booru_embed_dagster.assets import OWNERS
from booru_embed_dagster.presentation.metadata import materialized, parquet_metadata
from booru_embed_dagster.resources import GPU_POOL, Pipeline, one_line_errors
from booru_embed_dagster.training.launcher import do_stage
from booru_embed_dagster.training.stages import StageJob


@dg.asset(
    group_name="search",
    owners=OWNERS,
    kinds={"pytorch", "parquet", "faiss"},
    pool=GPU_POOL,
    code_version="1",
    deps=["checkpoint", "packed_tokens", "vocab"],
)
@one_line_errors
def post_embeddings(context: dg.AssetExecutionContext, pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """The embedding of every post, as Parquet and in an index that `booru-embed search` opens.

    An interrupted run keeps its finished parts when this is materialized again from the same inputs.
    """
    from booru_embed_core.search.folder import PART_FILES, read_metadata

    checkpoint, tokens, vocab = pipeline.current("checkpoint", "packed_tokens", "vocab")
    with pipeline.new_version("post_embeddings", inputs=[checkpoint, tokens, vocab]) as draft:
        work_dir = pipeline.warehouse.work_folder("post_embeddings", draft.inputs_key)
        job = StageJob(
            stage="post_embeddings",
            checkpoint_dir=checkpoint.path,
            packed_path=tokens.path / PACKED_FILE,
            work_dir=work_dir,
            out_dir=draft.path,
            device=pipeline.settings.training.device,
            num_processes=pipeline.settings.processes.post_embeddings,
        )
        do_stage(context, job, draft.scratch / "output.log")
        metadata = read_metadata(draft.path)
    pipeline.warehouse.clear_work("post_embeddings")
    shown = parquet_metadata(sorted(draft.product.path.glob(PART_FILES)))
    figures: dict[str, str | float] = {
        "index": metadata.index,
        "nprobe": metadata.nprobe,
        "index_recall@10": metadata.recall,
    }
    return materialized(pipeline, draft, **shown, **figures)
