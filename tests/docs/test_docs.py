"""Docs cannot drift from the code: every setting, command and folder is named, every link leads somewhere.

Sentences and lines stay short. Code blocks are run by ``test_blocks.py``.
"""

from __future__ import annotations

import re
import tomllib
from pathlib import Path
from typing import Any

import click
import duckdb
import pytest
from pydantic import BaseModel
from typer.main import get_command

from booru_embed_core.cli.main import app
from booru_embed_core.posts.ingest import ingest
from booru_embed_core.posts.parquet_parts import POSTS_SCHEMA
from booru_embed_core.schema import Output
from booru_embed_core.settings import PRESETS, DuckdbSettings, PostsSettings, Settings
from tests.docs.prose_helpers import anchors, prose_lines, sentences

ROOT = Path(__file__).parents[2]


def name_of(page: Path) -> str:
    return page.relative_to(ROOT).as_posix()


PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
READ_THROUGH = [page for page in PAGES if re.match(r"[A-Z]|docs/(guides|concepts|getting-started)", name_of(page))]
"""README, CONTRIBUTING, guides and concepts: what newcomers read from start to end."""
MAX_WORDS = 30
MAX_COLUMNS = 119
FENCE = re.compile(r"^```(\w+)\n(.*?)^```$", re.MULTILINE | re.DOTALL)


def sections() -> dict[str, type[BaseModel]]:
    found = {}
    for name, field in Settings.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            found[name] = field.annotation
    return found


def documented_keys() -> dict[str, set[str]]:
    text = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    parts = re.split(r"^## `\[(\w+)\]`.*$", text, flags=re.MULTILINE)[1:]
    return {
        name: {
            key for line in re.findall(r"^\| (`.*?`) \|", body, re.MULTILINE) for key in re.findall(r"`(\w+)`", line)
        }
        for name, body in zip(parts[::2], parts[1::2], strict=True)
    }


def test_every_setting_is_documented_and_no_other() -> None:
    assert documented_keys() == {name: set(model.model_fields) for name, model in sections().items()}


def test_documented_defaults_are_the_defaults() -> None:
    text = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    checked = 0
    for model in sections().values():
        for name, field in model.model_fields.items():
            row = re.search(rf"^\| `{name}` \| ([^|]*) \|", text, re.MULTILINE)
            if row and isinstance(field.default, int | float | str) and not isinstance(field.default, bool):
                shown = row.group(1).strip().strip("`")
                same = str(field.default) == shown if isinstance(field.default, str) else field.default == float(shown)
                assert same or name == "seed", (name, field.default, shown)
                checked += 1
    assert checked > 25


def test_presets_set_what_is_documented() -> None:
    text = (ROOT / "docs/reference/settings.md").read_text(encoding="utf-8")
    documented: dict[str, dict[str, Any]] = {}
    for names, sets in re.findall(r"^\| [^|`]+ \| (`[^|]+`) \| ([^|]+) \|$", text, re.MULTILINE):
        values = tomllib.loads("\n".join(re.findall(r"`(\w+ = [^`]+)`", sets)))
        common = documented["caption-folder"] if "as `caption-folder`" in sets else {}
        documented |= {name: {**common, **values} for name in re.findall(r"`([\w-]+)`", names)}
    assert documented == dict(PRESETS)


def test_every_command_is_in_the_docs() -> None:
    text = "\n".join(page.read_text(encoding="utf-8") for page in PAGES)
    group = get_command(app)
    commands = group.list_commands(click.Context(group))  # type: ignore[attr-defined]
    assert {"build", "ingest", "embed", "complete", "similar", "evaluate", "inspect"} <= set(commands)
    for name in commands:
        assert f"booru-embed {name}" in text, name


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_and_pictures_exist(page: Path) -> None:
    for target, anchor in re.findall(r"\]\(([^)#]*)(?:#([^)]*))?\)", page.read_text(encoding="utf-8")):
        if target.startswith(("http://", "https://")):
            continue
        file = page.parent / target if target else page
        assert file.exists(), f"{page.name} links to {target}, which does not exist"
        if anchor:
            headings = anchors(file.read_text(encoding="utf-8"))
            assert anchor in headings, f"{page.name} links to #{anchor}, which {file.name} does not have"


def test_the_readme_links_to_every_page() -> None:
    links = set(re.findall(r"\]\((docs/[^)#]*)\)", (ROOT / "README.md").read_text(encoding="utf-8")))
    pages = {name_of(page) for page in PAGES if page.parent.name in ("guides", "concepts", "reference")}
    assert pages <= links


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_lines_of_prose_are_short(page: Path) -> None:
    lines = prose_lines(page.read_text(encoding="utf-8"))
    assert not [f"{page.name}:{line.number}" for line in lines if len(line.text) > MAX_COLUMNS]


@pytest.mark.parametrize("page", READ_THROUGH, ids=name_of)
def test_sentences_are_short(page: Path) -> None:
    found = sentences(page.read_text(encoding="utf-8"))
    assert not [f"{page.name}:{s.line}: {s.text}" for s in found if s.num_words > MAX_WORDS]


def test_the_house_is_drawn_as_it_is() -> None:
    pictures = []
    for page in ("README.md", "CONTRIBUTING.md"):
        text = (ROOT / page).read_text(encoding="utf-8")
        pictures.append(text[text.index("```\nfolder ") :].split("\n```\n")[0])
    assert pictures[0] == pictures[1]
    drawn: dict[str, set[str]] = {}
    for line in pictures[0].splitlines()[3:]:
        if package := re.fullmatch(r"(\w+)/", line):
            rooms = drawn.setdefault(package[1], set())
        else:
            rooms.update(re.findall(r"\w+/|\w+\.py", line.strip().split("  ")[0]))
    packages = ("booru_embed_core", "booru_embed_dagster", "integrations")
    assert drawn == {package: rooms_of(ROOT / package) for package in packages}


def rooms_of(package: Path) -> set[str]:
    folders = {f"{file.parent.name}/" for file in package.glob("*/__init__.py")}
    return folders | {file.name for file in package.glob("*.py") if file.name != "__init__.py"}


def test_the_bundled_settings_are_the_documented_sections() -> None:
    values = tomllib.loads((ROOT / "settings.toml").read_text(encoding="utf-8"))
    assert set(values) == set(sections())
    Settings.model_validate(values)


def test_queries_of_the_posts_run_on_posts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    export = ROOT / "data/sample/danbooru2017_sfw_posts.csv.gz"
    ingest(PostsSettings(export=(str(export),), limit_posts=2000), tmp_path / "posts", Output.PARQUET, DuckdbSettings())
    monkeypatch.chdir(tmp_path)
    text = (ROOT / "docs/reference/posts.md").read_text(encoding="utf-8")
    queries = [code for language, code in FENCE.findall(text) if language == "sql"]
    assert len(queries) == 2
    for query in queries:
        assert len(duckdb.sql(query).fetchall()) == 10
    columns = re.findall(
        r"^\| (`\w+`(?:, `\w+`)*) \| (?:int|string|list)", text.partition("## Rejects")[0], re.MULTILINE
    )
    assert re.findall(r"\w+", " ".join(columns)) == POSTS_SCHEMA.names
