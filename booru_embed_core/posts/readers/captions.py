"""Captions of images, one text file a post, in a folder or in an archive such as a WebDataset shard.

A caption is tags separated by commas or spaces, or one tag a line. Which it is, ``[posts] tag_separator`` says, or the
first captions show. A tag may have a namespace, ``creator:somebody``. Captions have no id, so a post's id is a hash of
its path. A "line" is a caption's number, from 1.

Memory is bounded by the captions of a batch, 16 MiB, and by the names of the files in one folder.
"""

from __future__ import annotations

import itertools
import re
from collections import Counter
from collections.abc import Generator, Iterator, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final, TypeAlias

import duckdb
import numpy as np
import pyarrow as pa
from numpy.typing import NDArray

from booru_embed_core.errors import cannot_be_read
from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.identity import hashed_ids
from booru_embed_core.posts.readers.base import BATCH_RECORDS, HIDDEN_COLUMN, PATH_COLUMN, ExportPath
from booru_embed_core.posts.readers.caption_files import (
    LeftOut,
    TextFile,
    archive_files,
    archive_suffix,
    folder_files,
    is_caption,
    is_caption_folder,
)
from booru_embed_core.posts.readers.lines import BOM, line_numbers
from booru_embed_core.posts.readers.namespaces import RATING, Namespaced, split_namespaces
from booru_embed_core.posts.tag_fields import LINE_SEPARATOR, SAMPLE_RECORDS
from booru_embed_core.posts.validation import ExportError, decoded, values_problem
from booru_embed_core.schema import ALL_TAGS_COLUMN, CATEGORIES, TAG_SEPARATOR, Category, tag_column

_FIRST_BATCH: Final = 1000
_BATCH_BYTES: Final = 16 << 20
_OBJECT_BYTES: Final = 64
_SAMPLE_BYTES: Final = 4 << 20
_MAX_COUNTED: Final = 10_000
_LINE_BREAK: Final = re.compile(r"\r\n|\r|\n")
_HAS_RATING: Final = re.compile(rf"(?:^|[,\s\"]){RATING}:", re.IGNORECASE)
_ESCAPED: Final = re.compile(r"\\([()])")


Content: TypeAlias = bytes | OSError | ValueError
"""What a file holds, or why it cannot be read."""


@dataclass(frozen=True)
class _Caption:
    """A caption that is read, or the problem that keeps it from being text."""

    path: str
    tags: str | list[str] = ""
    rating: str | None = None
    by_category: dict[Category, list[str]] | None = None
    problem: str | None = None

    @property
    def num_bytes(self) -> int:
        return (
            _OBJECT_BYTES + len(self.path) + (len(self.tags) if isinstance(self.tags, str) else _num_bytes(self.tags))
        )


class FileRecords:
    """What readers whose posts are files keep: how many there were, which are no posts, and what is left out."""

    def __init__(self) -> None:
        self._left_out = LeftOut()
        self._malformed: list[int] = []
        self.num_records = 0

    @property
    def malformed(self) -> NDArray[np.int64]:
        """See `Reader`."""
        return np.array(self._malformed, dtype=np.int64)

    def left_out(self, label: str) -> list[str]:
        """See `FilesReader`."""
        return self._left_out.labels(label)

    def line_of(self, record: NDArray[np.int64]) -> NDArray[np.int64]:
        """See `Reader`."""
        return line_numbers(record, self.malformed, first_line=1)


class FilesOfTags(FileRecords):
    """Files that hold tags and nothing else; see `FilesReader`. What they are is up to the classes below.

    Raises:
        ExportError: the settings do not say which rating and score posts without them have.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    reads_archives: ClassVar[bool] = True

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        super().__init__()
        self._path = path
        self._conventions = conventions
        self.other_namespaces: Counter[str] = Counter()
        sample = self._sample()
        self._check(sample)
        self._is_a_tag_a_line = self._has_a_tag_a_line(sample)

    def _files(self, left_out: LeftOut) -> Iterator[TextFile]:
        """The files, in the order of reading."""
        raise NotImplementedError

    def _tags(self, text: str) -> list[str]:
        """The tags of a file, or lines that hold tags.

        Raises:
            ValueError: the text is not of the format; says why.
        """
        return [line.strip() for line in _LINE_BREAK.split(text) if line.strip()]

    def _has_a_tag_a_line(self, sample: Sequence[str]) -> bool:
        separator = self._conventions.tag_separator
        return separator == LINE_SEPARATOR or (separator not in (",", "list") and _is_a_tag_a_line(sample))

    @property
    def tag_separator(self) -> str:
        """See `FilesReader`."""
        return LINE_SEPARATOR if self._is_a_tag_a_line else self._conventions.tag_separator

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Reader`."""
        pending: list[_Caption] = []
        # A practice run needs few captions, and each is a file.
        max_records, num_bytes = _FIRST_BATCH, 0
        for file in self._files(self._left_out):
            caption = self._parsed(read_file(file), self.other_namespaces)
            self.num_records += 1
            if caption.problem:
                self._malformed.append(self.num_records)
                continue
            pending.append(caption)
            num_bytes += caption.num_bytes
            if len(pending) >= max_records or num_bytes >= _BATCH_BYTES:
                yield self._batch(pending)
                pending, num_bytes = [], 0
                max_records = min(8 * max_records, BATCH_RECORDS)
        if pending:
            yield self._batch(pending)

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`; the raw text is ``path: caption``."""
        wanted = set(lines)
        for number, file in enumerate(self._files(LeftOut()), start=1):
            if number in wanted:
                path, content = read_file(file)
                caption = self._parsed((path, content))
                raw = content if isinstance(content, bytes) else b""
                yield number, f"{path}: ".encode() + raw, caption.problem or self._problem(caption)

    def _problem(self, caption: _Caption) -> str | None:
        """Why a caption that is text is no valid post."""
        rating = self._conventions.missing_rating if caption.rating is None else caption.rating
        score = str(self._conventions.missing_score)
        tags: Any = caption.tags
        problem = values_problem(
            {"id": "0", "rating": rating, "score": score, ALL_TAGS_COLUMN: tags}, self._conventions
        )
        return None if problem is None else f"{caption.path}: {problem}"

    def _parsed(self, read: tuple[str, Content], unknown: Counter[str] | None = None) -> _Caption:
        path, content = read
        if not isinstance(content, bytes):
            return _Caption(path, problem=f"{path}: {unreadable(content)}")
        problem, text = decoded(content.removeprefix(BOM))
        if problem or "\0" in text:
            return _Caption(path, problem=f"{path}: {problem or 'not text: a NUL byte'}; save it as text in UTF-8")
        try:
            lines = self._tags(text)
        except ValueError as error:
            return _Caption(path, problem=f"{path}: {error}")
        separator = self._conventions.tag_separator
        if self._is_a_tag_a_line:
            split = split_namespaces(lines, self._conventions.categories, unknown)
            return _Caption(path, split.others, split.rating(self._conventions.ratings), split.by_category)
        joint = ", " if separator == "," or any("," in line for line in lines) else TAG_SEPARATOR
        text = joint.join(lines)
        if ":" not in text or separator not in (",", TAG_SEPARATOR):
            return _Caption(path, text)
        split = split_namespaces(text.split(separator), self._conventions.categories)
        return _Caption(
            path,
            separator.join(split.others),
            split.rating(self._conventions.ratings),
            _unescaped(split) if separator == "," else split.by_category,
        )

    def _batch(self, captions: Sequence[_Caption]) -> pa.RecordBatch:
        conventions = self._conventions
        ratings = [
            conventions.missing_rating if caption.rating is None else conventions.ratings.get(caption.rating)
            for caption in captions
        ]
        tags: Any = [caption.tags for caption in captions]
        columns: dict[str, Any] = {
            "id": pa.array(hashed_ids([caption.path for caption in captions])),
            "rating": pa.array(ratings, pa.string()),
            "score": pa.array([conventions.missing_score] * len(captions), pa.int32()),
            ALL_TAGS_COLUMN: pa.array(tags, pa.list_(pa.string()) if self._is_a_tag_a_line else pa.string()),
        }
        for category in CATEGORIES:
            lists = [(caption.by_category or {}).get(category) for caption in captions]
            columns[tag_column(category)] = pa.array(lists, pa.list_(pa.string()))
        columns[HIDDEN_COLUMN] = pa.array([False] * len(captions))
        columns[PATH_COLUMN] = pa.array([caption.path for caption in captions], pa.string())
        return pa.RecordBatch.from_pydict(columns)

    def _sample(self) -> list[str]:
        """The text of the first captions."""
        texts: list[str] = []
        num_bytes = 0
        for file in self._files(LeftOut()):
            _, content = read_file(file)
            texts.append(content.decode("utf-8", errors="replace") if isinstance(content, bytes) else "")
            num_bytes += len(texts[-1])
            if len(texts) >= SAMPLE_RECORDS or num_bytes >= _SAMPLE_BYTES:
                break
        return texts

    def _check(self, sample: Sequence[str]) -> None:
        has_rating = self._conventions.missing_rating is not None or any(map(_HAS_RATING.search, sample))
        has_score = self._conventions.missing_score is not None
        if has_rating and has_score:
            return
        missing = ["rating"] * (not has_rating) + ["score"] * (not has_score)
        files = itertools.islice(self._files(LeftOut()), _MAX_COUNTED)
        first = next(files).path
        num_files = 1 + sum(1 for _ in files)
        raise ExportError(
            f"{self._path}: holds {num_files:,}{' or more' * (num_files == _MAX_COUNTED)} captions, such as {first}, "
            f"without a {' and a '.join(missing)}; set [posts] preset to 'caption-folder', which takes g and 0 for "
            f"all, or {' and '.join(f'[posts] missing_{name}' for name in missing)}"
        )


class CaptionReader(FilesOfTags):
    """A folder of captions, with images beside them or without, or a tar or zip of them; see `FilesReader`.

    An archive, such as a WebDataset shard, is read from its start to its end, and images are skipped. Captions of one
    kind are read in it: ``.txt``, where there are ``.caption`` too.
    """

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`."""
        path = candidate.path
        return is_caption_folder(path) if path.is_dir() else archive_suffix(path) is not None

    def _files(self, left_out: LeftOut) -> Iterator[TextFile]:
        if self._path.is_dir():
            return folder_files(self._path, left_out)
        suffix = archive_suffix(self._path)
        assert suffix is not None, self._path
        return archive_files(self._path, left_out, partial(is_caption, suffix=suffix))


def read_file(file: TextFile) -> tuple[str, Content]:
    """Path and content of `file`, or why it cannot be read."""
    try:
        return file.path, file.read()
    except (OSError, ValueError) as error:
        return file.path, error


def _num_bytes(tags: Sequence[str]) -> int:
    return sum(map(len, tags)) + _OBJECT_BYTES * len(tags)


def unreadable(error: OSError | ValueError) -> str:
    """The reason for `error`, which came instead of a file's content."""
    return cannot_be_read(error, "check the file") if isinstance(error, OSError) else str(error)


def _unescaped(split: Namespaced) -> dict[Category, list[str]]:
    """Tags by category without the escapes of captions; ``tag_fields.py`` has those of all others."""
    return {category: [_ESCAPED.sub(r"\1", tag) for tag in tags] for category, tags in split.by_category.items()}


def _is_a_tag_a_line(sample: Sequence[str]) -> bool:
    """Whether captions of several lines, as Hydrus and gallery-dl write them, outnumber those with commas.

    A tag may hold a comma, and sentences of several lines do.
    """
    num_lines, num_commas = 0, 0
    for text in sample:
        lines = [line for line in _LINE_BREAK.split(text) if line.strip()]
        with_comma = sum("," in line for line in lines)
        num_lines += len(lines) > 1 and 4 * with_comma < len(lines)
        num_commas += 4 * with_comma >= len(lines) and with_comma > 0
    return num_lines > num_commas
