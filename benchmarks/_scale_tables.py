"""The tables of scale, of time to quality, of memory and of files of captions, for `tables`."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from typing import Any, Final

_COLUMNS: Final[Mapping[str, tuple[str, float]]] = {
    "cpu_seconds": ("CPU s", 1),
    "peak_mb": ("peak MB", 1),
    "disk_bytes": ("disk MB", 1e6),
    "rows_per_cpu_second": ("rows a CPU s", 1),
    "p95_ms": ("p95 ms", 1),
}
"""Title of each figure, and what it is divided by."""
_WIDTH: Final = 118


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


def training_scale(result: Mapping[str, Any]) -> str:
    """A training step by size of the vocabulary, beside the build before."""
    lines = ["| tags | CPU s a step (before) | ratio | peak MB (before) |", "|---:|---:|---:|---:|"]
    lines += [
        f"| {case['num_tags']:,} | {case['cpu_seconds']:.2f} ({case['cpu_seconds_before']:.2f}) | "
        f"{case['ratio_to_before']:.2f} | {case['peak_mb']:,} ({case['peak_mb_before']:,}) |"
        for case in result["cases"]
    ]
    where = (
        f"Commit `{result['commit']}` against `{result['before']}`, {result['time'][:10]}, {result['machine']['cpu']}, "
        f"rounds: {result['rounds']}, steps: {result['steps']}, load before: {result['load_average_before']:.1f}."
    )
    return "\n".join([*lines, "", where])


def time_to_quality(result: Mapping[str, Any]) -> str:
    """What whole trainings cost and reach, and the ratio of a step."""
    measures = [*result["runs"][0]["now"]["recall@10"], "R@1"]
    lines = [f"| {' | '.join(['', *(_run_name(run) for run in result['runs'])])} |"]
    lines.append(f"| --- |{' ---: |' * len(result['runs'])}")
    lines.append(_run_row("CPU s", [f"{run['now']['cpu_seconds']:,.0f}" for run in result["runs"]]))
    for measure in measures:
        figures = [{**run["now"]["recall@10"], "R@1": run["now"]["R@1"]}[measure] for run in result["runs"]]
        name = measure if measure == "R@1" else f"recall@10, {measure}"
        lines.append(_run_row(name, [f"{figure:.3f}" for figure in figures]))
    step = result["step"]
    told = (
        f"A step takes {step['now']:.3f} CPU s for {step['before']:.3f}: ratio {step['ratio']:.3f} "
        f"({step['range'][0]:.3f} … {step['range'][1]:.3f}), medians of {step['num_steps']} alternating steps. "
        f"{result['time'][:10]}, {result['machine']['cpu']}, one thread."
    )
    return "\n".join([*lines, "", told])


def _run_name(run: Mapping[str, Any]) -> str:
    """The heading of a training."""
    return f"seed {run['now']['seed']}, {run['now']['num_epochs']} epochs"


def _run_row(name: str, cells: list[str]) -> str:
    return f"| {' | '.join([name, *cells])} |"


def memory(result: Mapping[str, Any]) -> str:
    """Peak memory of each stage of the default run, beside the build before."""
    lines = ["| process | peak MB (before) | CPU s (before) |", "| --- | ---: | ---: |"]
    for name, case in result["cases"].items():
        now, before = (_short(max(case[f"cpu_seconds{end}"])) for end in ("", "_before"))
        title = f"training, {case['steps']} steps" if "steps" in case else name.replace("_", " ")
        lines.append(f"| {title} | {case['peak_mb']:,} ({case['peak_mb_before']:,}) | {now} ({before}) |")
    largest = max(case["peak_mb"] for case in result["cases"].values())
    where = (
        f"The largest process takes {largest:,} MB; the limit is {result['max_peak_mb']:,}. "
        f"Commit `{result['commit']}` against `{result['before']}`, {result['time'][:10]}, {result['machine']['cpu']}."
    )
    return "\n".join([*lines, "", *textwrap.wrap(where, _WIDTH)])


def embedding_files(result: Mapping[str, Any]) -> str:
    """Rows per second of ``booru-embed embed --file`` beside the build before, and one caption beside the peer."""
    figures = result["figures"]
    lines = ["| captions | rows per CPU s (before) | without the network |", "|---|---:|---:|"]
    for name, case in figures["file"].items():
        rates = case["rows_per_cpu_second"]
        without = _short(case["without_network_rows_per_cpu_second"])
        lines.append(f"| {name} | {_short(rates['now'])} ({_short(rates['before'])}) | {without} |")
    one = ["| one caption | median CPU ms | 95th percentile |", "|---|---:|---:|"]
    one += [
        f"| {name} | {times['median_cpu_ms']:.1f} | {times['p95_cpu_ms']:.1f} |"
        for name, times in figures["one_caption"].items()
    ]
    where = (
        f"{figures['captions']:,} captions of {figures['mean_tags']:.0f} tags, the start included, one thread. "
        f"Commit `{result['commit']}`, {result['time'][:10]}, {result['machine']['cpu']}."
    )
    return "\n".join([*lines, "", *one, "", *textwrap.wrap(where, _WIDTH)])


SCALE_TABLES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "training_scale": training_scale,
    "time_to_quality": time_to_quality,
    "full_scale": full_scale,
    "memory": memory,
    "embedding_files": embedding_files,
}
