"""``evaluation.json``, as checks and model cards read it. ``report`` computes what it holds."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from pydantic import ConfigDict, Field

from booru_embed_core.json_files import Count, JsonModel, SealedModel, read_json

EVALUATION_FILE: Final = "evaluation.json"
REPORT_FILE: Final = "report.md"
_REMEDY: Final = "materialize evaluation again"


class _Figures(JsonModel):
    model_config = ConfigDict(allow_inf_nan=True, extra="ignore")


class MarginFile(_Figures):
    """A model's lead over the best baseline."""

    against: str
    difference: float
    standard_error: float


class TaskFile(_Figures):
    """Figures of one task."""

    num_posts: Count = 0
    num_hidden: Count = 0
    models: dict[str, dict[str, float]]
    margins: dict[str, dict[str, MarginFile]] = Field(default_factory=dict)


class SplitHalfFile(_Figures):
    """Figures of split-half retrieval."""

    models: dict[str, dict[str, float]] = Field(default_factory=dict)


class SplitSizes(JsonModel):
    """Posts of each split."""

    train: Count = 0
    validation: Count = 0
    test: Count


class EvaluationFile(SealedModel):
    """What others read of the file; the other figures are for people."""

    model_config = ConfigDict(allow_inf_nan=True, extra="ignore")

    seed: int = 0
    split_sizes: SplitSizes
    num_tags: Count
    tasks: dict[str, TaskFile]
    split_half_retrieval: SplitHalfFile = Field(default_factory=SplitHalfFile)
    caveats: tuple[str, ...]
    notes: tuple[str, ...] = ()


def read_evaluation(file: Path, remedy: str = _REMEDY) -> EvaluationFile:
    """The figures in `file`.

    Raises:
        ValueError: it is missing, damaged, or not an evaluation.
    """
    return read_json(file, EvaluationFile, ValueError, remedy)
