"""Values of the settings as TOML, with comments: Python reads TOML, but writes none."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

_BARE_KEY: Final = re.compile(r"[A-Za-z0-9_-]+")


def toml_table(name: str, values: Mapping[str, Any], comments: Mapping[tuple[str, ...], str], *, is_item: bool) -> str:
    """The lines of the table `name`, or of one entry of the list of tables `name`, with the tables in it.

    `comments` are by the path of a key in `values`.
    """
    lines = [f"[[{name}]]" if is_item else f"[{name}]"]
    tables = {key: value for key, value in values.items() if isinstance(value, Mapping)}
    lines += [_line(key, value, comments.get((key,))) for key, value in values.items() if key not in tables]
    for table, entries in tables.items():
        lines += ["", f"[{name}.{table}]"]
        lines += [_line(key, value, comments.get((table, key))) for key, value in entries.items()]
    return "\n".join(lines) + "\n"


def _line(key: str, value: Any, comment: str | None) -> str:
    return f"{key if _BARE_KEY.fullmatch(key) else _text(key)} = {_value(value)}{f'  # {comment}' if comment else ''}"


def _value(value: Any) -> str:
    if isinstance(value, list | tuple):
        return f"[{', '.join(map(_value, value))}]"
    return _text(str(value)) if isinstance(value, str | Path) else json.dumps(value)


def _text(text: str) -> str:
    # A string of JSON is one of TOML, except for DEL.
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")
