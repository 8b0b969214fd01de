"""Runs all benchmarks, or the named ones: ``python -m benchmarks [training …]``."""

from __future__ import annotations

import importlib
import pkgutil
import sys

import benchmarks

TOOLS = ("corpus", "evaluation_memory", "full_scale", "memory", "mutation", "soak", "tables", "time_to_quality")
"""Modules to run on their own: they generate inputs or pages, take hours, or need a trained model."""


def main(names: list[str]) -> None:
    """Runs the benchmarks in `names`, or all of them."""
    modules = [module.name for module in pkgutil.iter_modules(benchmarks.__path__)]
    every = [name for name in modules if not name.startswith("_") and name not in TOOLS]
    unknown = sorted(set(names) - set(every))
    if unknown:
        sys.exit(f"no benchmark {', '.join(unknown)}; choose from {', '.join(every)}")
    for name in names or every:
        print(f"== {name}", flush=True)
        importlib.import_module(f"benchmarks.{name}").main()


main(sys.argv[1:])
