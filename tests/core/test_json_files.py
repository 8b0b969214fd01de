"""JSON files: what is in them, or one line that says which file, which field and which value."""

from __future__ import annotations

import json
import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic import Field

from booru_embed_core.json_files import Count, FileName, JsonModel, Sha256, parse_json, read_json


class RoomError(ValueError):
    """Some room's own error."""


class Part(JsonModel):
    """One file of a product."""

    bytes: Count
    sha256: Sha256


class Product(JsonModel):
    """The content of a file."""

    format_version: int = 2
    share: float
    sizes: tuple[int, ...] = ()
    parts: dict[FileName, Part] = Field(default_factory=dict)


WHOLE = '{"format_version": 2, "share": 0.5, "sizes": [1, 2]}'
PART = '{"bytes": 3, "sha256": "' + "ab" * 32 + '"}'
REMEDY = "build it again"

REFUSED = {
    "brackets": ("[" * 200_000, "is nested too deeply"),
    "braces": ('{"share":' * 100_000, "is nested too deeply"),
    "below pythons limit": ('{"share": ' + "[" * 300 + "]" * 300 + "}", "recursion limit exceeded"),
    "digits": ('{"share": ' + "9" * 5000 + "}", "is not JSON"),
    "cut": (WHOLE[:20], "is not JSON"),
    "empty": ("", "is not JSON (Expecting value: line 1 column 1"),
    "trailing": (WHOLE + "\x00", "is not JSON (Extra data"),
    "nan": ('{"share": NaN}', "NaN is no number of JSON"),
    "infinity": ('{"share": -Infinity}', "-Infinity is no number of JSON"),
    "too large for a float": ('{"share": 1e999}', "share = inf: should be a finite number"),
    "half a surrogate": ('{"share": "\\ud800"}', "unexpected end of hex escape"),
    "twice": ('{"share": 1, "share": 2}', "the key share occurs twice"),
    "twice inside": ('{"share": 1, "parts": {"a": 1, "a": 1}}', "the key a occurs twice"),
    "a list": ("[]", "should be an object"),
    "null": ("null", "should be an object"),
    "text for a number": ('{"share": "1"}', "share = '1': should be a valid number"),
    "true for a number": ('{"share": 1, "sizes": [true]}', "sizes.0 = True: should be a valid integer"),
    "a part of a number": ('{"share": 1, "sizes": [1.5]}', "sizes.0 = 1.5: should be a valid integer"),
    "lacking": ('{"sizes": []}', "lacks share"),
    "unknown": ('{"share": 1, "shore": 2}', "unknown key shore"),
    "a long unknown key": ('{"share": 1, "' + "x" * 100_000 + '": 2}', f"unknown key {'x' * 40}…"),
    "a key of lines": ('{"share": 1, "a\\nb": 2}', "unknown key 'a\\nb'"),
    "a long value": ('{"share": "' + "9" * 100_000 + '"}', "share = '999999"),
    "negative": (f'{{"share": 1, "parts": {{"a": {PART.replace("3", "-3")}}}}}', "parts.a.bytes = -3"),
    "huge": (f'{{"share": 1, "parts": {{"a": {PART.replace("3", "9" * 60)}}}}}', "parts.a.bytes = a number of more"),
    "no hash": (f'{{"share": 1, "parts": {{"a": {PART.replace("ab", "xy")}}}}}', "parts.a.sha256 = 'xyxy"),
    "a path": (f'{{"share": 1, "parts": {{"../a": {PART}}}}}', "'../a': should be the name of a file"),
    "another folder": (f'{{"share": 1, "parts": {{"..": {PART}}}}}', "'..': should be the name of a file"),
    "NUL in a name": (f'{{"share": 1, "parts": {{"a\\u0000": {PART}}}}}', "'a\\x00': should be the name of a file"),
    "another format": ('{"format_version": 3, "shape": 1}', "format_version 3 instead of 2"),
    "no number of a format": ('{"format_version": true}', "format_version True instead of 2"),
}


def read(file: Path, max_bytes: int = 1 << 20) -> Product:
    return read_json(file, Product, RoomError, REMEDY, missing="make one", max_bytes=max_bytes, format_version=2)


def test_what_was_written_is_read_also_through_a_link(tmp_path: Path) -> None:
    (tmp_path / "product.json").write_text(WHOLE)
    (tmp_path / "link.json").symlink_to("product.json")
    for name in ("product.json", "link.json"):
        assert read(tmp_path / name) == Product(share=0.5, sizes=(1, 2))


@pytest.mark.parametrize("kind", REFUSED)
def test_anything_else_is_one_line_with_file_field_and_value(tmp_path: Path, kind: str) -> None:
    content, says = REFUSED[kind]
    file = tmp_path / "product.json"
    file.write_text(content)
    with pytest.raises(RoomError) as caught:
        read(file)
    line = str(caught.value)
    assert line.startswith(f"{file}: ")
    assert line.endswith(f"; {REMEDY}")
    assert says in line
    assert line.isprintable()
    assert len(line) < len(str(file)) + 500


def test_files_that_cannot_be_read_are_named_and_do_not_block(tmp_path: Path) -> None:
    folder, pipe, loop, other = (tmp_path / name for name in ("folder", "pipe", "loop", "other"))
    folder.mkdir()
    os.mkfifo(pipe)
    loop.symlink_to("loop")
    other.write_bytes(b'{"share": "\xff"}')
    for file, says in {
        tmp_path / "missing": "no such file; make one",
        other / "below a file": "no such file; make one",
        folder: "cannot be read (Is a directory)",
        pipe: "cannot be read (not a plain file)",
        Path("/dev/zero"): "cannot be read (not a plain file)",
        loop: "cannot be read (Too many levels",
        other: "is not UTF-8 at byte 11",
    }.items():
        with pytest.raises(RoomError) as caught:
            read(file)
        assert str(caught.value).startswith(f"{file}: {says}")


def test_a_file_that_is_far_too_large_is_not_parsed(tmp_path: Path) -> None:
    file = tmp_path / "product.json"
    file.write_text(" " * 1000 + WHOLE)
    assert read(file).share == 0.5
    with pytest.raises(RoomError, match=r"product\.json: has more than 1,000 bytes"):
        read(file, max_bytes=1000)


JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=5), inner, max_size=3),
    max_leaves=5,
)


@settings(max_examples=50, deadline=None)
@given(st.fixed_dictionaries({}, optional=dict.fromkeys((*Product.model_fields, "other"), JSON)), st.integers(0, 99))
def test_any_value_under_any_key_is_a_product_or_one_line(values: dict[str, object], end: int) -> None:
    for text in (json.dumps(values), json.dumps(values)[:end]):
        found = outcome(text)
        if isinstance(found, str):
            assert found.startswith("here: ")
            assert found.isprintable()
        else:
            assert outcome(found.model_dump_json()) == found


def outcome(text: str) -> Product | str:
    try:
        return parse_json(text, Product, "here", RoomError, REMEDY)
    except RoomError as error:
        return str(error)
