"""Sets of tags as people name them: by name, by alias, or by a pattern such as ``*_hair``."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Final, NamedTuple

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import TAG_SEPARATOR
from booru_embed_core.tags.normalize import PREFIXES
from booru_embed_core.tags.tokenizer import Tokenizer

WILDCARD: Final = "*"


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
    for name in names:
        encoded = tokenizer.encode(name)
        if encoded.unknown and "," not in name:  # with a comma, spaces inside a tag are read as underscores
            encoded = tokenizer.encode(f"{name},")
        tags.update(token_id - tokenizer.vocab.num_special for token_id in encoded.token_ids)
        if not encoded.token_ids and not encoded.unknown and name.strip():  # a rating, a weight of 0
            unknown.append(name)
        for word in encoded.unknown:
            matching = matching_tags(tokenizer, word) if WILDCARD in word else []
            tags.update(matching)
            if not matching:
                unknown.append(word)
    return NamedTags(np.array(sorted(tags), dtype=np.int64), tuple(dict.fromkeys(unknown)))


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
    first, *middle, last = map(re.escape, pieces) if len(pieces) > 1 else ("", *map(re.escape, pieces))
    # Atomic groups: with plain ones, a pattern of many stars could take for ever.
    matches = re.compile(first + "".join(f"(?>.*?{piece})" for piece in middle) + f".*{last}", re.DOTALL).fullmatch
    longest = max(pieces, key=len)
    start, stop = 0, vocab.num_tags
    if category_id is not None:
        start, stop = (int(vocab.category_offsets[category_id + i]) - vocab.num_special for i in (0, 1))
    return [
        index
        for index, tag in enumerate(vocab.tags[start:stop], start)  # a search for letters is cheaper than the pattern
        if longest in (folded := tag.casefold()) and matches(folded) and not vocab.is_unknown[index]
    ]
