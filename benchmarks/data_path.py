"""What does each stage of the data path cost, as a multiple of DuckDB's bare parse of the same CSV?

The corpus comes from `corpus` (5,770,089 posts, generated here unless ``BOORU_EMBED_CORPUS`` names its folder). Each
stage runs in its own process. Figures are CPU seconds (user and system, all threads and children, without the start of
Python) and peak memory, as medians of alternating rounds. Peer tools read only the last file, beside a bare parse of
it. The extra ``bench`` installs them, except gawk; missing ones are left out with a message.
"""

from __future__ import annotations

import importlib.util
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks._results import BOORU_EMBED, write

ROUNDS: Final = 3
CORPUS_VARIABLE: Final = "BOORU_EMBED_CORPUS"
FLOOR: Final = "bare_parse"
STAGES: Final = ("posts", "tag_frequencies", "vocab", "packed_tokens")
ALL: Final = "all of it"
PEERS: Final[Mapping[str, tuple[str, ...]]] = {
    "gawk and a Python loop": ("to_tsv", "gawk", "python_tokenizer"),
    "polars": ("polars_counts", "polars_tokens"),
    "pandas": ("pandas_counts", "pandas_tokens"),
}


def run(way: str, corpus: Path, work: Path) -> dict[str, Any]:
    """CPU seconds, peak memory in MB, and the counts that `way` found, run in its own process."""
    for folder in (corpus, work):  # fill the page cache, so that the order of ways does not matter
        for file in (path for path in folder.rglob("*") if path.is_file()):
            _touch(file)
    command = [sys.executable, "-m", "benchmarks._data_path_ways", way, str(corpus), str(work)]
    printed = subprocess.run(command, check=True, stdout=subprocess.PIPE, text=True).stdout
    figures: dict[str, Any] = json.loads(printed.splitlines()[-1])
    print(f"  {way:18} {figures['cpu_seconds']:8.2f} CPU s {figures['peak_mb']:6,} MB   {figures['found']}", flush=True)
    return figures


def _touch(file: Path) -> None:
    with file.open("rb", buffering=0) as stream:
        while stream.read(1 << 24):
            pass


def rounds(ways: Sequence[str], corpus: Path, work: Path) -> dict[str, list[dict[str, Any]]]:
    """The figures of each way in each round."""
    seen: dict[str, list[dict[str, Any]]] = {way: [] for way in ways}
    for number in range(ROUNDS):
        print(f"round {number + 1}", flush=True)
        for way in ways:
            seen[way].append(run(way, corpus, work))
    for way, figures in seen.items():
        if len({figure["found"] for figure in figures}) > 1:
            raise RuntimeError(f"{way}: rounds found different counts: {figures}")
    return seen


def summed(seen: Mapping[str, Sequence[Mapping[str, Any]]], ways: Sequence[str]) -> dict[str, Any]:
    """Summed figures of `ways`: medians, and ratios to the bare parse of the same round."""
    seconds = [
        sum(figures) for figures in zip(*([one["cpu_seconds"] for one in seen[way]] for way in ways), strict=True)
    ]
    ratios = [total / floor["cpu_seconds"] for total, floor in zip(seconds, seen[FLOOR], strict=True)]
    return {
        "cpu_seconds": round(statistics.median(seconds), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "peak_mb": max(one["peak_mb"] for way in ways for one in seen[way]),
    }


def installed_peers() -> tuple[list[str], list[str]]:
    """The peers that are installed, and those that are not."""
    modules = importlib.util.find_spec
    installed = {
        "gawk and a Python loop": shutil.which("gawk"),
        "polars": modules("polars"),
        "pandas": modules("pandas"),
    }
    return [name for name in PEERS if installed[name]], [name for name in PEERS if not installed[name]]


def check_same_counts(seen: Mapping[str, Sequence[Mapping[str, Any]]]) -> None:
    """Checks that ways which count the same thing, such as tokens, found the same numbers.

    Raises:
        RuntimeError: they found different numbers.
    """
    finds: dict[str, dict[str, str]] = {}
    for way, figures in seen.items():
        found = str(figures[0]["found"])
        finds.setdefault(found.split()[0], {})[way] = found
    for by_way in finds.values():
        if len(set(by_way.values())) > 1:
            raise RuntimeError(f"counts should be equal: {by_way}")


def main() -> None:
    """Prints one line per process and writes the figures."""
    load_before, named = os.getloadavg()[0], os.environ.get(CORPUS_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(named) if named else _generate(Path(folder, "corpus"))
        work, part = Path(folder, "work"), Path(folder, "part")
        work.mkdir()
        seen = rounds([FLOOR, *STAGES], corpus, work)
        print("peers, on the last file", flush=True)
        part.mkdir()
        (part / "part.csv").symlink_to(sorted(corpus.glob("*.csv"))[-1].absolute())
        peers, missing = installed_peers()
        ways = [FLOOR, *STAGES, *(way for name in peers for way in PEERS[name])]
        seen_part = rounds(ways, part, work)
        check_same_counts(seen_part)
    content = {
        "load_average_before": round(load_before, 2),
        "rounds": ROUNDS,
        "num_posts": int(seen[FLOOR][0]["found"].split()[1]),
        "num_posts_of_part": int(seen_part[FLOOR][0]["found"].split()[1]),
        "stages": {way: summed(seen, [way]) for way in (FLOOR, *STAGES)} | {ALL: summed(seen, STAGES)},
        "part": {FLOOR: summed(seen_part, [FLOOR]), BOORU_EMBED: summed(seen_part, STAGES)}
        | {name: summed(seen_part, PEERS[name]) for name in peers},
        "not_installed": missing,
        "every_process": {"all": seen, "part": seen_part},
    }
    for name, figures in content["stages"].items():
        print(f"{name:18} {figures['cpu_seconds']:8.2f} CPU s  {figures['ratio']:6.2f} x  {figures['peak_mb']:6,} MB")
    write("data_path", content)


def _generate(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "benchmarks.corpus", "--out", str(folder)], check=True)
    return folder


if __name__ == "__main__":
    main()
