"""What all sections share: strict types of values with their ranges, and a model that knows its keys."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Annotated, Any, Final

from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field

MAX_COUNT: Final = 10**9
"""The most posts, uses or tags that a setting may name: a hundred times the largest site."""
MAX_ENTRIES: Final = 10_000
"""The longest list of a setting."""
MAX_PATH: Final = 4096
"""Characters of a path, as Linux has it."""
MAX_NAME: Final = 1000
"""Characters of a name, such as a column's."""
_MEMORY: Final = re.compile(r"(\d{1,15}(?:\.\d{1,15})?)\s*(MB|MiB|GB|GiB)")
_UNITS: Final = {"MB": 10**6, "MiB": 2**20, "GB": 10**9, "GiB": 2**30}
_MAX_MEMORY: Final = 10**15

# Strict, because pydantic would otherwise accept "12" and true as numbers.
Percentile = Annotated[float, Field(gt=0, le=100, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, strict=True)]
PositiveInt = Annotated[int, Field(ge=1, le=MAX_COUNT, strict=True)]
Weight = Annotated[float, Field(ge=0, le=1000, strict=True)]
Penalty = Annotated[float, Field(gt=0, le=1e12, strict=True)]
OpenShare = Annotated[float, Field(gt=0, lt=1, strict=True)]
Switch = Annotated[bool, Field(strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
OPERATIONAL: Final = "changes how the work is done and not its result; left out of the section's version"


def _text(value: str) -> str:
    if "\0" in value:
        raise ValueError("holds the character NUL, which no file or name may have")
    return value


def _path(value: Any) -> Any:
    if isinstance(value, str | Path):
        if not str(value) or (isinstance(value, str) and not value.strip()):
            raise ValueError("is empty; name a path or leave the key out")
        if len(str(value)) > MAX_PATH:
            raise ValueError(f"has more than {MAX_PATH} characters, and no path may")
        _text(str(value))
    return value


def _memory(value: str) -> str:
    found = _MEMORY.fullmatch(value)
    if found is None or not _UNITS["MB"] <= float(found[1]) * _UNITS[found[2]] <= _MAX_MEMORY:
        raise ValueError("should be a size from '1MB' to '1000000GB', in MB, MiB, GB or GiB")
    return value


PathValue = Annotated[Path, BeforeValidator(_path)]
"""A path that is not empty: an empty one would mean the current folder."""
Pattern = Annotated[str, BeforeValidator(_path)]
"""A path that may be a pattern of them."""
Name = Annotated[str, Field(min_length=1, max_length=MAX_NAME), AfterValidator(_text)]
Text = Annotated[str, Field(max_length=MAX_NAME), AfterValidator(_text)]
MemorySize = Annotated[str, AfterValidator(_memory)]


class Section(BaseModel):
    """A frozen section of the settings; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
