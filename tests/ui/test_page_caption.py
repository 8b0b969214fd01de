"""Typing tags on the page, and what it suggests."""

from __future__ import annotations

import pytest
from playwright.sync_api import Locator, Page, expect

from tests.ui.page_helpers import StandIn


def field(page: Page) -> Locator:
    return page.get_by_role("combobox", name="Add a tag")


def chips(page: Page) -> Locator:
    return page.locator(".chip .name")


def options(page: Page) -> Locator:
    return page.get_by_role("listbox", name="Add a tag").get_by_role("option")


def column(page: Page, category: str) -> Locator:
    return page.get_by_role("region", name=category, exact=True)


def test_tags_are_typed_with_the_keyboard_alone(page: Page) -> None:
    page.goto("/")
    expect(field(page)).to_be_focused()
    page.keyboard.type("c")
    expect(options(page).locator(".name")).to_have_text(["cat_ears", "cat_tail", "cat_girl", "chen"])
    expect(field(page)).to_have_attribute("aria-expanded", "true")
    expect(options(page).nth(0)).to_have_attribute("aria-selected", "true")
    page.keyboard.press("ArrowDown")
    expect(options(page).nth(1)).to_have_attribute("aria-selected", "true")
    active = options(page).nth(1).get_attribute("id")
    expect(field(page)).to_have_attribute("aria-activedescendant", str(active))
    page.keyboard.press("Enter")
    expect(chips(page)).to_have_text(["cat_tail"])
    expect(field(page)).to_be_focused()
    page.keyboard.type("cat ears")  # faster than the answer
    page.keyboard.press("Tab")
    expect(chips(page)).to_have_text(["cat_tail", "cat_ears"])
    page.keyboard.type("so")
    expect(options(page)).to_have_count(1)
    page.keyboard.press("Escape")
    expect(options(page)).to_have_count(0)
    page.keyboard.press("Escape")
    expect(field(page)).to_have_value("")
    page.keyboard.press("Backspace")
    expect(chips(page)).to_have_text(["cat_tail"])
    page.keyboard.type("cat_")  # what is there already is not offered
    expect(options(page).locator(".name")).to_have_text(["cat_ears", "cat_girl"])


def test_an_alias_names_its_tag_and_an_unknown_tag_is_flagged_and_never_sent(page: Page) -> None:
    page.goto("/")
    field(page).focus()
    page.keyboard.type("neko")
    expect(options(page)).to_contain_text(["nekomimi → cat_ears"])
    page.keyboard.press("Enter")
    page.keyboard.type("nosuchtag,")
    expect(chips(page)).to_contain_text(["cat_ears", "unknown"])
    page.keyboard.type("hat")
    with page.expect_request(lambda request: '"tags":"cat_ears, hat"' in (request.post_data or "")):
        page.keyboard.press("Enter")
    expect(chips(page)).to_have_count(3)
    expect(column(page, "general").get_by_role("button", name="hat")).to_have_count(0)


def test_a_pasted_prompt_becomes_chips(page: Page) -> None:
    page.goto("/")
    field(page).focus()
    page.evaluate(
        """text => {
          const clipboardData = new DataTransfer();
          clipboardData.setData("text", text);
          const event = new ClipboardEvent("paste", { clipboardData, cancelable: true, bubbles: true });
          document.activeElement.dispatchEvent(event);
        }""",
        "1girl, cat ears, masterpiece,\nWLOP",
    )
    expect(chips(page)).to_contain_text(["1girl", "cat_ears", "wlop", "masterpiece unknown"])
    expect(field(page)).to_have_value("")


def test_an_answer_that_comes_too_late_is_dropped(page: Page, stand_in: StandIn) -> None:
    stand_in.held = "c"
    page.goto("/")
    field(page).focus()
    with page.expect_request(lambda request: '"prefix":"c"' in (request.post_data or "")):
        page.keyboard.type("c")
    page.keyboard.type("h")
    expect(options(page).locator(".name")).to_have_text(["chen"])
    stand_in.release()
    page.evaluate("() => new Promise((resolve) => setTimeout(resolve, 100))")
    expect(options(page).locator(".name")).to_have_text(["chen"])
    assert len(stand_in.waiting) == 1


@pytest.mark.parametrize(("end", "held"), [(",", "nekomimi"), ("Enter", "nek"), ("Tab", "nek")])
def test_what_is_typed_before_the_answer_is_the_next_tag(page: Page, stand_in: StandIn, end: str, held: str) -> None:
    stand_in.held = held
    page.goto("/")
    field(page).focus()
    page.keyboard.type(held)
    page.keyboard.press(end)
    expect(field(page)).to_have_value("")
    page.keyboard.type("chen")
    page.keyboard.press("Enter")
    expect(chips(page)).to_have_text(["chen"])
    page.keyboard.type("so")
    stand_in.release()
    expect(chips(page)).to_have_text(["chen", "cat_ears"])
    expect(field(page)).to_have_value("so")
    expect(options(page)).to_have_count(1)


def test_what_could_not_be_taken_is_given_back_before_what_was_typed_since(page: Page, stand_in: StandIn) -> None:
    stand_in.held = "nekomimi"
    page.goto("/")
    field(page).focus()
    page.keyboard.type("nekomimi,")
    expect(field(page)).to_have_value("")
    page.keyboard.type("chen")
    stand_in.release(refusal=(413, "too long"))
    expect(field(page)).to_have_value("nekomimi, chen")
    expect(page.get_by_role("region", name="Caption").get_by_role("alert")).to_have_text("too long")
    page.keyboard.press("Enter")
    expect(chips(page)).to_have_text(["cat_ears", "chen"])


def test_suggestions_stand_by_category_and_are_added_by_a_click(page: Page) -> None:
    page.goto("/#tags=1girl")
    solo = column(page, "general").get_by_role("button", name="solo")
    expect(solo).to_contain_text("20 %")
    widths = column(page, "general").locator(".bar").evaluate_all("bars => bars.map(bar => bar.offsetWidth)")
    assert widths == sorted(widths, reverse=True)
    assert widths[0] > widths[1] > 0
    solo.click()
    expect(chips(page)).to_have_text(["1girl", "solo"])
    expect(solo).to_have_count(0)
    rest = '"categories":["general","copyright","character","meta"]'
    with page.expect_request(lambda request: rest in (request.post_data or "")):
        page.get_by_role("checkbox", name="artist").uncheck(force=True)
    expect(column(page, "artist")).to_have_count(0)
    for category in ("general", "copyright", "character", "meta"):
        page.get_by_role("checkbox", name=category).uncheck(force=True)
    expect(page.get_by_text("All categories are switched off")).to_be_visible()


def test_rating_and_score_change_the_suggestions(page: Page, stand_in: StandIn) -> None:
    page.goto("/")
    rows = column(page, "general").locator(".row .name")
    expect(rows.first).to_have_text("1girl")
    assert page.get_by_role("radio").evaluate_all("all => all.map(one => one.parentElement.textContent)") == [
        "any",
        "general",
        "sensitive",
    ], "only the ratings that the model knows"
    score = page.get_by_role("slider", name="Score")
    expect(score).to_be_disabled()
    page.get_by_role("radio", name="sensitive").check(force=True)
    expect(rows.first).to_have_text("hat")
    score.focus()
    with page.expect_request(lambda request: '"score":500' in (request.post_data or "")):
        page.keyboard.press("End")
    expect(page.locator("output")).to_have_text("500")
    assert "rating=s" in page.url
    assert "score=500" in page.url
    page.get_by_role("radio", name="any").check(force=True)
    expect(rows.first).to_have_text("1girl")
    assert "score" not in stand_in.bodies("complete", "per_category")[-1]


def test_the_address_holds_the_caption_and_back_takes_a_tag_back(page: Page) -> None:
    page.goto("/#tags=nekomimi,solo,nosuchtag&rating=g&score=10&without=meta")
    expect(chips(page)).to_contain_text(["cat_ears", "solo", "nosuchtag unknown"])
    expect(page.get_by_role("radio", name="general")).to_be_checked()
    expect(page.locator("output")).to_have_text("10")
    expect(page.get_by_role("checkbox", name="meta")).not_to_be_checked()
    column(page, "general").get_by_role("button", name="hat").click()
    expect(chips(page)).to_have_count(4)
    page.reload()
    expect(chips(page)).to_contain_text(["cat_ears", "solo", "hat", "nosuchtag unknown"])
    page.go_back()
    expect(chips(page)).to_have_count(3)
    page.get_by_role("button", name="Remove solo").click()
    expect(chips(page)).to_have_count(2)
    expect(field(page)).to_be_focused()
