"""``vocab.json``: what it must hold. ``build`` writes it, ``vocab`` reads it."""

from __future__ import annotations

from typing import Final

from pydantic import Field

from booru_embed_core.json_files import Count, FileName, JsonModel, SealedModel, Sha256
from booru_embed_core.schema import Category
from booru_embed_core.settings import VocabSettings

MAX_VOCAB_BYTES: Final = 1 << 30
"""A tag has 30 bytes: thirty million of them."""


class LostFile(JsonModel):
    """What the cut of one category lost."""

    num_tags: Count
    num_uses: Count


class VocabFile(SealedModel):
    """The content of ``vocab.json``."""

    format_version: int
    sha256: Sha256
    """Of the tokens: `Vocab.hash`."""
    num_tokens: Count
    num_special: Count
    num_tags: Count
    sizes: dict[Category, Count]
    special_ids: dict[str, Count]
    settings: VocabSettings
    lost: dict[Category, LostFile] | None
    files: dict[FileName, Sha256]
    """The SHA-256 of each file beside it."""
    aliases: dict[Category, dict[str, str]] = Field(default_factory=dict)
    implications: dict[str, str] = Field(default_factory=dict)
    tags: dict[Category, tuple[str, ...]]
    counts: dict[Category, tuple[Count, ...]]
    checksum: Sha256
