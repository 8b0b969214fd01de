"""What settings may be at most, and errors that stay short whatever a file holds."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from pydantic import BaseModel

from booru_embed_core.settings import Settings, SettingsError, load_settings
from tests.core.settings.settings_helpers import Load, leaves


def annotation(name: str) -> str:
    """The type of the setting `name`, as Python writes it."""
    section: type[BaseModel] = Settings
    *path, last = name.split(".")
    for part in path:
        inner = section.model_fields[part].annotation
        assert isinstance(inner, type)
        section = inner
    return repr(section.model_fields[last].annotation)


@pytest.mark.parametrize("name", [name for name in leaves(Settings) if re.search(r"\b(int|float)\b", annotation(name))])
def test_every_number_has_a_lowest_and_a_highest_value(load: Load, name: str) -> None:
    section, _, key = name.rpartition(".")
    is_list = "tuple" in annotation(name)
    for value in (-(10**30), 10**30):
        with pytest.raises(SettingsError) as error:
            load(f"[{section}]\n{key} = {[value] if is_list else value}")
        assert f"settings.toml: {name}{'.0' * is_list} = {value}: " in str(error.value)
        assert re.search(
            r"should be (at least|above) \S+ and (at most|below) \S+; correct the value$", str(error.value)
        )


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ("a = " + "[" * 20_000 + "]" * 20_000, "not valid settings: nested too deeply; correct the file"),
        ("a = " + "{a = " * 20_000, "not valid settings: nested too deeply; correct the file"),
        (".".join(["a"] * 20_000) + " = 1", "not valid settings: nested too deeply; correct the file"),
        (f"[{'.'.join(['a'] * 20_000)}]", "not valid settings: nested too deeply; correct the file"),
        ("a = " + "9" * 5000, "not valid TOML: Exceeds the limit (4300 digits)"),
        ("a = [" + "#" * (1 << 20), "has more than 1,048,576 bytes; give a settings file"),
        (
            f"[training]\nnum_epochs = {'9' * 4000}",
            "training.num_epochs = a number of more than 40 digits: should be at",
        ),
        (
            f"[training]\nnum_epochs = {[1] * 20_000}",
            "training.num_epochs = [1, 1, 1, 1, 1, 1, ...]: should",
        ),
        (f"[posts]\nexport = {[1] * 20_000}", "posts.export.0 = 1: should be text, in quotes"),
        (f"[posts]\nexport = {['a'] * 20_000}", "posts.export = ['a', 'a', "),
        (f"[posts]\npreset = '{'x' * 10**5}'", "posts.preset = 'xxxx"),
        (f"[posts]\n{'k' * 10**5} = 1", "unknown setting 'posts.kkkk"),
        (f"[posts.rating_names]\n{'k' * 10**5} = 1", "posts.rating_names.kkkk"),
        (f"[[a.{'k' * 10**4}]]\n[a.{'k' * 10**4}]", "not valid TOML: Cannot declare ('a', 'kkkk"),
        ("[posts]\nexport = ['']", "posts.export.0 = '': is empty; name a path or leave the key out"),
        ("[posts]\naliases = ''", "posts.aliases = '': is empty; name a path"),
        ("[warehouse]\npath = ''", "warehouse.path = '': is empty; name a path"),
        ('[warehouse]\npath = "a\\u0000b"', "warehouse.path = 'a\\x00b': holds the character NUL"),
        ('[posts]\nexport = ["a\\u0000b"]', "posts.export.0 = 'a\\x00b': holds the character NUL"),
        ('[posts.columns]\nid = "a\\u0000b"', "posts.columns.id = 'a\\x00b': holds the character NUL"),
        (
            "[duckdb]\nmemory_limit = '99999999999999GB'",
            "duckdb.memory_limit = '99999999999999GB': should be a size",
        ),
        ("[duckdb]\nmemory_limit = '0.1MB'", "duckdb.memory_limit = '0.1MB': should be a size"),
        ("[posts]\nhtml_entities = 1", "posts.html_entities = 1: should be true or false"),
        (
            "[posts]\nmissing_score = 'x'",
            "posts.missing_score = 'x': Input should be 'reject' or should",
        ),
        ("[posts]\nsource = 3", "posts.source = 3: should be a list, in brackets"),
    ],
    ids=range(25),
)
def test_whatever_a_file_holds_the_error_is_a_short_line(load: Load, tmp_path: Path, text: str, problem: str) -> None:
    with pytest.raises(SettingsError) as error:
        load(text)
    assert str(error.value).startswith(f"{tmp_path / 'settings.toml'}: {problem}")
    assert "\n" not in str(error.value)
    assert len(str(error.value)) < 400


def test_a_path_that_no_file_has_is_an_error_of_the_settings() -> None:
    with pytest.raises(SettingsError, match=r"^'a.x00b': holds the character NUL"):
        load_settings("a\0b")
    with pytest.raises(SettingsError, match=r"cannot be read|no such settings file"):
        load_settings("")
