"""What to say of a tag that is not in the vocabulary: its name, and tags that are spelled like it."""

from __future__ import annotations

from collections.abc import Sequence
from difflib import get_close_matches
from typing import Final

from booru_embed_core.errors import shortened
from booru_embed_core.tags.tokenizer import Tokenizer

NOT_STORED: Final = "posts cannot be filtered by what the index does not hold"
LISTED: Final = "`booru-embed inspect vocab` lists the known tags"
_MAX_NAMED: Final = 10
"""Unknown tags in one message."""
_MAX_CORRECTED: Final = 3
"""Unknown tags in one message that others are proposed for."""
_ALIKE: Final = 0.75
_LENGTHS: Final = 3
"""Letters by which two names may differ in length."""


def unknown_message(tokenizer: Tokenizer, what: str, names: Sequence[str], consequence: str) -> str:
    """One line: `what` names tags outside the vocabulary, the `consequence`, and what could be meant.

    Args:
        tokenizer: of the vocabulary.
        what: the text that names them.
        names: the unknown tags.
        consequence: what follows for the query.
    """
    more = f" and {len(names) - _MAX_NAMED} more" if len(names) > _MAX_NAMED else ""
    meant = [close for name in names[:_MAX_CORRECTED] for close in close_tags(tokenizer, name)]
    remedy = f"Did you mean {' or '.join(meant)}?" if meant else LISTED
    unknown = ", ".join(map(shortened, names[:_MAX_NAMED]))
    return f"{what}: not in the vocabulary: {unknown}{more}; {consequence}. {remedy}"


def close_tags(tokenizer: Tokenizer, name: str, most: int = 2) -> list[str]:
    """At most `most` tags that are spelled nearly like `name`, the closest first."""
    name = name.casefold()
    # Comparing letter by letter takes 10 µs a name; a mistype rarely changes the beginning and the end at once.
    alike = [
        spelling
        for spelling in tokenizer.spellings
        if abs(len(spelling) - len(name)) <= _LENGTHS and (spelling[:2] == name[:2] or spelling[-3:] == name[-3:])
    ]
    return get_close_matches(name, alike, most, _ALIKE)
