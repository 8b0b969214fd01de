"""What does each stage of the data path cost, as a multiple of DuckDB's bare parse of the same CSV?

The corpus comes from `corpus` (5,770,089 posts, generated here unless ``BOORU_EMBED_CORPUS`` names its folder). Each
stage runs in its own process, once by the library alone and once through Dagster, with the asset's checks. Figures are
CPU seconds (user and system, all threads and children, without the start of Python) and peak memory, as medians of
alternating rounds. Peer tools read only the last file, beside a bare parse of it. The extra ``bench`` installs them,
except gawk; missing ones are left out with a message.

``python -m benchmarks.data_path --before DIR`` alternates with the build in DIR, an older checkout.
"""

from __future__ import annotations

import argparse
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
DAGSTER: Final = tuple(f"dagster_{stage}" for stage in STAGES)
ALL: Final = "all of it"
PEERS: Final[Mapping[str, tuple[str, ...]]] = {
    "gawk and a Python loop": ("to_tsv", "gawk", "python_tokenizer"),
    "polars": ("polars_counts", "polars_tokens"),
    "pandas": ("pandas_counts", "pandas_tokens"),
}
_ROOT: Final = Path(__file__).parent.parent
_WAYS: Final = Path(__file__).parent / "_data_path_ways.py"

Figures = dict[str, list[dict[str, Any]]]
"""For each way, CPU seconds, peak memory and counts in each round."""


def run(way: str, corpus: Path, work: Path, build: Path = _ROOT) -> dict[str, Any]:
    """CPU seconds, peak memory in MB, and the counts that `way` of the `build` found, run in its own process."""
    for folder in (corpus, work):  # fill the page cache, so that the order of ways does not matter
        for file in (path for path in folder.rglob("*") if path.is_file()):
            _touch(file)
    command = [sys.executable, "-P", str(_WAYS), way, str(corpus), str(work)]
    answer = subprocess.run(
        command, check=False, capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(build)}
    )
    if answer.returncode:
        raise RuntimeError(f"{way} of {build} failed:\n{answer.stderr[-4000:]}")
    figures: dict[str, Any] = json.loads(answer.stdout.splitlines()[-1])
    cost = f"{figures['cpu_seconds']:8.2f} CPU s {figures['peak_mb']:6,} MB"
    print(f"  {build.name:12} {way:24} {cost}   {figures['found']}", flush=True)
    return figures


def _touch(file: Path) -> None:
    with file.open("rb", buffering=0) as stream:
        while stream.read(1 << 24):
            pass


def rounds(
    ways: Sequence[str], corpus: Path, work: Path, builds: Sequence[Path] = (_ROOT,), num: int = ROUNDS
) -> list[Figures]:
    """The figures of each of `builds`, which take turns way by way, in `num` rounds."""
    seen: list[Figures] = [{way: [] for way in ways} for _ in builds]
    for number in range(num):
        print(f"round {number + 1}", flush=True)
        for way in ways:
            for build, figures in zip(builds, seen, strict=True):
                own = work / str(builds.index(build))
                own.mkdir(exist_ok=True)
                figures[way].append(run(way, corpus, own, build))
    for one in seen:
        for way, figures_of_way in one.items():
            if len({figure["found"] for figure in figures_of_way}) > 1:
                raise RuntimeError(f"{way}: rounds found different counts: {figures_of_way}")
    return seen


def summed(seen: Mapping[str, Sequence[Mapping[str, Any]]], ways: Sequence[str]) -> dict[str, Any]:
    """Summed figures of `ways`: medians, and ratios to the bare parse of the same round."""
    seconds = _seconds(seen, ways)
    ratios = [total / floor["cpu_seconds"] for total, floor in zip(seconds, seen[FLOOR], strict=True)]
    return {
        "cpu_seconds": round(statistics.median(seconds), 2),
        "ratio": round(statistics.median(ratios), 2),
        "ratios": [round(ratio, 2) for ratio in ratios],
        "peak_mb": max(one["peak_mb"] for way in ways for one in seen[way]),
    }


def through_dagster(seen: Mapping[str, Sequence[Mapping[str, Any]]]) -> dict[str, Any]:
    """For each stage and for all of them, `summed` figures through Dagster and ratios to the library alone."""
    figures = {}
    for name, stages in [*((stage, [stage]) for stage in STAGES), (ALL, list(STAGES))]:
        ways = [f"dagster_{stage}" for stage in stages]
        ratios = [a / b for a, b in zip(_seconds(seen, ways), _seconds(seen, stages), strict=True)]
        over = {"over_library": round(statistics.median(ratios), 2), "ratios": [round(ratio, 2) for ratio in ratios]}
        figures[name] = summed(seen, ways) | over
    return figures


def _seconds(seen: Mapping[str, Sequence[Mapping[str, Any]]], ways: Sequence[str]) -> list[float]:
    """CPU seconds of all of `ways` together in each round."""
    return [sum(figures) for figures in zip(*([one["cpu_seconds"] for one in seen[way]] for way in ways), strict=True)]


def of_build(seen: Figures) -> dict[str, Any]:
    """The figures of one build on the whole corpus."""
    return {
        "stages": {way: summed(seen, [way]) for way in (FLOOR, *STAGES)} | {ALL: summed(seen, STAGES)},
        "dagster": through_dagster(seen),
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


def main(before: Path | None = None, num_rounds: int = ROUNDS) -> None:
    """Prints one line per process and writes the figures.

    Args:
        before: a checkout of an older build to alternate with.
        num_rounds: rounds.
    """
    load_before, named = os.getloadavg()[0], os.environ.get(CORPUS_VARIABLE)
    with tempfile.TemporaryDirectory() as folder:
        corpus = Path(named) if named else _generate(Path(folder, "corpus"))
        work, part = Path(folder, "work"), Path(folder, "part")
        work.mkdir()
        builds = [_ROOT] if before is None else [before.resolve(), _ROOT]
        by_build = rounds([FLOOR, *STAGES, *DAGSTER], corpus, work, builds, num_rounds)
        for seen in by_build:
            check_same_counts(seen)
        shutil.rmtree(work)
        work.mkdir()
        print("peers, on the last file", flush=True)
        part.mkdir()
        (part / "part.csv").symlink_to(sorted(corpus.glob("*.csv"))[-1].absolute())
        peers, missing = installed_peers()
        ways = [FLOOR, *STAGES, *(way for name in peers for way in PEERS[name])]
        (seen_part,) = rounds(ways, part, work, num=num_rounds)
        check_same_counts(seen_part)
    seen = by_build[-1]
    content = {
        "load_average_before": round(load_before, 2),
        "rounds": num_rounds,
        "num_posts": int(seen[FLOOR][0]["found"].split()[1]),
        "num_posts_of_part": int(seen_part[FLOOR][0]["found"].split()[1]),
        **of_build(seen),
        "before": None if before is None else {"commit": _commit(before), **of_build(by_build[0])},
        "part": {FLOOR: summed(seen_part, [FLOOR]), BOORU_EMBED: summed(seen_part, STAGES)}
        | {name: summed(seen_part, PEERS[name]) for name in peers},
        "not_installed": missing,
        "every_process": {"all": seen, "part": seen_part} | ({} if before is None else {"before": by_build[0]}),
    }
    for name, figures in content["stages"].items():
        print(f"{name:18} {figures['cpu_seconds']:8.2f} CPU s  {figures['ratio']:6.2f} x  {figures['peak_mb']:6,} MB")
    for name, figures in content["dagster"].items():
        print(f"{name:18} {figures['cpu_seconds']:8.2f} CPU s through Dagster, {figures['over_library']:.2f} x alone")
    write("data_path", content)


def _generate(folder: Path) -> Path:
    subprocess.run([sys.executable, "-m", "benchmarks.corpus", "--out", str(folder)], check=True)
    return folder


def _commit(build: Path) -> str:
    """The commit of the checkout `build`, or the folder's name if it is none."""
    answer = subprocess.run(
        ["git", "-C", str(build), "rev-parse", "--short", "HEAD"], capture_output=True, text=True, check=False
    )
    return answer.stdout.strip() or build.name


if __name__ == "__main__":
    parser = argparse.ArgumentParser(prog="python -m benchmarks.data_path", description=__doc__.split("\n")[0])
    parser.add_argument("--before", type=Path, help="a checkout of an older build, to alternate with")
    parser.add_argument("--rounds", type=int, default=ROUNDS, help="rounds (default: %(default)s)")
    asked = parser.parse_args()
    main(asked.before, asked.rounds)
