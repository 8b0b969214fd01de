"""Tables of tags: CSV of tag, category, post_count and aliases, plain, gzip or zstd."""

from __future__ import annotations

import csv
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Final

from booru_embed_core.errors import first_line
from booru_embed_core.posts.readers.lines import raw_lines
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import Category

_DANBOORU_CATEGORIES: Final = {
    "0": Category.GENERAL,
    "1": Category.ARTIST,
    "3": Category.COPYRIGHT,
    "4": Category.CHARACTER,
    "5": Category.META,
}
_NAME_COLUMNS: Final = ("tag", "name")


def read_tag_table(
    file: Path,
    setting: str,
    columns: Sequence[str] = (),
    numbers: Mapping[str, Category] | None = None,
) -> Iterator[tuple[str, Category, list[str]]]:
    """Tag, category and the values of `columns` of each line of `file`, in its order.

    Args:
        file: the table.
        setting: the key of ``[posts]`` that names the file, for errors.
        columns: further columns to read.
        numbers: numbers of categories besides Danbooru's.

    Raises:
        ExportError: the file is no such table, or a category is no such number.
    """
    category_of = {**_DANBOORU_CATEGORIES, **(numbers or {})}
    try:
        rows = csv.reader((raw.decode("utf-8") for raw in raw_lines(file)), strict=True)
        header = next(rows, [])
        name = next((header.index(column) for column in _NAME_COLUMNS if column in header), None)
        if name is None or not {"category", *columns} <= set(header):
            wanted = ",".join(["tag", "category", *columns])
            raise ExportError(
                f"{file}: found the columns {','.join(header)[:200]!r}, wanted {wanted}; correct the header or remove "
                f"[posts] {setting}"
            )
        category, others = header.index("category"), [header.index(column) for column in columns]
        for row in filter(None, rows):
            if len(row) != len(header) or row[category] not in category_of:
                raise ExportError(
                    f"{file} line {rows.line_num}: {','.join(row)[:80]!r} is no tag with a category of "
                    f"{', '.join(category_of)}; correct the line or set [posts] category_numbers"
                )
            yield row[name], category_of[row[category]], [row[other] for other in others]
    except (UnicodeDecodeError, csv.Error) as error:
        raise ExportError(
            f"{file}: not a CSV file in UTF-8 ({first_line(error)}); correct it or remove [posts] {setting}"
        ) from None
    except FileNotFoundError:
        raise ExportError(f"{file}: no such file; correct [posts] {setting}") from None
