"""What the commands share: their common options, and how they print."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated, Any, Final

import typer

from booru_embed_core.schema import Category

WAREHOUSE: Final = Path("data/warehouse")

JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON for programs.")]
CategoryOption = Annotated[Category | None, typer.Option("--category", help="Only tags of this category.")]
CountOption = Annotated[int, typer.Option("-k", min=1, help="How many tags.")]


def print_json(value: Any) -> None:
    """Prints `value` as one line of JSON."""
    print(json.dumps(value, ensure_ascii=False))


def print_facts(facts: dict[str, Any], as_json: bool) -> None:
    """Prints `facts` as JSON, or a line each."""
    if as_json:
        print_json(facts)
    else:
        print_table([(name, value if isinstance(value, str) else json.dumps(value)) for name, value in facts.items()])


def print_table(rows: list[tuple[str, ...]]) -> None:
    """Prints `rows` with their columns below each other."""
    if rows:
        widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
        for row in rows:
            print("  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip())
