"""The parts of every check: its findings, and the decorators that turn a function of the pipeline into a check.

There is no ``from __future__ import annotations`` here: Dagster reads the annotations of a check.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import dagster as dg
import pyarrow as pa
import pyarrow.parquet as pq

from booru_embed_core.errors import library_errors
from booru_embed_dagster.failures import machine_failure
from booru_embed_dagster.resources import Pipeline


@dataclass(frozen=True)
class Findings:
    """The outcome of a check.

    Attributes:
        problems: one message per problem, with its remedy; empty if the check passed.
        figures: metadata of the result. The UI plots those that are numbers.
        note: the description of a check that passed, such as that there was nothing to compare with.
    """

    problems: list[str]
    figures: Mapping[str, int | float | str | dg.MetadataValue] = field(default_factory=dict)
    note: str = ""


_Decorator = Callable[[Callable[[Pipeline], Findings]], dg.AssetChecksDefinition]


def blocking(asset: str) -> _Decorator:
    """A decorator that turns a function of the pipeline into a check of `asset` that stops everything downstream.

    A ``ValueError`` of the core, such as a damaged file, fails the check with its message. After a fault of the machine
    there is no result: the step fails, with one line.
    """
    return _check_of(asset, dg.AssetCheckSeverity.ERROR)


def warning(asset: str) -> _Decorator:
    """Like `blocking`, for a check that warns and stops nothing."""
    return _check_of(asset, dg.AssetCheckSeverity.WARN)


def _check_of(asset: str, severity: dg.AssetCheckSeverity) -> _Decorator:
    is_blocking = severity is dg.AssetCheckSeverity.ERROR

    def define(examine: Callable[[Pipeline], Findings]) -> dg.AssetChecksDefinition:
        """The check that runs `examine`, named and described after it."""

        @dg.asset_check(asset=asset, name=examine.__name__, description=examine.__doc__, blocking=is_blocking)
        def check(pipeline: Pipeline) -> dg.AssetCheckResult:
            """The findings of `examine` as a Dagster result."""
            try:
                findings = examine(pipeline)
            except ValueError as error:
                findings = Findings([str(error)])
            except library_errors() as error:
                failure = machine_failure(error, pipeline.warehouse_path)
                if failure is None:
                    raise
                raise failure from None
            if findings.problems:  # Dagster's own error only names the check
                log = dg.get_dagster_logger()
                (log.error if is_blocking else log.warning)(f"{asset}: {'; '.join(findings.problems)}")
            return dg.AssetCheckResult(
                passed=not findings.problems,
                severity=severity,
                description="; ".join(findings.problems) or findings.note or None,
                metadata=dict(findings.figures),
            )

        return check

    return define


def column_problems(files: Iterable[Path], wanted: pa.Schema, asset: str) -> list[str]:
    """Problems with the columns of Parquet `files`, each of which should have the schema `wanted`."""
    problems = []
    for file in files:
        found = pq.read_schema(file)
        if not found.equals(wanted):
            problems.append(f"{file}: {_difference(found, wanted)}; materialize {asset} again")
    return problems


def _difference(found: pa.Schema, wanted: pa.Schema) -> str:
    if found.names != wanted.names:
        return f"columns {','.join(found.names)} instead of {','.join(wanted.names)}"
    name = next(name for name in wanted.names if not found.field(name).equals(wanted.field(name)))
    return f"column {found.field(name)} instead of {wanted.field(name)}"
