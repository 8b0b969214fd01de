"""Selections that name nothing are refused, where Dagster itself would take them for everything."""

from __future__ import annotations

import warnings

import dagster as dg
import pytest

from booru_embed_dagster.definitions import defs
from booru_embed_dagster.guard.selection import SelectionError, select_assets

GRAPH = defs.get_repository_def().asset_graph


def selected(selection: str) -> list[str]:
    return [key.to_user_string() for key in select_assets(selection, GRAPH)]


@pytest.mark.parametrize(
    "selection",
    [
        "vocab+",
        "vocab",
        'key:"vocab"+1',
        "key:vocab or key:posts",
        "vocab_cost,posts",
        "group:tags",
        'kind:"duckdb" and not key:"posts"',
        'key:"settings/*"',
        "settings/vocab",
        'roots(key:"vocab"+)',
        "*",
        'key:"*"',
    ],
)
def test_what_dagster_selects_is_selected_in_the_order_of_the_lineage(selection: str) -> None:
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        wanted = dg.AssetSelection.from_coercible(selection.split(",")).resolve(GRAPH)
    assert selected(selection) == [key.to_user_string() for key in GRAPH.toposorted_asset_keys if key in wanted]


@pytest.mark.parametrize(
    ("selection", "message"),
    [
        ("vocabb+", r"'vocabb\+' names no asset; did you mean vocab or vocab_cost\?"),
        ("+Vocab", r"'\+Vocab' names no asset; did you mean vocab\?"),
        ("key:vocabb+", r"'key:vocabb', a part of 'key:vocabb\+', names no asset; did you mean vocab or "),
        ('key:"checkpoints"', r"names no asset; did you mean checkpoint\?"),
        ('key:"zz*"', r"names no asset; assets: caption_lengths, checkpoint, .*, vocab_cost"),
        ("kind:nope", r"'kind:nope' names no asset; kinds: arrow, csv, duckdb, .*, toml"),
        ("kind:parket", r"did you mean parquet\?"),
        ("group:poste", r"did you mean posts\?"),
        ('tag:"nope"="x"', r"names no asset; assets: "),
        ("key:vocab and kind:nope", r"'kind:nope', a part of 'key:vocab and kind:nope', names no asset; kinds: "),
        ('not key:"post"', r"'key:\"post\"', a part of .* did you mean posts"),
        ("key:vocab or key:post", r"'key:post', a part of .* did you mean posts"),
        (
            "key:vocab and key:posts",
            r"names no asset, though each of its parts does; `booru-embed build '\*'",
        ),
        ("posts,kind:nope", r"'kind:nope' names no asset"),
        ("posts,vocabb", r"'vocabb' names no asset"),
        ("vocab and posts", r"'vocab and posts' is not a selection of assets; write it as 'vocab\+' or "),
        ("status:healthy", r"is not a selection of assets"),
        ("code_location:x", r"is not a selection of assets"),
        ("", r"'' is not a selection of assets"),
        ("posts,", r"'' is not a selection of assets"),
        ("+", r"is not a selection of assets"),
        ("not key:*", r"is not a selection of assets"),
    ],
)
def test_what_names_nothing_is_refused_in_a_line_that_names_what_is_near(selection: str, message: str) -> None:
    with pytest.raises(SelectionError, match=message) as error:
        select_assets(selection, GRAPH)
    assert "\n" not in str(error.value)
