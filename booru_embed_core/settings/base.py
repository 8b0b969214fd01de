"""What all sections share: strict types of values, and a model that knows its keys."""

from __future__ import annotations

from typing import Annotated, Final

from pydantic import BaseModel, ConfigDict, Field

# Strict, because pydantic would otherwise accept "12" and true as numbers.
Percentile = Annotated[float, Field(gt=0, le=100, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, strict=True)]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]
NonNegative = Annotated[float, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
OpenShare = Annotated[float, Field(gt=0, lt=1, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
OPERATIONAL: Final = "changes how the work is done and not its result; left out of the section's version"
OperationalInt = Annotated[PositiveInt, OPERATIONAL]


class Section(BaseModel):
    """A frozen section of the settings; unknown keys are errors."""

    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)
