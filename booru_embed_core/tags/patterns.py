"""Sets of tags as people name them: by name, by alias, or by a pattern such as ``*_hair``."""

from __future__ import annotations

import itertools
import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import TAG_SEPARATOR
from booru_embed_core.tags.normalize import PREFIXES
from booru_embed_core.tags.tokenizer import Tokenizer

WILDCARD: Final = "*"
_LAYERS: Final = re.compile(r"^[(\[{]+([^:()\[\]{}]*)(?::[\d.]+)?[)\]}]+$")
"""Brackets and a weight around a pattern."""


class NamedTags(NamedTuple):
    """The meaning of several names and patterns.

    Attributes:
        tags: tag indices, int64, ascending, each once.
        unknown: the names that are no tag, and the patterns that match none.
    """

    tags: NDArray[np.int64]
    unknown: tuple[str, ...]


def named_tags(tokenizer: Tokenizer, names: Iterable[str]) -> NamedTags:
    """The tags that `names` name.

    A name is read as a caption is, weights ignored: ``cat ears``, ``(longhair:1.2)``, ``char:hatsune_miku``. ``*`` in
    it stands for any letters, and matches tags but no aliases; ``artist:*`` matches all artists.
    """
    tags: set[int] = set()
    unknown: list[str] = []
    for name in itertools.chain.from_iterable(_pieces(tokenizer, given) for given in names):
        if WILDCARD in name and tokenizer.tag_named(name) is None:
            pattern = _LAYERS.sub(r"\1", name).strip()
            matching = matching_tags(tokenizer, pattern)
            tags.update(matching)
            unknown += [] if matching else [pattern]
            continue
        encoded = tokenizer.encode(f"{name},")  # with a comma, spaces inside a tag are read as underscores
        tags.update(token_id - tokenizer.vocab.num_special for token_id in encoded.token_ids)
        # A rating is no tag, and a tag of weight 0 is left out.
        unknown += encoded.unknown if encoded.token_ids or encoded.unknown else [name]
    return NamedTags(np.array(sorted(tags), dtype=np.int64), tuple(dict.fromkeys(unknown)))


def _pieces(tokenizer: Tokenizer, name: str) -> list[str]:
    """`name`, cut at commas unless it is a tag with a comma."""
    if tokenizer.tag_named(name) is not None:
        return [name]
    return [stripped for piece in name.split(",") if (stripped := piece.strip())]


def matching_tags(tokenizer: Tokenizer, pattern: str) -> list[int]:
    """The indices of the tags that `pattern` matches as a whole, in any case, ascending; unknown tokens never match.

    Args:
        tokenizer: of the vocabulary.
        pattern: ``*`` stands for any letters; a category and a colon before it limit it to that category.
    """
    vocab = tokenizer.vocab
    prefix, colon, rest = pattern.partition(":")
    category_id = PREFIXES.get(prefix.casefold()) if colon else None
    pieces = (pattern if category_id is None else rest).casefold().replace(TAG_SEPARATOR, "_").split(WILDCARD)
    first, *others = map(re.escape, pieces)
    # Atomic groups: with plain ones, a pattern of many stars could take for ever.
    rest = "".join(f"(?>.*?{piece})" for piece in others[:-1]) + "".join(f".*{piece}" for piece in others[-1:])
    matches = re.compile(first + rest, re.DOTALL).fullmatch
    longest = max(pieces, key=len)
    start, stop = 0, vocab.num_tags
    if category_id is not None:
        start, stop = (int(vocab.category_offsets[category_id + i]) - vocab.num_special for i in (0, 1))
    return [
        index
        for index, tag in enumerate(vocab.tags[start:stop], start)  # a search for letters is cheaper than the pattern
        if longest in (folded := tag.casefold()) and matches(folded) and not vocab.is_unknown[index]
    ]
