"""JSON files of the project, each read into a pydantic model of its own: types, keys and sizes are checked before use.

Whatever a file holds, reading it ends in the model or in one line that names the file, the field and the value. That
covers deep nesting, numbers of thousands of digits, NaN, keys that occur twice, and names that are no plain files.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, TypeVar

from pydantic import AfterValidator, BaseModel, ConfigDict, Field, ValidationError

from booru_embed_core.errors import cannot_be_read, first_line, shown
from booru_embed_core.filesystem import open_regular

MAX_JSON_BYTES: Final = 16 << 20
"""Files that hold a few figures: 40 times the largest one seen, an evaluation of 150 kB with every baseline."""
_MAX_SHOWN: Final = 40
"""Characters of a key or value in a message."""

Count = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
"""A number of things, or of bytes."""
Sha256 = Annotated[str, Field(pattern=r"^[0-9a-f]{64}$", strict=True)]
"""A SHA-256 in hex."""
FileName = Annotated[str, Field(strict=True), AfterValidator(lambda name: _plain_name(name))]
"""A file of the folder at hand: no path, so that it cannot lead out of it."""

RelativeName = Annotated[str, Field(strict=True), AfterValidator(lambda name: _relative_name(name))]
"""A file below the folder at hand, the parts of its path separated by ``/``; it cannot lead out of it."""

Model = TypeVar("Model", bound=BaseModel)


class JsonModel(BaseModel):
    """The content of a JSON file: strict types, no unknown keys, finite numbers."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SealedModel(JsonModel):
    """The content of a JSON file that holds its own checksum: a changed figure, name or switch is noticed."""

    checksum: Sha256 | None = None
    """`content_checksum` of the file; None in files of older builds, which have none."""

    def to_json(self) -> str:
        """The text of the file, indented, with its checksum."""
        values = json.loads(self.model_dump_json(exclude={"checksum"}))
        return json.dumps({**values, "checksum": content_checksum(values)}, indent=2, ensure_ascii=False) + "\n"


def content_checksum(values: Mapping[str, Any]) -> str:
    """SHA-256, in hex, of `values` as JSON with sorted keys, the key ``checksum`` left out."""
    rest = {key: value for key, value in values.items() if key != "checksum"}
    return hashlib.sha256(json.dumps(rest, sort_keys=True).encode()).hexdigest()


def read_json(
    file: Path,
    model: type[Model],
    error: type[ValueError],
    remedy: str,
    *,
    missing: str | None = None,
    max_bytes: int = MAX_JSON_BYTES,
    format_version: int | None = None,
) -> Model:
    """The content of `file`.

    Args:
        file: a plain file, or a link to one.
        model: what it has to hold.
        error: raised with one line in all other cases.
        remedy: ends that line.
        missing: ends it instead if there is no such file.
        max_bytes: a larger file is not read.
        format_version: what the key of that name has to be; checked first, since another format has other keys.

    Raises:
        error: the file is missing, cannot be read, is too large, or does not hold such a model.
    """
    text = read_text(file, error, remedy, missing=missing, max_bytes=max_bytes)
    return parse_json(text, model, str(file), error, remedy, format_version=format_version)


def read_text(
    file: Path, error: type[ValueError], remedy: str, *, missing: str | None = None, max_bytes: int = MAX_JSON_BYTES
) -> str:
    """The text of `file`, which is UTF-8; arguments as in `read_json`.

    Raises:
        error: the file is missing, cannot be read, is too large, or is not UTF-8.
    """
    try:
        with open_regular(file) as stream:
            content = stream.read(max_bytes + 1)
        if len(content) > max_bytes:
            raise error(f"{file}: has more than {max_bytes:,} bytes, far more than such a file needs; {remedy}")
        return content.decode("utf-8")
    except (FileNotFoundError, NotADirectoryError):
        raise error(f"{file}: no such file; {missing or remedy}") from None
    except OSError as fault:
        raise error(f"{file}: {cannot_be_read(fault, 'check the file')}") from None
    except UnicodeDecodeError as fault:
        raise error(f"{file}: is not UTF-8 at byte {fault.start:,}; {remedy}") from None


def parse_json(
    text: str | bytes,
    model: type[Model],
    where: str,
    error: type[ValueError],
    remedy: str,
    *,
    format_version: int | None = None,
) -> Model:
    """The content of `text`; arguments as in `read_json`.

    Args:
        text: JSON.
        model: what it has to hold.
        where: where it comes from: a file, or a file and a line.
        error: raised with one line that begins with `where`.
        remedy: ends that line.
        format_version: as in `read_json`.

    Raises:
        error: the text is not JSON, or does not hold such a model.
    """
    try:
        text = text.decode("utf-8") if isinstance(text, bytes) else text
        values = loads(text, allow_nan=model.model_config.get("allow_inf_nan") is not False)
    except RecursionError:
        raise error(f"{where}: is nested too deeply; {remedy}") from None
    except ValueError as fault:
        raise error(f"{where}: is not JSON ({first_line(fault, 120)}); {remedy}") from None
    if format_version is not None:
        found = values.get("format_version") if isinstance(values, dict) else None
        if found is not None and (type(found) is not int or found != format_version):
            raise error(f"{where}: format_version {shown(found)} instead of {format_version}; {remedy}")
    is_sealed = isinstance(values, dict) and "checksum" in values and "checksum" in model.model_fields
    if is_sealed and values["checksum"] != content_checksum(values):
        raise error(f"{where}: was changed: its content has another checksum; {remedy}")
    try:
        # From the text again: only there does pydantic's strict mode take a JSON list for a tuple.
        return model.model_validate_json(text, strict=True)
    except ValidationError as fault:
        raise error(f"{where}: {problem(fault)}; {remedy}") from None


def loads(text: str | bytes, *, allow_nan: bool = False) -> Any:
    """The values of JSON `text`.

    Raises:
        ValueError: it is not JSON, a key occurs twice in one object, or a number is NaN or infinite.
        RecursionError: it is nested too deeply.
    """
    return json.loads(text, object_pairs_hook=_each_once, parse_constant=None if allow_nan else _refused)


def problem(fault: ValidationError) -> str:
    """The first problem that pydantic found, in one line: the field, its value, and what is wrong with it."""
    first = fault.errors(include_url=False, include_context=False)[0]
    field = ".".join(_key(part) for part in first["loc"])
    message = first["msg"].removeprefix("Value error, ").replace("Input should", "should")
    if first["type"] == "extra_forbidden":
        return f"unknown key {field}"
    if first["type"] == "missing":
        return f"lacks {field}"
    value = first["input"]
    is_shown = field and not isinstance(value, dict | list | tuple)
    return first_line(f"{field}{f' = {shown(value)}' if is_shown else ''}{': ' if field else ''}{message}")


def _each_once(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """The object of `pairs`; other readers take another one of two values, so both are refused."""
    values = dict(pairs)
    if len(values) < len(pairs):
        seen: set[str] = set()
        twice = next(key for key, _ in pairs if key in seen or seen.add(key))  # type: ignore[func-returns-value]
        raise ValueError(f"the key {_key(twice)} occurs twice")
    return values


def _refused(name: str) -> float:
    raise ValueError(f"{name} is no number of JSON")


def _plain_name(name: str) -> str:
    if name in ("", ".", "..") or len(name) > 255 or not name.isprintable() or "/" in name or "\\" in name:
        raise ValueError("should be the name of a file in the same folder")
    return name


def _relative_name(name: str) -> str:
    for part in name.split("/"):
        _plain_name(part)
    return name


def _key(part: object) -> str:
    text = str(part)
    text = text if len(text) <= _MAX_SHOWN else f"{text[:_MAX_SHOWN]}…"
    return text if text.isprintable() else repr(text)
