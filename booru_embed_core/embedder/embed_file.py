"""Embeds a file of captions into a file of vectors: in bounded memory, and resumable.

Finished batches are appended to files in ``<output>.parts``; now and then ``progress.json`` there records how far they
are valid. The same call after an interruption goes on from that record. Batches have the same rows as without an
interruption, so the output has the same bytes. It is written from the parts at the end, and the parts are removed.
"""

from __future__ import annotations

import itertools
import json
import os
import shutil
import time
import warnings
from collections.abc import Callable, Iterator
from contextlib import ExitStack, suppress
from copy import deepcopy
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any, Final

import numpy as np
from pydantic import Field, TypeAdapter

from booru_embed_core.embedder.caption_files import CaptionFile, CaptionFileError, Row
from booru_embed_core.embedder.captions import OnUnknown, encode, warn_of_unknown
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.job_identity import JobSettings, Prefix
from booru_embed_core.embedder.metadata import rating_and_score_bin
from booru_embed_core.embedder.results import UnknownTagsError, UnknownTagsWarning
from booru_embed_core.embedder.vector_files import Block, vector_format, write_vectors
from booru_embed_core.errors import disk_errors, first_line, one_line
from booru_embed_core.filesystem import FILE, atomic_file, kind_of
from booru_embed_core.json_files import Count, JsonModel, read_json
from booru_embed_core.outputs import check_output_file, claimed_folder
from booru_embed_core.tags.tokenizer import Encoded

PROGRESS_FILE: Final = "progress.json"
_VECTORS_FILE: Final = "vectors.f32"
_ROWS_FILE: Final = "rows.jsonl"
_KEPT: Final = (PROGRESS_FILE, f"{PROGRESS_FILE}.partial", _VECTORS_FILE, _ROWS_FILE)
_COMMIT_SECONDS: Final = 2.0
_REPORT_SECONDS: Final = 5.0
_BLOCK_ROWS: Final = 16_384
_NUM_EXAMPLES: Final = 5
_PartRow: Final[TypeAdapter[tuple[int | str, list[str]]]] = TypeAdapter(tuple[int | str, list[str]])
"""A line of `_ROWS_FILE`: the id of a row, and its unknown tags."""


class EmbedJobError(ValueError):
    """The parts beside the output are those of another job."""


def num_rows(num: int) -> str:
    """``1 row``, ``2 rows``."""
    return f"{num:,} row{'' if num == 1 else 's'}"


@dataclass
class Counts:
    """What became of the rows: every row is of one of the first three kinds."""

    num_known: int = 0
    """Captions of which at least one tag is known."""
    num_empty: int = 0
    """Captions without a tag, known or not."""
    num_unknown: int = 0
    """Captions that have tags, of which none is known."""
    num_partly: int = 0
    """Captions with known tags beside others that are left out."""
    num_noted: int = 0
    """Captions that are read differently from their spelling."""
    unknown: list[str] = field(default_factory=list)
    """The first few unknown tags."""
    notes: list[str] = field(default_factory=list)
    """The first few notes on how captions were read."""

    @property
    def num_rows(self) -> int:
        """All rows."""
        return self.num_known + self.num_empty + self.num_unknown

    def add(self, encoded: Encoded) -> None:
        """Counts one row."""
        if encoded.token_ids:
            self.num_known += 1
            self.num_partly += bool(encoded.unknown)
        elif encoded.unknown:
            self.num_unknown += 1
        else:
            self.num_empty += 1
        self.num_noted += bool(encoded.notes)
        for examples, found in ((self.unknown, encoded.unknown), (self.notes, encoded.notes)):
            examples += [one for one in dict.fromkeys(found) if one not in examples][: _NUM_EXAMPLES - len(examples)]


class _State(JsonModel):
    """What ``progress.json`` holds: how far the parts are valid."""

    settings: dict[str, str | int | None]
    num_rows: Count = 0
    vector_bytes: Count = 0
    row_bytes: Count = 0
    prefix: str = ""
    """The hash of the captions and ids so far."""
    counts: Counts = Field(default_factory=Counts)
    ended_at_row: bool = False
    """Whether a row that cannot be embedded has ended the job, so that its file may be corrected."""

    @property
    def kept(self) -> str:
        """The rows that are done, for a message."""
        return f"{num_rows(self.num_rows)} {'is' if self.num_rows == 1 else 'are'} kept"


def embedded_batches(
    embedder: BooruEmbedder, rows: Iterator[Row], settings: JobSettings, counts: Counts
) -> Iterator[tuple[list[Row], Block]]:
    """The rows of each batch with their vectors; `counts` is kept up to date.

    Raises:
        CaptionFileError: a row that cannot be embedded; names it.
    """
    dim = embedder.embedding_dim if settings.dim is None else settings.dim
    metadata = rating_and_score_bin(embedder.config, settings.rating, settings.score)
    while batch := list(itertools.islice(rows, settings.batch_size)):
        encoded = [_encoded(embedder, row, settings.on_unknown) for row in batch]
        vectors = embedder.embed_encoded(encoded, metadata, dim, settings.on_unknown)
        for one in encoded:
            counts.add(one)
        ids: Any = [row.id for row in batch]
        yield batch, Block(vectors, ids, [list(one.unknown) for one in encoded])


def _encoded(embedder: BooruEmbedder, row: Row, on_unknown: OnUnknown) -> Encoded:
    try:
        encoded = encode(embedder.tokenizer, row.caption)
        if encoded.unknown and not encoded.token_ids:
            with warnings.catch_warnings():  # the output and the counts tell of them
                warnings.simplefilter("ignore", UnknownTagsWarning)
                warn_of_unknown(row.caption, encoded, on_unknown, stacklevel=2)
    except UnknownTagsError as error:
        raise CaptionFileError(f"{row.place}: {error}; --on-unknown zero or empty goes past such rows") from None
    except ValueError as error:
        raise CaptionFileError(f"{row.place}: {one_line(error)}") from None
    return encoded


def embed_file(
    embedder: BooruEmbedder,
    source: CaptionFile,
    output: Path,
    settings: JobSettings,
    say: Callable[[str], object] = lambda _: None,
    restart: bool = False,
) -> Counts:
    """Embeds the rows of `source` into `output`, whose suffix is one of `VectorFormat`; returns what became of them.

    Args:
        embedder: the model.
        source: the captions.
        output: the file; it appears when it is complete.
        settings: what the vectors depend on.
        say: called with lines about the progress.
        restart: forget what an interrupted job has left.

    Raises:
        CaptionFileError: a row that cannot be embedded; what was done before it is kept.
        EmbedJobError: what is left there is of another job.
        ForeignPathError: see `check_output_file` and `claimed_folder`.
        KeyboardInterrupt: its message says what is kept.
        VectorFileError: the suffix of `output` is of no format.
        DiskError: the disk is full, read-only or closed to this user.
    """
    form = vector_format(output)
    folder = output.with_name(output.name + ".parts")
    check_output_file(output)
    with ExitStack() as stack:
        stack.enter_context(disk_errors(output.absolute().parent, "choose an --output on another disk"))
        stack.enter_context(claimed_folder(folder, _KEPT))
        parts = stack.enter_context(_Parts(folder, settings, restart))
        counts = _embed_rest(embedder, source, parts, settings, say)
        assert counts.num_rows == parts.state.num_rows, (counts, parts.state.num_rows)
        dim = embedder.embedding_dim if settings.dim is None else settings.dim
        with atomic_file(output) as partial:
            write_vectors(partial, form, counts.num_rows, dim, parts.blocks(dim))
        parts.remove()
    return counts


def _embed_rest(
    embedder: BooruEmbedder, source: CaptionFile, parts: _Parts, settings: JobSettings, say: Callable[[str], object]
) -> Counts:
    """Embeds what the parts do not hold yet; records how far they are valid, whatever ends it."""
    counts, prefix, rows = deepcopy(parts.state.counts), Prefix(), iter(source)
    done = parts.state.num_rows
    if done:
        for row in itertools.islice(rows, done):
            prefix.add(row)
        parts.check_prefix(prefix, source.name)
        say(f"resuming after {num_rows(done)}")
    progress = _Progress(say, source, done)
    try:
        for batch, block in embedded_batches(embedder, rows, settings, counts):
            for row in batch:
                prefix.add(row)
            parts.append(block, counts, prefix)
            progress.update(parts.state.num_rows)
    except CaptionFileError as error:
        parts.end_at_row()
        kept = f". {parts.state.kept}: the same command goes on from there"
        raise CaptionFileError(f"{error}{kept if parts.state.num_rows else ''}") from None
    except KeyboardInterrupt:
        kept = f"{parts.state.kept}: the same command goes on from there"
        raise KeyboardInterrupt(kept if parts.state.num_rows else "") from None
    finally:
        parts.commit()
    return counts


class _Parts:
    """The files that finished batches are appended to, and the record of how far they are valid; a context manager."""

    def __init__(self, folder: Path, settings: JobSettings, restart: bool) -> None:
        self.folder = folder
        self.state = _State(settings=settings.identity())
        record = folder / PROGRESS_FILE
        if restart:
            record.unlink(missing_ok=True)
        if record.exists():
            self.state = self._checked(record)
        self._streams: list[IO[bytes]] = []
        self._committed_at = time.monotonic()

    def _checked(self, record: Path) -> _State:
        """The state that `record` holds.

        Raises:
            EmbedJobError: it is damaged, or of a job with other settings.
        """
        remedy = "--restart begins anew"
        found = read_json(record, _State, EmbedJobError, remedy)
        wanted = {_VECTORS_FILE: found.vector_bytes, _ROWS_FILE: found.row_bytes}
        are_there = all(kind_of(self.folder / name) == FILE for name in wanted)
        is_whole = are_there and all((self.folder / name).stat().st_size >= size for name, size in wanted.items())
        if not is_whole or found.counts.num_rows != found.num_rows:
            raise EmbedJobError(f"{record}: damaged record of an interrupted job; {remedy}")
        changed = JobSettings.differences(found.settings, self.state.settings, found.ended_at_row)
        if changed:
            raise EmbedJobError(
                f"{self.folder}: holds {num_rows(found.num_rows)} of an interrupted job with {', '.join(changed)}; run "
                f"it with these again to go on, or {remedy}"
            )
        return found.model_copy(update={"settings": self.state.settings, "ended_at_row": False})

    def check_prefix(self, prefix: Prefix, name: str) -> None:
        """Checks that the rows that are done are those of the file now.

        Raises:
            EmbedJobError: they were changed.
        """
        if prefix.hexdigest() != self.state.prefix:
            raise EmbedJobError(
                f"{self.folder}: the first {num_rows(self.state.num_rows)} of {name} changed since they were "
                "embedded; --restart begins anew"
            )

    def __enter__(self) -> _Parts:
        for name, size in ((_VECTORS_FILE, self.state.vector_bytes), (_ROWS_FILE, self.state.row_bytes)):
            stream = (self.folder / name).open("ab")
            stream.truncate(size)
            self._streams.append(stream)
        return self

    def __exit__(self, *_: object) -> None:
        for stream in self._streams:
            with suppress(OSError):  # a full disk, which was told before
                stream.close()
        if not self.state.num_rows:
            shutil.rmtree(self.folder, ignore_errors=True)

    def append(self, block: Block, counts: Counts, prefix: Prefix) -> None:
        """Adds a batch, after which the rows are counted by `counts` and hashed by `prefix`."""
        vectors = np.ascontiguousarray(block.vectors, dtype="<f4").tobytes()
        lines = "".join(json.dumps(row) + "\n" for row in zip(block.ids, block.unknown, strict=True)).encode()
        for stream, content in zip(self._streams, (vectors, lines), strict=True):
            stream.write(content)
        state = self.state
        self.state = _State(
            settings=state.settings,
            num_rows=state.num_rows + len(block.ids),
            vector_bytes=state.vector_bytes + len(vectors),
            row_bytes=state.row_bytes + len(lines),
            prefix=prefix.hexdigest(),
            counts=deepcopy(counts),
        )
        if time.monotonic() - self._committed_at >= _COMMIT_SECONDS:
            self.commit()

    def end_at_row(self) -> None:
        """Takes note that a row cannot be embedded."""
        self.state = self.state.model_copy(update={"ended_at_row": True})

    def commit(self) -> None:
        """Records how far the parts are valid, after they are on disk."""
        for stream in self._streams:
            stream.flush()
            os.fsync(stream.fileno())
        with atomic_file(self.folder / PROGRESS_FILE) as partial:
            partial.write_text(self.state.model_dump_json(), encoding="utf-8")
        self._committed_at = time.monotonic()

    def remove(self) -> None:
        """Removes the files, the record first: one that cannot be removed is still that of whole parts."""
        for stream in self._streams:
            stream.close()  # Windows removes no open file
        with suppress(OSError):
            (self.folder / PROGRESS_FILE).unlink(missing_ok=True)
            shutil.rmtree(self.folder, ignore_errors=True)

    def blocks(self, dim: int) -> Iterator[Block]:
        """All rows, in blocks.

        Raises:
            EmbedJobError: the parts are damaged.
        """
        with (self.folder / _VECTORS_FILE).open("rb") as vectors, (self.folder / _ROWS_FILE).open("rb") as lines:
            while block := list(itertools.islice(lines, _BLOCK_ROWS)):
                try:
                    rows = [_PartRow.validate_json(line) for line in block]
                    found = np.frombuffer(vectors.read(4 * dim * len(rows)), "<f4").reshape(len(rows), dim)
                except ValueError as error:
                    told = f"{self.folder}: damaged ({first_line(error)}); --restart begins anew"
                    raise EmbedJobError(told) from None
                ids: Any = [row[0] for row in rows]
                yield Block(found, ids, [row[1] for row in rows])


class _Progress:
    """Says now and then how far the job is."""

    def __init__(self, say: Callable[[str], object], source: CaptionFile, done: int) -> None:
        self._say, self._source, self._done = say, source, done
        self._share = source.share or 0.0
        self._started = self._told_at = time.monotonic()

    def update(self, num_rows: int) -> None:
        """Takes note of `num_rows` finished rows."""
        now = time.monotonic()
        if now - self._told_at < _REPORT_SECONDS:
            return
        self._told_at = now
        seconds, share = now - self._started, self._source.share
        line = f"{num_rows:,} rows, {(num_rows - self._done) / seconds:,.0f} rows/s"
        if share is not None and share > self._share:
            line += f", {share:.0%}, about {seconds * (1 - share) / (share - self._share):,.0f} s left"
        self._say(line)
