"""Posts and vocabulary → packed tokens → caption lengths."""

import dagster as dg

from booru_embed_core.tokens.encode import encode_posts
from booru_embed_core.tokens.lengths import short_posts, write_caption_lengths
from booru_embed_dagster.assets import OWNERS
from booru_embed_dagster.automation.observation import settings_key
from booru_embed_dagster.presentation import plots
from booru_embed_dagster.presentation.metadata import lengths_metadata, materialized, packed_metadata, picture, preview
from booru_embed_dagster.resources import Pipeline, one_line_errors


@dg.asset(
    group_name="tokens",
    owners=OWNERS,
    kinds={"arrow", "safetensors"},
    code_version="2",
    deps=["posts", "vocab", settings_key("tokens")],
)
@one_line_errors
def packed_tokens(pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """Every post as numbers: its tags in the vocabulary, two bytes each, in one file that training memory-maps.

    Any language can read this safetensors file. Posts keep their order; a post's split depends only on its id.
    """
    settings = pipeline.settings
    posts, vocab_product = pipeline.current("posts", "vocab")
    vocab = pipeline.vocab(vocab_product)
    with pipeline.new_version("packed_tokens", inputs=[posts, vocab_product], sections=["tokens"]) as draft:
        report = encode_posts(posts.path, vocab, draft.path, settings.tokens, draft.scratch)
    return materialized(
        pipeline,
        draft,
        **packed_metadata(pipeline.packed(draft.product, vocab), vocab),
        num_posts_without_tags=report.num_posts_without_tags,
        num_kept_uses=sum(report.kept_uses.values()),
        num_dropped_uses=sum(report.dropped_uses.values()),
        num_unknown_uses=sum(report.unknown_uses.values()),
        num_implied_uses=report.num_implied,
        uses=preview(report.uses_by_category),
    )


@dg.asset(group_name="tokens", owners=OWNERS, kinds={"parquet"}, code_version="1", deps=["packed_tokens", "vocab"])
@one_line_errors
def caption_lengths(pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """How many tags of each post are in the vocabulary, and the share of posts that each context length fits."""
    tokens, vocab_product = pipeline.current("packed_tokens", "vocab")
    vocab = pipeline.vocab(vocab_product)
    packed = pipeline.packed(tokens, vocab)
    with pipeline.new_version("caption_lengths", inputs=[tokens, vocab_product], defined_by=["*.parquet"]) as draft:
        lengths = write_caption_lengths(packed, draft.path)
        plot = picture(plots.caption_lengths(lengths), draft.path / "caption_lengths.png")
    short = preview(short_posts(packed, vocab).to_pylist())
    return materialized(pipeline, draft, **lengths_metadata(lengths), short_posts=short, plot=plot)
