"""Captions in every form that callers have them: text, lists of tags, tags with weights.

What belongs here: their types and bounds, and from captions to sets of tags. How a text is read is `tokenizer`'s.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Iterable, Mapping, Sequence, Set
from typing import Any, Final, Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import TagSets
from booru_embed_core.embedder.results import UnknownTagsError, UnknownTagsWarning
from booru_embed_core.errors import shown
from booru_embed_core.schema import TAG_SEPARATOR
from booru_embed_core.tags.emphasis import MAX_WEIGHT
from booru_embed_core.tags.tokenizer import Encoded, Tokenizer

Caption: TypeAlias = str | Sequence[str] | Set[str] | Mapping[str, float]
"""Text as people type it; or several tags; or tags with their weights, 0 to `MAX_WEIGHT`, such as a tagger's scores."""
OnUnknown: TypeAlias = Literal["raise", "zero", "empty"]
"""What a caption becomes that has tags of which none is known: an error, a zero vector, the empty caption."""

UNKNOWN_REMEDY: Final = "`booru-embed inspect vocab` lists the known tags"
_FORMS: Final = "give text, a list of tags, or a mapping of tags to weights"
_OUTCOMES: Final = {"zero": "its vector is zero", "empty": "read as the empty caption"}


def each_caption(captions: Caption | Iterable[Caption]) -> Iterable[Caption]:
    """The captions of one argument: a text or a mapping is one caption, everything else is many.

    Raises:
        ValueError: it is no captions, or a set of them, which has no order.
    """
    if isinstance(captions, str | Mapping):
        return [captions]
    if isinstance(captions, Set):
        raise ValueError("captions in a set have no order; give a list of captions, or [tags] for one caption")
    if isinstance(captions, bytes) or not isinstance(captions, Iterable):
        raise ValueError(
            f"captions are {type(captions).__name__} {shown(captions)}; give one caption or a list of captions"
        )
    return captions


def check_on_unknown(on_unknown: str) -> None:
    """Raises a ValueError unless `on_unknown` is one of `OnUnknown`."""
    if on_unknown not in get_args(OnUnknown):
        raise ValueError(f"on_unknown {on_unknown!r} is not one of {', '.join(get_args(OnUnknown))}")


def encode(tokenizer: Tokenizer, caption: Caption) -> Encoded:
    """The tags of `caption`.

    A tag in a list or mapping may be spelled as in a text, spaces for underscores included, but it is one tag. If its
    spelling gives it a weight too, the two are multiplied. A tag of weight 0 is left out, as if it were not there. One
    that is spelled with a weight of 0 or less, such as ``-hat``, excludes its tag as in a text.

    Raises:
        ValueError: it is no caption, or a weight is not a number from 0 to `MAX_WEIGHT`.
    """
    if isinstance(caption, str):
        return tokenizer.encode(caption)
    if isinstance(caption, Mapping):
        return _merged(tokenizer, list(caption), [_checked(tag, weight) for tag, weight in caption.items()])
    if isinstance(caption, Set):
        caption = sorted(caption, key=str)
    if isinstance(caption, bytes) or not isinstance(caption, Iterable):
        raise ValueError(f"a caption is {type(caption).__name__} {shown(caption)}; {_FORMS}")
    tags = list(caption)
    known = tokenizer.exactly(tags)
    if None not in known:  # a twentieth of the time
        return Encoded(tuple(dict.fromkeys(known)), ())  # type: ignore[arg-type]
    return _merged(tokenizer, tags, [1.0] * len(tags))


def warn_of_unknown(caption: Caption, encoded: Encoded, on_unknown: str, stacklevel: int) -> None:
    """Warns of unknown tags.

    Raises:
        UnknownTagsError: the caption has tags, none is known, and `on_unknown` is ``raise``.
    """
    if not encoded.unknown:
        return
    is_lost = not encoded.token_ids
    outcome = "left out"
    if is_lost:
        outcome = f"no known tag is left; {_OUTCOMES[on_unknown]}" if on_unknown != "raise" else "no known tag is left"
    text = caption if isinstance(caption, str) else ", ".join(map(str, caption))
    message = f"{text!r}: not in the vocabulary: {', '.join(encoded.unknown)}; {outcome}. {UNKNOWN_REMEDY}"
    if is_lost and on_unknown == "raise":
        raise UnknownTagsError(message)
    warnings.warn(message, UnknownTagsWarning, stacklevel + 1)


def tag_sets(encoded: Sequence[Encoded], num_special: int, rating_id: int, score_bin: int) -> TagSets:
    """The captions as the network takes them, all with one rating and score (-1 for none)."""
    weights: NDArray[np.float32] | None = None
    if any(one.weights for one in encoded):
        per_tag = [weight for one in encoded for weight in one.weights or (1.0,) * len(one.token_ids)]
        weights = np.maximum(np.array(per_tag), np.finfo(np.float32).tiny).astype(np.float32)  # a tag is not lost
    return TagSets(
        tags=np.array([token_id - num_special for one in encoded for token_id in one.token_ids], dtype=np.int64),
        lengths=np.array([len(one.token_ids) for one in encoded], dtype=np.int64),
        ratings=np.full(len(encoded), rating_id, dtype=np.int64),
        score_bins=np.full(len(encoded), score_bin, dtype=np.int64),
        weights=weights,
    )


def _merged(tokenizer: Tokenizer, tags: Sequence[Any], tag_weights: Sequence[float]) -> Encoded:
    """All `tags` with their weights as one caption; of two mentions of one tag, the higher weight counts."""
    weights: dict[int, float] = {}
    unknown: list[str] = []
    notes: list[str] = []
    ratings: list[str] = []
    excluded: dict[int, None] = {}
    for tag, weight, known in zip(tags, tag_weights, tokenizer.exactly(tags), strict=True):
        if not isinstance(tag, str):
            raise ValueError(f"a tag of a caption is {type(tag).__name__} {shown(tag)}; {_FORMS}")
        if np.float32(weight) == 0:
            continue
        if known is not None and known not in weights:
            weights[known] = weight
            continue
        # With a comma, spaces inside a tag are read as underscores.
        one = tokenizer.encode(f"{tag}," if TAG_SEPARATOR in tag else tag)
        for token_id, own in zip(one.token_ids, one.weights or (1.0,) * len(one.token_ids), strict=True):
            product = min(own * weight, MAX_WEIGHT)
            before = weights.get(token_id, product)
            weights[token_id] = max(product, before)
            if before != product:
                notes.append(f"{tag}: mentioned with weights {before:g}, {product:g}; {weights[token_id]:g} counts")
        unknown += one.unknown
        notes += one.notes
        ratings += one.ratings
        excluded |= dict.fromkeys(one.excluded)
    for token_id in excluded:
        weights.pop(token_id, None)
    unique_unknown, unique_notes, unique_ratings = (tuple(dict.fromkeys(part)) for part in (unknown, notes, ratings))
    given = () if set(weights.values()) <= {1.0} else tuple(weights.values())
    return Encoded(tuple(weights), unique_unknown, unique_notes, unique_ratings, given, tuple(excluded))


def _checked(tag: object, weight: object) -> float:
    """The weight of `tag` as a float.

    Raises:
        ValueError: it is not a number from 0 to `MAX_WEIGHT`.
    """
    try:
        number = math.nan if isinstance(weight, str | bytes) else float(weight)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        number = math.nan
    if not 0 <= number <= MAX_WEIGHT:
        raise ValueError(f"{tag!r} has the weight {weight!r}; give a number from 0 to {MAX_WEIGHT:g}")
    return number
