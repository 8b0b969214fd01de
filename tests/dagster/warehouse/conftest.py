"""An empty warehouse."""

from __future__ import annotations

from pathlib import Path

import pytest

from booru_embed_dagster.warehouse.warehouse import Warehouse


@pytest.fixture
def warehouse(tmp_path: Path) -> Warehouse:
    return Warehouse(tmp_path / "warehouse", keep_versions=2)
