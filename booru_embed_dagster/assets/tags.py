"""Posts → tag frequencies → cost of each cut, and the vocabulary."""

from pathlib import Path

import dagster as dg

from booru_embed_core.posts.sources import load_aliases
from booru_embed_core.tags.build import build_vocab, save_vocab
from booru_embed_core.tags.cut import curve_of, write_vocab_cost
from booru_embed_core.tags.frequency import count_tags, read_frequencies
from booru_embed_core.tags.vocab import VOCAB_TABLE_FILE, Vocab
from booru_embed_dagster.assets import OWNERS
from booru_embed_dagster.automation.observation import settings_key
from booru_embed_dagster.presentation import plots
from booru_embed_dagster.presentation.metadata import (
    frequencies_metadata,
    materialized,
    parquet_metadata,
    picture,
    table_metadata,
    vocab_metadata,
    warned,
)
from booru_embed_dagster.resources import Pipeline, one_line_errors


@dg.asset(group_name="tags", owners=OWNERS, kinds={"duckdb", "parquet"}, code_version="2", deps=["posts"])
@one_line_errors
def tag_frequencies(pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """How many posts have each tag: one table for each of Danbooru's five categories, most frequent tag first.

    `implications.parquet` has the tags that nearly all posts with another tag have too.
    """
    (posts,) = pipeline.current("posts")
    with pipeline.new_version("tag_frequencies", inputs=[posts], defined_by=["*.parquet"]) as draft:
        count_tags(posts.path, draft.path, pipeline.settings.duckdb, draft.scratch)
        tables = read_frequencies(draft.path)
        plot = picture(plots.tag_frequencies(tables), draft.path / "tag_frequencies.png")
    return materialized(pipeline, draft, **frequencies_metadata(tables), plot=plot)


@dg.asset(group_name="tags", owners=OWNERS, kinds={"parquet"}, code_version="1", deps=["tag_frequencies"])
@one_line_errors
def vocab_cost(pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """How many tags each cut would keep and what share of their uses it would cover, by category.

    Look at the plot before you choose `keep_percentile`: most tags are rare, so the last half per cent of the uses
    takes up most of the vocabulary.
    """
    (frequencies,) = pipeline.current("tag_frequencies")
    with pipeline.new_version("vocab_cost", inputs=[frequencies], defined_by=["*.parquet"]) as draft:
        curve = write_vocab_cost(frequencies.path, draft.path)
        plot = picture(plots.vocab_cost(curve), draft.path / "vocab_cost.png")
    return materialized(pipeline, draft, **table_metadata(curve), plot=plot)


@dg.asset(
    group_name="tags",
    owners=OWNERS,
    kinds={"parquet", "json"},
    code_version="2",  # with implications
    deps=["tag_frequencies", settings_key("vocab")],
)
@one_line_errors
def vocab(pipeline: Pipeline) -> dg.MaterializeResult[None]:
    """The tags that get a token: in each category the most frequent ones that make up `keep_percentile` of its uses.

    To change the cut, edit `keep_percentile` in settings.toml and materialize `vocab+`: tokens, model and evaluation
    follow. `tokenizer.json` loads with the `tokenizers` library and gives the same ids.
    """
    (frequencies,) = pipeline.current("tag_frequencies")
    # Not vocab.json, which repeats the settings: another cut that keeps the same tags is the same vocabulary.
    with pipeline.new_version(
        "vocab", inputs=[frequencies], sections=["vocab"], defined_by=["*.parquet", "tokenizer.json"]
    ) as draft:
        wide: list[str] = []
        # No input of this asset: other aliases make other posts, and the same tags are the same vocabulary.
        aliases = load_aliases(pipeline.settings.posts, pipeline.settings.root)
        made = build_vocab(frequencies.path, pipeline.settings.vocab, wide.append, aliases)
        save_vocab(made, draft.path)
        plot = picture(draw_cut(frequencies.path, made), draft.path / "vocab.png")
    return materialized(
        pipeline,
        draft,
        **parquet_metadata([draft.product.path / VOCAB_TABLE_FILE]),
        **vocab_metadata(made),
        sha256=made.hash,
        num_implications=made.implications.num_pairs,
        **warned(wide),
        plot=plot,
    )


def draw_cut(freq_dir: Path, vocab: Vocab) -> bytes:
    """PNG of the cost of each percentile, with the cut of `vocab` marked."""
    frequencies, cuts = read_frequencies(freq_dir), {}
    for category, table in frequencies.items():
        size = vocab.sizes[category] - (vocab.unknown_local_id(category) is not None)
        coverage = table["cumulative_share"][size - 1].as_py() if size else 0.0
        cuts[category] = plots.Cut(vocab.settings.cut(category)[0], size, coverage)
    return plots.vocab_cost(curve_of(frequencies), cuts)
