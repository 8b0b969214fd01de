"""Parts are computed once, and only whole ones of the same sources are taken."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from booru_embed_core.training.distributed import Ranks
from booru_embed_core.training.parts import Arrays, Parts


class Counted:
    """Computes parts and notes which."""

    def __init__(self) -> None:
        self.numbers: list[int] = []

    def __call__(self, number: int) -> Arrays:
        self.numbers.append(number)
        return {"a/b": np.arange(number + 1), "empty": np.empty((0, 3)), "text": np.array('{"lambda": 0.1}')}


def same(first: Arrays, second: Arrays) -> bool:
    return list(first) == list(second) and all(
        np.array_equal(first[key], second[key]) and first[key].dtype == second[key].dtype for key in first
    )


def test_a_finished_part_is_taken_as_it_was_computed(tmp_path: Path) -> None:
    counted, again = Counted(), Counted()
    parts = Parts(folder=tmp_path, made_from="x")
    made = parts.each("scored", 3, counted)
    assert counted.numbers == [0, 1, 2]
    assert parts.taken == []
    (tmp_path / "scored-00001.npz").unlink()
    resumed = Parts(folder=tmp_path, made_from="x")
    assert all(map(same, made, resumed.each("scored", 3, again)))
    assert again.numbers == [1]
    assert resumed.taken == ["scored-00000", "scored-00002"]


def test_parts_of_other_sources_and_damaged_parts_are_computed(tmp_path: Path) -> None:
    Parts(folder=tmp_path, made_from="x").each("scored", 1, Counted())
    file = tmp_path / "scored-00000.npz"
    whole = file.read_bytes()
    at = whole.index(np.arange(1).tobytes())
    for content in (whole[: len(whole) // 2], b"", b"\x93NUMPY", whole[:at] + b"\1" + whole[at + 1 :]):
        file.write_bytes(content)
        counted = Counted()
        (made,) = Parts(folder=tmp_path, made_from="x").each("scored", 1, counted)
        assert counted.numbers == [0]
        assert made["a/b"].tolist() == [0]
    for other in (Parts(folder=tmp_path, made_from="y"), Parts(folder=tmp_path, made_from="x").of(b"y")):
        counted = Counted()
        other.each("scored", 1, counted)
        assert counted.numbers == [0]


def test_what_ranks_compute_together_is_kept_by_the_first(tmp_path: Path) -> None:
    counted = Counted()
    for rank in (1, 0, 1):
        ranks = Ranks(rank)  # alone: the others' answers are not asked for
        Parts(ranks, tmp_path, "x").together("pairs", lambda: counted(4))
    assert counted.numbers == [4, 4]
    assert [file.name for file in tmp_path.iterdir()] == ["pairs.npz"]


def test_without_a_folder_nothing_is_kept() -> None:
    counted = Counted()
    parts = Parts()
    parts.each("scored", 2, counted)
    parts.together("pairs", lambda: counted(7))
    assert counted.numbers == [0, 1, 7]
    assert parts.taken == []
