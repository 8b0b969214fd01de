"""The table of ``results/full_scale.json``; `tables` renders it into the page once there are results."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, Final

_COLUMNS: Final[Mapping[str, tuple[str, float]]] = {
    "cpu_seconds": ("CPU s", 1),
    "peak_mb": ("peak MB", 1),
    "disk_bytes": ("disk MB", 1e6),
    "rows_per_cpu_second": ("rows a CPU s", 1),
    "p95_ms": ("p95 ms", 1),
}
"""Title of each figure, and what it is divided by."""


def full_scale(result: Mapping[str, Any]) -> str:
    """Each stage's figures, with its limit and the figure of the build before in brackets."""
    titles = [title for title, _ in _COLUMNS.values()]
    lines = [f"| {' | '.join(['', *titles])} |", f"| {' | '.join(['---', *['---:'] * len(titles)])} |"]
    for name, stage in result["stages"].items():
        cells = [_cell(stage, figure, divisor) for figure, (_, divisor) in _COLUMNS.items()]
        lines.append(f"| {' | '.join([name.replace('_', ' '), *cells])} |")
    commits = ", ".join(sorted({f"`{stage['commit']}`" for stage in result["stages"].values()}))
    return "\n".join(
        ["In brackets: the figure of the build before, and the limit.", "", *lines, "", f"Commits: {commits}."]
    )


def _cell(stage: Mapping[str, Any], figure: str, divisor: float) -> str:
    if figure not in stage:
        return ""
    known = [("before", stage["before"]), ("limit", stage["limits"])]
    more = [f"{name} {_short(figures[figure] / divisor)}" for name, figures in known if figure in figures]
    return _short(stage[figure] / divisor) + (f" ({', '.join(more)})" if more else "")


def _short(value: float) -> str:
    return f"{value:,.0f}" if value >= 100 else f"{value:.3g}"
