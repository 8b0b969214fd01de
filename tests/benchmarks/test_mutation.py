"""Mutants are the changes that they say, the same for the same seed, and their outcome is that of the tests."""

from __future__ import annotations

import ast
import json
from dataclasses import asdict
from pathlib import Path

import pytest

from benchmarks.mutation import PACKAGES, ROOT, Mutant, drawn, mutants_of, outcome, read_progress, stages

SOURCE = '''"""Text 1."""
from typing import Final, Literal

SIZE: Final[Literal[3]] = 3


def take(values: list[int], wide: bool = False) -> int:
    """Text 2."""
    if not values or len(values) > SIZE:
        raise ValueError(f"{len(values) + 1} values")
    values.sort()
    print(f"{4} values")
    kept = SIZE  # pragma: no mutant
    return min(values)
'''


def changes(tmp_path: Path) -> list[tuple[int, str, str]]:
    file = tmp_path / "take.py"
    file.write_text(SOURCE, encoding="utf-8")
    return [(mutant.line, mutant.old, mutant.new) for mutant in mutants_of(file, "take.py")]


def test_expressions_and_calls_are_changed_and_texts_are_not(tmp_path: Path) -> None:
    assert changes(tmp_path) == [
        (4, "3", "4"),
        (7, "False", "True"),
        (9, "not values or len(values) > SIZE", "(not values and len(values) > SIZE)"),
        (9, "not values", "(values)"),
        (9, "len(values) > SIZE", "(len(values) >= SIZE)"),
        (11, "values.sort()", "pass"),
        (14, "min(values)", "(max(values))"),
    ]


def test_every_mutant_parses_and_differs_and_the_seed_decides() -> None:
    mutants = drawn(10, seed=3)
    assert mutants == drawn(10, seed=3) != drawn(10, seed=4)
    for package in PACKAGES:
        assert sum(mutant.file.startswith(package) for mutant in mutants) == 10
    for mutant in mutants:
        source = (ROOT / mutant.file).read_text(encoding="utf-8")
        changed = source[: mutant.start] + mutant.new + source[mutant.end :]
        assert ast.dump(ast.parse(changed)) != ast.dump(ast.parse(source)), mutant


@pytest.mark.slow
def test_the_tests_decide_and_the_file_is_put_back(tmp_path: Path) -> None:
    file, tests = tmp_path / "booru_embed_core/posts/one.py", tmp_path / "tests/core/posts"
    file.parent.mkdir(parents=True)
    tests.mkdir(parents=True)
    file.write_text("ONE = 1\nOTHER = 5\n", encoding="utf-8")
    (tmp_path / "tests/core/test_round_trip.py").write_text("def test_nothing(): pass\n", encoding="utf-8")
    (tests / "test_one.py").write_text(
        "from booru_embed_core.posts.one import ONE\ndef test_one(): assert ONE == 1\n", encoding="utf-8"
    )
    for name in ("booru_embed_core", "booru_embed_core/posts"):
        (tmp_path / name / "__init__.py").touch()
    found, missed = mutants_of(file, "booru_embed_core/posts/one.py")
    assert stages(found, tmp_path)[0] == ["tests/core/posts/test_one.py"]
    assert [outcome(mutant, tmp_path) for mutant in (found, missed)] == ["killed", "survived"]
    assert file.read_text(encoding="utf-8") == "ONE = 1\nOTHER = 5\n"


def test_progress_is_read_back_up_to_a_line_that_was_cut_off(tmp_path: Path) -> None:
    mutant, file = Mutant("a.py", 1, "1", "2", 0, 1), tmp_path / "progress"
    assert read_progress(file) == {}
    line = json.dumps({**asdict(mutant), "outcome": "killed"})
    file.write_text(f"{line}\n{line[:20]}", encoding="utf-8")
    assert read_progress(file) == {mutant: "killed"}
