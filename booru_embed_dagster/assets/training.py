"""Packed tokens → checkpoint, trained in a separate process."""

import dagster as dg

from booru_embed_core.tokens.packed_file import PACKED_FILE
from booru_embed_dagster.assets import OWNERS
from booru_embed_dagster.automation.observation import settings_key
from booru_embed_dagster.presentation import plots
from booru_embed_dagster.presentation.metadata import materialized, picture, weights_metadata
from booru_embed_dagster.resources import GPU_POOL, Pipeline, one_line_errors
from booru_embed_dagster.training.launcher import launch_training
from booru_embed_dagster.training.worker import Job
from booru_embed_dagster.warehouse.warehouse import Draft, Product


@dg.asset(
    group_name="training",
    owners=OWNERS,
    kinds={"pytorch", "safetensors"},
    pool=GPU_POOL,
    code_version="2",
    deps=["packed_tokens", "vocab", settings_key("model"), settings_key("training")],
)
@one_line_errors
def checkpoint(context: dg.AssetExecutionContext, pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """The trained embedder: a small set transformer, with its vocabulary and a model card.

    An interrupted training resumes from its last saved state when this is materialized again from the same inputs.
    """
    from booru_embed_core.training.checkpoint_config import CARD_FILE, WEIGHTS_FILE, read_log

    tokens, vocab = pipeline.current("packed_tokens", "vocab")
    with pipeline.new_version(
        "checkpoint", inputs=[tokens, vocab], sections=["model", "training"], defined_by=[WEIGHTS_FILE]
    ) as draft:
        report = launch_training(context, new_job(pipeline, tokens, vocab, draft), draft.scratch / "output.log")
        log = read_log(draft.path)
        plot = picture(plots.loss_curves(log), draft.path / "curves.png")
    pipeline.warehouse.clear_work("checkpoint")
    card = (draft.product.path / CARD_FILE).read_text(encoding="utf-8")
    weights = weights_metadata(draft.product.path / WEIGHTS_FILE)
    speed = float(log[-1]["tokens_per_second"])  # the last record holds the mean since the last start
    return materialized(
        pipeline, draft, **weights, **report, tokens_per_second=speed, card=dg.MetadataValue.md(card), plot=plot
    )


def new_job(pipeline: Pipeline, tokens: Product, vocab: Product, draft: Draft) -> Job:
    """The training job of `draft`; its work folder depends only on the inputs, so that training can resume."""
    return Job(
        packed_path=tokens.path / PACKED_FILE,
        vocab_dir=vocab.path,
        work_dir=pipeline.warehouse.work_folder("checkpoint", draft.inputs_key),
        out_dir=draft.path,
        model=pipeline.settings.model,
        training=pipeline.settings.training,
    )
