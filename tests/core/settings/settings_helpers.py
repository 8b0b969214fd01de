"""The names of all settings."""

from __future__ import annotations

from collections.abc import Callable
from typing import TypeAlias

from pydantic import BaseModel

from booru_embed_core.settings import Settings

Load: TypeAlias = Callable[[str], Settings]


def leaves(section: type[BaseModel], prefix: str = "") -> list[str]:
    """The dotted names of all values below `section`."""
    names = []
    for name, field in section.model_fields.items():
        inner = field.annotation
        if isinstance(inner, type) and issubclass(inner, BaseModel):
            names += leaves(inner, f"{prefix}{name}.")
        else:
            names.append(prefix + name)
    return names
