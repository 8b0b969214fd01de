"""The API's documentation as one HTML page from its OpenAPI description, without scripts or other hosts."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any, Final

_LIMITS: Final = {
    "minimum": "at least",
    "maximum": "at most",
    "minItems": "at least",
    "maxItems": "at most",
    "maxLength": "at most, in characters,",
}


def docs_page(openapi: Mapping[str, Any]) -> str:
    """The page: for each path what it does, its fields and its errors."""
    schemas = openapi["components"]["schemas"]
    html = [
        "<!doctype html><html lang=en><head><meta charset=utf-8><title>booru-embed: HTTP API</title>",
        '<meta name=viewport content="width=device-width, initial-scale=1">',
        '<meta name=color-scheme content="light dark">',
        '<link rel=icon type=image/svg+xml href="../static/icon.svg">',
        '<link rel=stylesheet href="../static/page-style.css">',
        f"</head><body><main class=docs><header><h1>HTTP API</h1><p>{escape(openapi['info']['description'])} ",
        '<a href="../">The page</a>. For programs: <a href=openapi.json>openapi.json</a>.</p></header>',
    ]
    for path, methods in openapi["paths"].items():
        for method, operation in methods.items():
            html.append(f"<section class=card><h2><code>{method.upper()} {escape(path)}</code></h2>")
            html.append(f"<p>{escape(operation.get('description', ''))}</p>")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body is not None:
                html.append(_fields("Request", body, schemas))
            errors = []
            for status, answer in operation["responses"].items():
                schema = answer.get("content", {}).get("application/json", {}).get("schema")
                if status == "200":
                    html.append(_fields("Answer", schema, schemas))
                else:
                    errors.append(f"<li><code>{status}</code> {escape(answer['description'])}</li>")
            html.append(f"<h3>Errors</h3><ul>{''.join(errors)}</ul></section>" if errors else "</section>")
    return "".join([*html, "</main></body></html>"])


def _fields(title: str, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """A table of the fields of `schema`, followed by those of the objects in it."""
    shown = [_name(schema)]
    rows = []
    for name in shown:
        described = schemas[name]
        for field, field_schema in described.get("properties", {}).items():
            inner = [found for found in _names(field_schema) if "properties" in schemas[found]]
            shown += [found for found in inner if found not in shown]
            needed = " <small>required</small>" if title == "Request" and field in described.get("required", ()) else ""
            label = field if name == shown[0] else f"{name}.{field}"
            kind = escape(_kind(field_schema))
            rows.append(
                f"<tr><th scope=row><code>{escape(label)}</code>{needed}</th><td>{kind}</td>"
                f"<td>{escape(field_schema.get('description', ''))}</td></tr>"
            )
    head = "<tr><th scope=col>field</th><th scope=col>value</th><th scope=col>meaning</th></tr>"
    return f"<h3>{title}</h3><div class=table><table>{head}{''.join(rows)}</table></div>"


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"].rpartition("/")[2])


def _names(schema: Any) -> list[str]:
    """The names of the schemas that `schema` refers to at any depth."""
    if isinstance(schema, dict):
        own = [_name(schema)] if "$ref" in schema else []
        return own + [name for value in schema.values() for name in _names(value)]
    return [name for value in schema for name in _names(value)] if isinstance(schema, list) else []


def _kind(schema: Mapping[str, Any]) -> str:
    """The type of a value, its limits and its default."""
    if "$ref" in schema:
        kind = _name(schema)
    elif "anyOf" in schema:
        kind = " or ".join(_kind(one) for one in schema["anyOf"])
    elif schema.get("type") == "array":
        kind = f"list of {_kind(schema['items'])}"
    else:
        kind = str(schema.get("type", "any"))
    limits = [f"{word} {schema[key]:.0f}" for key, word in _LIMITS.items() if key in schema]
    default = schema.get("default")
    return ", ".join([kind, *limits, *([] if default is None else [f"default {json.dumps(default)}"])])
