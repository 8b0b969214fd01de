"""The API's documentation as one HTML page, drawn from its OpenAPI description: no script, nothing from elsewhere."""

from __future__ import annotations

import json
from collections.abc import Mapping
from html import escape
from typing import Any


def docs_page(openapi: Mapping[str, Any]) -> str:
    """HTML of each path: what it does, the fields that it takes and gives, and the errors."""
    schemas = openapi["components"]["schemas"]
    parts = [
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
            parts.append(f"<section class=card><h2><code>{method.upper()} {escape(path)}</code></h2>")
            parts.append(f"<p>{escape(operation.get('description', ''))}</p>")
            body = operation.get("requestBody", {}).get("content", {}).get("application/json", {}).get("schema")
            if body is not None:
                parts.append(_fields("Takes", body, schemas))
            refusals = []
            for status, answer in operation["responses"].items():
                schema = answer.get("content", {}).get("application/json", {}).get("schema")
                if status == "200":
                    parts.append(_fields("Gives", schema, schemas))
                else:
                    refusals.append(f"<li><code>{status}</code> {escape(answer['description'])}</li>")
            parts.append(f"<h3>Refuses</h3><ul>{''.join(refusals)}</ul></section>" if refusals else "</section>")
    return "".join([*parts, "</main></body></html>"])


def _fields(title: str, schema: Mapping[str, Any], schemas: Mapping[str, Any]) -> str:
    """A table of the fields of `schema`, and those of the objects in it below."""
    shown = [_name(schema)]
    rows = []
    for name in shown:
        described = schemas[name]
        for field, says in described.get("properties", {}).items():
            inner = [found for found in _names(says) if "properties" in schemas[found]]
            shown += [found for found in inner if found not in shown]
            needed = " <small>required</small>" if title == "Takes" and field in described.get("required", ()) else ""
            label = field if name == shown[0] else f"{name}.{field}"
            kind = escape(_kind(says))
            rows.append(
                f"<tr><th scope=row><code>{escape(label)}</code>{needed}</th><td>{kind}</td>"
                f"<td>{escape(says.get('description', ''))}</td></tr>"
            )
    head = "<tr><th scope=col>field</th><th scope=col>value</th><th scope=col>meaning</th></tr>"
    return f"<h3>{title}</h3><div class=table><table>{head}{''.join(rows)}</table></div>"


def _name(schema: Mapping[str, Any]) -> str:
    return str(schema["$ref"].rpartition("/")[2])


def _names(says: Any) -> list[str]:
    """The schemas that are referred to anywhere in `says`."""
    if isinstance(says, dict):
        own = [_name(says)] if "$ref" in says else []
        return own + [name for value in says.values() for name in _names(value)]
    return [name for value in says for name in _names(value)] if isinstance(says, list) else []


def _kind(says: Mapping[str, Any]) -> str:
    if "$ref" in says:
        return _name(says)
    if "anyOf" in says:
        return " or ".join(_kind(one) for one in says["anyOf"])
    kind = str(says.get("type", "any"))
    if kind == "array":
        kind = f"list of {_kind(says['items'])}"
    limits = {
        "minimum": "at least",
        "maximum": "at most",
        "minItems": "at least",
        "maxItems": "at most",
        "maxLength": "at most, in letters,",
        "default": "default",
    }
    return ", ".join([kind, *(f"{word} {json.dumps(says[key])}" for key, word in limits.items() if key in says)])
