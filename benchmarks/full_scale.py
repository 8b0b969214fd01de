"""What does each stage cost at full size: CPU seconds, peak memory, disk, rows a second?

``python -m benchmarks.full_scale --settings FILE [STAGE …]`` runs stages on the export and in the warehouse that FILE
names. Make the export by ``python -m benchmarks.corpus``; the full corpus has 5,770,089 posts. The figures of a stage
are added to ``results/full_scale.json`` as it ends, and a stage with figures is left out of the next run, so that an
interrupted run resumes. ``--again`` measures it anew.

Each stage runs in its own process. A later stage reads what an earlier one has left in the warehouse. Where the
warehouse has no checkpoint, an untrained one stands in, which costs the same.
"""

from __future__ import annotations

import argparse
import importlib
import json
import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from benchmarks._full_scale import Place, Stage, measured
from benchmarks._results import RESULTS, about

MODULES: Final = ("data", "training", "evaluation", "vectors", "serving")
"""``_full_scale_<name>.py`` of each group of stages, in the order of the table."""
RESULT_FILE: Final = RESULTS / "full_scale.json"
_ROOT: Final = Path(__file__).parent.parent


def stages() -> dict[str, Stage]:
    """All stages by name, in the order of the table.

    Raises:
        ValueError: two have one name.
    """
    found: dict[str, Stage] = {}
    for name in MODULES:
        for stage in importlib.import_module(f"benchmarks._full_scale_{name}").STAGES:
            if stage.name in found:
                raise ValueError(f"two stages are named {stage.name}; rename one")
            found[stage.name] = stage
    return found


def wanted(names: Sequence[str], done: Mapping[str, Any], again: bool) -> list[str]:
    """The stages of `names` to run, all if empty; those in `done` only if they are measured `again`.

    Raises:
        SystemExit: a name is that of no stage.
    """
    every = list(stages())
    if unknown := sorted(set(names) - set(every)):
        raise SystemExit(f"no stage {', '.join(unknown)}; choose from {', '.join(every)}")
    return [name for name in every if name in (names or every) and (again or name not in done)]


def read_results(file: Path = RESULT_FILE) -> dict[str, Any]:
    """The figures of each stage that was measured."""
    if not file.exists():
        return {}
    measured_stages: dict[str, Any] = json.loads(file.read_text(encoding="utf-8"))["stages"]
    return measured_stages


def add_result(name: str, figures: Mapping[str, Any], file: Path = RESULT_FILE) -> None:
    """Adds the `figures` of the stage `name` with its commit, time, machine, limits and those of the build before."""
    stage = stages()[name]
    done = read_results(file) | {name: {**figures, "limits": stage.limits, "before": stage.before, **about()}}
    ordered = {one: done[one] for one in stages() if one in done}
    partial = file.with_name(f"{file.name}.partial")
    partial.write_text(json.dumps({"stages": ordered}, indent=2) + "\n", encoding="utf-8")
    partial.replace(file)


def run_stage(name: str, place: Place) -> dict[str, Any]:
    """The figures of the stage `name`, run in its own process.

    Raises:
        SystemExit: it failed; its output was shown.
    """
    figures_file = place.scratch / "figures.json"
    figures_file.unlink(missing_ok=True)
    command = [sys.executable, "-m", "benchmarks.full_scale", "--settings", str(place.settings_file.absolute())]
    command += ["--scratch", str(place.scratch.absolute()), "--only", name, "--figures", str(figures_file.absolute())]
    answer = subprocess.run(command, check=False, cwd=_ROOT)
    if answer.returncode:
        raise SystemExit(f"stage {name} failed with status {answer.returncode}; see above")
    figures: dict[str, Any] = json.loads(figures_file.read_text(encoding="utf-8"))
    return figures


def main(arguments: Sequence[str] | None = None) -> None:
    """Runs stages and adds their figures to the results."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.full_scale", description=__doc__.split("\n")[0])
    parser.add_argument("stages", nargs="*", metavar="STAGE", help=f"of {', '.join(stages())}; all by default")
    parser.add_argument("--settings", type=Path, required=True, help="names the export and the warehouse")
    parser.add_argument("--scratch", type=Path, default=Path("full_scale.scratch"), help="default: %(default)s")
    parser.add_argument("--again", action="store_true", help="measure stages that have figures, too")
    parser.add_argument("--only", help=argparse.SUPPRESS)
    parser.add_argument("--figures", type=Path, help=argparse.SUPPRESS)
    asked = parser.parse_args(arguments)
    asked.scratch.mkdir(exist_ok=True)
    place = Place(asked.settings.absolute(), asked.scratch.absolute())
    if asked.only:
        asked.figures.write_text(json.dumps(measured(stages()[asked.only], place)), encoding="utf-8")
        return
    for name in wanted(asked.stages, read_results(), asked.again):
        figures = run_stage(name, place)
        add_result(name, figures)
        print(f"{name:24} {figures['cpu_seconds']:10.2f} CPU s {figures['peak_mb']:8,} MB", flush=True)


if __name__ == "__main__":
    main()
