"""Renders ``results/*.json`` into the tables of docs/reference/benchmarks.md: ``python -m benchmarks.tables``.

A table stands between ``<!-- NAME -->`` and ``<!-- /NAME -->``, where NAME is the name of its result file. To add a
table, add a function to `TABLES` and the two marks to the page.
"""

from __future__ import annotations

import json
import re
import statistics
import textwrap
from collections.abc import Callable, Iterable, Mapping, Sequence
from operator import truediv
from pathlib import Path
from typing import Any, Final

from benchmarks._backend_tables import embedding_backends
from benchmarks._results import BOORU_EMBED, RESULTS, display_name
from benchmarks._scale_tables import SCALE_TABLES

PAGE: Final = Path(__file__).parent.parent / "docs/reference/benchmarks.md"
MAX_RATIOS: Final[Mapping[str, float]] = {"posts": 5.5, "tag_frequencies": 4, "packed_tokens": 2.2, "all of it": 9.5}
"""The limit of a stage of the data path, in bare parses."""
MAX_PEAK_MB: Final[Mapping[str, int]] = {"packed_tokens": 700}
"""The limit of a stage's peak memory, where it is not `_MAX_PEAK_MB`."""
_MAX_PEAK_MB: Final = 1_500
MAX_OVER_LIBRARY: Final = 1.5
"""What the stages may cost through Dagster, over the library alone."""
_WIDTH: Final = 118


def batches(result: Mapping[str, Any]) -> str:
    """The rate of each way to draw batches, by batch size, and booru-embed's rate divided by it."""
    sizes = list(result["figures"])
    header = [
        "",
        *(f"{int(size):,}" for size in sizes),
        *(f"booru-embed ÷ it, {int(size):,}" for size in sizes),
        "M tokens/s",
    ]
    rows = []
    for name, first in result["figures"][sizes[0]].items():
        of_size = [result["figures"][size][name] for size in sizes]
        num_records = first["records_drawn_from"]
        subset = "" if num_records == result["num_posts"] else f" ({num_records:,} records)"
        rows.append(
            [
                display_name(name) + subset,
                *(_short(figure["records_per_cpu_second"] / 1e6) for figure in of_size),
                *(_short(figure["ours_over_it"]) for figure in of_size),
                _short(max(figure["tokens_per_cpu_second"] for figure in of_size) / 1e6),
            ]
        )
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items() if name != "torch")
    missing = ", ".join(name.replace("_", "-") for name in result["not_installed"])
    return "\n".join(
        [
            "Millions of records per CPU second, by batch size. M tokens/s is the highest over the batch sizes. "
            f"The packed file is {result['packed_file']}; its {result['num_posts']:,} records have "
            f"{result['num_tokens'] / result['num_posts']:.1f} tokens on average. Medians of {result['rounds']} "
            "alternating rounds.",
            "",
            *_table(header, rows),
            "",
            f"booru-embed ÷ the fastest loader as shipped: {_by_size(result['ours_over_fastest_peer'])}. "
            f"booru-embed ÷ the fastest handmade loader: {_by_size(result['ours_over_fastest_by_hand'])}.",
            "",
            f"{_where(result)}, torch {result['torch']}. Load average at the start: {result['load_average_before']}. "
            f"{versions}." + (f" Not installed: {missing}." if missing else ""),
        ]
    )


def data_path(result: Mapping[str, Any]) -> str:
    """The cost and limit of each stage relative to a bare parse, through Dagster, and of other ways on one file."""
    stages, part = result["stages"], result["part"]
    header = ["", "CPU s", "÷ bare parse", "limit", "range", "peak MB", "limit"]
    rows = [
        [
            display_name(name),
            *_cost(figures),
            f"{MAX_RATIOS[name]:g}" if name in MAX_RATIOS else "",
            _range(figures["ratios"]),
            f"{figures['peak_mb']:,}",
            "" if name == "bare_parse" else f"{_peak_limit(name, stages):,}",
        ]
        for name, figures in stages.items()
    ]
    part_rows = [
        [
            display_name(name),
            *_cost(figures),
            f"{statistics.median(map(truediv, figures['ratios'], part[BOORU_EMBED]['ratios'])):.2f}",
            f"{figures['peak_mb']:,}",
        ]
        for name, figures in part.items()
    ]
    missing = ", ".join(result["not_installed"])
    return "\n".join(
        [
            f"{result['num_posts']:,} posts, medians of {result['rounds']} alternating rounds:",
            "",
            *_table(header, rows),
            "",
            *_through_dagster(result),
            *_beside_before(result),
            f"The last file alone, {result['num_posts_of_part']:,} posts, in as many rounds:",
            "",
            *_table(["", "CPU s", "÷ bare parse", "÷ booru-embed", "peak MB"], part_rows),
            "",
            f"{_where(result)}. Load average at the start: {result['load_average_before']}."
            + (f" Not installed: {missing}." if missing else ""),
        ]
    )


def _peak_limit(name: str, stages: Iterable[str]) -> int:
    """The limit of the peak memory of the stage `name`, in MB; that of all of them is the highest."""
    limits = {stage: MAX_PEAK_MB.get(stage, _MAX_PEAK_MB) for stage in stages}
    return max(limits.values()) if name == "all of it" else limits[name]


def _through_dagster(result: Mapping[str, Any]) -> list[str]:
    """The cost of the stages through Dagster over the library alone; nothing where it was not measured."""
    if "dagster" not in result:
        return []
    rows = [
        [
            name,
            _short(figures["cpu_seconds"]),
            f"{figures['over_library']:.2f}",
            f"{MAX_OVER_LIBRARY}" if name == "all of it" else "",
            _range(figures["ratios"]),
            f"{figures['peak_mb']:,}",
        ]
        for name, figures in result["dagster"].items()
    ]
    header = ["", "CPU s", "÷ library alone", "limit", "range", "peak MB"]
    return ["The same stages through Dagster, with the checks of each asset:", "", *_table(header, rows), ""]


def _beside_before(result: Mapping[str, Any]) -> list[str]:
    """Each stage of this build beside the build before, in bare parses; nothing where there was none to measure."""
    before = result.get("before")
    if not before:
        return []
    rows = [
        [
            name,
            f"{before['stages'][name]['ratio']:.2f}",
            f"{figures['ratio']:.2f}",
            f"{before['dagster'][name]['ratio']:.2f}",
            f"{result['dagster'][name]['ratio']:.2f}",
            f"{before['stages'][name]['peak_mb']:,}",
            f"{figures['peak_mb']:,}",
        ]
        for name, figures in result["stages"].items()
        if name != "bare_parse"
    ]
    header = ["÷ bare parse", "before", "now", "Dagster, before", "Dagster, now", "peak MB, before", "peak MB, now"]
    return [f"Alternated with the build before, `{before['commit']}`:", "", *_table(header, rows), ""]


def embedding(result: Mapping[str, Any]) -> str:
    """Posts per second of each way to embed, by corpus, and booru-embed's rate as shipped divided by it."""
    parts = []
    for name, corpus in result["figures"].items():
        tables = {
            "As shipped, all captions": corpus["as_they_ship"],
            "All precisions and batch sizes, a tenth of the captions": corpus["each_way"],
        }
        parts += [f"{name}: {corpus['captions']:,} captions of {corpus['mean_tags']:.1f} tags.", ""]
        for title, figures in tables.items():
            rows = [
                [
                    display_name(way),
                    _short(figure["posts_per_cpu_second"]),
                    f"{figure['ours_over_it']:.2f}",
                    " … ".join(f"{ratio:.2f}" for ratio in figure["ours_over_it_rounds"]),
                    _short(figure["posts_per_second"]),
                    f"{figure['ours_over_it_wall']:.2f}",
                ]
                for way, figure in figures.items()
            ]
            header = [title, "posts per CPU s", "booru-embed ÷ it", "range", "posts per s", "booru-embed ÷ it"]
            parts += [*_table(header, rows), ""]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    missing = ", ".join(result["not_installed"])
    return "\n".join(
        [
            f"On {result['device']}, threads: {result['machine']['threads']}; alternating rounds.",
            "",
            *parts,
            f"{_where(result)}, torch {result['torch']}. Load average at the start: {result['load_average_before']}. "
            + (f"Not installed: {missing}." if missing else f"{versions}."),
        ]
    )


def training(result: Mapping[str, Any]) -> str:
    """The speed of a step of each way, and its cost divided by booru-embed's, by caption lengths and dtype."""
    parts = []
    for lengths, figures in result["figures"].items():
        rows = [
            [
                f"{display_name(name)}, {dtype}",
                _short(of_way["cpu_seconds"]),
                f"{of_way['tokens_per_cpu_second']:,}",
                f"{of_way['tokens_per_second']:,}",
                f"{of_way['over_ours']:.2f}",
                f"{min(of_way['ratios']):.2f} … {max(of_way['ratios']):.2f}",
            ]
            for dtype, ways in figures["ways"].items()
            for name, of_way in ways.items()
        ]
        parts += [
            f"Lengths: {lengths}. A step has {result['posts']} captions of {figures['tokens'] / result['posts']:.1f} "
            f"tags; padding takes {figures['padding']} slots per token. Target: padded classes take "
            f"{figures['target']} times as long as booru-embed.",
            "",
            *_table(["", "CPU s per step", "tokens per CPU s", "tokens per s", "CPU s ÷ booru-embed's", "range"], rows),
            "",
        ]
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    where = (
        f"{_where(result)}, torch {result['torch']}, threads: {result['machine']['threads']}. "
        f"Load average at the start: {result['load_average_before']}. "
        f"Medians of {result['rounds']} alternating rounds. "
    )
    return "\n".join([*parts, where + (f"{versions}." if versions else "Not installed: transformers.")])


def search(result: Mapping[str, Any]) -> str:
    """Build time, size, recall and query time of each index, without and with a filter."""
    figures = result["figures"]
    shares = list(next(iter(figures.values()))["filtered"])
    header = ["", "CPU s to build", "bytes per post", "breadth"]
    for asked in ("tags", "a post", *(f"tags, {float(share):.0%} pass" for share in shares)):
        header += [f"recall@10, {asked}", "ms"]
    rows = []
    for name, of_way in figures.items():
        row = [
            display_name(name),
            _short(of_way["build_seconds"]),
            _short(of_way["bytes_per_post"]),
            f"{of_way['breadth']:,}",
        ]
        for figure in (of_way["typed"], of_way["posts"], *(of_way["filtered"][share] for share in shares)):
            row += [f"{figure['recall']:.3f}", _short(figure["milliseconds"])]
        rows.append(row)
    versions = ", ".join(f"{name} {version}" for name, version in result["versions"].items())
    return "\n".join(
        [
            f"{result['num_posts']:,} generated posts, vectors of {result['dim']} numbers, {result['num_queries']} "
            "queries of each kind; CPU milliseconds per query.",
            "",
            *_table(header, rows),
            "",
            f"{_where(result)}, one thread. Load average at the start: {result['load_average_before']}. {versions}.",
        ]
    )


def page(result: Mapping[str, Any]) -> str:
    """The frame rate of the map, by the way in which it moves."""
    header = ["moved by", "frames per s", "on time", "median, ms", "p95, ms", "CPU ms per frame"]
    rows = [
        [
            kind,
            f"{figure['frames_per_second']:.1f}",
            f"{100 * figure['share_on_time']:.0f}%",
            f"{figure['median_ms']:.1f}",
            f"{figure['p95_ms']:.1f}",
            f"{figure['cpu_ms_per_frame']:.1f}",
        ]
        for kind, figure in result["moves"].items()
    ]
    return "\n".join(
        [
            *_table(header, rows),
            "",
            f"{result['num_tags']:,} tags on {' by '.join(map(str, result['map_pixels']))} pixels, "
            f"{result['browser']}, drawn by {result['renderer']}. {_where(result)}, "
            f"{result['machine']['cores']} cores. Load average at the start: {result['load_average_before']}.",
        ]
    )


def soak(result: Mapping[str, Any]) -> str:
    """Resident memory of the server, minute after minute, and what was left over."""
    minutes = ", ".join(f"{megabytes:,.0f}" for megabytes in result["megabytes_each_minute"])
    text = (
        f"{result['num_requests']:,} requests in {result['minutes']:g} minutes, {result['answers_5xx']:,} answers of "
        f"500 or above. Resident MB at the start of each minute: {minutes}. From the second minute on memory grows by "
        f"{result['megabytes_per_minute']:.2f} MB a minute. Open descriptors: {result['descriptors_before']} before, "
        f"{result['descriptors_at_most']} at most, {result['descriptors_after']} after. {_where(result)}."
    )
    return textwrap.fill(text, _WIDTH)


def serving(result: Mapping[str, Any]) -> str:
    """Latencies and requests per second, at a fixed rate and as fast as possible."""
    header = ["", "requests per s", "p50, ms", "p95, ms", "p99, ms", "server's CPU ms per request"]
    rate = f"{result['rate']} per s"
    names = {
        "steady": f"fixed rate, {rate}",
        "typing": f"fixed rate, {rate}, with a prefix",
        "flat out": "as fast as possible",
    }
    rows = []
    for name, figure in result["figures"].items():
        cpu = 1000 * figure["server_cpu_seconds"] / figure["num_requests"]
        times = [f"{figure[f'p{share}_milliseconds']:.1f}" for share in (50, 95, 99)]
        rows.append([names[name], f"{figure['requests_per_second']:.0f}", *times, f"{cpu:.1f}"])
    return "\n".join(
        [
            *_table(header, rows),
            "",
            f"{result['num_tags']:,} tags, captions of {result['caption_tags']}, {result['num_clients']} clients, "
            f"{result['seconds']} s each. {_where(result)}, {result['machine']['cores']} cores shared with the "
            f"clients. Load average at the start: {result['load_average_before']}.",
        ]
    )


TABLES: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = {
    "data_path": data_path,
    "batches": batches,
    "embedding": embedding,
    "embedding_backends": embedding_backends,
    "training": training,
    **SCALE_TABLES,
    "search": search,
    "page": page,
    "serving": serving,
    "soak": soak,
}


def rendered(page: str, results: Path = RESULTS) -> str:
    """The text of `page` with every table rendered from `results`.

    Raises:
        ValueError: `page` lacks the marks of a table.
    """
    for name, table in TABLES.items():
        text = _wrapped(table(json.loads((results / f"{name}.json").read_text(encoding="utf-8"))))
        between = re.compile(rf"(<!-- {name} -->\n).*?(<!-- /{name} -->)", re.DOTALL)
        page, num = between.subn(lambda marks, text=text: f"{marks[1]}\n{text}\n\n{marks[2]}", page)
        if num != 1:
            found = f"found <!-- {name} --> … <!-- /{name} --> {num} times"
            raise ValueError(f"{PAGE.name}: {found}; write both marks exactly once")
    return page


def _wrapped(text: str) -> str:
    lines = text.splitlines()
    return "\n".join(line if line.startswith("|") else textwrap.fill(line, _WIDTH) for line in lines)


def _table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    lines = [header, ["---", *["---:"] * (len(header) - 1)], *rows]
    return [f"| {' | '.join(line)} |" for line in lines]


def _cost(figures: Mapping[str, Any]) -> tuple[str, str]:
    return _short(figures["cpu_seconds"]), f"{figures['ratio']:.2f}"


def _range(ratios: Sequence[float]) -> str:
    return f"{min(ratios):.2f} … {max(ratios):.2f}"


def _short(number: float) -> str:
    """`number` with three significant digits and without an exponent."""
    return f"{number:,.0f}" if number >= 100 else f"{number:.3g}"


def _by_size(ratios: Mapping[str, float | None]) -> str:
    shown = [f"{ratio:.1f} at {int(size):,}" for size, ratio in ratios.items() if ratio is not None]
    return ", ".join(shown) or "none installed"


def _where(result: Mapping[str, Any]) -> str:
    machine = result["machine"]
    on = machine["gpu"] or machine["cpu"]
    return f"Commit `{result['commit']}`, {result['time'][:10]}, {on}"


def main() -> None:
    """Renders the tables into the page."""
    PAGE.write_text(rendered(PAGE.read_text(encoding="utf-8")), encoding="utf-8")


if __name__ == "__main__":
    main()
