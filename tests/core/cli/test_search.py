"""``booru-embed search | index | duplicates``: what is printed, and what is wrong use."""

from __future__ import annotations

from pathlib import Path

import pyarrow.csv as pa_csv
import pyarrow.parquet as pq
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.search.near_duplicates import near_duplicates
from booru_embed_core.search.parser import parse_query
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.search.query import Query
from booru_embed_core.tags.tokenizer import Tokenizer
from tests.core.cli_helpers import Outcome, Run
from tests.core.model_helpers import CHARACTERS, Trained
from tests.core.search_helpers import searched


@pytest.fixture(scope="module")
def base(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.getbasetemp() / "tiny"


@pytest.fixture
def search(run: Run, trained: Trained, base: Path) -> Run:
    """`booru-embed search` in the posts of the tiny corpus."""

    def call(*arguments: object) -> Outcome:
        return run("search", *arguments, "--checkpoint", trained.checkpoint, "--posts", searched(base))

    return call


def test_search_prints_what_the_library_finds(search: Run, trained: Trained, base: Path) -> None:
    embedder, posts = BooruEmbedder.load(trained.checkpoint, "cpu"), PostSearch.open(searched(base))
    options = ("--with", "sword", "--with", "armor", "--without", "cape", "--rating", "s", "--min-score", 20)
    query = "armor - shield rating:s,e"
    found = search(query, "-k", 4, *options, "--json").json
    expected = posts.search(embedder, "armor - shield", 4, ["s"], 20, ["sword", "armor"], ["cape"])
    assert [post["post_id"] for post in found["posts"]] == [post.post_id for post in expected]
    assert len(expected) == 4
    first = found["posts"][0]
    assert first["tags"] == [tag._asdict() for tag in expected[0].tags]
    assert (first["rating"], first["score"]) == ("s", expected[0].score)
    assert first["similarity"] == pytest.approx(expected[0].similarity)
    assert first["matched"] == list(expected[0].matched) == ["armor"]
    assert (found["unknown"], found["notes"]) == ([], [])
    outcome = search(query, "-k", 4, *options)
    lines = outcome.out.splitlines()
    assert [line.split()[1] for line in lines] == [str(post.post_id) for post in expected]
    assert outcome.err == ""


def test_search_reads_the_grammar_of_danbooru(search: Run) -> None:
    found = search("cat_ears -solo ( tail ~ bell ) rating:g,s order:score", "-k", 5, "--json").json["posts"]
    assert found
    for post in found:
        tags = {tag["tag"] for tag in post["tags"]}
        assert "cat_ears" in tags
        assert "solo" not in tags
        assert post["matched"] == [tag for tag in ("cat_ears", "tail", "bell") if tag in tags]
        assert post["rating"] in "gs"
    assert [post["score"] for post in found] == sorted((post["score"] for post in found), reverse=True)
    outcome = search("cat ears -Solo, *tail", "-k", 2)
    assert [line.split()[4] for line in outcome.out.splitlines()] == ["cat_ears,tail"] * 2


def test_a_query_may_begin_with_a_minus(search: Run) -> None:
    for arguments in (("-sword solo", "-k", 30), ("-k30", "-sword solo"), ("--by=tags", "-k", 30, "-sword solo")):
        posts = search(*arguments, "--json").json["posts"]
        assert len(posts) == 30
        assert not any("sword" in {tag["tag"] for tag in post["tags"]} for post in posts)
    # It would otherwise be read as -c at_ears: another checkpoint.
    assert search("-cat_ears", "-k", 3, "--json").json["posts"]
    assert "--jsn" in search("--jsn").failed(2)
    assert "Missing argument" in search("-k", 3).failed(2)


def test_search_shows_how_the_query_was_read(search: Run) -> None:
    outcome = search("(cat ears:1.2), -tail <lora:x:1>, sword", "-k", 1, "--json")
    assert outcome.json["notes"] == [line.removeprefix("note: ") for line in outcome.err.splitlines()]
    assert any("weight 1.2" in note for note in outcome.json["notes"])
    assert any("<lora:x:1>" in note for note in outcome.json["notes"])


def test_search_ranks_by_tags_or_by_embedding(search: Run, trained: Trained, base: Path) -> None:
    embedder, posts = BooruEmbedder.load(trained.checkpoint, "cpu"), PostSearch.open(searched(base))
    for by in ("tags", "embedding"):
        found = search("1girl sword hatsune_miku", "-k", 9, "--by", by, "--json").json["posts"]
        expected = posts.search(embedder, "1girl sword hatsune_miku", 9, by=by)
        assert [post["post_id"] for post in found] == [post.post_id for post in expected]


def test_search_says_that_fewer_pass_than_were_asked_for(search: Run) -> None:
    none = search("armor rating:s", "--rating", "e", "-k", 3)
    assert (none.out, none.err) == ("", "0 of 300 posts pass the filters; leave one out for more\n")
    some = search("armor", "--min-score", 20, "--with", "sword", "--json", "-k", 300)
    assert 0 < len(some.json["posts"]) < 300
    assert some.err == f"{len(some.json['posts'])} of 300 posts pass the filters; leave one out for more\n"


def test_search_shows_first_who_is_in_a_post(search: Run, trained: Trained, base: Path) -> None:
    embedder, posts = BooruEmbedder.load(trained.checkpoint, "cpu"), PostSearch.open(searched(base))
    (with_character,) = posts.search(embedder, "", 1, required=[CHARACTERS[0]])
    line = search("", "-k", 1, "--with", CHARACTERS[0]).out
    assert CHARACTERS[0] not in [tag.tag for tag in with_character.tags][:1]
    assert line.split()[4:6] == ["-", CHARACTERS[0]]


def test_unknown_tags_are_told_once(search: Run) -> None:
    outcome = search("sword zebra", "-k", 2, "--json")
    assert outcome.json["unknown"] == ["zebra"]
    assert outcome.err.startswith("warning: 'sword zebra': not in the vocabulary: zebra; left out. ")
    assert len(outcome.err.splitlines()) == 1


def test_search_tags_prints_the_nearest_tags_and_what_a_post_has(search: Run, trained: Trained, base: Path) -> None:
    embedder, posts = BooruEmbedder.load(trained.checkpoint, "cpu"), PostSearch.open(searched(base))
    found = search("cat_ears - tail", "--tags", "-k", 3, "--json").json
    assert found["tags"] == [
        {**tag._asdict(), "similarity": pytest.approx(tag.similarity)}
        for tag in posts.near_tags(embedder, "cat_ears - tail", 3)
    ]
    assert found["posts"] == []
    post = posts.post(embedder, 1003)
    found = search("id:1003", "--tags", "-k", 3, "--json").json
    assert [tag["tag"] for tag in found["posts"][0]["tags"]] == [tag.tag for tag in post.tags]
    lines = search("id:1003", "--tags", "-k", 3).out.splitlines()
    assert lines[0] == " ".join(tag.tag for tag in post.tags)
    assert len(lines) == 2 + 3


def test_wrong_use_of_search_is_told_from_a_failure(search: Run) -> None:
    assert "--tags prints tags" in search("sword", "--tags", "--min-score", 3).failed(2)
    assert "--tags prints tags" in search("sword", "--tags", "--by", "embedding").failed(2)
    assert "--by x is not one of tags, embedding" in search("sword", "--by", "x").failed(2)
    assert "filters and orders choose posts, not tags" in search("sword rating:g", "--tags").failed(1)
    assert "user:bob: the index knows tags, ratings, scores and ids" in search("sword user:bob").failed(1)
    assert "'zebra': not in the vocabulary: zebra; posts cannot be filtered" in search("sword -zebra").failed(1)
    assert "rating 'x' is not one of g, s, q, e" in search("sword", "--rating", "x").failed(1)
    assert "post 5 is not among the 300" in search("id:5").failed(1)
    assert "nothing on one side of a sign" in search("sword -").failed(1)


def test_index_makes_a_folder_to_search(run: Run, trained: Trained, tmp_path: Path) -> None:
    out = tmp_path / "made"
    options = ("--out", out, "--checkpoint", trained.checkpoint, "--packed", trained.corpus.packed_path.parent)
    made = run("index", *options, "--json")
    assert (made.json["num_posts"], made.json["dim"]) == (300, 16)
    assert "300 of 300 posts embedded" in made.err
    assert "exists and is not an empty folder; remove it or name another --out" in run("index", *options).failed(1)
    posts = run("search", "sword", "-c", trained.checkpoint, "-p", out, "--json").json["posts"]
    assert len(posts) == 20


def test_duplicates_are_printed_or_written(run: Run, base: Path, tmp_path: Path) -> None:
    folder = searched(base)
    table = near_duplicates(PostSearch.open(folder), 0.97)
    found = run("duplicates", "--above", 0.97, "--posts", folder, "--json").json
    assert [post for group in found["groups"] for post in group] == [
        {"post_id": row["post_id"], "rating": row["rating"], "score": row["score"], "similarity": row["similarity"]}
        for row in table.to_pylist()
    ]
    assert found["num_posts"] == table.num_rows > 0
    lines = run("duplicates", "--above", 0.97, "--posts", folder, "-k", 2).out.splitlines()
    assert lines[0] == f"{table.num_rows:,} posts in {found['num_groups']:,} groups"
    sizes = sorted(map(len, found["groups"]), reverse=True)
    assert [int(line.split()[0]) for line in lines[1:]] == sizes[:2]
    for name, read in (("a.parquet", pq.read_table), ("a.csv", pa_csv.read_csv)):
        assert run("duplicates", "--above", 0.97, "-p", folder, "-o", tmp_path / name).out == ""
        assert read(tmp_path / name)["post_id"].to_pylist() == table["post_id"].to_pylist()
    for arguments in (("-o", tmp_path / "a.txt"), ("-o", tmp_path / "a.csv", "--json")):
        assert "--output writes a .parquet or .csv file" in run("duplicates", "-p", folder, *arguments).failed(2)
    assert "no such folder" in run("duplicates", "-p", folder, "-o", tmp_path / "no" / "a.csv").failed(1)
    assert "2.0 is not in the range 0<=x<=1" in run("duplicates", "-p", folder, "--above", 2).failed(2)


@pytest.mark.parametrize("options", [(), ("--tags",), ("--json",)])
def test_search_parses_the_query_once(search: Run, monkeypatch: pytest.MonkeyPatch, options: tuple[str, ...]) -> None:
    parsed: list[str] = []

    def counted(text: str, tokenizer: Tokenizer) -> Query:
        parsed.append(text)
        return parse_query(text, tokenizer)

    monkeypatch.setattr("booru_embed_core.search.parser.parse_query", counted)
    assert search("cat_ears - tail", "-k", 2, *options).code == 0
    assert parsed == ["cat_ears - tail"]
