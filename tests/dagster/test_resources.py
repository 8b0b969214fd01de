"""What a run shares: settings read once, inputs recorded, errors of one line."""

from __future__ import annotations

import errno
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from booru_embed_core import errors
from booru_embed_core.errors import DiskError
from booru_embed_core.posts.validation import ExportError, ExportUnreachableError
from booru_embed_core.settings import SETTINGS_VARIABLE, SettingsError, section_version
from booru_embed_core.tokens.packed_file import PackedFile, PackedFileError
from booru_embed_dagster import resources
from booru_embed_dagster.resources import Pipeline, one_line_errors
from booru_embed_dagster.training.launcher import RanksLostError, TrainingFailedError
from booru_embed_dagster.warehouse.manifests import WarehouseError, read_manifest
from tests.dagster.project_helpers import Project, failure


@pytest.fixture
def pipeline(project: Project) -> Pipeline:
    return Pipeline(settings_file=str(project.settings_file))


def test_settings_are_read_once_a_run_and_anew_by_the_next(project: Project, pipeline: Pipeline) -> None:
    assert pipeline.settings.vocab.keep_percentile == 95
    project.set(keep_percentile=80)
    assert pipeline.settings.vocab.keep_percentile == 95
    assert Pipeline(settings_file=str(project.settings_file)).settings.vocab.keep_percentile == 80


def test_two_runs_of_one_definition_read_the_settings_each(project: Project) -> None:
    seen = []

    @dg.asset
    def reader(pipeline: Pipeline) -> None:
        seen.append(pipeline.settings.vocab.keep_percentile)

    resource = Pipeline(settings_file=str(project.settings_file))
    for percentile in (95, 80):
        project.set(keep_percentile=percentile)
        with dg.DagsterInstance.ephemeral() as instance:
            assert dg.materialize([reader], instance=instance, resources={"pipeline": resource}).success
    assert seen == [95, 80]


def test_the_environment_names_the_settings(project: Project, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv(SETTINGS_VARIABLE, str(project.settings_file))
    assert Pipeline().warehouse.root == project.folder / "warehouse"
    assert Pipeline().warehouse.keep_versions == 3


def test_a_missing_settings_file_is_an_error_only_when_it_is_read(tmp_path: Path) -> None:
    pipeline = Pipeline(settings_file=str(tmp_path / "none.toml"))
    with pytest.raises(SettingsError, match="no such settings file"):
        _ = pipeline.settings


def test_a_version_records_products_sections_and_sources(pipeline: Pipeline) -> None:
    with pipeline.new_version("posts", sources={"posts_export": "e" * 16}) as draft:
        (draft.path / "part.parquet").write_text("posts")
    with pipeline.new_version("packed_tokens", inputs=[draft.product], sections=["tokens"]) as packed:
        (packed.path / "tokens").write_text("tokens")
    assert read_manifest(draft.product.path).inputs == {"posts_export": "e" * 16}
    assert read_manifest(packed.product.path).inputs == {
        "posts": draft.product.version,
        "settings/tokens": section_version(pipeline.settings.tokens),
    }
    assert pipeline.current("packed_tokens", "posts") == (packed.product, draft.product)


def test_what_a_product_was_made_from_is_found_even_when_another_is_current(pipeline: Pipeline) -> None:
    made = {}
    for text in ("old", "new"):
        with pipeline.new_version("posts") as draft:
            (draft.path / "part.parquet").write_text(text)
        made[text] = draft.product
        if text == "old":
            with pipeline.new_version("vocab", inputs=[draft.product]) as vocab:
                (vocab.path / "vocab").write_text("vocab")
    assert pipeline.made_from(vocab.product, "posts") == made["old"]
    made["old"].path.rename(made["old"].path.with_name("gone"))
    assert pipeline.made_from(vocab.product, "posts") == made["new"]
    with pytest.raises(WarehouseError, match="no version of 'checkpoint' yet"):
        pipeline.made_from(vocab.product, "checkpoint")


class NamedError(ValueError):
    """An error of the core's kind."""


def test_an_asset_and_its_checks_open_the_packed_file_once(
    built: tuple[Project, object], monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    opened: list[bool] = []
    plain = PackedFile.open

    def counting(path: Path, vocab_hash: str | None = None, *, is_verified: bool = False) -> PackedFile:
        opened.append(is_verified)
        return plain(path, vocab_hash, is_verified=is_verified)

    monkeypatch.setattr(PackedFile, "open", staticmethod(counting))
    assert project.materialize("packed_tokens").success
    assert opened == [True]  # publishing has hashed it
    assert project.materialize("caption_lengths").success
    assert opened == [True, False]


def test_another_version_is_opened_anew_and_must_be_of_the_vocabulary(
    built: tuple[Project, object], tmp_path: Path
) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    pipeline = Pipeline(settings_file=str(project.settings_file))
    vocab_before, tokens_before = pipeline.current("vocab", "packed_tokens")
    vocab, packed = pipeline.vocab(vocab_before), pipeline.packed(tokens_before, pipeline.vocab(vocab_before))
    assert pipeline.vocab(vocab_before) is vocab
    assert pipeline.packed(tokens_before, vocab) is packed
    project.set(keep_percentile=80)
    assert project.materialize("vocab,packed_tokens").success
    vocab_after, tokens_after = pipeline.current("vocab", "packed_tokens")
    other = pipeline.vocab(vocab_after)
    assert other.num_tags < vocab.num_tags
    assert pipeline.packed(tokens_after, other).vocab_hash == other.hash
    with pytest.raises(PackedFileError, match="was made with the vocab"):
        pipeline.packed(tokens_after, vocab)


@pytest.mark.parametrize(
    ("error", "has_cause"),
    [(NamedError("a: b; do c"), False), (NamedError("a: b\nits last line"), False), (ValueError("a: b"), True)],
)
def test_a_value_error_becomes_a_failure_of_its_line(error: ValueError, has_cause: bool) -> None:
    @one_line_errors
    def fail(number: int) -> int:
        """Fails."""
        raise error

    with pytest.raises(dg.Failure) as caught:
        fail(number=1)
    assert caught.value.description == str(error)
    assert not caught.value.allow_retries
    assert (caught.value.__cause__ is error) == has_cause
    assert (fail.__name__, fail.__doc__) == ("fail", "Fails.")


@pytest.mark.parametrize(
    ("error", "line"),
    [
        (
            DiskError(errno.ENOSPC, Path("/wh/posts"), "set x", " (0 of 9 MB free)"),
            "/wh/posts: No space left on device (0 ",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), "{warehouse}: No space left on device (the disk "),
        (
            OSError(errno.EIO, "Input/output error"),
            "{warehouse}: Input/output error; check the disk and its connection",
        ),
        (PermissionError(errno.EACCES, "", "/wh/a"), "/wh/a: Permission denied; give this user access (chmod, chown)"),
        (FileNotFoundError(errno.ENOENT, "", "posts.csv"), "posts.csv: No such file or directory; put it back, or "),
        (MemoryError(), "memory ran out; end other programs ("),
        (RuntimeError("CUDA out of memory.\nTried 2 GiB"), "the memory of the GPU ran out (CUDA out of memory.); end "),
        (
            RuntimeError("can't start new thread"),
            "no further thread or process can be started (can't start new thread); ",
        ),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Exception) else "",
)
def test_a_fault_of_the_machine_becomes_a_failure_of_one_line(pipeline: Pipeline, error: Exception, line: str) -> None:
    @one_line_errors
    def fail(pipeline: Pipeline) -> None:
        raise error

    with pytest.raises(dg.Failure) as caught:
        fail(pipeline=pipeline)
    told = str(caught.value.description)
    assert told.startswith(line.format(warehouse=pipeline.warehouse.root))
    assert "\n" not in told
    assert "; " in told
    assert (caught.value.allow_retries, caught.value.__cause__, caught.value.__suppress_context__) == (
        False,
        None,
        True,
    )


def test_an_error_of_the_system_without_a_number_keeps_its_stack_trace() -> None:
    error = OSError(" two\nlines")

    @one_line_errors
    def fail() -> None:
        raise error

    with pytest.raises(dg.Failure) as caught:
        fail()
    assert caught.value.description == "two lines"
    assert caught.value.__cause__ is error


def test_a_full_disk_is_told_by_the_folder_of_the_asset_before_the_draft_is_removed(
    pipeline: Pipeline, monkeypatch: pytest.MonkeyPatch
) -> None:
    drafts: list[bool] = []
    monkeypatch.setattr(errors, "space_left", lambda *_: drafts.append(draft.path.is_dir()) or " (none left)")

    def write() -> None:
        nonlocal draft
        with pipeline.new_version("posts") as draft:
            raise OSError(errno.ENOSPC, "No space left on device", str(draft.path / "part-0.parquet"))

    draft: Any = None
    with pytest.raises(DiskError) as caught:
        write()
    home = pipeline.warehouse.root / "posts"
    assert str(caught.value) == (
        f"{home}: No space left on device (none left); free some space, or set [warehouse] path to a folder on another "
        "disk; then materialize again"
    )
    assert drafts == [True]
    assert list((home / ".drafts").iterdir()) == []


TRANSIENT = [ExportUnreachableError("table: no answer"), RanksLostError("rank 0 of 2: another rank fell silent")]


@pytest.mark.parametrize("error", TRANSIENT)
@pytest.mark.parametrize(("num_faults", "is_success", "num_tries"), [(2, True, 3), (9, False, 3)])
def test_what_is_transient_is_tried_twice_more(
    monkeypatch: pytest.MonkeyPatch, error: ValueError, num_faults: int, is_success: bool, num_tries: int
) -> None:
    monkeypatch.setattr(resources, "RETRY_SECONDS", 0.01)
    done, tries = run_failing(error, num_faults)
    assert (done.success, tries) == (is_success, num_tries)
    if not is_success:
        assert failure(done) == str(error)


@pytest.mark.parametrize(
    "error",
    [
        ValueError("a: b; do c"),
        ExportError("posts.csv: no header"),
        TrainingFailedError("loss is not finite"),
        MemoryError("no memory"),
        dg.DagsterExecutionInterruptedError(),  # what a termination in the UI raises
    ],
    ids=lambda error: type(error).__name__,
)
def test_nothing_else_is_tried_again(error: BaseException) -> None:
    done, tries = run_failing(error, 1)
    assert (done.success, tries) == (False, 1)


def run_failing(error: BaseException, num_faults: int) -> tuple[dg.ExecuteInProcessResult, int]:
    """A run of an asset that raises `error` so many times and then succeeds, and how often it was tried."""
    tries = 0

    @dg.asset
    @one_line_errors
    def failing() -> None:
        nonlocal tries
        tries += 1
        if tries <= num_faults:
            raise error

    with dg.DagsterInstance.ephemeral() as instance:
        done = dg.materialize([failing], instance=instance, raise_on_error=False)
    return done, tries


def test_other_errors_and_results_pass() -> None:
    @one_line_errors
    def invert(number: int) -> float:
        return 1 / number

    assert invert(4) == 0.25
    with pytest.raises(ZeroDivisionError):
        invert(0)
