"""Reads ``settings.toml``; an error is one line with the file, the key, the value and a remedy."""

from __future__ import annotations

import hashlib
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Final, get_args

from pydantic import BaseModel, ValidationError

from booru_embed_core.errors import one_line
from booru_embed_core.settings.base import OPERATIONAL
from booru_embed_core.settings.sections import Settings

SETTINGS_VARIABLE: Final = "BOORU_EMBED_SETTINGS"

# Replace pydantic's messages that speak of Python types instead of TOML.
_MESSAGES: Final = {
    "model_type": "is a section with keys, not a value",
    "tuple_type": "should be a list, in brackets",
    "too_short": "should have at least one entry",
    "path_type": "should be a path, in quotes",
    "int_type": "should be a whole number, without quotes or point",
    "float_type": "should be a number, without quotes",
    "finite_number": "should be a finite number",
}

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
    file = Path(path or os.environ.get(SETTINGS_VARIABLE) or "settings.toml")
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        remedy = "name one" if path else f"run in the project's root or point {SETTINGS_VARIABLE} at one"
        raise SettingsError(f"{file}: no such settings file; {remedy}") from None
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read ({error.strerror}); give a settings file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not valid TOML: {error}; correct that line") from None
    if "root" in values:
        raise SettingsError(f"{file}: unknown setting 'root'; remove it")
    try:
        return Settings.model_validate({**values, "root": file.resolve().parent})
    except ValidationError as error:
        raise SettingsError(one_line(_first_problem(file, error))) from None


def section_version(section: BaseModel) -> str:
    """The data version of `section`: 16 hex digits that change with any of its values, defaults included.

    `OperationalInt` values do not count, because they do not change the result.
    """
    fields = type(section).model_fields
    values = section.model_dump(mode="json", exclude={key for key in fields if OPERATIONAL in fields[key].metadata})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _first_problem(file: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section, _, key = where.partition(".")
        if section == "evaluation" and key in _REMOVED:
            return (
                f"{file}: [evaluation] {key} was removed in 0.2.0; it is now a constant in "
                f"booru_embed_core/evaluation/{_REMOVED[key]}; delete the line"
            )
        known = _known_keys(tuple(str(part) for part in first["loc"][:-1]))
        return f"{file}: unknown setting '{where}'; known here: {', '.join(known)}"
    message = _MESSAGES.get(first["type"], first["msg"].removeprefix("Value error, "))
    value = first["input"]
    shown = "" if isinstance(value, dict) else f" = {value!r}"
    return f"{file}: {where}{shown}: {message}; correct the value"


def _known_keys(parents: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for parent in parents:
        if parent.isdigit():  # the number of a source
            continue
        annotation = model.model_fields[parent].annotation
        if not isinstance(annotation, type):
            annotation = get_args(annotation)[0]
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return sorted(set(model.model_fields) - {"root"})
