"""Schemas that every assistant's program reads, and that say the same as the models."""

from __future__ import annotations

import json
from typing import Any

import jsonschema_rs
import pytest

from booru_embed_core.mcp_server.schemas import schema_of
from booru_embed_core.mcp_server.tools import TOOLS, Tool


@pytest.mark.parametrize("tool", TOOLS, ids=lambda tool: tool.name)
def test_a_schema_stands_on_its_own(tool: Tool) -> None:
    for schema in (schema_of(tool.request, "validation"), schema_of(tool.answer, "serialization")):
        text = json.dumps(schema)
        assert schema["type"] == "object"
        assert not [word for word in ('"$ref"', '"$defs"', '"if"', '"title"') if word in text]
        jsonschema_rs.meta.validate({"$schema": "https://json-schema.org/draft/2020-12/schema", **schema})


@pytest.mark.parametrize(
    ("name", "arguments", "is_valid"),
    [
        ("complete", {"tags": "1girl", "k": 200, "categories": ["general"], "rating": "g"}, True),
        ("complete", {"k": 201}, False),
        ("complete", {"categories": ["species"]}, False),
        ("complete", {"other": 1}, False),
        ("fill", {"limits": {"artist": 0}, "temperature": 0.5}, True),
        ("fill", {"limits": {"artist": -1}}, False),
        ("similar", {}, False),
        ("search", {"by": "embedding", "ratings": ["g", "s"]}, True),
    ],
)
def test_a_schema_allows_what_the_model_allows(name: str, arguments: dict[str, Any], is_valid: bool) -> None:
    (tool,) = (one for one in TOOLS if one.name == name)
    schema = schema_of(tool.request, "validation")
    assert jsonschema_rs.is_valid(schema, arguments) == is_valid
    if is_valid:
        tool.request.model_validate(arguments)
    else:
        with pytest.raises(ValueError, match="1 validation error"):
            tool.request.model_validate(arguments)
