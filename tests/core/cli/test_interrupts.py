"""A signal ends a command in one line and within seconds, and leaves nothing."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest

from booru_embed_core.cli import interrupts
from booru_embed_core.cli.interrupts import StopSignals
from tests.core.cli_helpers import Run
from tests.core.model_helpers import Trained


@pytest.mark.parametrize(
    ("number", "line"),
    [
        (signal.SIGINT, "stopped by Ctrl-C"),
        (signal.SIGTERM, "stopped by SIGTERM"),
        (signal.SIGHUP, "stopped by the end of its terminal"),
    ],
)
def test_a_signal_is_one_line_and_leaves_nothing(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, number: signal.Signals, line: str
) -> None:
    def stop(*_: object) -> None:
        os.kill(os.getpid(), number)
        time.sleep(60)

    before = signal.getsignal(number)
    monkeypatch.setattr("booru_embed_core.posts.ingest.read_export", stop)
    found = run("ingest", "export.csv", "--out", tmp_path / "a" / "out")
    assert (found.code, found.out, found.err) == (128 + number, "", f"{line}\n")
    assert list(tmp_path.iterdir()) == []
    assert signal.getsignal(number) == before


def test_an_error_that_a_library_makes_of_the_signal_is_the_signal(
    run: Run, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        try:
            os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            raise RuntimeError("Query interrupted") from None

    monkeypatch.setattr("booru_embed_core.posts.ingest.read_export", stop)
    assert run("ingest", "export.csv", "--out", tmp_path / "out").code == 143
    monkeypatch.setattr("booru_embed_core.posts.ingest.read_export", lambda *_: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        run("ingest", "export.csv", "--out", tmp_path / "out")


ENDLESS = """
import os, signal, sys, time
from pathlib import Path
from booru_embed_core.cli import interrupts
from booru_embed_core.filesystem import atomic_file, scratch_folder

interrupts.GRACE_SECONDS = 0.2
with interrupts.StopSignals(), scratch_folder(Path(sys.argv[1])), atomic_file(Path(sys.argv[1], "out")):
    is_sent = False
    while True:  # as a call of a library that no handler interrupts
        try:
            if not is_sent:
                is_sent = True
                os.kill(os.getpid(), signal.SIGTERM)
            time.sleep(60)
        except KeyboardInterrupt:
            pass
"""


def test_a_call_that_does_not_end_is_ended_and_its_files_go(tmp_path: Path) -> None:
    call = [sys.executable, "-c", ENDLESS, str(tmp_path)]
    ended = subprocess.run(call, capture_output=True, text=True, timeout=100, check=False)
    assert (ended.returncode, ended.stderr) == (143, "stopped by SIGTERM\n")
    assert list(tmp_path.iterdir()) == []


def test_only_the_main_thread_takes_signals_and_what_is_ignored_stays_ignored() -> None:
    before = signal.signal(signal.SIGHUP, signal.SIG_IGN)
    try:
        with StopSignals():
            assert signal.getsignal(signal.SIGHUP) == signal.SIG_IGN
            assert signal.getsignal(signal.SIGTERM) != signal.SIG_DFL
    finally:
        signal.signal(signal.SIGHUP, before)
    errors: list[BaseException] = []

    def enter() -> None:
        try:
            with StopSignals() as stop:
                assert stop.number is None
        except BaseException as error:  # noqa: BLE001  shown by the assertion below
            errors.append(error)

    thread = threading.Thread(target=enter)
    thread.start()
    thread.join()
    assert errors == []
    assert interrupts.GRACE_SECONDS < 5


def test_an_interrupted_command_says_what_is_kept(
    run: Run, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def stop(*_: object) -> None:
        os.kill(os.getpid(), signal.SIGINT)
        time.sleep(60)

    monkeypatch.setattr("booru_embed_core.search.build.write_posts_table", stop)
    out = tmp_path / "searched"
    found = run("index", "-c", trained.checkpoint, "--packed", trained.corpus.packed_path, "-o", out)
    assert found.code == 130
    last = found.err.splitlines()[-1]
    assert last.startswith("stopped; up to ")
    assert last.endswith(f" embedded posts are kept in {out}.parts: the same command goes on from there")
    assert [path.name for path in (tmp_path / "searched.parts").iterdir()] == ["part-00000.parquet"]
