"""Settings from a text, for the tests of this folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from booru_embed_core.settings import Settings, load_settings
from tests.core.settings.settings_helpers import Load


@pytest.fixture
def load(tmp_path: Path) -> Load:
    """The settings of a file with this text."""

    def write_and_load(text: str) -> Settings:
        file = tmp_path / "settings.toml"
        file.write_text(text, encoding="utf-8")
        return load_settings(file)

    return write_and_load
