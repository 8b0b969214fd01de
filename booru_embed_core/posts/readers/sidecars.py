"""Sidecars: one JSON object a post, in a file beside its image, as gallery-dl and Hydrus write them.

A folder or an archive of them is one export. An object with an id or a rating is a post, like a line of JSON lines. One
with tags alone is a caption, whose tags may have namespaces. A "line" is a sidecar's number, from 1.

Memory is bounded by the values that are read of a batch, and by the names of the files in one folder.
"""

from __future__ import annotations

import itertools
import json
import os
from collections.abc import Collection, Generator, Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import replace
from enum import Enum
from functools import partial
from pathlib import Path
from typing import Any, ClassVar, Final

import duckdb
import pyarrow as pa

from booru_embed_core.posts.conventions import DANBOORU, Conventions
from booru_embed_core.posts.identity import hashed_ids
from booru_embed_core.posts.readers.archives import is_archive, members
from booru_embed_core.posts.readers.base import PATH_COLUMN, ExportPath, run_on
from booru_embed_core.posts.readers.caption_files import (
    LeftOut,
    Listing,
    TextFile,
    archive_files,
    folder_files,
    holds_table,
    is_hidden,
    is_image,
    listings,
    member_content,
)
from booru_embed_core.posts.readers.captions import Content, FileRecords, FilesOfTags, read_file, unreadable
from booru_embed_core.posts.readers.json_layout import SAMPLE_OBJECTS, JsonLayout
from booru_embed_core.posts.readers.json_lines import wrapped_key
from booru_embed_core.posts.readers.lines import BOM
from booru_embed_core.posts.validation import ExportError, decoded
from booru_embed_core.schema import ALL_TAGS_COLUMN, TAG_COLUMNS, TAG_SEPARATOR, Category

_SUFFIX: Final = ".json"
_FIRST_BATCH: Final = 500
_BATCH_OBJECTS: Final = 4096
_BATCH_BYTES: Final = 16 << 20
_NUM_TOLD_BY: Final = 20
_NUM_MEMBERS: Final = 200
# About a whole gallery or data set, and kohya's, which a reader of their own has.
_DESCRIPTIONS: Final = frozenset(
    {"dataset_dict.json", "dataset_info.json", "dataset_infos.json", "info.json", "meta_cap.json", "meta_lat.json"}
)
_POST_KEYS: Final = ("rating", "score")
_MAX_DEPTH: Final = 3
_GROUP: Final = "tags_"
_TEXT_GROUP: Final = "tag_string_"
_GROUPS: Final[Mapping[str, Category]] = {
    **dict.fromkeys(("circle", "studio"), Category.ARTIST),
    **dict.fromkeys(("activity", "anatomy", "entity", "fashion", "fauna", "flora", "genre"), Category.GENERAL),
    **dict.fromkeys(("object", "pose", "role", "setting", "substance"), Category.GENERAL),
    **dict.fromkeys(("automatic", "faults", "language", "medium", "metadata", "style"), Category.META),
}
"""The categories of groups such as ``tags_metadata``, by which gallery-dl calls those of each booru."""


class _Kind(Enum):
    """What the objects are."""

    POSTS = "posts"
    TAGS = "tags"


class SidecarReader(FileRecords):
    """A folder, tar or zip of sidecars that are posts; see `FilesReader`. A post without an id gets one by its path.

    Raises:
        ExportError: the first sidecars lack a column, or their ids are no numbers.
    """

    suffixes: ClassVar[tuple[str, ...]] = ()
    reads_archives: ClassVar[bool] = True

    def __init__(self, path: Path, conventions: Conventions = DANBOORU) -> None:
        super().__init__()
        self._path = path
        self.tag_separator = conventions.tag_separator
        self.other_namespaces: Mapping[str, int] = {}
        sample = [record for record, _ in map(_parsed, self._contents()) if record is not None]
        if not sample:
            raise ExportError(f"{path}: holds no sidecar with a JSON object; export the posts again")
        self._is_by_path = conventions.missing_id is not None or not _has_ids(sample, path, conventions)
        known = replace(conventions, categories={**_GROUPS, **conventions.categories})
        known = replace(known, missing_id="row") if self._is_by_path else known
        has_own = set(conventions.columns) & {*TAG_COLUMNS, ALL_TAGS_COLUMN}
        self._is_grouped = not has_own and any(key.startswith(_GROUP) for record in sample for key in record)
        self.layout = JsonLayout.of(map(_grouped, sample) if self._is_grouped else sample, path, known)

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`."""
        return _kind(candidate.path) is _Kind.POSTS

    def batches(self, connection: duckdb.DuckDBPyConnection, scratch: Path) -> Generator[pa.RecordBatch]:  # noqa: ARG002
        """See `Reader`."""
        paths: list[str] = []
        lines: list[str] = []
        max_objects, num_bytes = _FIRST_BATCH, 0
        for file in _files(self._path, self._left_out):
            self.num_records += 1
            path, content = read_file(file)
            line, _ = self._line(content)
            if line is None:
                self._malformed.append(self.num_records)
                continue
            paths.append(path)
            lines.append(line)
            num_bytes += len(path) + len(lines[-1])
            if len(lines) >= max_objects or num_bytes >= _BATCH_BYTES:
                yield from self._batch(connection, paths, lines)
                paths, lines, num_bytes = [], [], 0
                max_objects = _BATCH_OBJECTS
        if lines:
            yield from self._batch(connection, paths, lines)

    def problems(self, lines: Sequence[int]) -> Iterator[tuple[int, bytes, str | None]]:
        """See `Reader`; the raw text is ``path: sidecar``."""
        wanted = set(lines)
        for number, file in enumerate(_files(self._path, LeftOut()), start=1):
            if number in wanted:
                path, content = read_file(file)
                _, problem = self._line(content)
                record, _ = self._record(content)
                problem = problem or self.layout.problem(record)
                raw = content if isinstance(content, bytes) else b""
                yield number, f"{path}: ".encode() + raw, f"{path}: {problem}" if problem else None

    def _record(self, content: Content) -> tuple[dict[str, Any] | None, str | None]:
        """The object in `content` with its groups of tags below one key, or the problem."""
        record, problem = _parsed(content)
        if record is None or not self._is_grouped:
            return record, problem
        if record.get("tags") and not _groups_of(record):
            return None, f"tags without the keys {_GROUP}general and so on; write the sidecar again with -o tags=1"
        return _grouped(record), None

    def _line(self, content: Content) -> tuple[str | None, str | None]:
        """The text of the object in `content` with the keys that are read, or the problem."""
        record, problem = self._record(content)
        if record is None:
            return None, problem
        try:
            return self.layout.line(record), None
        except UnicodeEncodeError as error:
            return None, f"half of a surrogate pair in {error.object[max(error.start - 20, 0) : error.start]!r}"

    def _batch(
        self, connection: duckdb.DuckDBPyConnection, paths: Sequence[str], lines: Sequence[str]
    ) -> Iterator[pa.RecordBatch]:
        start = 0
        for batch in run_on(connection, self.layout.query, pa.table({"line": lines}), self._path):
            own = paths[start : start + len(batch)]
            start += len(batch)
            if self._is_by_path:
                batch = batch.set_column(batch.schema.get_field_index("id"), "id", pa.array(hashed_ids(own)))
            yield batch.append_column(PATH_COLUMN, pa.array(own, pa.string()))

    def _contents(self) -> Iterator[Content]:
        files = itertools.islice(_files(self._path, LeftOut()), SAMPLE_OBJECTS)
        return (content for _, content in map(read_file, files))


class TagSidecarReader(FilesOfTags):
    """A folder, tar or zip of sidecars that hold lists of tags, such as Hydrus's; see `FilesReader`.

    Tags are looked for under each key that is called so, at any depth; ``[posts.columns] tag_string`` names one.
    """

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`."""
        return _kind(candidate.path) is _Kind.TAGS

    def _files(self, left_out: LeftOut) -> Iterator[TextFile]:
        return _files(self._path, left_out)

    def _tags(self, text: str) -> list[str]:
        record, problem = _parsed(text.encode())
        if record is None:
            raise ValueError(problem)
        named = self._conventions.columns.get(ALL_TAGS_COLUMN)
        found = [tags for path, tags in _tag_values(record) if named in (None, "", ".".join(path))]
        if not found:
            raise ValueError(f"no list of tags; found the keys {','.join(record)[:80]!r}")
        half = next((tag for tags in found for tag in tags if any("\ud800" <= char <= "\udfff" for char in tag)), None)
        if half is not None:
            raise ValueError(f"half of a surrogate pair in {half[:40]!r}")
        return list(dict.fromkeys(tag.strip() for tags in found for tag in tags if tag.strip()))

    def _has_a_tag_a_line(self, sample: Sequence[str]) -> bool:  # noqa: ARG002
        return True


def _parsed(content: Content) -> tuple[dict[str, Any] | None, str | None]:
    """The object in `content`, or the problem that keeps it from being one."""
    if not isinstance(content, bytes):
        return None, unreadable(content)
    problem, text = decoded(content.removeprefix(BOM))
    if problem:
        return None, problem
    try:
        # Python writes NaN, which is no JSON; a score that is none is missing.
        record = json.loads(text, parse_constant=lambda _: None)
    except ValueError as error:
        return None, f"not JSON: {error}"
    except RecursionError:
        return None, "not JSON that can be read: nested too deeply"
    return (record, None) if isinstance(record, dict) else (None, "not a JSON object")


def _groups_of(record: Mapping[str, Any]) -> dict[str, list[Any]]:
    """The tags of `record` by their groups, such as ``tags_general``, or ``tag_string_general`` without it."""
    lists = {key: value for key, value in record.items() if key.startswith(_GROUP) and isinstance(value, list)}
    # gallery-dl joined the tags of a group by spaces before it wrote lists.
    texts = {
        prefix: {
            key.removeprefix(prefix): one.split(TAG_SEPARATOR)
            for key, one in record.items()
            if key.startswith(prefix) and isinstance(one, str) and one
        }
        for prefix in (_TEXT_GROUP, _GROUP)
    }
    return {**texts[_TEXT_GROUP], **texts[_GROUP], **{key.removeprefix(_GROUP): one for key, one in lists.items()}}


def _grouped(record: Mapping[str, Any]) -> dict[str, Any]:
    """`record` with its groups of tags as e621 has them: ``tags: {general: […], …}``."""
    others = {key: value for key, value in record.items() if not key.startswith(("tag_string", _GROUP))}
    return {**others, "tags": _groups_of(record)}


def _has_ids(sample: Sequence[Mapping[str, Any]], file: Path, conventions: Conventions) -> bool:
    """Whether posts of `sample` have ids.

    Raises:
        ExportError: they have, but none is a number.
    """
    name = conventions.source("id")
    ids = [record[name] for record in sample if record.get(name) not in (None, "")] if name else []
    if ids and all(isinstance(one, str) and not one.strip().lstrip("-").isdecimal() for one in ids):
        raise ExportError(
            f'{file}: {name} {ids[0][:40]!r} is no whole number; set [posts.columns] id = "" to number posts by the '
            "paths of their files"
        )
    return bool(ids)


def _files(path: Path, left_out: LeftOut) -> Iterator[TextFile]:
    if path.is_dir():
        return folder_files(path, left_out, partial(_listing, only_named=_has_named(path)))
    return archive_files(path, left_out, _is_sidecar)


def _is_sidecar(name: str) -> bool:
    file = name.rpartition("/")[2].lower()
    return file.endswith(_SUFFIX) and file not in _DESCRIPTIONS


def _listing(names: Collection[str], only_named: bool) -> Listing:
    """The sidecars among the file names of one folder; with `only_named` those that are called after an image."""
    names = set(names)
    images = {name for name in names if is_image(name)}
    by_stem: dict[str, list[str]] = {}
    for image in images:
        by_stem.setdefault(os.path.splitext(image)[0], []).append(image)
    of_image = {
        name: [stem] if stem in names or is_image(stem) else by_stem.get(stem, [])
        for name, stem in ((name, name[: -len(_SUFFIX)]) for name in names if name.lower().endswith(_SUFFIX))
    }
    chosen = [name for name, of in of_image.items() if of or (not only_named and _is_sidecar(name))]
    with_sidecar = images & {image for name in chosen for image in of_image[name]}
    others = names - images - set(chosen)
    return Listing(
        tuple(sorted(chosen, key=os.fsencode)),
        tuple(sorted(others, key=os.fsencode)),
        len(images) - len(with_sidecar),
        sum(1 for name in chosen if of_image[name]),
    )


def _has_named(folder: Path) -> bool:
    """Whether a JSON file in `folder` is called after an image."""
    return any(listing.num_of_images for _, listing in listings(folder, partial(_listing, only_named=True)))


def _kind(path: Path) -> _Kind | None:
    """What the sidecars in `path`, a folder or an archive, are; None where it holds none."""
    if path.is_dir():
        return _kind_of_folder(path)
    return _kind_of_archive(path) if path.is_file() and is_archive(path) else None


def _kind_of_folder(folder: Path) -> _Kind | None:
    is_named, has_any, has_tables = False, False, False
    for parent, listing in listings(folder, partial(_listing, only_named=False)):
        if holds_table(listing.others, parent):
            return None
        has_tables |= holds_table(listing.others)
        has_any |= bool(listing.captions)
        is_named |= listing.num_of_images > 0
    if not has_any or (has_tables and not is_named):
        return None
    files = itertools.islice(_files(folder, LeftOut()), _NUM_TOLD_BY)
    return _kind_of([read_file(file)[1] for file in files], is_named)


def _kind_of_archive(file: Path) -> _Kind | None:
    """By the first members: sidecars are called like an image or a text among them."""
    stems: set[str] = set()
    sidecars: dict[str, bytes] = {}
    with closing(members(file)) as found:
        for member in itertools.islice(found, _NUM_MEMBERS):
            if is_hidden(member.name) or member.size is None:
                continue
            if holds_table([member.name]):
                return None
            stem, suffix = os.path.splitext(member.name)
            if suffix.lower() != _SUFFIX:
                stems |= {stem, member.name}
            elif _is_sidecar(member.name) and len(sidecars) < _NUM_TOLD_BY:
                sidecars[stem] = member_content(member)
    return _kind_of([content for stem, content in sidecars.items() if stem in stems or is_image(stem)], is_named=True)


def _kind_of(contents: Sequence[Content], is_named: bool) -> _Kind | None:
    """What the objects in `contents` are, of which some may be broken, or all if they are called after images."""
    records = [record for record, _ in map(_parsed, contents) if record is not None]
    if not records or not (is_named or len(records) == len(contents)):
        return None
    if not is_named and any(_is_several(record) for record in records):
        return None
    keys = {key.lower() for record in records for key in record}
    if any(key in _POST_KEYS or key == "id" or key.endswith("_id") for key in keys):
        has_tags = any("tag" in key for key in keys) or any(True for one in records for _ in _tag_values(one))
        return _Kind.POSTS if has_tags else None
    return _Kind.TAGS if any(True for record in records for _ in _tag_values(record)) else None


def _is_several(record: dict[str, Any]) -> bool:
    """Whether `record` holds several posts: a list of them, or kohya's tags by the paths of images."""
    inner = [value for value in record.values() if isinstance(value, dict)]
    return wrapped_key(record) is not None or any(isinstance(value.get("tags"), str) for value in inner)


def _tag_values(
    record: Mapping[str, Any], parents: tuple[str, ...] = ()
) -> Iterator[tuple[tuple[str, ...], list[str]]]:
    """The lists of tags in `record` with the keys that lead there."""
    for key, value in record.items():
        path = (*parents, key)
        if isinstance(value, dict) and len(path) < _MAX_DEPTH:
            yield from _tag_values(value, path)
        elif "tag" in key.lower() and isinstance(value, list) and all(isinstance(tag, str) for tag in value):
            yield path, value
        elif key.lower() in ("tags", ALL_TAGS_COLUMN) and isinstance(value, str):
            yield path, value.split("," if "," in value else TAG_SEPARATOR)
