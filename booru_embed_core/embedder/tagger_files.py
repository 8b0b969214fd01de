"""What WD taggers' common tools write, image by image: JSON, JSON lines, CSV, or files beside the images.

```
{"a.png": {"1girl": 0.99, "hat": 0.4}}                          scores of each image
{"a.png": {"rating": {…}, "general": {…}, "character": {…}}}    the same in groups
{"rating": {…}, "general": {…}, "character": {…}}               of one image, which the file's name tells
image,tag,score,category                                        a row for each tag; the category as in selected_tags.csv
filename,tags                                                   a row for each image
filename,1girl,hat                                              the same, a column for each tag
a.txt beside a.png                                              1girl, hat   or   (1girl:0.99), (hat:0.4)
```

What becomes of the scores is in ``tagger_captions``.
"""

from __future__ import annotations

import csv
import json
import math
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, Final, NamedTuple

from booru_embed_core import json_files
from booru_embed_core.embedder.caption_files import CaptionFileError
from booru_embed_core.embedder.tagger_values import (
    CATEGORIES,
    GROUPS,
    NAMES,
    RATING,
    SCORES,
    TagScore,
    cell_scores,
    holds_scores,
    kind_of,
    score_of,
    scores_of,
)
from booru_embed_core.errors import first_line, shown

_IMAGES: Final = ("image", "filename", "file_name", "file", "image_path", "file_path", "filepath", "path", "id", "key")
"""Keys and columns with the name of an image."""
_IMAGE_SUFFIXES: Final = (".png", ".jpg", ".jpeg", ".webp", ".gif", ".bmp", ".avif", ".jxl", ".tif", ".tiff")
_DATABASE: Final = "db.json"
_JSON, _LINES, _TABLES, _TEXTS = (".json",), (".jsonl", ".ndjson"), (".csv", ".tsv"), (".txt", ".caption")
_FORMS: Final = ", ".join((*_JSON, *_LINES, *_TABLES, *_TEXTS))
_MAX_FIELD: Final = 1 << 24
"""Characters of a cell: an image's scores of all tags take 400,000."""


class TaggedImage(NamedTuple):
    """The scores of one image; `place` names it in messages."""

    place: str
    id: str
    scores: list[TagScore]


def tagged_images(path: Path, untagged: list[str]) -> Iterator[TaggedImage]:
    """The images in what a tagger's tool wrote, in order; of a folder, in the order of their names.

    Args:
        path: a file, or a folder of images with a file beside each.
        untagged: gets the images of a folder that have none.

    Raises:
        CaptionFileError: the file, a row or a value is not of a known form.
        OSError: it cannot be read.
    """
    if path.is_dir():
        return _in_folder(path, untagged)
    suffix = path.suffix.lower()
    if suffix in _JSON:
        return _in_json(path)
    if suffix in _LINES:
        return _in_lines(path)
    if suffix in _TABLES:
        return _in_table(path)
    if suffix in _TEXTS:
        return iter([TaggedImage(str(path), path.stem, scores_of(_text(path), str(path)))])
    raise CaptionFileError(f"{path}: its suffix tells no form of a tagger; name a folder, or a file of {_FORMS}")


def read_selected_tags(file: Path) -> dict[str, str]:
    """The kind of each tag in the ``selected_tags.csv`` of a tagger, by its name with underscores.

    Raises:
        CaptionFileError: it has no columns ``name`` and ``category``, or a category is none.
    """
    with _opened(file) as stream:
        rows = csv.DictReader(stream)
        if not {"name", "category"} <= {*(rows.fieldnames or ())}:
            raise CaptionFileError(
                f"{file}: no columns name and category; give the selected_tags.csv of the tagger's model"
            )
        found: dict[str, str] = {}
        for row in rows:
            place = f"{file}: line {rows.line_num}"
            kind = kind_of(row["category"], place)
            if kind is None or row["name"] is None:
                raise CaptionFileError(f"{place}: has no name or no category; write both")
            found[row["name"].replace(" ", "_")] = kind
        return found


def _in_folder(folder: Path, untagged: list[str]) -> Iterator[TaggedImage]:
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    images = {file.with_suffix(""): file for file in files if file.suffix.lower() in _IMAGE_SUFFIXES}
    beside = {}
    for file in files:
        is_text = file.suffix.lower() in _TEXTS
        stem = file.with_suffix("")
        stem = stem.with_suffix("") if stem.suffix.lower() in _IMAGE_SUFFIXES else stem  # a.png.txt
        if (is_text and stem not in beside) or (file.suffix.lower() in _JSON and file.name != _DATABASE):
            beside[stem] = file  # JSON, which has scores, before text
    untagged += [image.relative_to(folder).as_posix() for stem, image in images.items() if stem not in beside]
    if not beside:
        suffixes = ", ".join((*_TEXTS, *_JSON))
        raise CaptionFileError(f"{folder}: no file of {suffixes} in it; let the tagger write beside the images")
    for stem, file in beside.items():
        own = images.get(stem, stem).relative_to(folder).as_posix()
        value = _parsed(file) if file.suffix.lower() in _JSON else _text(file)
        if value and isinstance(value, dict | list) and not holds_scores(value):
            raise CaptionFileError(
                f"{file}: holds other things than the scores of one image; move it out of the folder, or name it itself"
            )
        yield TaggedImage(str(file), own, scores_of(value, str(file)))


def _in_json(file: Path) -> Iterator[TaggedImage]:
    value = _parsed(file)
    if isinstance(value, dict) and {"query", "tag", "rating"} <= value.keys():
        yield from _in_database(value, file)
    elif isinstance(value, dict) and holds_scores(value) and any(isinstance(value.get(key), str) for key in _IMAGES):
        yield _of_record(value, str(file))
    elif holds_scores(value):
        yield TaggedImage(str(file), file.stem, scores_of(value, str(file)))
    elif isinstance(value, dict):
        images = value["images"] if isinstance(value.get("images"), dict) else value
        if not images:
            raise CaptionFileError(f"{file}: holds no image; name another file")
        for image, scores in images.items():
            place = f"{file}: image {shown(image)}"
            yield TaggedImage(place, image, scores_of(scores, place))
    elif isinstance(value, list) and value:
        yield from (_of_record(one, f"{file}: entry {number}") for number, one in enumerate(value, 1))
    else:
        raise CaptionFileError(f"{file}: {shown(value)} holds no image; give an object with the scores of each image")


def _in_database(value: dict[str, Any], file: Path) -> Iterator[TaggedImage]:
    """The images of ``db.json``, where each number is the image's index plus a score above 0."""
    try:
        images = {int(index): str(path) for path, index in value["query"].values()}
        found: dict[int, list[TagScore]] = {index: [] for index in images}
        for key, kind in (("rating", RATING), ("tag", None)):
            for name, numbers in value[key].items():
                for number in numbers:
                    index = math.ceil(number) - 1
                    found[index].append(TagScore(name, number - index, kind))
    except (TypeError, ValueError, KeyError, AttributeError) as error:
        raise CaptionFileError(f"{file}: damaged ({first_line(error)}); let the tagger write it again") from None
    for index in sorted(images):
        yield TaggedImage(f"{file}: image {shown(images[index])}", images[index], found[index])


def _in_lines(file: Path) -> Iterator[TaggedImage]:
    with _opened(file) as stream:
        for number, line in enumerate(stream, 1):
            if line.strip():
                place = f"{file}: line {number}"
                yield _of_record(_loaded(line, place), place)


def _of_record(value: Any, place: str) -> TaggedImage:
    """An image of an object that names it."""
    image = next((value[key] for key in _IMAGES if key in value), None) if isinstance(value, dict) else None
    if not isinstance(image, str | int) or isinstance(image, bool):
        raise CaptionFileError(f"{place}: {shown(value)} names no image; give it in one of {', '.join(_IMAGES)}")
    others = {key: one for key, one in value.items() if key not in _IMAGES}
    return TaggedImage(f"{place}, image {shown(str(image))}", str(image), scores_of(others, place) if others else [])


def _in_table(file: Path) -> Iterator[TaggedImage]:
    csv.field_size_limit(max(csv.field_size_limit(), _MAX_FIELD))
    with _opened(file) as stream:
        rows = csv.reader(stream, delimiter="\t" if file.suffix.lower() == ".tsv" else ",", strict=True)
        try:
            header = [name.strip() for name in next(rows, [])]
            columns = {name.lower(): index for index, name in reversed([*enumerate(header)])}
            yield from _of_rows(file, rows, header, columns)
        except csv.Error as error:
            raise CaptionFileError(
                f"{file}: line {rows.line_num}: is no CSV ({first_line(error)}); quote cells that hold quotes or commas"
            ) from None


def _of_rows(file: Path, rows: Any, header: list[str], columns: dict[str, int]) -> Iterator[TaggedImage]:
    image, name, score, category = (
        next((columns[one] for one in names if one in columns), None) for names in (_IMAGES, NAMES, SCORES, CATEGORIES)
    )
    groups = {n: GROUPS[one.lower()] for n, one in enumerate(header) if one.lower() in GROUPS and n != image}
    if name is not None and score is not None:
        yield from _row_per_tag(file, _checked(file, rows, header), (image, name, score, category))
        return
    if "tag_id" in columns or (image is None and {"name", "category"} <= columns.keys()):
        raise CaptionFileError(
            f"{file}: has the tags of a tagger without scores; give it with --selected-tags, beside a file of scores"
        )
    if image is None or len(header) < 2:
        raise CaptionFileError(
            f"{file}: no column names the image in {shown(header)}; name it {', '.join(_IMAGES[:3])} or the like"
        )
    for line, row in _checked(file, rows, header):
        place = f"{file}: line {line}, image {shown(row[image])}"
        if groups:
            cells = [cell_scores(row[index], f"{place}, {header[index]}", kind) for index, kind in groups.items()]
            yield TaggedImage(place, row[image], [found for cell in cells for found in cell])
        else:
            tags = [(tag, row[index]) for index, tag in enumerate(header) if index != image and row[index].strip()]
            yield TaggedImage(place, row[image], [TagScore(tag, score_of(one, tag, place)) for tag, one in tags])


def _row_per_tag(
    file: Path, rows: Iterator[tuple[int, list[str]]], columns: tuple[int | None, int, int, int | None]
) -> Iterator[TaggedImage]:
    """The images of rows of one tag each; the rows of an image stand together."""
    image, name, score, category = columns
    done: set[str] = set()
    found = TaggedImage("", "", [])
    for line, row in rows:
        own = file.stem if image is None else row[image]
        place = f"{file}: line {line}, image {shown(own)}"
        if own in done:
            raise CaptionFileError(f"{place}: its rows do not stand together; sort the file by image")
        if own != found.id or not found.place:
            if found.place:
                done.add(found.id)
                yield found
            found = TaggedImage(place, own, [])
        kind = None if category is None else kind_of(row[category], place)
        found.scores.append(TagScore(row[name], score_of(row[score], row[name], place), kind))
    if found.place:
        yield found


def _checked(file: Path, rows: Any, header: list[str]) -> Iterator[tuple[int, list[str]]]:
    """The rows with their lines; blank ones are left out."""
    for row in rows:
        if not row:
            continue
        if len(row) != len(header):
            raise CaptionFileError(
                f"{file}: line {rows.line_num}: has {len(row)} cells, but the header {len(header)}; quote cells that "
                "hold commas"
            )
        yield rows.line_num, row


@contextmanager
def _opened(file: Path) -> Iterator[IO[str]]:
    """The text of `file`, line by line."""
    try:
        with file.open(encoding="utf-8-sig", newline="") as stream:
            yield stream
    except UnicodeDecodeError as error:
        bad = f"{error.object[error.start]:#04x}"
        raise CaptionFileError(f"{file}: a byte {bad} is no UTF-8; convert the file to UTF-8") from None


def _text(file: Path) -> str:
    with _opened(file) as stream:
        return stream.read()


def _parsed(file: Path) -> Any:
    return _loaded(_text(file), str(file))


def _loaded(text: str, place: str) -> Any:
    try:
        value = json_files.loads(text)
        if "\\u" in text:  # half a pair of surrogates is no text, and no file can hold it
            json.dumps(value, ensure_ascii=False).encode()
    except (ValueError, RecursionError) as error:
        reason = "is nested too deeply" if isinstance(error, RecursionError) else first_line(error, 80)
        raise CaptionFileError(f"{place}: is no JSON ({reason}); let the tagger write it again") from None
    return value
