"""The checker of power cuts finds what was not synced, and nothing else."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.injector import Call
from tests.faults.order import broken_promises

FOLDER = Path("/w")
NEW = ["a/1/x", "a/1/d/y"]
GOOD = """
create a/.drafts/1/x
write a/.drafts/1/x
mkdir a/.drafts/1/d
create a/.drafts/1/d/y
fsync a/.drafts/1/x
fsync a/.drafts/1/d/y
fsync a/.drafts/1/d
fsync a/.drafts/1
rename a/.drafts/1 a/1
fsync a
symlink a/.drafts/current 1
rename a/.drafts/current a/current
fsync a
write tmp/spill
rename a/0 a/.drafts/grave
unlink a/.drafts/grave
"""


def problems(text: str) -> list[str]:
    calls = []
    for line in text.split("\n"):
        if line:
            name, path, *other = line.split()
            target = "".join(other)
            calls.append(Call(name, True, FOLDER / path, str(FOLDER / target) if name == "rename" else target))
    return list(broken_promises(calls, FOLDER, NEW))


def test_a_publication_in_order_has_no_problem() -> None:
    assert problems(GOOD) == []


@pytest.mark.parametrize(
    ("old", "new", "message"),
    [
        ("fsync a/.drafts/1/x\n", "", "a/1: 1/x was not synced before the rename"),
        ("fsync a/.drafts/1/d/y\n", "", "a/1/d/y: was never synced"),
        ("fsync a/.drafts/1/d\n", "", "a/1: 1/d was not synced before the rename"),
        ("fsync a/.drafts/1\n", "", "a/1: 1 was not synced before the rename"),
        ("fsync a\nsymlink", "symlink", "a/current: its version's name was not synced before the link moved"),
        ("fsync a\nwrite", "write", "a/current: a was not synced after the rename"),
        ("rename a/0", "write a/1/x\nrename a/0", "a/1/x: was changed after it was synced"),
    ],
)
def test_what_was_not_synced_is_found(old: str, new: str, message: str) -> None:
    assert old in GOOD
    assert message in problems(GOOD.replace(old, new))
