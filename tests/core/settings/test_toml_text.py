"""Settings as TOML: whatever the values, Python reads the same ones back."""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.settings.toml_text import toml_table

TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=8)
SCALAR = TEXT | st.integers(-(2**63), 2**63 - 1) | st.booleans() | st.lists(TEXT, max_size=3)


@given(st.dictionaries(TEXT, SCALAR | st.dictionaries(TEXT, SCALAR, max_size=3), max_size=4))
def test_values_come_back(values: dict[str, Any]) -> None:
    is_table_name = re.compile(r"[A-Za-z_]+").fullmatch
    names = {key: value for key, value in values.items() if not isinstance(value, dict) or is_table_name(key)}
    assert tomllib.loads(toml_table("posts", names, {}, is_item=False)) == {"posts": names}
    twice = 2 * toml_table("posts.source", names, {}, is_item=True)
    assert tomllib.loads(twice) == {"posts": {"source": [names, names]}}


def test_comments_stand_behind_their_keys() -> None:
    values = {"aliases": Path("tags.csv"), "columns": {"a b": "x"}, "ratings": ("g", "s")}
    text = toml_table("posts", values, {("aliases",): "one", ("columns", "a b"): "two"}, is_item=False)
    assert text == (
        '[posts]\naliases = "tags.csv"  # one\nratings = ["g", "s"]\n\n[posts.columns]\n"a b" = "x"  # two\n'
    )
