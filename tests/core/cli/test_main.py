"""The command line as people and programs meet it: exit codes, one-line errors, JSON alone on stdout."""

from __future__ import annotations

import errno
import json
import subprocess
import sys
from pathlib import Path

import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from tests.core.cli_helpers import Run, cli, program
from tests.core.model_helpers import Trained

COMMANDS = (
    "ingest", "embed", "complete", "similar", "evaluate", "inspect vocab", "inspect tokens", "inspect words",
    "inspect checkpoint", "inspect plan", "export", "index", "search", "duplicates",
)  # fmt: skip


def test_every_command_has_help(run: Run) -> None:
    top = run("--help")
    assert top.code == 0
    for command in COMMANDS:
        found = run(*command.split(), "--help")
        assert found.code == 0
        assert f"booru-embed {command}" in found.out
        assert "--json" in found.out
        assert command.split()[0] in top.out


@pytest.mark.parametrize("arguments", [(), ("inspect",)])
def test_no_command_shows_the_help_and_is_wrong_use(run: Run, arguments: tuple[str, ...]) -> None:
    found = run(*arguments)
    assert found.code == 2
    assert "Usage: booru-embed" in found.out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("paint",), "No such command 'paint'. See `booru-embed --help`"),
        (("embed",), "Name captions, - for standard input, or --file FILE. See `booru-embed embed --help`"),
        (
            ("complete", "solo", "--rates"),
            "No such option '--rates'. Did you mean '--rating'? See `booru-embed complete --help`",
        ),
        (("embed", "solo", "--rating", "x"), "Invalid value for '--rating': 'x' is not one of 'g', 's', 'q', 'e'."),
        (("embed", "solo", "--score", "3"), "--score needs --rating: scores are compared among posts of one rating."),
        (("embed", "solo", "--score", "high"), "Invalid value for '--score': 'high' is not a valid int"),
        (("embed", "solo", "--dim", "0"), "Invalid value for '--dim': 0 is not in the range x>=1."),
        (("embed", "solo", "--json", "-o", "x.npy"), "--output writes a file and --json prints: give one of"),
        (("complete", "solo", "-k", "0"), "Invalid value for '-k': 0 is not in the range "),
        (("complete", "solo", "--category", "x"), "Invalid value for '--category': 'x' is not one of 'general', "),
        (("evaluate",), "Missing option '--posts'. See `booru-embed evaluate --help`"),
        (("evaluate", "--posts", "x.csv", "--hide", "all"), "Invalid value for '--hide': 'all' is not one of 'one', "),
        (("inspect", "colour"), "No such command 'colour'. See `booru-embed inspect --help`"),
    ],
)
def test_wrong_use_is_code_2_and_one_line(run: Run, arguments: tuple[str, ...], message: str) -> None:
    assert run(*arguments).failed(2).startswith(message)


@pytest.mark.parametrize(
    "arguments",
    [
        ("embed", "solo", "-c"),
        ("complete", "solo", "-c"),
        ("similar", "solo", "-c"),
        ("evaluate", "--posts", "x.csv", "-c"),
        ("inspect", "checkpoint"),
        ("inspect", "vocab"),
        ("inspect", "tokens"),
    ],
)
def test_a_missing_folder_is_code_1_and_named(run: Run, tmp_path: Path, arguments: tuple[str, ...]) -> None:
    message = run(*arguments, tmp_path / "nowhere").failed(1)
    assert message.startswith(str(tmp_path / "nowhere"))
    assert ": no such " in message


def test_debug_shows_the_traceback_of_a_failure_only(
    run: Run, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = ["similar", "solo", "-c", str(tmp_path)]
    for debugging in (["--debug", *arguments], [*arguments, "--debug"]):
        monkeypatch.setattr(sys, "argv", ["booru-embed", *debugging])
        with pytest.raises(ValueError, match=r"config\.json: no such file"):
            cli.main()
    assert capsys.readouterr().out == ""
    assert "No such command" in run("paint", "--debug").failed(2)
    assert run("similar", "solo", "-c", trained.checkpoint, "--debug").code == 0


def test_a_missing_module_of_the_package_itself_is_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    """Only modules of extras give a one-line error; `test_wheel` tests that."""
    monkeypatch.setitem(sys.modules, "booru_embed_core.embedder.embedder", None)
    with pytest.raises(ModuleNotFoundError, match=r"embedder\.embedder"):
        run("embed", "1girl")


@pytest.mark.slow
def test_as_a_program_json_is_alone_on_stdout(trained: Trained) -> None:
    process = program("complete", r"solo xyzzy tracer_\(overwatch\)", "-k", 3, "-c", trained.checkpoint, "--json")
    out, err = process.communicate()
    assert process.returncode == 0
    completions = json.loads(out)["completions"]
    wanted = BooruEmbedder.load(trained.checkpoint, precision="fp32").complete("solo tracer_(overwatch)", k=3)
    assert [one["tag"] for one in completions] == [one.tag for one in wanted]
    assert err.startswith("warning: ")
    assert len(err.splitlines()) == 1


def test_as_a_program_it_exits_with_its_code_and_one_line(tmp_path: Path) -> None:
    failure, wrong_use = program("inspect", "vocab", tmp_path / "nowhere"), program("inspect", "vocab", "-k", "many")
    for process, code in ((failure, 1), (wrong_use, 2)):
        out, err = process.communicate()
        assert (process.returncode, out) == (code, "")
        assert err.startswith("error: ")
        assert len(err.splitlines()) == 1
    traced = program("--debug", "inspect", "vocab", tmp_path / "nowhere")
    err = traced.communicate()[1]
    assert traced.returncode == 1
    assert err.startswith("Traceback (most recent call last):")


def test_as_a_program_it_ends_quietly_when_its_reader_stops(trained: Trained) -> None:
    process = program("inspect", "vocab", trained.corpus.vocab_dir, "-k", 100)
    assert process.stdout is not None
    assert process.stderr is not None
    process.stdout.close()
    with process.stderr:
        assert process.stderr.read() == ""
    assert process.wait() == 1


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (OSError(errno.EBADF, "Bad file descriptor"), "standard input: it is closed; pipe the text in, or name a file"),
        (PermissionError(errno.EACCES, "", "x.npy"), "x.npy: Permission denied; give this user access (chmod, chown)"),
        (
            OSError(errno.EIO, ""),
            "a file of this command: Input/output error; check the disk and its connection (dmesg)",
        ),
        (MemoryError(), "memory ran out; end other programs ("),
        (RuntimeError("PytorchStreamWriter failed writing file data/0: file write failed"), "a file of this command: "),
        (OSError("a line of ours; mend it"), "a line of ours; mend it"),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_fault_of_the_machine_is_one_line(
    run: Run, monkeypatch: pytest.MonkeyPatch, error: Exception, line: str
) -> None:
    def fail(*_: object) -> None:
        raise error

    monkeypatch.setattr("booru_embed_core.tags.vocab.Vocab.load", fail)
    assert run("inspect", "vocab", "anywhere").failed(1).startswith(line)


def test_another_error_is_a_traceback(run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError("shapes do not match")

    monkeypatch.setattr("booru_embed_core.tags.vocab.Vocab.load", fail)
    with pytest.raises(RuntimeError, match="shapes do not match"):
        run("inspect", "vocab", "anywhere")


def test_help_and_data_commands_start_without_torch() -> None:
    code = "import sys; from booru_embed_core.cli import main; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
