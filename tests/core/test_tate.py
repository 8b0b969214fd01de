"""The second corpus, `data/tate`, through the data path with its own settings, compared with Python's csv module."""

from __future__ import annotations

import csv
import gzip
from collections import Counter
from pathlib import Path

import pytest

from booru_embed_core.posts.export_files import expand_export
from booru_embed_core.schema import CATEGORIES, RATINGS, Category, tag_column
from booru_embed_core.settings import Settings, load_settings
from booru_embed_core.tags.frequency import read_frequencies
from tests.core.export_helpers import Walked, read_rows, walk

ROOT = Path(__file__).parents[2]
FOLDER = ROOT / "data" / "tate"

Uses = dict[Category, Counter[str]]


@pytest.fixture(scope="module")
def tate_settings() -> Settings:
    return load_settings(FOLDER / "settings.toml")


@pytest.fixture(scope="module")
def tate_export(tate_settings: Settings) -> Path:
    (file,) = expand_export(tate_settings.posts.export, tate_settings.root)
    return file


@pytest.fixture(scope="module")
def tate_rows(tate_export: Path) -> list[dict[str, str]]:
    with gzip.open(tate_export, "rt", encoding="utf-8", newline="") as stream:
        return list(csv.DictReader(stream))


@pytest.fixture(scope="module")
def tate(tate_export: Path, tate_settings: Settings, tmp_path_factory: pytest.TempPathFactory) -> Walked:
    return walk(tate_export, tmp_path_factory.mktemp("tate"), tate_settings.vocab)


@pytest.fixture(scope="module")
def uses(tate_rows: list[dict[str, str]]) -> Uses:
    """Artworks of each tag."""
    return {
        category: Counter(tag for row in tate_rows for tag in row[tag_column(category)].split(" ") if tag)
        for category in CATEGORIES
    }


def test_its_products_lie_apart_where_git_does_not_look(tate_settings: Settings) -> None:
    assert tate_settings.warehouse_path == FOLDER / "warehouse"
    assert tate_settings.warehouse_path != load_settings(ROOT / "settings.toml").warehouse_path
    assert "data/*/warehouse/" in (ROOT / ".gitignore").read_text(encoding="utf-8").splitlines()


def test_its_posts_are_read_whole(tate: Walked, tate_rows: list[dict[str, str]]) -> None:
    assert (tate.report.num_read, tate.report.num_kept) == (56_465, 56_465) == (len(tate_rows), tate.packed.num_posts)
    typed = [{**row, "id": int(row["id"]), "score": int(row["score"])} for row in tate_rows]
    assert read_rows(tate.posts_dir) == typed


def test_every_category_is_filled_and_counted_as_python_counts_it(tate: Walked, uses: Uses) -> None:
    for category, table in read_frequencies(tate.freq_dir).items():
        counts = dict(zip(table["tag"].to_pylist(), table["count"].to_pylist(), strict=True))
        assert counts == uses[category]
        assert len(counts) > 1_000, category


def test_the_vocabulary_is_what_five_artworks_have(tate: Walked, uses: Uses) -> None:
    for category in CATEGORIES:
        assert set(tate.vocab.tags_of(category)) == {tag for tag, count in uses[category].items() if count >= 5}


def test_the_packed_file_holds_every_use_of_a_known_tag(
    tate: Walked, uses: Uses, tate_rows: list[dict[str, str]]
) -> None:
    packed, vocab = tate.packed, tate.vocab
    for category_id, category in enumerate(CATEGORIES):
        known = set(vocab.tags_of(category))
        kept = sum(count for tag, count in uses[category].items() if tag in known)
        assert tate.encode_report.kept_uses[category] == kept == int(packed.field_lengths[:, category_id].sum())
        assert tate.encode_report.dropped_uses[category] == uses[category].total() - kept
    for index in range(0, packed.num_posts, 97):
        indices = (packed.record_token_ids(index, vocab) - vocab.num_special).tolist()
        found = [(CATEGORIES[vocab.categories[i]], vocab.tags[i]) for i in indices]
        row = tate_rows[index]
        known_tags = [(c, tag) for c in CATEGORIES for tag in row[tag_column(c)].split(" ") if tag in vocab.tags_of(c)]
        assert found == known_tags
        assert (packed.post_id[index], RATINGS[packed.rating[index]]) == (int(row["id"]), row["rating"])


def test_its_readme_tells_the_sizes(uses: Uses) -> None:
    text = (FOLDER / "README.md").read_text(encoding="utf-8")
    assert "CC0 1.0" in text
    for category in CATEGORIES:
        known = sum(count >= 5 for count in uses[category].values())
        row = next(line for line in text.splitlines() if line.startswith(f"| {category.value} |"))
        assert row.endswith(f"| {len(uses[category]):,} | {known:,} | {uses[category].total():,} |")
