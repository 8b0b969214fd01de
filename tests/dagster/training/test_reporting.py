"""Work in a locked folder, whose failure is told in a file of reasons and on stderr."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from booru_embed_core.training.distributed import RankLostError
from booru_embed_dagster.training.reasons import FAILURE_FILE, LOST_FILES
from booru_embed_dagster.training.reporting import run_reporting
from booru_embed_dagster.warehouse.warehouse import WarehouseError, lock_folder


@dataclass(frozen=True)
class Painting:
    out_dir: Path
    work_dir: Path
    name: str = "painting"


class DriedError(Exception):
    """Ends the work in order."""


@pytest.fixture
def painting(tmp_path: Path) -> Painting:
    (tmp_path / "out").mkdir()
    return Painting(tmp_path / "out", tmp_path / "new" / "work")


def run(painting: Painting, compute: Any) -> Any:
    return run_reporting(
        painting,
        compute,
        lambda: False,
        folder=painting.work_dir,
        elsewhere="move it",
        less_memory="paint less",
        grace_seconds=0.0,
        expected=(DriedError,),
    )


def test_the_result_comes_out_of_a_folder_that_is_locked_meanwhile(painting: Painting) -> None:
    def compute(_: object) -> str:
        with pytest.raises(WarehouseError, match="another process"), lock_folder(painting.work_dir):
            pass
        return "a picture"

    assert run(painting, compute) == "a picture"
    assert list(painting.out_dir.iterdir()) == []
    with lock_folder(painting.work_dir):
        pass


@pytest.mark.parametrize(
    ("error", "file", "told"),
    [
        (ValueError("no colour; buy some"), FAILURE_FILE, "no colour; buy some"),
        (DriedError("stopped"), FAILURE_FILE, "stopped"),
        (RankLostError("alone"), LOST_FILES.format(rank=0), "alone"),
        (OSError(28, "No space left on device"), FAILURE_FILE, "move it"),
        (MemoryError(), FAILURE_FILE, "paint less"),
    ],
)
def test_a_failure_is_told_in_its_file_and_on_stderr(
    painting: Painting, capsys: pytest.CaptureFixture[str], error: Exception, file: str, told: str
) -> None:
    def compute(_: object) -> None:
        raise error

    assert run(painting, compute) is None
    reason = (painting.out_dir / file).read_text()
    assert told in reason
    assert capsys.readouterr().err == f"painting: {reason}\n"


def test_an_error_of_the_program_goes_on(painting: Painting) -> None:
    def compute(_: object) -> None:
        raise KeyError("a fault")

    with pytest.raises(KeyError):
        run(painting, compute)


def test_a_folder_that_cannot_be_made_is_told_too(painting: Painting, capsys: pytest.CaptureFixture[str]) -> None:
    painting.work_dir.parent.write_text("a file where a folder is needed")
    assert run(painting, lambda _: "never") is None
    assert str(painting.work_dir) in capsys.readouterr().err
