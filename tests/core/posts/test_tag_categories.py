"""``tag_string`` taken apart: what a loop over tags does, unknown tags among the general ones and counted."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts.tag_categories import TagCategories
from booru_embed_core.schema import CATEGORIES, Category, tag_column

CATEGORY_OF = {f"{category.value}_{number}": category for category in CATEGORIES for number in range(2)}
FIELD = st.lists(st.sampled_from([*CATEGORY_OF, "unknown", "\u3000", "", "meta_0\u200b"]), max_size=8).map(" ".join)


@given(fields=st.lists(FIELD | st.none(), max_size=8), start=st.integers(0, 3))
def test_every_tag_is_in_its_categorys_field(fields: list[str | None], start: int) -> None:
    split = TagCategories(CATEGORY_OF).split(pa.array(fields, pa.string()).slice(start))
    left = fields[start:]
    for category in CATEGORIES:
        wanted = []
        for field in left:
            tags = [tag for tag in (field or "").split(" ") if tag]
            own = [tag for tag in tags if CATEGORY_OF.get(tag, Category.GENERAL) is category]
            wanted.append(None if field is None else " ".join(own))
        assert split.columns[tag_column(category)].to_pylist() == wanted
    every = [tag for field in left if field is not None for tag in field.split(" ") if tag]
    assert split.num_tags == len(every)
    assert split.num_unknown == sum(tag not in CATEGORY_OF for tag in every)
    assert split.num_old.tolist() == [0] * len(left)


def test_the_first_line_of_a_tag_counts(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("tag,category\nmiku,4\nmiku,0\nhighres,5\n", encoding="utf-8")
    split = TagCategories.load(tmp_path / "tags.csv").split(pa.array(["miku highres solo"]))
    assert {name: field.to_pylist() for name, field in split.columns.items()} == {
        "tag_string_general": ["solo"],
        "tag_string_artist": [""],
        "tag_string_copyright": [""],
        "tag_string_character": ["miku"],
        "tag_string_meta": ["highres"],
    }
    assert (split.num_tags, split.num_unknown) == (3, 1)


def test_old_names_are_replaced_before_categories_are_looked_up() -> None:
    categories = TagCategories({"miku": Category.CHARACTER, "anna": Category.ARTIST})
    fields = pa.array(["x", "old_miku solo old_anna", None, "", "anna old_anna"])[1:]
    split = categories.split(fields, {"old_miku": "miku", "old_anna": "anna"})
    assert split.columns[tag_column(Category.ARTIST)].to_pylist() == ["anna", None, "", "anna anna"]
    assert split.columns[tag_column(Category.CHARACTER)].to_pylist() == ["miku", None, "", ""]
    assert split.columns[tag_column(Category.GENERAL)].to_pylist() == ["solo", None, "", ""]
    assert (split.num_tags, split.num_unknown, split.num_old.tolist()) == (5, 1, [2, 0, 0, 1])


def test_a_tag_with_an_entity_is_known_by_both_spellings(tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text(
        "name,category\njeanne_d&#039;arc,4\nr&b,3\n&lt;o&gt;,0\n<o>,5\n", encoding="utf-8"
    )
    categories = TagCategories.load(tmp_path / "tags.csv")
    tags = ["jeanne_d&#039;arc", "jeanne_d'arc", "r&b", "&lt;o&gt;", "<o>", "other"]
    assert categories.ids_of(pa.array(tags)).tolist() == [3, 3, 2, 0, 4, -1]
    taken_back = TagCategories.load(tmp_path / "tags.csv", html_entities=True)
    assert taken_back.ids_of(pa.array(tags)).tolist() == [-1, 3, 2, -1, 0, -1]


def test_aliases_of_the_table_play_no_part(tmp_path: Path) -> None:
    (tmp_path / "tags.json").write_text('{"name": "a", "category": 4, "aliases": [null, 5, "b\\n"]}', encoding="utf-8")
    assert TagCategories.load(tmp_path / "tags.json").ids_of(pa.array(["a", "5"])).tolist() == [3, -1]
