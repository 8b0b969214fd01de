"""Toy products in a warehouse."""

from __future__ import annotations

from pathlib import Path

from booru_embed_dagster.warehouse.warehouse import Product, Warehouse


def publish(warehouse: Warehouse, asset: str, text: str, inputs: dict[str, str] | None = None) -> Product:
    with warehouse.new_version(asset, inputs) as draft:
        (draft.path / "tags.txt").write_text(text)
    return draft.product


def names(warehouse: Warehouse, asset: str) -> set[str]:
    return {path.name for path in (warehouse.root / asset).iterdir() if not path.name.startswith(".")}


def drafts(warehouse: Warehouse, asset: str) -> list[Path]:
    return list((warehouse.root / asset / ".drafts").glob("*"))


def texts(products: list[Product]) -> list[str]:
    return [(product.path / "tags.txt").read_text() for product in products]
