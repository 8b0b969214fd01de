"""Reads ``settings.toml``; an error is one line with the file, the key, the value, its range and a remedy."""

from __future__ import annotations

import hashlib
import json
import os
import re
import tomllib
from collections.abc import Iterator, Mapping
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Final, get_args

from annotated_types import Ge, Gt, Le, Lt
from pydantic import BaseModel, ValidationError
from pydantic.fields import FieldInfo

from booru_embed_core.errors import cannot_be_read, first_line, one_line, shortened, shown
from booru_embed_core.settings.base import OPERATIONAL
from booru_embed_core.settings.sections import Settings

SETTINGS_VARIABLE: Final = "BOORU_EMBED_SETTINGS"

# Replace pydantic's messages that speak of Python types instead of TOML.
_MESSAGES: Final = {
    "model_type": "is a section with keys, not a value",
    "tuple_type": "should be a list, in brackets",
    "dict_type": "is a table with keys, not a value",
    "too_short": "should have at least one entry",
    "path_type": "should be a path, in quotes",
    "string_type": "should be text, in quotes",
    "string_too_short": "is empty; name one or leave the key out",
    "bool_type": "should be true or false, without quotes",
    "bool_parsing": "should be true or false, without quotes",
    "int_type": "should be a whole number, without quotes or point",
    "float_type": "should be a number, without quotes",
    "finite_number": "should be a finite number",
}

_BOUNDS: Final = {Ge: "at least", Gt: "above", Le: "at most", Lt: "below"}
_MAX_BYTES: Final = 1 << 20
_MAX_DOTS: Final = 100
_MAX_KNOWN: Final = 160
"""Characters of a list of known keys in a message."""
_NO_KEY: Final = re.compile(r"[=,]")

_REMOVED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("naive_bayes_dampings", "item_knn_neighbours", "item_knn_exponents"), "baselines.py"),
    **dict.fromkeys(("ppmi_dim", "lsa_dims"), "tag_vectors.py"),
    **dict.fromkeys(("tag_table_dim", "tag_table_epochs"), "tag_table.py"),
    **dict.fromkeys(("item2vec_dim", "item2vec_epochs"), "item2vec.py"),
}
"""Former keys of ``[evaluation]`` → the file in booru_embed_core/evaluation that holds the constant now."""


class SettingsError(ValueError):
    """An unusable settings file; the message is one line with file, key, value and remedy."""


def load_settings(path: Path | str | None = None) -> Settings:
    """The settings in `path`, or else in ``$BOORU_EMBED_SETTINGS``, or else in ``./settings.toml``.

    Raises:
        SettingsError: the file is missing, is not TOML, or has an unknown key or an invalid value.
    """
    file = Path(os.environ.get(SETTINGS_VARIABLE) or "settings.toml" if path is None else path)
    values = _values(file, is_named=path is not None)
    if "root" in values:
        raise SettingsError(f"{file}: unknown setting 'root'; remove it")
    try:
        return Settings.model_validate({**values, "root": file.resolve().parent})
    except ValidationError as error:
        raise SettingsError(one_line(_first_problem(file, error))) from None


def _values(file: Path, *, is_named: bool) -> dict[str, Any]:
    """The values in `file`, whatever they are.

    Raises:
        SettingsError: the file is missing, cannot be read, or is not TOML.
    """
    if "\0" in str(file):
        raise SettingsError(f"{shown(str(file))}: holds the character NUL, which no path may; name a settings file")
    try:
        with file.open("rb") as stream:
            content = stream.read(_MAX_BYTES + 1)
    except FileNotFoundError:
        remedy = "name one" if is_named else f"run in the project's root or point {SETTINGS_VARIABLE} at one"
        raise SettingsError(f"{file}: no such settings file; {remedy}") from None
    except OSError as error:
        raise SettingsError(f"{file}: {cannot_be_read(error, 'give a settings file')}") from None
    if len(content) > _MAX_BYTES:
        raise SettingsError(f"{file}: has more than {_MAX_BYTES:,} bytes; give a settings file")
    try:
        text = content.decode()
        # Python's reader takes time quadratic in the length of a key.
        if any(part.count(".") > _MAX_DOTS for line in text.splitlines() for part in _NO_KEY.split(line)):
            raise RecursionError
        return tomllib.loads(text)
    except RecursionError:
        raise SettingsError(f"{file}: not valid settings: nested too deeply; correct the file") from None
    except ValueError as error:  # also of a number of thousands of digits
        raise SettingsError(f"{file}: not valid TOML: {first_line(error, 160)}; correct that line") from None


def section_version(section: BaseModel) -> str:
    """The data version of `section`: 16 hex digits that change with any of its values, defaults included.

    `OperationalInt` values do not count, because they do not change the result.
    """
    fields = type(section).model_fields
    values = section.model_dump(mode="json", exclude={key for key in fields if OPERATIONAL in fields[key].metadata})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _first_problem(file: Path, error: ValidationError) -> str:
    problems = error.errors(include_url=False)
    first = problems[0]
    where = shortened(".".join(str(part) for part in first["loc"]), 80)
    if first["type"] == "extra_forbidden":
        section, _, key = where.partition(".")
        if section == "evaluation" and key in _REMOVED:
            return (
                f"{file}: [evaluation] {key} was removed in 0.2.0; it is now a constant in "
                f"booru_embed_core/evaluation/{_REMOVED[key]}; delete the line"
            )
        name = str(first["loc"][-1])
        return f"{file}: unknown setting '{where}'; {_alternatives(name, _known_keys(first['loc'][:-1]))}"
    value = first["input"]
    where, value_shown = where.removesuffix(".[key]"), "" if isinstance(value, dict) else f" = {shown(value)}"
    message = _message(first)
    if str(first["loc"][-1]).startswith("literal["):
        # A value of one of two types has an error for each, under the name of the type.
        where = where.rpartition(".")[0]
        message = " or ".join(_message(problem) for problem in problems[:2])
    return f"{file}: {where}{value_shown}: {message}; correct the value"


def _message(problem: Any) -> str:
    """What is wrong with a value, in words of TOML, with the range that it should lie in."""
    kind = problem["type"]
    if kind in ("greater_than", "greater_than_equal", "less_than", "less_than_equal"):
        return f"should be {' and '.join(dict.fromkeys(_bounds(problem['loc'])))}"
    if kind in ("too_long", "string_too_long"):
        return f"has more than {problem['ctx']['max_length']:,} {'entries' if kind == 'too_long' else 'characters'}"
    return shortened(_MESSAGES.get(kind, problem["msg"].removeprefix("Value error, ")), 240)


def _bounds(loc: tuple[int | str, ...]) -> Iterator[str]:
    """The bounds of the setting at `loc`, such as ``at least 1``."""
    names = [part for part in loc if isinstance(part, str)]
    model, field = _model(names[:1]), FieldInfo()
    for depth, name in enumerate(names):
        model = _model(names[:depth])
        if name not in model.model_fields:
            break
        field = model.model_fields[name]
    for bound in _metadata(field):
        for kind, words in _BOUNDS.items():
            if isinstance(bound, kind):
                number = getattr(bound, kind.__name__.lower())
                yield f"{words} {number:,}" if isinstance(number, int) else f"{words} {number:g}"


def _metadata(annotation: Any) -> Iterator[Any]:
    """What the innermost type of `annotation` is annotated with."""
    if isinstance(annotation, FieldInfo):
        yield from annotation.metadata
        yield from _metadata(annotation.annotation)
        return
    for field in getattr(annotation, "__metadata__", ()):
        yield from field.metadata if isinstance(field, FieldInfo) else ()
    for argument in get_args(annotation):
        yield from _metadata(argument)


def _alternatives(name: str, known: list[str]) -> str:
    """The `known` keys, those that are spelled like `name` first; of many only as many as a line holds."""
    keys = list(dict.fromkeys([*get_close_matches(name[:100], known, 3), *known]))
    while len(", ".join(keys)) > _MAX_KNOWN:
        keys.pop()
    more = f" and {len(known) - len(keys)} more, see docs/reference/settings.md" if len(keys) < len(known) else ""
    return f"known here: {', '.join(keys)}{more}"


def _known_keys(parents: tuple[int | str, ...]) -> list[str]:
    return sorted(set(_model([part for part in parents if isinstance(part, str)]).model_fields) - {"root"})


def _model(parents: list[str]) -> type[BaseModel]:
    """The model of the section, or table in one, with the names `parents`."""
    model: type[BaseModel] = Settings
    for parent in parents:
        annotation: Any = model.model_fields[parent].annotation
        if not isinstance(annotation, type):  # a list of sections, or a value
            annotation = next(iter(get_args(annotation)), None)
        if not (isinstance(annotation, type) and issubclass(annotation, BaseModel)):
            break
        model = annotation
    return model
