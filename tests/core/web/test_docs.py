"""The page of the API's documentation: every path and field of the description, and no markup from it."""

from __future__ import annotations

import re
from html import unescape
from typing import Any

import pytest
from fastapi import FastAPI
from pydantic import BaseModel, Field

from booru_embed_core.web.app import create_app
from booru_embed_core.web.docs import docs_page
from booru_embed_core.web.served import Loading, Served


class Inner(BaseModel):
    depth: int = Field(description="a < b & c")


class Asked(BaseModel):
    name: str = Field(max_length=7)
    count: int | None = Field(3, ge=1, le=9)
    inner: list[Inner] = Field([], max_length=2)


class Answer(BaseModel):
    result: Inner


def described() -> dict[str, Any]:
    app = FastAPI(description="An <api>.")

    @app.post("/thing")
    def thing(asked: Asked) -> Answer:
        """Makes a <thing>."""
        return Answer(result=Inner(depth=len(asked.name)))

    return app.openapi()


def rows(page: str) -> dict[str, tuple[str, str]]:
    """Field → its kind and its meaning."""
    found = re.findall(r"<th scope=row><code>(.*?)</code>.*?</th><td>(.*?)</td><td>(.*?)</td>", page)
    return {unescape(field): (unescape(kind), unescape(meaning)) for field, kind, meaning in found}


def test_fields_have_their_kind_their_limits_and_their_meaning() -> None:
    found = rows(docs_page(described()))
    assert found["name"][0] == "string, at most, in characters, 7"
    assert found["count"][0] == "integer, at least 1, at most 9 or null, default 3"
    assert found["inner"][0] == "list of Inner, at most 2, default []"
    assert found["Inner.depth"] == ("integer", "a < b & c")


def test_text_of_the_description_is_no_markup() -> None:
    page = docs_page(described())
    assert "Makes a &lt;thing&gt;." in page
    assert "An &lt;api&gt;." in page
    assert "<thing>" not in page
    assert "a &lt; b &amp; c" in page


def test_required_fields_are_marked_in_requests() -> None:
    page = docs_page(described())
    assert "<code>name</code> <small>required</small>" in page
    assert "<code>count</code></th>" in page
    assert page.index("<h3>Request</h3>") < page.index("<h3>Answer</h3>") < page.index("<h3>Errors</h3>")


def test_every_path_and_field_of_the_own_api_is_documented() -> None:
    def load() -> Served:
        pytest.fail("documentation needs no model")

    openapi = create_app(Loading(load)).openapi()
    page = docs_page(openapi)
    found = rows(page)
    for path, methods in openapi["paths"].items():
        for method in methods:
            assert f"<code>{method.upper()} {path}</code>" in page
    for name, schema in openapi["components"]["schemas"].items():
        if name in ("ErrorAnswer", "HTTPValidationError", "ValidationError"):
            continue
        for field in schema.get("properties", {}):
            assert field in found or f"{name}.{field}" in found
    assert "<script" not in page
