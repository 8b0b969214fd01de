"""What a person sees and clicks in Dagster's UI, in a real browser."""

from __future__ import annotations

import re

import pytest
from browser_helpers import Ui, expect

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
ANCESTORS = ("packed_tokens", "vocab", "tag_frequencies", "posts", "posts_export")
SECTIONS = ("model", "posts", "tokens", "training", "vocab")
DESCENDANTS = ("caption_lengths", "evaluation", "post_embeddings", "tag_embeddings")


def test_the_lineage_of_the_checkpoint_shows_its_ancestors_and_nothing_else(ui: Ui) -> None:
    ui.open_lineage("checkpoint", "Upstream")
    graph = ui.page.get_by_role("img").filter(has_text="posts_export")
    for name in (*ANCESTORS, *SECTIONS):
        expect(graph.get_by_text(name, exact=True).first).to_be_visible()
    for name in DESCENDANTS:
        expect(graph.get_by_text(name, exact=True)).to_have_count(0)


def test_the_page_of_vocab_explains_it_and_shows_the_whole_plot(ui: Ui) -> None:
    ui.open_asset("vocab")
    expect(ui.page.get_by_text("The tags that get a token")).to_be_visible()
    dialog = ui.show("plot")
    picture = dialog.get_by_role("img", name="vocab")
    expect(picture).to_have_attribute("src", re.compile("^data:image/png;base64,"))
    expect(picture).to_be_visible()
    assert picture.evaluate("image => image.decode().then(() => image.naturalWidth)") > 500
    frame, place = dialog.bounding_box(), picture.bounding_box()
    assert frame is not None
    assert place is not None
    assert place["x"] + place["width"] <= frame["x"] + frame["width"], "the plot is cut off"
