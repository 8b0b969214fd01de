"""The standard streams of the program: closed, full, broken, or of another encoding."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from booru_embed_core.cli import streams
from booru_embed_core.cli.shared import print_json
from tests.core.cli_helpers import RUN_MAIN, program
from tests.core.model_helpers import Trained


def shell(line: str, *arguments: object) -> tuple[int, str, str]:
    """Exit code, stdout and stderr of the program with `arguments`, whose streams `line` redirects."""
    command = ["bash", "-c", f'"$@" {line}', "bash", *RUN_MAIN, *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True, encoding="utf-8", check=False)
    return done.returncode, done.stdout, done.stderr


@pytest.mark.skipif(sys.platform == "win32", reason="a shell's redirections")
def test_a_closed_stream_is_told_or_does_without(trained: Trained, tmp_path: Path) -> None:
    shown = ("inspect", "vocab", trained.corpus.vocab_dir, "-k", 1)
    closed = "error: standard output: it is closed; open it, or send it to /dev/null\n"
    assert shell(">&-", *shown) == (1, "", closed)
    code, out, err = shell("<&- 2>&-", *shown)
    assert (code, err) == (0, "")
    assert "category" in out
    assert shell(">&- 2>&-", "inspect", "vocab", tmp_path / "nowhere") == (1, "", "")


def test_a_library_that_prints_does_not_print_into_a_file_that_is_opened_later(tmp_path: Path) -> None:
    code = (
        "import os; from booru_embed_core.cli.streams import prepare_streams; prepare_streams();"
        f"os.open({str(tmp_path / 'product')!r}, os.O_WRONLY | os.O_CREAT); os.write(2, b'noise')"
    )
    command = ["bash", "-c", f'{sys.executable} -c "$0" <&- >&- 2>&-', code]
    assert subprocess.run(command, check=False).returncode == 0
    assert (tmp_path / "product").read_bytes() == b""


PRINT = """
from booru_embed_core.cli import shared, streams
streams.prepare_streams()
shared.print_json(["caf\u00e9", "\\udcff"])
"""


def test_results_are_utf8_in_every_locale() -> None:
    done = subprocess.run(
        [sys.executable, "-c", PRINT],
        env={**os.environ, "PYTHONIOENCODING": "latin-1"},
        capture_output=True,
        check=True,
    )
    assert done.stdout == '["caf\u00e9", "\\udcff"]\n'.encode()


def test_a_terminal_of_another_encoding_gets_escapes(monkeypatch: pytest.MonkeyPatch) -> None:
    controller, terminal = os.openpty()
    with os.fdopen(terminal, "w", encoding="ascii") as ascii_terminal:
        monkeypatch.setattr(sys, "stdout", ascii_terminal)
        monkeypatch.setattr(streams, "_OUT", terminal)
        streams.prepare_streams()
        print_json(["caf\u00e9"])
        sys.stdout.write("caf\u00e9\n")
        sys.stdout.flush()
        assert os.read(controller, 100).split() == [b'["caf\\u00e9"]', b"caf\\xe9"]
        monkeypatch.undo()
    os.close(controller)


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="a device of Linux")
def test_a_full_disk_behind_standard_output_is_told() -> None:
    with Path("/dev/full").open("w") as full, program("search", "--help", stdout=full.fileno()) as process:
        _, err = process.communicate()
    told = "error: standard output: No space left on device; free some space, or write it to another disk\n"
    assert (process.returncode, err) == (1, told)
