"""The wheel in environments with exactly the packages that it requires.

Nothing is downloaded: a new environment gets links to the packages that the wheel's metadata requires for an extra, and
to their own requirements. ``python tests/core/install_extras.py`` installs them by pip instead.
"""

from __future__ import annotations

import subprocess
import sys
import tarfile
import venv
import zipfile
from email.parser import HeaderParser
from importlib import metadata
from pathlib import Path

import numpy as np
import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

from booru_embed_core import BooruEmbedder
from tests.core.install_helpers import ROOT, SMOKE, build_wheel, handed, smoke
from tests.core.model_helpers import Trained

PAGE_SOURCES = "booru_embed_core/web/page/"


@pytest.fixture(scope="session")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The wheel of this checkout."""
    return build_wheel(tmp_path_factory.mktemp("wheel"), "--no-build-isolation", "--no-index")


def needed(wheel: Path, extra: str) -> dict[str, metadata.Distribution]:
    """The installed distributions that pip would install for ``booru-embed[extra]``, by canonical name."""
    with zipfile.ZipFile(wheel) as content:
        (name,) = [name for name in content.namelist() if name.endswith(".dist-info/METADATA")]
        own = HeaderParser().parsestr(content.read(name).decode()).get_all("Requires-Dist", [])
    found: dict[str, metadata.Distribution] = {}
    seen = set()
    waiting = [(text, extra) for text in own]
    while waiting:
        text, of_extra = waiting.pop()
        requirement = Requirement(text)
        if (text, of_extra) in seen or (requirement.marker and not requirement.marker.evaluate({"extra": of_extra})):
            continue
        seen.add((text, of_extra))
        name = canonicalize_name(requirement.name)
        if name == "booru-embed":
            waiting += [(one, part) for one in own for part in requirement.extras]
            continue
        found[name] = metadata.distribution(name)
        waiting += [(one, part) for one in found[name].requires or [] for part in ("", *requirement.extras)]
    return found


def link(distribution: metadata.Distribution, site: Path) -> None:
    """Makes the files of `distribution` importable from `site`."""
    for top in {file.parts[0] for file in distribution.files or [] if file.parts[0] not in ("..", "__pycache__")}:
        target = Path(str(distribution.locate_file(top)))
        if not (site / top).exists():
            (site / top).symlink_to(target)


@pytest.mark.parametrize("extra", SMOKE)
def test_an_extra_brings_what_it_needs_and_no_more(wheel: Path, extra: str, trained: Trained, tmp_path: Path) -> None:
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    (site,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    packages = needed(wheel, extra)
    assert "dagster" not in packages
    assert {"numpy", "pydantic", "safetensors", "typer"} <= set(packages)
    for distribution in packages.values():
        link(distribution, site)
    with zipfile.ZipFile(wheel) as content:
        content.extractall(site)
    python = tmp_path / "venv/bin/python"
    vectors = tmp_path / "vectors.npy"

    checkpoint = handed(extra, trained.checkpoint, tmp_path)

    def run(code: str) -> None:
        done = subprocess.run([python, "-I", "-c", code, checkpoint, vectors], capture_output=True, text=True)
        assert done.returncode == 0, done.stderr

    run("import sys; from booru_embed_core.cli.main import main; sys.argv[1:] = ['--help']; main()")
    run(smoke(extra))
    if vectors.exists():
        wanted = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32").embed(["1girl, cat ears", "tail", ""])
        assert np.load(vectors) == pytest.approx(wanted, abs=1e-5)


def tracked() -> set[str]:
    """The files of both packages that git knows, without the sources of the page."""
    command = ["git", "ls-files", "-co", "--exclude-standard", "-z", "booru_embed_core", "booru_embed_dagster"]
    names = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\0")
    return {name for name in names if name and (ROOT / name).exists() and not name.startswith(PAGE_SOURCES)}


def test_the_wheel_has_our_files_with_the_built_page_and_no_other(wheel: Path) -> None:
    """Code of others is in the page alone; `LICENSES` beside it names it, as `test_built_page` checks."""
    names = set(zipfile.ZipFile(wheel).namelist())
    own = {"METADATA", "WHEEL", "RECORD", "entry_points.txt", "top_level.txt", "licenses/LICENSE"}
    info = {name for name in names if ".dist-info/" in name}
    assert {name.partition(".dist-info/")[2] for name in info} == own
    assert names - info == tracked()
    assert "booru_embed_core/web/static/LICENSES" in names


def test_the_source_distribution_has_our_files_and_no_other(wheel: Path) -> None:
    source = wheel.parent / "source"
    code = "import setuptools.build_meta as backend; backend.build_sdist('..')"
    subprocess.run([sys.executable, "-c", code], cwd=source, check=True, stdout=subprocess.DEVNULL)
    (archive,) = wheel.parent.glob("*.tar.gz")
    with tarfile.open(archive) as content:
        names = {member.name.partition("/")[2] for member in content if member.isfile()}
    made = {"PKG-INFO", "setup.cfg"}
    own = {name for name in names if not name.startswith("booru_embed.egg-info/")} - made
    assert own == tracked() | {"LICENSE", "README.md", "pyproject.toml"}
