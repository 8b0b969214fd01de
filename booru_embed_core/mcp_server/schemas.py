"""JSON Schema of requests and answers, as assistants' programs read it: without references and conditions."""

from __future__ import annotations

from typing import Any, Final

from pydantic import BaseModel
from pydantic.json_schema import JsonSchemaMode

_CONDITIONS: Final = ("if", "then")
"""Of a score, which needs a rating: several programs refuse a schema with them. The embedder checks it."""


def schema_of(model: type[BaseModel], mode: JsonSchemaMode) -> dict[str, Any]:
    """The schema of `model`, each of its definitions put where it is referred to.

    Args:
        model: a request or an answer that does not hold itself.
        mode: ``validation`` of a request, ``serialization`` of an answer.
    """
    schema = model.model_json_schema(mode=mode)
    definitions = schema.pop("$defs", {})
    return {key: value for key, value in _inlined(schema, definitions).items() if key not in _CONDITIONS}


def _inlined(value: Any, definitions: dict[str, Any]) -> Any:
    if isinstance(value, list):
        return [_inlined(one, definitions) for one in value]
    if not isinstance(value, dict):
        return value
    inlined = {
        key: {name: _inlined(one, definitions) for name, one in inner.items()}
        if key == "properties"
        else _inlined(inner, definitions)
        for key, inner in value.items()
        if key != "$ref" and not (key == "title" and isinstance(inner, str))
    }
    if "$ref" not in value:
        return inlined
    referred = _inlined(definitions[value["$ref"].rpartition("/")[2]], definitions)
    if "enum" in referred:
        referred.pop("description", None)  # it is for programmers
    return {**referred, **inlined}  # what stands beside a reference tells more
