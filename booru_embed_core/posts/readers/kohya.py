"""kohya's metadata of a data set, ``meta_cap.json`` and ``meta_lat.json``: tags and captions by the paths of images.

``{"path": {"caption": "a girl with a book", "tags": "1girl, book"}, …}``. Tags are read, and captions where there are
no tags. The text is parsed as a stream: memory holds one batch.
"""

from __future__ import annotations

import io
import json
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any, ClassVar, Final

import ijson

from booru_embed_core.errors import first_line
from booru_embed_core.posts.readers.base import ExportPath
from booru_embed_core.posts.readers.caption_files import LeftOut, TextFile, printable
from booru_embed_core.posts.readers.captions import FilesOfTags
from booru_embed_core.posts.readers.json_documents import TextStream
from booru_embed_core.posts.readers.json_layout import BROKEN_JSON
from booru_embed_core.posts.readers.lines import text_blocks
from booru_embed_core.posts.validation import MAX_LINE_BYTES, ExportError

_TEXT_KEYS: Final = ("tags", "caption")
_KEYS: Final = frozenset({*_TEXT_KEYS, "image_size", "train_resolution"})
_READ_BYTES: Final = 1 << 16


class KohyaReader(FilesOfTags):
    """A file of tags by the paths of images; see `FilesReader`. A "line" is the ordinal of an image."""

    suffixes: ClassVar[tuple[str, ...]] = (".json",)
    reads_archives: ClassVar[bool] = False

    @classmethod
    def opens(cls, candidate: ExportPath) -> bool:
        """See `Reader`."""
        return candidate.start.lstrip().startswith(b"{") and _is_metadata(candidate.start)

    def _files(self, left_out: LeftOut) -> Iterator[TextFile]:
        number = 0
        try:
            entries = ijson.kvitems(TextStream(text_blocks(self._path, _READ_BYTES)), "", buf_size=_READ_BYTES)
            for number, (path, entry) in enumerate(entries, start=1):  # noqa: B007
                left_out.num_captions += isinstance(entry, dict) and all(entry.get(key) for key in _TEXT_KEYS)
                yield TextFile(printable(path), partial(_content, entry))
        except BROKEN_JSON as error:
            raise ExportError(
                f"{self._path}: not JSON behind its image {number} ({first_line(error)}); write the file again"
            ) from None

    def _has_a_tag_a_line(self, sample: Sequence[str]) -> bool:  # noqa: ARG002
        return False


def _is_metadata(start: bytes) -> bool:
    """Whether the first value with keys in the object that begins with `start` is tags or a caption of an image."""
    keys: set[str] = set()
    depth = 0
    try:
        for event, value in ijson.basic_parse(io.BytesIO(start)):
            depth += (event in ("start_map", "start_array")) - (event in ("end_map", "end_array"))
            if depth == 1 and event not in ("start_map", "end_map", "end_array", "map_key"):
                return False
            if depth == 2 and event == "map_key":
                keys.add(value)
            if depth == 1 and event == "end_map" and keys:
                break
    except BROKEN_JSON:  # `start` ends within the object
        pass
    return bool(keys & set(_TEXT_KEYS)) and keys <= _KEYS


def _content(entry: Any) -> bytes:
    """The tags of `entry`, or its caption.

    Raises:
        ValueError: neither is text.
    """
    if not isinstance(entry, dict):
        raise ValueError(f"is not an object: {json.dumps(entry, default=str)[:40]}")
    text = entry.get("tags") or entry.get("caption") or ""
    if not isinstance(text, str):
        raise ValueError(f"its tags are not text: {json.dumps(text, default=str)[:40]}")
    return text.encode("utf-8", "surrogatepass")[: MAX_LINE_BYTES + 1]
