"""An export that grows: what is rebuilt, what stays, and that a run repeats nothing."""

from __future__ import annotations

import gzip
import itertools
from pathlib import Path

import dagster as dg
import pytest
from dagster._core.definitions.data_version import CachingStaleStatusResolver, StaleStatus
from dagster._core.loader import LoadingContextForTest

from booru_embed_core.schema import CATEGORIES
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_dagster.definitions import defs
from booru_embed_dagster.warehouse.manifests import content_version, read_manifest
from booru_embed_dagster.warehouse.warehouse import Product
from tests.dagster.asset_helpers import ALL_ASSETS, DATA_ASSETS
from tests.dagster.project_helpers import NUM_POSTS, SAMPLE, Project, versions

NUM_NEW_POSTS = 100
Built = tuple[Project, dg.ExecuteInProcessResult]


def newer_lines() -> tuple[str, list[str]]:
    """The header, and a year's worth of posts that the built project does not have."""
    with gzip.open(SAMPLE, "rt", encoding="utf-8", newline="") as source:
        header = next(source)
        return header, list(itertools.islice(source, NUM_POSTS, NUM_POSTS + NUM_NEW_POSTS))


def append_to_the_file(project: Project) -> None:
    with project.export_file.open("a", encoding="utf-8", newline="") as out:
        out.writelines(newer_lines()[1])


def add_a_file(project: Project) -> None:
    header, lines = newer_lines()
    (project.export_file.parent / "posts-next-year.csv").write_text("".join([header, *lines]), encoding="utf-8")


GROWTHS = {"the same file, longer": append_to_the_file, "a second file": add_a_file}


@pytest.fixture(scope="module", params=list(GROWTHS))
def grown(
    request: pytest.FixtureRequest, built: Built, tmp_path_factory: pytest.TempPathFactory
) -> tuple[Project, dg.ExecuteInProcessResult]:
    """A built project of which the export grew, observed and with its data stages materialized."""
    project = built[0].copy_to(tmp_path_factory.mktemp("grown") / "copy")
    GROWTHS[request.param](project)
    return project, project.materialize(",".join(["posts_export", *DATA_ASSETS]))


def packed(product: Product) -> PackedFile:
    return PackedFile.open(product.path / PACKED_FILE)


def test_the_export_and_all_data_get_new_versions(built: Built, grown: Built) -> None:
    before, result = versions(built[1]), grown[1]
    assert result.success
    assert all(versions(result)[asset] != before[asset] for asset in DATA_ASSETS)
    old, new = (read_manifest(each[0].warehouse.current("posts").path).inputs for each in (built, grown))
    assert old["posts_export"] != new["posts_export"]
    assert old["settings/posts"] == new["settings/posts"]


def test_both_ways_of_growing_give_the_same_vocabulary(built: Built, tmp_path: Path) -> None:
    """The order of posts, which is that of the files' names, is no part of it."""
    found = []
    for name, grow in GROWTHS.items():
        project = built[0].copy_to(tmp_path / name)
        grow(project)
        made = versions(project.materialize("posts,tag_frequencies,vocab"))
        found.append((made["tag_frequencies"], made["vocab"]))
    assert found[0] == found[1]


def test_old_posts_keep_their_split(built: Built, grown: Built) -> None:
    old, new = (packed(project.warehouse.current("packed_tokens")) for project, _ in (built, grown))
    assert (old.num_posts, new.num_posts) == (NUM_POSTS, NUM_POSTS + NUM_NEW_POSTS)
    before, after = (dict(zip(file.post_id.tolist(), file.split_ids().tolist(), strict=True)) for file in (old, new))
    assert {post_id: after[post_id] for post_id in before} == before
    assert {split for post_id, split in after.items() if post_id not in before} == {0, 1, 2}


def test_old_posts_keep_the_tags_that_both_vocabularies_have(built: Built, grown: Built) -> None:
    """Local ids go by use, so they move; the tags behind them do not."""
    vocabs = [Vocab.load(project.warehouse.current("vocab").path) for project, _ in (built, grown)]
    known = [set(zip(vocab.categories.tolist(), vocab.tags, strict=True)) for vocab in vocabs]
    both = known[0] & known[1]
    assert len(both) > 100
    assert vocabs[0].tags != vocabs[1].tags
    spelled = []
    for (project, _), vocab in zip((built, grown), vocabs, strict=True):
        file = packed(project.warehouse.current("packed_tokens"))
        records = {}
        for index, post_id in enumerate(file.post_id.tolist()):
            places = (file.record_token_ids(index, vocab) - vocab.num_special).tolist()
            tags = [(int(vocab.categories[place]), vocab.tags[place]) for place in places]
            records[post_id] = [tag for tag in tags if tag in both]
        spelled.append(records)
    assert {post_id: spelled[1][post_id] for post_id in spelled[0]} == spelled[0]


def test_the_new_vocabulary_has_the_order_of_the_new_counts(grown: Built) -> None:
    vocab = Vocab.load(grown[0].warehouse.current("vocab").path)
    for category in CATEGORIES:
        start = vocab.first_token_id(category) - vocab.num_special
        tags = vocab.tags_of(category)
        counts = vocab.counts[start : start + len(tags)].tolist()
        assert list(zip(counts, tags, strict=True)) == sorted(
            zip(counts, tags, strict=True), key=lambda pair: (-pair[0], pair[1].encode())
        )


def test_old_versions_stay_whole_and_a_checkpoint_finds_the_vocabulary_it_was_made_from(
    built: Built, grown: Built
) -> None:
    before, project = versions(built[1]), grown[0]
    for asset in DATA_ASSETS:
        assert {product.version for product in project.warehouse.versions(asset)} >= {before[asset]}
        folder = project.warehouse.root / asset / before[asset]
        assert content_version(folder, read_manifest(folder).files) == before[asset]
    made_from = read_manifest(project.warehouse.current("checkpoint").path).inputs
    old = Vocab.load(project.warehouse.root / "vocab" / made_from["vocab"])
    file = project.warehouse.root / "packed_tokens" / made_from["packed_tokens"] / PACKED_FILE
    assert PackedFile.open(file, old.hash).num_posts == NUM_POSTS


def test_a_second_run_rebuilds_nothing(grown: Built) -> None:
    project, result = grown
    folders = sorted(path for path in project.warehouse.root.glob("*/*") if path.name != ".drafts")
    assert versions(project.materialize(",".join(DATA_ASSETS))) == versions(result)
    assert sorted(path for path in project.warehouse.root.glob("*/*") if path.name != ".drafts") == folders


def stale_assets(instance: dg.DagsterInstance) -> set[str]:
    """The assets that Dagster shows as stale."""
    graph = defs.get_repository_def().asset_graph
    resolver = CachingStaleStatusResolver(instance, graph, LoadingContextForTest(instance))
    keys = graph.materializable_asset_keys
    return {key.to_user_string() for key in keys if resolver.get_status(key) is not StaleStatus.FRESH}


def test_what_read_the_shorter_export_is_stale_and_fresh_when_rebuilt(built: Built, tmp_path: Path) -> None:
    project = built[0].copy_to(tmp_path / "copy")
    with project.instance() as instance:
        project.materialize("posts_export", instance)
        assert stale_assets(instance) == set()
        append_to_the_file(project)
        project.materialize("posts_export", instance)
        assert stale_assets(instance) == {"posts"}
        project.materialize("posts", instance)
        assert stale_assets(instance) == {"tag_frequencies", "packed_tokens"}
        project.materialize(",".join(DATA_ASSETS), instance)
        assert stale_assets(instance) == set(ALL_ASSETS) - set(DATA_ASSETS)


def test_growth_that_brings_nothing_new_ends_where_nothing_changed(built: Built, tmp_path: Path) -> None:
    """A line that was there before is one more reject: another `posts`, the same frequencies, the same vocabulary."""
    project = built[0].copy_to(tmp_path / "copy")
    with project.export_file.open("a", encoding="utf-8", newline="") as out:
        out.write(project.export_file.read_text(encoding="utf-8").splitlines(keepends=True)[1])
    with project.instance() as instance:
        before, made = versions(built[1]), versions(project.materialize("posts_export,posts,tag_frequencies", instance))
        assert made["posts"] != before["posts"]
        assert made["tag_frequencies"] == before["tag_frequencies"]
        stale = stale_assets(instance)
    assert not stale & {"posts", "tag_frequencies", "vocab", "vocab_cost"}
    assert "packed_tokens" in stale
