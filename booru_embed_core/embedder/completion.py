"""Which tags may follow a caption: what it implies, what is banned and what contradicts it may be left out."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Literal, TypeAlias, get_args

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.exclusions import ExclusiveTags
from booru_embed_core.tags.implications import Implications
from booru_embed_core.tags.patterns import NamedTags, named_tags
from booru_embed_core.tags.tokenizer import Tokenizer

Implied: TypeAlias = Literal["drop", "keep"]
"""Whether tags that follow from others, such as ``hat`` from ``witch_hat``, are left out or kept."""


def check_implied(implied: str) -> None:
    """Raises a ValueError unless `implied` is one of `Implied`."""
    if implied not in get_args(Implied):
        raise ValueError(f"implied {implied!r} is not one of {', '.join(get_args(Implied))}")


def ban_note(name: str) -> str:
    """The note on a name or pattern that was to be banned and matches no tag."""
    return f"banned: {name}: no tag matches; nothing is banned by it"


def shares(scores: NDArray[np.float32]) -> NDArray[np.float32]:
    """The softmax of each row of `scores` (float32 ``[n, num_tags]``), in place; a row of -inf becomes zeros."""
    for row in scores:  # one by one: those of 189,000 tags fit the cache alone
        highest = row.max(initial=-np.inf)
        row -= np.float32(0) if np.isneginf(highest) else highest
        np.exp(row, out=row)
        row /= np.maximum(row.sum(), np.finfo(np.float32).tiny)
    return scores


def renormalize(probabilities: NDArray[np.float32], left_out: NDArray[np.integer]) -> None:
    """Sets the probabilities of the tags `left_out` to 0, in place, and scales the others to a sum of 1."""
    if not len(left_out):
        return
    probabilities[left_out] = 0
    total = probabilities.sum()
    if total > 0:
        probabilities /= total


class NextTags:
    """What may follow the captions of one vocabulary. Tags are tag indices; threads may share an instance."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self._tokenizer = tokenizer
        self.implications = tokenizer.vocab.implications
        self._causes = _reversed(self.implications)
        self._exclusive = ExclusiveTags(tokenizer.vocab)

    def allowed(self, category: Category | str | None, k: int) -> NDArray[np.bool_]:
        """Which tags may be offered at all, bool ``[num_tags]``: those of `category`, or of all categories.

        Raises:
            ValueError: no such category, or `k`, the number of tags, is below 1.
        """
        vocab = self._tokenizer.vocab
        if k < 1:
            raise ValueError(f"k {k} is below 1; ask for at least one tag")
        if category is None:
            return ~vocab.is_unknown
        names = [known.value for known in CATEGORIES]
        if category not in names:
            raise ValueError(f"category {category!r} is not one of {', '.join(names)}")
        return np.asarray((vocab.categories == names.index(category)) & ~vocab.is_unknown)

    def banned(self, names: Iterable[str], excluded: Iterable[tuple[Category, str]] = ()) -> NamedTags:
        """The tags that `names` and patterns ban, and what they do not name: see `named_tags`.

        The tags that a caption has `excluded` are banned too, and so is what implies a banned tag: a picture with
        ``witch_hat`` has a ``hat``.
        """
        found = named_tags(self._tokenizer, names)
        own = [self._tokenizer.encode_fields({category: tag}).token_ids[0] for category, tag in excluded]
        tags = np.union1d(found.tags, np.array(own, dtype=np.int64) - self._tokenizer.vocab.num_special)
        return NamedTags(self._causes.restored(tags), found.unknown)

    def implied_by(self, tags: NDArray[np.integer]) -> NDArray[np.int64]:
        """The tags that `tags` imply and that are not among them, int64, ascending."""
        return np.setdiff1d(self.implications.implied_by(tags), tags)

    def left_out(
        self, tags: NDArray[np.integer], implied: Implied, banned: NDArray[np.int64] | None = None
    ) -> NDArray[np.int64]:
        """The tags that are not offered after `tags`, int64: implied ones unless they are kept, and `banned`."""
        found = [] if banned is None else [banned]
        if implied == "drop":
            found.append(self.implied_by(tags))
        return np.concatenate(found) if found else np.empty(0, dtype=np.int64)

    def contradicting(self, tags: NDArray[np.integer]) -> NDArray[np.int64]:
        """The tags that contradict `tags` or what they imply, and those that imply such a tag, int64, ascending."""
        return self._causes.restored(self._exclusive.excluded_by(self.implications.restored(tags)))

    def contradictions(self, tags: NDArray[np.integer]) -> NDArray[np.int64]:
        """Those of `tags` that contradict another of them, int64, ascending."""
        return self._exclusive.contradictions(tags)


def _reversed(implications: Implications) -> Implications:
    """What implies each tag."""
    causes, effects = implications.pairs.T
    offsets = np.concatenate([[0], np.cumsum(np.bincount(effects, minlength=implications.num_tags))])
    return Implications(offsets, causes[np.lexsort((causes, effects))])
