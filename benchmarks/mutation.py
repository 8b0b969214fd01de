"""Which small wrong changes do the tests catch?

Each mutant is one change to one expression or statement: ``<`` for ``<=``, ``and`` for ``or``, a number plus one, a
call left out. Mutants are drawn at random, the same number from each package. The tests that mirror the module run
first, then those of its package. A mutant survives when all of them pass.

``python -m benchmarks.mutation [PACKAGE ...]`` takes hours and resumes. A line with ``# pragma: no mutant`` is left
alone.
"""

from __future__ import annotations

import ast
import contextlib
import copy
import json
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Final

from benchmarks._results import write

NUM_PER_PACKAGE: Final = 48
SEED: Final = 15
NUM_PROCESSES: Final = 2
PACKAGES: Final = (
    "booru_embed_core/posts",
    "booru_embed_core/tags",
    "booru_embed_core/tokens",
    "booru_embed_core/training",
    "booru_embed_dagster/automation",
)
TIMEOUT_SECONDS: Final = 900
ROOT: Final = Path(__file__).parents[1]
EMULATOR: Final = ROOT / ".venv-emulator"
PROGRESS_FILE: Final = Path(__file__).parent / "tmp" / "mutation.jsonl"
"""Outcomes so far: an interrupted run goes on from here. Remove it after a change of the tests."""
_UNTOUCHED: Final = ("log", "logger", "print", "report", "warn", "debug", "info")
"""Calls that only tell somebody something."""
_SWAPPED: Final[dict[type[ast.AST], type[ast.AST]]] = {
    ast.Lt: ast.LtE, ast.LtE: ast.Lt, ast.Gt: ast.GtE, ast.GtE: ast.Gt, ast.Eq: ast.NotEq, ast.NotEq: ast.Eq,
    ast.In: ast.NotIn, ast.NotIn: ast.In, ast.Is: ast.IsNot, ast.IsNot: ast.Is,
    ast.Add: ast.Sub, ast.Sub: ast.Add, ast.Mult: ast.FloorDiv, ast.FloorDiv: ast.Mult, ast.Div: ast.Mult,
    ast.BitAnd: ast.BitOr, ast.BitOr: ast.BitAnd, ast.And: ast.Or, ast.Or: ast.And,
}  # fmt: skip
_CALLS: Final = {"min": "max", "max": "min", "any": "all", "all": "any"}


@dataclass(frozen=True)
class Mutant:
    """One change: the characters from `start` to `end` of `file` become `new`."""

    file: str
    line: int
    old: str
    new: str
    start: int
    end: int


def mutants_of(file: Path, name: str) -> list[Mutant]:
    """All mutants of `file`, in the order of its lines; errors' texts, annotations and docstrings are left alone."""
    source = file.read_text(encoding="utf-8")
    lines = source.splitlines(keepends=True)
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line))

    def offset(line: int, column: int) -> int:
        return starts[line - 1] + len(lines[line - 1].encode()[:column].decode())

    found = []
    for node, new in _changes(ast.parse(source)):
        start, end = offset(node.lineno, node.col_offset), offset(node.end_lineno or 0, node.end_col_offset or 0)
        if "pragma: no mutant" not in lines[node.lineno - 1]:
            found.append(Mutant(name, node.lineno, source[start:end], new, start, end))
    return found


def _changes(tree: ast.AST) -> Iterator[tuple[ast.expr | ast.stmt, str]]:
    for node in ast.iter_child_nodes(tree):
        if isinstance(node, ast.Raise | ast.Assert | ast.Import | ast.ImportFrom | ast.JoinedStr):
            continue
        if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test):
            continue
        if isinstance(node, ast.expr | ast.stmt):
            for changed in _changed(node):
                # In brackets: what stands around it may bind tighter.
                text = ast.unparse(changed)
                yield node, f"({text})" if isinstance(node, ast.expr) and not isinstance(node, ast.Constant) else text
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
            for part in (*node.args.defaults, *(default for default in node.args.kw_defaults if default)):
                yield from _changes(ast.Expression(part))
            yield from _changes(ast.Module(node.body, []))
        elif isinstance(node, ast.AnnAssign):
            yield from _changes(ast.Expression(node.value) if node.value else ast.Module([], []))
        else:
            yield from _changes(node)


def _changed(node: ast.expr | ast.stmt) -> Iterator[ast.AST]:
    if isinstance(node, ast.Compare):
        for place, operator in enumerate(node.ops):
            if type(operator) in _SWAPPED:
                changed = copy.deepcopy(node)
                changed.ops[place] = _SWAPPED[type(operator)]()  # type: ignore[call-overload]  # of the same kind
                yield changed
    elif isinstance(node, ast.BinOp | ast.BoolOp) and type(node.op) in _SWAPPED:
        if not any(isinstance(part, ast.JoinedStr) or _is_text(part) for part in ast.walk(node)):
            changed_operator = copy.deepcopy(node)
            changed_operator.op = _SWAPPED[type(node.op)]()  # type: ignore[assignment]  # of the same kind
            yield changed_operator
    elif isinstance(node, ast.UnaryOp) and isinstance(node.op, ast.Not):
        yield node.operand
    elif isinstance(node, ast.Constant) and isinstance(node.value, bool):
        yield ast.Constant(not node.value)
    elif isinstance(node, ast.Constant) and isinstance(node.value, int | float):
        yield ast.Constant(node.value + 1 if isinstance(node.value, int) else node.value * 2 or 1.0)
    elif isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id in _CALLS:
        yield ast.Call(ast.Name(_CALLS[node.func.id]), node.args, node.keywords)
    elif isinstance(node, ast.Expr) and isinstance(node.value, ast.Call):
        function = node.value.func
        name = function.attr if isinstance(function, ast.Attribute) else getattr(function, "id", "")
        if name not in _UNTOUCHED:
            yield ast.Pass()


def _is_text(node: ast.AST) -> bool:
    return isinstance(node, ast.Constant) and isinstance(node.value, str)


def drawn(num: int, seed: int, root: Path = ROOT, packages: Sequence[str] = PACKAGES) -> list[Mutant]:
    """`num` mutants of each of `packages`, drawn at random without repeats; a package's depend on the seed alone."""
    chosen: list[Mutant] = []
    for package in packages:
        files = sorted(file for file in (root / package).rglob("*.py") if file.name != "__init__.py")
        every = [mutant for file in files for mutant in mutants_of(file, file.relative_to(root).as_posix())]
        chosen += random.Random(f"{seed} {package}").sample(every, min(num, len(every)))
    return chosen


def stages(mutant: Mutant, root: Path = ROOT) -> list[list[str]]:
    """The tests below `root` to run, in turn: those that mirror the module, then those of its package."""
    package, name = Path(mutant.file).parent, Path(mutant.file).stem
    folder = Path("tests", package.parts[0].removeprefix("booru_embed_"), *package.parts[1:])
    top = Path(*folder.parts[:3])
    mirror = folder / f"test_{name}.py"
    found = [[mirror.as_posix()]] if (root / mirror).exists() else []
    wider = {"posts": ["tests/core/test_round_trip.py"], "automation": ["tests/dagster/jobs"]}.get(top.name, [])
    return [*found, [top.as_posix(), *wider]]


def outcome(mutant: Mutant, tree: Path) -> str:
    """``killed``, ``survived`` or ``timeout`` (which counts as killed), of `mutant` in the copy `tree`."""
    file = tree / mutant.file
    source = file.read_text(encoding="utf-8")
    file.write_text(source[: mutant.start] + mutant.new + source[mutant.end :], encoding="utf-8")
    try:
        for tests in stages(mutant, tree):
            if (code := _run(tests, tree)) != 0:
                return "killed" if code > 0 else "timeout"
        return "survived"
    finally:
        file.write_text(source, encoding="utf-8")


def _run(tests: Sequence[str], tree: Path) -> int:
    command = [sys.executable, "-m", "pytest", "-x", "-q", "-p", "no:cacheprovider", *tests]
    environment = {**os.environ, "PYTHONPATH": str(tree), "PYTHONDONTWRITEBYTECODE": "1", "OMP_NUM_THREADS": "1"}
    try:
        done = subprocess.run(command, cwd=tree, env=environment, capture_output=True, timeout=TIMEOUT_SECONDS)
    except subprocess.TimeoutExpired:
        return -1
    return done.returncode


def main(num: int = NUM_PER_PACKAGE, seed: int = SEED, packages: Sequence[str] = PACKAGES) -> None:
    """Runs the tests on each mutant that has no outcome yet, and writes which survived once all have one."""
    mutants = drawn(num, seed, packages=packages)
    PROGRESS_FILE.parent.mkdir(exist_ok=True)
    outcomes = read_progress(PROGRESS_FILE)
    waiting = [mutant for mutant in mutants if mutant not in outcomes]
    print(f"{len(mutants)} mutants, {len(mutants) - len(waiting)} of them done")
    local, began = threading.local(), time.monotonic()
    with tempfile.TemporaryDirectory() as scratch, ThreadPoolExecutor(NUM_PROCESSES) as pool:

        def run(mutant: Mutant) -> None:
            """Notes what becomes of `mutant`, in this thread's own copy of the tree."""
            if not hasattr(local, "tree"):
                local.tree = Path(tempfile.mkdtemp(dir=scratch)) / "tree"
                ignored = shutil.ignore_patterns(
                    ".git", ".venv*", "warehouse", "node_modules", "__pycache__", ".*_cache"
                )
                shutil.copytree(ROOT, local.tree, ignore=ignored)
                if EMULATOR.exists():  # without it, the tests of BigQuery are skipped
                    (local.tree / EMULATOR.name).symlink_to(EMULATOR)
            outcomes[mutant] = result = outcome(mutant, local.tree)
            with PROGRESS_FILE.open("a", encoding="utf-8") as stream:
                stream.write(json.dumps({**asdict(mutant), "outcome": result}) + "\n")
            seconds = time.monotonic() - began
            print(
                f"{seconds:6.0f} s  {result}  {mutant.file}:{mutant.line}  {mutant.old!r} -> {mutant.new!r}", flush=True
            )

        list(pool.map(run, waiting))
    counts: dict[str, dict[str, int]] = {package: {} for package in packages}
    for mutant in mutants:
        (package,) = (package for package in packages if mutant.file.startswith(package + "/"))
        counts[package][outcomes[mutant]] = counts[package].get(outcomes[mutant], 0) + 1
    survivors = [
        {"file": m.file, "line": m.line, "old": m.old, "new": m.new} for m in mutants if outcomes[m] == "survived"
    ]
    print(json.dumps(counts, indent=2))
    write("mutation", {"num_mutants": len(mutants), "seed": seed, "outcomes": counts, "survivors": survivors})


def read_progress(file: Path) -> dict[Mutant, str]:
    """The outcome of each mutant that `file` has a line of; a line that was cut off is none."""
    outcomes = {}
    for line in file.read_text(encoding="utf-8").splitlines() if file.exists() else ():
        with contextlib.suppress(json.JSONDecodeError):
            values = json.loads(line)
            result = values.pop("outcome")
            outcomes[Mutant(**values)] = result
    return outcomes


if __name__ == "__main__":
    main(packages=sys.argv[1:] or PACKAGES)
