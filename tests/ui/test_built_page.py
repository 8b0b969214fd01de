"""The built page belongs to its sources, and ships with the licences of its packages."""

from __future__ import annotations

import hashlib
import json
import re

from tests.ui.page_helpers import STATIC

SOURCES = STATIC.parent / "page"


def hash_of_sources() -> str:
    """The hash that build.mjs computes, without the packages."""
    files = sorted(path.relative_to(SOURCES).as_posix() for path in SOURCES.rglob("*") if path.is_file())
    digest = hashlib.sha256()
    for name in files:
        if not name.startswith("node_modules"):
            digest.update(f"{name}\0".encode() + (SOURCES / name).read_bytes() + b"\0")
    return digest.hexdigest()


def test_the_committed_build_is_that_of_the_committed_sources() -> None:
    html = (STATIC / "index.html").read_text(encoding="utf-8")
    built = re.search(r'name="sources" content="(\w+)"', html)
    assert built is not None
    assert built.group(1) == hash_of_sources(), "the page's sources have changed: run `make page` and commit the result"
    for name in re.findall(r'(?:href|src)="static/([^"?]+)', html):
        assert (STATIC / name).is_file()


def test_every_package_in_the_page_has_its_licence_beside_it() -> None:
    licences = (STATIC / "LICENSES").read_text(encoding="utf-8")
    for name, version in json.loads((SOURCES / "package.json").read_text(encoding="utf-8"))["dependencies"].items():
        assert f"{name} {version} (" in licences
    assert licences.count("THE SOFTWARE") >= len(re.findall(r"^\S+ [\d.]+ \(MIT\)$", licences, re.MULTILINE)) > 0
