"""Whole captions on the page: weights, excluded tags, what follows from others, drawn tags, prompts and conditions."""

from __future__ import annotations

from playwright.sync_api import Locator, Page, expect

from tests.ui.page_helpers import StandIn
from tests.ui.test_page_caption import chips, column, field, options


def posts(page: Page) -> Locator:
    return page.get_by_role("region", name="Posts")


def test_a_weight_stays_with_its_tag_in_the_chip_the_address_and_what_is_asked(page: Page) -> None:
    page.goto("/")
    field(page).fill("1.5::cat ears::, solo")
    with page.expect_response(lambda answer: '"1.5::cat_ears::, solo"' in (answer.request.post_data or "")):
        page.keyboard.press("Tab")
    expect(chips(page)).to_have_text(["cat_ears \u00d7 1.5", "solo"])
    expect(page.locator(".notes")).to_contain_text("cat_ears: weight 1.5")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("a1111: (cat_ears:1.5), solo")
    assert "weights=1.5,1" in page.url
    page.reload()
    expect(chips(page)).to_have_text(["cat_ears \u00d7 1.5", "solo"])


def test_a_minus_excludes_a_tag_from_suggestions_posts_and_draws(page: Page, stand_in: StandIn) -> None:
    page.goto("/#tags=1girl")
    expect(column(page, "general").get_by_role("button", name="solo")).to_be_visible()
    field(page).focus()
    page.keyboard.type("-so")
    expect(options(page)).to_have_text(["without solo20 %"])
    page.keyboard.press("Enter")
    expect(chips(page)).to_have_text(["1girl", "without solo"])
    expect(column(page, "general").get_by_role("button", name="solo")).to_have_count(0)
    with page.expect_response(lambda answer: "1girl -solo -cat_tail" in (answer.request.post_data or "")):
        page.keyboard.type("-cat_tail,")  # as typed, without the list
    expect(chips(page)).to_have_text(["1girl", "without solo", "without cat_tail"])
    expect(posts(page).locator(".post").first).to_be_visible()
    page.get_by_role("button", name="Fill the caption").click()
    expect(page.locator(".chip.excluded")).to_have_count(2)
    assert stand_in.bodies("fill", "seed")[-1]["banned"] == ["solo", "cat_tail"]
    page.go_back()
    page.get_by_role("button", name="Remove cat_tail").click()
    expect(chips(page)).to_have_text(["1girl", "without solo"])
    assert page.url.endswith("#tags=1girl&not=solo")


def test_a_corrected_spelling_is_marked(page: Page) -> None:
    page.goto("/")
    field(page).focus()
    page.keyboard.type("cta")
    expect(options(page).first).to_contain_text("corrected")
    page.keyboard.press("Enter")
    expect(chips(page)).to_have_text(["cat_ears"])


def test_what_the_caption_implies_is_left_out_and_named(page: Page) -> None:
    page.goto("/#tags=chen")
    implied = page.locator(".implied")
    expect(implied).to_have_text("The caption implies touhou")
    expect(column(page, "copyright")).to_have_count(0)
    page.get_by_role("switch", name="implies").check()
    expect(column(page, "copyright").get_by_role("button", name="touhou")).to_be_visible()
    expect(implied).to_have_count(0)
    page.get_by_role("switch", name="implies").uncheck()
    implied.get_by_role("button", name="touhou").click()
    expect(chips(page)).to_have_text(["chen", "touhou"])


def test_each_fill_draws_other_tags_and_back_takes_them_away(page: Page, stand_in: StandIn) -> None:
    page.goto("/#tags=1girl&without=meta")
    page.get_by_role("spinbutton").fill("2")
    page.get_by_role("button", name="Fill the caption").click()
    expect(chips(page)).to_have_text(["1girl", "solo", "cat_ears"])
    page.get_by_role("button", name="Fill the caption").click()
    expect(chips(page)).to_have_count(5)
    first, second = stand_in.bodies("fill", "seed")
    assert (first["n"], first["categories"]) == (2, ["general", "artist", "copyright", "character"])
    assert first["seed"] != second["seed"]
    page.go_back()
    page.go_back()
    expect(chips(page)).to_have_text(["1girl"])
    stand_in.refused["fill"] = (422, "n is not a number of tags")
    page.get_by_role("button", name="Fill the caption").click()
    expect(page.locator(".completing").get_by_role("alert")).to_have_text("n is not a number of tags")


def test_the_prompt_is_copied_in_the_chosen_dialect(page: Page) -> None:
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.goto("/#tags=1girl,hat,masterpiece")
    page.get_by_label("Prompt for").select_option("novelai")
    expect(page.get_by_label("Prompt", exact=True)).to_have_value("novelai: 1girl, hat, masterpiece")
    page.get_by_role("button", name="Copy as prompt").press("Enter")
    expect(page.get_by_role("status")).to_contain_text(["The browser does not allow copying; the prompt is selected"])
    assert page.evaluate("() => getSelection().toString()") == "novelai: 1girl, hat, masterpiece"


def test_posts_say_which_tags_they_have_and_take_conditions(page: Page, stand_in: StandIn) -> None:
    page.goto("/#tags=1girl,hat")
    expect(posts(page).locator(".matched").first).to_have_text("1 of 2 tags")
    page.get_by_label("Conditions").fill("-hat score:>10")
    with page.expect_response(lambda answer: "score:>10" in (answer.request.post_data or "")):
        pass
    assert stand_in.bodies("search")[-1]["tags"] == "1girl hat -hat score:>10"
    expect(posts(page).locator(".notes")).to_have_text("score:>10 is a condition of the stand-in")
    stand_in.refused["search"] = (422, "user:me: not a condition that this index knows")
    page.get_by_label("Conditions").fill("user:me")
    expect(posts(page).get_by_role("alert")).to_contain_text("user:me")


def test_a_practice_run_and_what_the_server_left_out_are_told_on_the_page(page: Page, stand_in: StandIn) -> None:
    stand_in.practice = "Trained for minutes."
    stand_in.left_out = [{"what": "map", "reason": "of another checkpoint; materialize tag_embeddings again"}]
    page.goto("/")
    expect(page.get_by_role("region", name="Left out").locator("p")).to_have_text(
        ["Trained for minutes.", "No map: of another checkpoint; materialize tag_embeddings again"]
    )
