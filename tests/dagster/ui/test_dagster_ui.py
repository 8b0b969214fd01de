"""What a person sees and clicks in Dagster's UI, in a real browser."""

from __future__ import annotations

import re

import pytest
from playwright.sync_api import expect

from booru_embed_core.posts.report import REPORT_FILE
from tests.dagster.ui.browser_helpers import RUN_SECONDS, Ui

pytestmark = [pytest.mark.slow, pytest.mark.timeout(RUN_SECONDS + 200)]
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


def test_an_edit_shows_as_stale_and_vocab_plus_is_rebuilt_by_clicks(ui: Ui) -> None:
    vocab, checkpoint = (ui.project.warehouse.current(asset).version for asset in ("vocab", "checkpoint"))
    ui.open_lineage("vocab", "Downstream")
    expect(ui.page.get_by_text("tag_embeddings", exact=True).first).to_be_visible()
    expect(ui.badge).to_have_count(0)
    ui.project.set(keep_percentile=85, num_epochs=1)
    expect(ui.badge).to_be_visible()
    ui.badge.hover()
    expect(ui.page.get_by_text("has a new data version")).to_be_visible()

    ui.launch("Materialize all")
    expect(ui.page.get_by_text("7 assets")).to_be_visible()
    expect(ui.page.get_by_text("Success", exact=True).first).to_be_visible(timeout=RUN_SECONDS * 1000)
    assert ui.project.warehouse.current("vocab").version != vocab
    assert ui.project.warehouse.current("checkpoint").version != checkpoint

    ui.open_asset("vocab")
    expect(ui.metadata("why")).to_contain_text("keep_percentile 95.0 → 85.0")
    expect(ui.badge).to_have_count(0)


def test_a_check_that_fails_says_what_is_wrong_and_what_to_do(ui: Ui) -> None:
    ui.open_asset("posts", "Checks")
    ui.page.get_by_text("posts_reconcile", exact=True).first.click()
    expect(ui.page.get_by_text("Passed", exact=True)).to_be_visible()
    report = ui.project.warehouse.current("posts").path / REPORT_FILE
    text = report.read_text(encoding="utf-8")
    report.write_text(text.replace('"num_kept": 400', '"num_kept": 399'), encoding="utf-8")
    try:
        ui.page.get_by_role("button", name=re.compile("Execute$")).click()
        expect(ui.page.get_by_text("400 posts, 399 reported; materialize posts again")).to_be_visible()
        expect(ui.page.get_by_text("Failed", exact=True).first).to_be_visible()
    finally:
        report.write_text(text, encoding="utf-8")
