"""How ``booru-embed ingest --explain`` prints what it found of a file."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from booru_embed_core.cli.shared import print_table
from booru_embed_core.schema import FLAG_COLUMNS

if TYPE_CHECKING:
    from booru_embed_core.posts.file_sample import FileExplanation

_SEPARATORS: Final = {
    None: "in lists",
    "list": "in printed lists",
    " ": "separated by spaces",
    ",": "separated by commas",
    "\n": "separated by line breaks",
}
_NUM_SHOWN: Final = 12


def print_explanation(file: FileExplanation, before: FileExplanation | None = None) -> None:
    """Prints the `file` and what is read of it, aligned, and an empty line: what differs from the file `before`."""
    print(f"{file.file}: {file.kind}" if file.kind else file.file)
    rows = [("  refused", file.refused)] if file.refused else []
    if file.kind:
        told = _rows(before) if before is not None and before.kind else []
        rows += [one for one in _rows(file) if one not in told or one[0] == "  records"]
    print_table([(name, text) for name, text in rows])
    print()


def _rows(file: FileExplanation) -> list[tuple[str, str]]:
    columns = [f"{name} = {own}" if name != own else name for name, own in file.columns.items()]
    separator = _SEPARATORS.get(file.tag_separator, f"separated by {file.tag_separator!r}")
    rows = [
        ("  columns", _listed(columns) or "none: posts are files"),
        ("  not read", _listed(file.unused)),
        ("  tags", separator),
        ("  nothing", ", ".join(file.null_words) if len(file.null_words) > 1 else ""),
        ("  ratings", _listed([f"{word} ({count:,}) {_becomes(one)}" for word, (count, one) in file.ratings.items()])),
        ("  flags", _listed([f"{name} = {file.columns[name]}" for name in FLAG_COLUMNS if name in file.columns])),
    ]
    hidden = f", {file.num_hidden:,} filtered by flags" if file.num_hidden else ""
    rows.append(("  records", f"{file.num_sampled:,} looked at, {file.num_rejected:,} rejected{hidden}"))
    rows += [("", reason) for reason in file.reasons]
    rows += [("  note", note) for note in file.notes]
    return [(name, text) for name, text in rows if text]


def _becomes(rating: str | None) -> str:
    return f"-> {rating}" if rating else "-> ? [posts.rating_names]"


def _listed(names: list[str] | tuple[str, ...]) -> str:
    more = len(names) - _NUM_SHOWN
    return f"{', '.join(names[:_NUM_SHOWN])}{f' and {more:,} more' if more > 0 else ''}"
