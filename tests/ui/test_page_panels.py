"""The page's map, nearest tags and posts, its error messages, and its accessibility."""

from __future__ import annotations

from typing import Literal

import pytest
from axe_playwright_python.sync_playwright import Axe
from playwright.sync_api import Locator, Page, expect

from tests.ui.page_helpers import VOCAB, StandIn, colours_of, nearly

BLUE, RED, GREEN = [0, 98, 204], [192, 0, 4], [0, 117, 31]


def map_of(page: Page) -> Locator:
    box = page.get_by_role("application")
    box.scroll_into_view_if_needed()
    expect(box).to_have_attribute("data-drawn", str(len(VOCAB)))
    return box


def point(page: Page, tag: str) -> tuple[float, float]:
    """The screen position of a tag while the whole map is shown."""
    box = map_of(page).bounding_box()
    assert box is not None
    side = min(box["width"], box["height"]) * 0.94
    one = next(one for one in VOCAB if one.tag == tag)
    # Coordinates range from 0 to about 4.3 in both directions; the map scales them to its square.
    x, y = (
        (value - (min(every) + max(every)) / 2) / 4.3
        for value, every in ((one.x, [v.x for v in VOCAB]), (one.y, [v.y for v in VOCAB]))
    )
    return box["x"] + box["width"] / 2 + x * side, box["y"] + box["height"] / 2 + y * side


def wait_for_frame(page: Page) -> None:
    """Waits until changes are drawn."""
    page.evaluate("() => new Promise((done) => requestAnimationFrame(() => requestAnimationFrame(done)))")


def test_the_map_draws_points_of_every_category_and_hides_the_banned(page: Page) -> None:
    page.goto("/")
    map_of(page)
    before = colours_of(page, ".map .points")
    for colour in (BLUE, RED, GREEN):
        assert any(nearly(one, colour) for one in before)
    page.get_by_role("checkbox", name="artist").uncheck(force=True)
    wait_for_frame(page)
    after = colours_of(page, ".map .points")
    assert not any(nearly(one, RED) for one in after)
    assert any(nearly(one, BLUE) for one in after)


def test_the_map_names_neighbours_under_the_pointer_and_adds_on_a_click(page: Page) -> None:
    page.goto("/")
    where = point(page, "cat_ears")
    page.mouse.move(*where)
    card = page.locator(".hovering")
    expect(card).to_contain_text("general, on 300 posts")
    expect(card.locator("li .name").first).to_have_text("cat_tail")
    page.mouse.click(*where)
    expect(page.locator(".chip .name")).to_have_text(["cat_ears"])
    near = page.get_by_role("region", name="Nearest to cat_ears")
    near.get_by_role("button", name="cat_tail").click()
    expect(page.locator(".chip .name")).to_have_text(["cat_ears", "cat_tail"])
    page.mouse.move(5, 5)
    expect(card).to_have_count(0)


def test_the_map_moves_by_search_keys_wheel_and_buttons(page: Page) -> None:
    page.goto("/")
    box = map_of(page)

    def shown() -> str:
        wait_for_frame(page)
        picture: str = page.locator(".map .points").evaluate("canvas => canvas.toDataURL()")
        return picture

    whole = shown()
    page.get_by_role("combobox", name="Find a tag on the map").fill("ears")
    page.keyboard.press("Enter")
    expect(page.get_by_role("region", name="Nearest to cat_ears")).to_be_visible()
    assert shown() != whole
    assert not any(nearly(colour, RED) for colour in colours_of(page, ".map .points")), "zoomed in, wlop is far away"
    page.get_by_role("button", name="Show the whole map").click()
    assert shown() == whole
    box.focus()
    page.keyboard.press("+")
    zoomed = shown()
    assert zoomed != whole
    page.keyboard.press("ArrowLeft")
    assert shown() != zoomed
    page.keyboard.press("0")
    assert shown() == whole
    box.hover()
    page.mouse.wheel(0, -300)
    assert shown() != whole


def test_posts_are_of_the_rating_general_until_the_switch_says_otherwise(page: Page, stand_in: StandIn) -> None:
    page.goto("/")
    expect(page.get_by_text("Add a tag or a condition to see posts")).to_be_visible()
    page.goto("/#tags=1girl")
    links = page.get_by_role("link", name="on Danbooru")
    expect(links).to_have_count(2)
    assert [body.get("ratings") for body in stand_in.bodies("search")] == [["g"]]
    page.get_by_role("switch", name="ratings").check()
    expect(links).to_have_count(3)
    assert stand_in.bodies("search")[-1].get("ratings") is None
    page.locator(".post").first.get_by_role("button", name="chen").click()
    expect(page.locator(".chip .name")).to_have_text(["1girl", "chen"])
    expect(links.first).to_have_attribute("rel", "noopener noreferrer")
    assert stand_in.outside == [], "nothing is fetched before it is clicked"
    with page.context.expect_page():
        links.first.click()
    page.wait_for_timeout(100)
    assert stand_in.outside == ["https://danbooru.donmai.us/posts/100"]


def test_what_the_server_refuses_is_said_and_tried_again(page: Page, stand_in: StandIn) -> None:
    stand_in.refused["complete"] = (422, "score 5 needs a rating")
    stand_in.down = {"info"}
    page.goto("/#tags=1girl")
    suggestions = page.get_by_role("region", name="Suggestions")
    expect(suggestions.get_by_role("alert")).to_contain_text("score 5 needs a rating")
    posts = page.get_by_role("region", name="Posts")
    expect(posts.get_by_role("alert")).to_contain_text(
        "The server does not answer. Is `booru-embed serve` still running?"
    )
    stand_in.down = set()
    posts.get_by_role("button", name="Try again").click()
    expect(posts.get_by_role("link").first).to_be_visible()
    field = page.get_by_role("combobox", name="Add a tag")
    field.fill("solo")
    expect(page.get_by_role("region", name="Caption").get_by_role("alert")).to_contain_text("needs a rating")
    page.keyboard.press("Enter")
    expect(field).to_have_value("solo")  # nothing is lost
    del stand_in.refused["complete"]
    stand_in.refused["similar"] = (404, "")
    suggestions.get_by_role("button", name="Try again").click()
    expect(suggestions.get_by_role("button", name="solo")).to_be_visible()


def test_a_server_without_posts_and_ratings_says_so(page: Page, stand_in: StandIn) -> None:
    stand_in.has_posts, stand_in.ratings = False, []
    page.goto("/#tags=1girl")
    expect(page.get_by_text("This server has no posts")).to_be_visible()
    expect(page.get_by_role("slider")).to_have_count(0)
    assert stand_in.bodies("search") == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_axe_finds_nothing_serious(page: Page, scheme: Literal["light", "dark"]) -> None:
    page.emulate_media(color_scheme=scheme)
    page.goto("/#tags=1girl,nosuchtag,chen&weights=1,1,1.5&not=hat&rating=g&without=meta")
    expect(page.get_by_role("link", name="on Danbooru").first).to_be_visible()
    page.get_by_title("Show the tags near 1girl").click()
    expect(page.get_by_role("region", name="Nearest to 1girl").get_by_role("listitem").first).to_be_visible()
    map_of(page)
    page.get_by_role("combobox", name="Add a tag").fill("c")
    expect(page.get_by_role("option").first).to_be_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == scheme
    found = Axe().run(page).response
    assert len(found["passes"]) > 20
    assert [(one["id"], [node["html"] for node in one["nodes"]]) for one in found["violations"]] == []


def test_a_chosen_theme_stays(page: Page) -> None:
    page.goto("/")
    page.get_by_role("button", name="Use the dark theme").click()
    page.reload()
    expect(page.get_by_role("button", name="Use the light theme")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.documentElement).colorScheme") == "dark"


def test_nothing_is_wider_than_a_narrow_screen(page: Page) -> None:
    page.set_viewport_size({"width": 360, "height": 740})
    page.goto(f"/#tags=1girl,solo,cat_ears,{'long' * 30}&rating=g")
    expect(page.get_by_role("link", name="on Danbooru").first).to_be_visible()
    page.get_by_title("Show the tags near cat_ears").click()
    page.get_by_role("combobox", name="Add a tag").fill("c")
    expect(page.get_by_role("option").first).to_be_visible()
    map_of(page)
    assert page.evaluate("document.documentElement.scrollWidth") == 360
