"""The HTTP API, in process: answers, refusals, many at once, and what schemathesis makes up."""

from __future__ import annotations

import json
import re
import threading
import warnings
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from schemathesis import GenerationMode
from schemathesis.specs.openapi.checks import positive_data_acceptance
from starlette.testclient import TestClient as AnyHostClient

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.schema import CATEGORIES
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.web import tag_map as tag_map_module
from booru_embed_core.web.app import create_app
from booru_embed_core.web.completions import Completer, Suggestions
from booru_embed_core.web.middleware import MAX_BODY_BYTES
from booru_embed_core.web.served import LeftOut, Loading, Served
from booru_embed_core.web.tag_map import tag_map

pytestmark = pytest.mark.filterwarnings(
    "ignore::booru_embed_core.embedder.embedder.UnknownTagsWarning",  # as `booru-embed serve` does
    # starlette's client speaks httpx, whose successor it prefers
    "ignore::starlette.exceptions.StarletteDeprecationWarning",
)


@pytest.fixture(scope="module")
def served(search_embedder: BooruEmbedder, post_search: PostSearch) -> Served:
    left_out = (LeftOut("map", "/srv/my data/table.parquet: too old"),)
    return Served(search_embedder, Completer(search_embedder), post_search, tag_map(search_embedder), "v1", left_out)


@pytest.fixture(scope="module")
def client(served: Served) -> Iterator[TestClient]:
    with TestClient(create_app(Loading(lambda: served), hosts=["testserver"])) as running:  # as schemathesis calls it
        while running.get("/api/ready").status_code != 200:
            threading.Event().wait(0.01)
        yield running


class TestClient(AnyHostClient):
    """A client of the server under its usual name."""

    def __init__(self, app: Any, **options: Any) -> None:
        super().__init__(app, base_url="http://localhost", **options)


def post(client: TestClient, path: str, **body: Any) -> Any:
    answer = client.post(f"/api/{path}", json=body)
    assert answer.status_code == 200, answer.text
    return answer.json()


def refused(client: TestClient, path: str, **body: Any) -> tuple[int, Any]:
    answer = client.post(f"/api/{path}", json=body)
    assert "\n" not in answer.json()["error"]
    return answer.status_code, answer.json()


def test_info_says_what_is_served(client: TestClient, served: Served) -> None:
    vocab = served.embedder.vocab
    assert client.get("/api/info").json() == {
        "embedding_dim": served.embedder.embedding_dim,
        "num_tags": vocab.num_tags,
        "categories": {category.value: size for category, size in vocab.sizes.items()},
        "ratings": list(served.embedder.config.trained_ratings),
        "has_posts": True,
        "has_map": True,
        "checkpoint": "v1",
        "practice": "",
        "left_out": [{"what": "map", "reason": "table.parquet: too old"}],
        "reload_error": None,
    }
    assert client.get("/api/health").json() == {"status": "ok"}


def test_embeddings_are_the_librarys(client: TestClient, served: Served) -> None:
    captions = ["1girl cat_ears", "", "solo, blorb", "1girl, (cat ears:1.5)"]
    found = post(client, "embed", captions=captions, rating="g", score=3, dim=5)
    assert found["dim"] == 5
    assert [one["caption"] for one in found["embeddings"]] == captions
    assert [one["unknown"] for one in found["embeddings"]] == [[], [], ["blorb"], []]
    notes = ["(cat ears:1.5): read as cat_ears with weight 1.5"]
    assert [one["notes"] for one in found["embeddings"]] == [[], [], [], notes]
    weighted = {"1girl": 1.0, "cat_ears": 1.5}
    expected = served.embedder.embed(["1girl cat_ears", "", "solo", weighted], rating="g", score=3, dim=5)
    assert not np.allclose(expected[0], expected[3], atol=1e-3)
    np.testing.assert_allclose([one["vector"] for one in found["embeddings"]], expected, atol=1e-6)


def test_completions_are_the_librarys_and_never_there_already(client: TestClient, served: Served) -> None:
    found = post(client, "complete", tags="1girl cat_ears blorb", k=5)
    expected = served.embedder.complete("1girl cat_ears", k=5)
    assert [(one["tag"], one["category"]) for one in found["completions"]] == [one[:2] for one in expected]
    np.testing.assert_allclose(
        [one["probability"] for one in found["completions"]], [one[2] for one in expected], rtol=1e-5
    )
    assert found["unknown"] == ["blorb"]
    assert found["known"] == [{"tag": tag, "category": "general", "weight": 1.0} for tag in ("1girl", "cat_ears")]
    every = post(client, "complete", tags="1girl cat_ears", k=200)["completions"]
    assert not {"1girl", "cat_ears"} & {one["tag"] for one in every}


def test_rating_and_score_change_completions(client: TestClient) -> None:
    plain, rated = post(client, "complete", tags="1girl"), post(client, "complete", tags="1girl", rating="e", score=50)
    assert plain["completions"] != rated["completions"]


def test_prefix_and_categories_choose(client: TestClient) -> None:
    found = post(client, "complete", tags="1girl", prefix="Cat E", k=3)["completions"]
    assert [one["tag"] for one in found] == ["cat_ears"]
    apart = post(client, "complete", tags="1girl", k=2, per_category=True, categories=["character", "general"])
    assert {one["category"] for one in apart["completions"]} == {"character", "general"}


def test_completions_say_what_matches_and_hold_bans(client: TestClient) -> None:
    (found,) = post(client, "complete", tags="1girl", prefix="(cat e")["completions"]
    assert (found["tag"], found["match"], found["alias"], found["is_excluded"]) == ("cat_ears", "prefix", None, False)
    (found,) = post(client, "complete", tags="1girl", prefix="-miku")["completions"]
    assert (found["tag"], found["match"], found["is_excluded"]) == ("hatsune_miku", "word", True)
    (found,) = post(client, "complete", tags="1girl", prefix="char:hatsnue_miku")["completions"]
    assert (found["tag"], found["match"]) == ("hatsune_miku", "typo")
    assert post(client, "complete", tags="1girl", k=1)["completions"][0]["match"] is None
    found = post(client, "complete", tags="1girl", k=200, banned=["cat ears", "t*", "blorb"])
    assert not [one["tag"] for one in found["completions"] if one["tag"] == "cat_ears" or one["tag"][0] == "t"]
    assert found["notes"] == ["banned: blorb: no tag matches; nothing is banned by it"]
    assert found["implied"] == []


def test_a_whole_caption_is_the_librarys(client: TestClient, served: Served) -> None:
    body = {"n": 5, "seed": 3, "temperature": 1.5, "banned": ["sword"], "limits": {"meta": 0, "artist": 1}}
    found = post(client, "fill", tags="masterpiece, 1girl, (cat ears:1.2)", dialect="novelai", **body)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        expected = served.embedder.fill("masterpiece, 1girl, (cat ears:1.2)", **body)
    assert [one["tag"] for one in found["tags"]] == [one.tag for one in expected.tags]
    assert found["prompt"] == expected.prompt("novelai")
    assert found["prompt"].startswith("1girl, 1.2::cat ears::, masterpiece, ")
    assert (found["unknown"], found["notes"]) == (["masterpiece"], list(expected.notes))
    origins = [one["origin"] for one in found["tags"]]
    assert origins == ["caption", "caption", *["drawn"] * 5]


def test_similar_tags_are_the_librarys(client: TestClient, served: Served) -> None:
    found = post(client, "similar", tag="cat_ears", k=4, category="general")
    expected = served.embedder.similar_tags("cat_ears", 4, "general")
    assert found["tag"] == "cat_ears"
    assert [(one["tag"], one["category"]) for one in found["neighbours"]] == [one[:2] for one in expected]


def test_posts_pass_the_filters(client: TestClient) -> None:
    found = post(client, "search", tags="1girl blorb", k=8, ratings=["g", "s"], required=["solo"], excluded=["sword"])
    assert 0 < len(found["posts"]) <= 8
    assert found["unknown"] == ["blorb"]
    assert found["notes"] == []
    for one in found["posts"]:
        tags = {tag["tag"] for tag in one["tags"]}
        assert one["rating"] in "gs"
        assert "solo" in tags
        assert "sword" not in tags


def test_search_reads_the_grammar_of_danbooru(client: TestClient) -> None:
    found = post(client, "search", tags="( cat_ears ~ sword ) -solo rating:g,s (tail:1.2)", k=9)
    assert len(found["posts"]) == 9
    for one in found["posts"]:
        tags = {tag["tag"] for tag in one["tags"]}
        assert tags & {"cat_ears", "sword"}
        assert "solo" not in tags
        assert one["rating"] in "gs"
        assert set(one["matched"]) == {"cat_ears", "sword", "tail"} & tags
    assert found["notes"]
    by_tags, by_embedding = (
        [one["matched"] for one in post(client, "search", tags="1girl horse", k=50, by=by)["posts"]]
        for by in ("tags", "embedding")
    )
    assert [len(one) for one in by_tags] == sorted(map(len, by_tags), reverse=True)
    assert by_embedding != by_tags
    for tags, error in (("-blorb", "blorb"), ("user:bob", "user:bob"), ("( sword ~ tail", "never closed")):
        answer = client.post("/api/search", json={"tags": tags})
        assert answer.status_code == 422
        assert error in answer.json()["error"]
    assert client.post("/api/search", json={"tags": "", "by": "score"}).status_code == 422


def test_the_map_has_every_tag(client: TestClient, served: Served) -> None:
    found = client.get("/api/map").json()
    assert found["tags"] == list(served.embedder.vocab.tags)
    assert found["counts"] == served.embedder.vocab.counts.tolist()
    assert set(found["categories"]) <= set(range(len(CATEGORIES)))
    assert np.isfinite(found["x"] + found["y"]).all()
    plain, compressed = (client.get("/api/map", headers={"Accept-Encoding": name}) for name in ("identity", "gzip"))
    assert "content-encoding" not in plain.headers
    assert compressed.headers["content-encoding"] == "gzip"
    assert compressed.json() == plain.json() == found
    assert plain.headers["vary"] == compressed.headers["vary"] == "Accept-Encoding"


@pytest.mark.parametrize(
    ("path", "body", "status", "error"),
    [
        ("embed", {"captions": []}, 422, "captions: List should have at least 1 item"),
        ("embed", {"captions": ["solo"] * 257}, 422, "captions: List should have at most 256 items"),
        ("embed", {"captions": ["solo", "blorb"]}, 422, "captions[1]: not in the vocabulary: blorb"),
        ("embed", {"captions": ["solo"], "dim": 1000}, 422, "dim 1000 is not between 1 and"),
        ("embed", {"captions": ["solo"], "score": 3}, 422, "score 3 needs a rating"),
        ("complete", {"tags": "solo", "k": 0}, 422, "k: Input should be greater than or equal to 1"),
        ("complete", {"tags": "solo", "k": True}, 422, "k: Input should be a valid integer"),
        ("complete", {"tags": "solo", "rating": "x"}, 422, "rating: String should match pattern"),
        ("complete", {"tags": "solo", "categories": ["species"]}, 422, "categories.0: Input should be 'general'"),
        ("complete", {"caption": "solo"}, 422, "caption: Extra inputs are not permitted"),
        ("complete", {"tags": "x" * 10_001}, 422, "tags: String should have at most 10000 characters"),
        ("complete", {"tags": "solo", "implied": "no"}, 422, "implied: Input should be 'drop' or 'keep'"),
        ("complete", {"tags": "solo", "banned": ["x"] * 101}, 422, "banned: List should have at most 100 items"),
        ("fill", {"tags": "solo", "n": -1}, 422, "n: Input should be greater than or equal to 0"),
        ("fill", {"tags": "solo", "n": 201}, 422, "n: Input should be less than or equal to 200"),
        ("fill", {"tags": "solo", "temperature": -1}, 422, "temperature: Input should be greater than or equal to 0"),
        ("fill", {"tags": "solo", "seed": -1}, 422, "seed: Input should be greater than or equal to 0"),
        ("fill", {"tags": "solo", "dialect": "x"}, 422, "dialect: Input should be 'a1111', 'comfyui', 'novelai'"),
        ("fill", {"tags": "solo", "score": 3}, 422, "score 3 needs a rating"),
        ("similar", {"tag": "blorb"}, 422, "'blorb': not in the vocabulary: blorb"),
        ("similar", {"tag": "solo, 1girl"}, 422, "is 2 tags, not one"),
        ("search", {"tags": "solo", "required": ["blorb"]}, 422, "not in the vocabulary: blorb"),
        ("search", {"tags": "id:5"}, 422, "5"),
    ],
)
def test_what_is_wrong_is_refused_in_a_line(
    client: TestClient, path: str, body: dict[str, Any], status: int, error: str
) -> None:
    found, answer = refused(client, path, **body)
    assert found == status
    assert error in answer["error"]
    if ": " in error and error.partition(":")[0].split(".")[0] in body:
        assert answer["field"] == error.partition(":")[0]


def test_no_json_no_path_and_no_method_are_refused_in_a_line(client: TestClient) -> None:
    broken = client.post("/api/complete", content=b'{"tags": ', headers={"Content-Type": "application/json"})
    assert (broken.status_code, broken.json()["error"][:20]) == (400, "the body is not JSON")
    assert (client.get("/api/nothing").status_code, client.get("/api/nothing").json()) == (404, {"error": "Not Found"})
    assert (client.get("/api/complete").status_code, client.get("/api/complete").headers["allow"]) == (405, "POST")


@pytest.mark.parametrize("kind", [None, "", "text/plain", "application/x-www-form-urlencoded", "text/json", "json"])
def test_a_body_that_is_not_said_to_be_json_is_refused(client: TestClient, kind: str | None) -> None:
    headers = {} if kind is None else {"Content-Type": kind}
    for path in ("embed", "complete", "fill", "similar", "search"):
        answer = client.post(f"/api/{path}", content=b"{}", headers=headers)
        assert answer.status_code == 415
        assert answer.json()["error"].endswith("send Content-Type: application/json")


@pytest.mark.parametrize("kind", ["application/json", "Application/JSON; charset=utf-8", "application/vnd.a-b+json"])
def test_json_has_several_names(client: TestClient, kind: str) -> None:
    assert client.post("/api/complete", content=b"{}", headers={"Content-Type": kind}).status_code == 200


def test_other_hosts_are_not_answered_nor_allowed(served: Served) -> None:
    app = create_app(Loading(lambda: served), ["*"], ["tags.example", "2001:db8::1"])
    with TestClient(app) as client:
        for host in ("tags.example:80", "[2001:db8::1]", "127.0.0.1"):
            assert client.get("/api/health", headers={"Host": host}).status_code == 200
        other = client.get("/api/health", headers={"Host": "rebound.example", "Origin": "http://rebound.example"})
        assert other.status_code == 421
        assert other.json()["error"].endswith("start `booru-embed serve` with --allow-host rebound.example")
        assert "access-control-allow-origin" not in other.headers


def test_errors_name_no_folder_of_the_server(served: Served, search_folder: Path) -> None:
    def load() -> Served:
        return served

    with TestClient(create_app(Loading(load, folders=lambda: [str(search_folder)]))) as client:
        while client.get("/api/ready").status_code != 200:
            threading.Event().wait(0.01)
        status, answer = refused(client, "search", tags="id:5")
        num_posts = served.posts.num_posts if served.posts else 0
        assert (status, answer["error"]) == (422, f"post 5 is not among the {num_posts:,} of this index; check the id")

    def fail() -> Served:
        raise ValueError(f"{search_folder}/search.json: no such file in {search_folder}")

    with TestClient(create_app(Loading(fail, folders=lambda: [str(search_folder)]))) as client:
        while "is loading" in client.get("/api/ready").json()["error"]:
            threading.Event().wait(0.01)
        expected = f"search.json: no such file in {search_folder.name}"
        assert client.get("/api/ready").json()["error"] == expected
        assert client.get("/api/info").json()["error"] == expected


def test_work_of_a_request_is_bounded(client: TestClient) -> None:
    patterns = [f"{'cat_ears'[:place]}*{'cat_ears'[place:]}" for place in range(9)]
    assert client.post("/api/search", json={"tags": " ".join([*patterns, *patterns])}).status_code == 200
    for body, error in (
        ({"tags": " ".join([*patterns, "1*girl", "1gi*rl"])}, "has more than 10 patterns"),
        ({"tags": "score:" + ",".join(map(str, range(1001)))}, "has more than 1,000 conditions"),
        ({"tags": " + ".join(["1girl"] * 201)}, "has more than 200 terms"),
        ({"tags": "1girl", "required": ["x" * 201]}, "required.0: String should have at most 200 characters"),
    ):
        status, answer = refused(client, "search", **body)
        assert status == 422
        assert error in answer["error"]


@pytest.mark.parametrize("chunked", [False, True])
def test_a_body_too_large_is_refused(client: TestClient, chunked: bool) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(11):
            yield b" " * (MAX_BODY_BYTES // 10)

    content = chunks() if chunked else b" " * (MAX_BODY_BYTES + 1)
    answer = client.post("/api/complete", content=content, headers={"Content-Type": "application/json"})
    assert answer.status_code == 413
    assert answer.json()["error"] == "the body is larger than 1,000,000 bytes; send fewer captions at once"


def test_threads_get_what_one_gets(client: TestClient) -> None:
    captions = ["1girl", "solo cat_ears", "", "sword armor", "1girl tail blorb"] * 8

    def ask(caption: str) -> list[str]:
        return [one["tag"] for one in post(client, "complete", tags=caption, k=5)["completions"]]

    with ThreadPoolExecutor(32) as threads:
        at_once = list(threads.map(ask, captions))
    assert at_once == [ask(caption) for caption in captions]


def test_it_is_not_ready_until_it_is_loaded_and_says_what_went_wrong(served: Served) -> None:
    may_load, fails = threading.Event(), False

    def load() -> Served:
        assert may_load.wait(30)
        if fails:
            raise ValueError("model.safetensors:\nno such file")
        return served

    with TestClient(create_app(Loading(load))) as client:
        for path in ("ready", "info", "map"):
            assert client.get(f"/api/{path}").status_code == 503
        assert refused(client, "complete", tags="solo")[0] == 503
        assert client.get("/api/health").status_code == 200
        may_load.set()
        while client.get("/api/ready").status_code != 200:
            threading.Event().wait(0.01)
    fails = True
    with TestClient(create_app(Loading(load))) as client:
        while "loading" in client.get("/api/ready").json()["error"]:
            threading.Event().wait(0.01)
        assert client.get("/api/ready").json()["error"] == "model.safetensors: no such file"


def test_posts_and_map_may_be_missing(served: Served) -> None:
    bare = Served(served.embedder, served.completer)
    with TestClient(create_app(Loading(lambda: bare))) as client:
        while client.get("/api/ready").status_code != 200:
            threading.Event().wait(0.01)
        assert refused(client, "search", tags="solo")[0] == 404
        assert client.get("/api/map").json() == {"error": "no map is served here; start `booru-embed serve` with --map"}
        assert client.get("/api/info").json()["has_posts"] is False


def test_searches_say_why_posts_are_left_out(served: Served) -> None:
    bare = Served(served.embedder, served.completer, left_out=(LeftOut("posts", "/srv/x: made by another model"),))
    with TestClient(create_app(Loading(lambda: bare))) as client:
        while client.get("/api/ready").status_code != 200:
            threading.Event().wait(0.01)
        status, answer = refused(client, "search", tags="solo")
    assert (status, answer) == (404, {"error": "posts are left out: x: made by another model"})


class _Alternating(Loading):
    """A model that is replaced after each query that is read."""

    def __init__(self, completers: list[Any]) -> None:
        super().__init__(lambda: pytest.fail("not called"))
        self._left = completers

    def start(self) -> None:
        pass

    @property
    def served(self) -> Served:
        completer = self._left.pop(0)
        return Served(completer, completer)


class _Named:
    """A completer that answers with its own name, and accepts only what it read."""

    def __init__(self, name: str) -> None:
        self._name = name

    def read(self, query: Any) -> Any:
        return self._name, query.k

    def answer(self, queries: Any) -> Any:
        assert {name for name, _ in queries} == {self._name}
        return [Suggestions((), (), (), (), (f"{self._name}{k}",)) for _, k in queries]


def test_a_query_is_answered_by_the_model_that_read_it() -> None:
    """Also where the model moves between two queries of a batch."""
    old, new = _Named("old"), _Named("new")
    loading = _Alternating([old, old, new, new, old, new])
    with TestClient(create_app(loading)) as client, ThreadPoolExecutor(6) as threads:
        answers = threads.map(lambda k: post(client, "complete", k=k)["notes"], range(1, 7))
    found = sorted(note for notes in answers for note in notes)
    assert sorted(note[3:] for note in found) == list("123456")
    assert sorted(note[:3] for note in found) == ["new"] * 3 + ["old"] * 3


ORIGIN = "http://127.0.0.1:7860"


def preflight(client: TestClient, origin: str, method: str = "POST") -> Any:
    headers = {
        "Origin": origin,
        "Access-Control-Request-Method": method,
        "Access-Control-Request-Headers": "content-type",
    }
    return client.options("/api/complete", headers=headers)


def test_pages_of_named_origins_may_call(served: Served) -> None:
    app = create_app(Loading(lambda: served), [ORIGIN, "https://example.org"])

    @app.get("/api/broken")
    def broken() -> None:
        raise RuntimeError

    with TestClient(app, raise_server_exceptions=False) as client:
        allowed = preflight(client, ORIGIN)
        assert (allowed.status_code, allowed.headers["access-control-allow-origin"]) == (200, ORIGIN)
        assert "POST" in allowed.headers["access-control-allow-methods"]
        assert "content-type" in allowed.headers["access-control-allow-headers"].lower()
        other = preflight(client, "http://evil.example")
        assert other.status_code == 400
        assert "access-control-allow-origin" not in other.headers
        assert preflight(client, ORIGIN, "DELETE").status_code == 400
        while client.get("/api/ready").status_code != 200:
            threading.Event().wait(0.01)
        sends = {"Origin": "https://example.org"}
        answers = [
            client.post("/api/complete", json={"tags": "1girl"}, headers=sends),
            client.post("/api/complete", json={"tag": "1girl"}, headers=sends),
            client.post("/api/complete", content=b" " * (MAX_BODY_BYTES + 1), headers=sends),
            client.get("/api/nothing", headers=sends),
            client.get("/api/complete", headers=sends),
            client.get("/api/broken", headers=sends),
        ]
        assert [answer.status_code for answer in answers] == [200, 422, 413, 404, 405, 500]
        assert answers[-1].json() == {"error": "a fault of the server; its log has the reason"}
        for answer in answers:
            assert answer.headers["access-control-allow-origin"] == "https://example.org"
            assert "Origin" in answer.headers["vary"]
            assert answer.headers["x-content-type-options"] == "nosniff"
        without = client.post("/api/complete", json={"tags": "1girl"}, headers={"Origin": "http://evil.example"})
        assert without.status_code == 200
        assert "access-control-allow-origin" not in without.headers


def test_a_loading_server_tells_pages_so_and_a_star_allows_all() -> None:
    may_load = threading.Event()

    def load() -> Served:
        may_load.wait(30)
        raise ValueError("nothing")

    with TestClient(create_app(Loading(load), ["*"])) as client:
        answer = client.get("/api/ready", headers={"Origin": ORIGIN})
        assert (answer.status_code, answer.headers["access-control-allow-origin"]) == (503, "*")
        any_page = preflight(client, "http://any.example")
        assert any_page.headers["access-control-allow-origin"] == "*"
        assert "access-control-allow-credentials" not in {*any_page.headers, *answer.headers}
        may_load.set()


def test_without_named_origins_no_page_may_call(client: TestClient) -> None:
    assert preflight(client, ORIGIN).status_code == 405
    answer = client.get("/api/health", headers={"Origin": ORIGIN})
    assert not [name for name in answer.headers if name.startswith("access-control")]


def test_nothing_is_loaded_from_elsewhere(client: TestClient) -> None:
    page = client.get("/api/docs")
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert page.headers["x-content-type-options"] == "nosniff"
    assert "://" not in page.text
    for path in client.get("/api/openapi.json").json()["paths"]:
        assert path in page.text


@pytest.mark.parametrize("mode", list(GenerationMode))
def test_schemathesis_finds_nothing(client: TestClient, mode: GenerationMode) -> None:
    # Not by its own plugin, which pytest 9.2 breaks.
    operations = [
        one.ok() for one in schemathesis.openapi.from_asgi("/api/openapi.json", client.app).get_all_operations()
    ]
    assert len(operations) == 10
    num_cases = 0
    for operation in operations:
        if mode == GenerationMode.NEGATIVE and not list(operation.body):
            continue

        @settings(max_examples=20, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
        @given(case=operation.as_strategy(generation_mode=mode))
        def check(case: schemathesis.Case) -> None:
            nonlocal num_cases
            num_cases += 1
            # What a schema cannot say is refused too: a score without a rating, a tag that is not in the vocabulary.
            case.call_and_validate(excluded_checks=[positive_data_acceptance])

        check()
    assert num_cases > 80


SECTION = re.compile(r"^## (GET|POST) (/api/\w+(?:/0)?)\n.*?((?:```json\n.*?```\n*)+)", re.MULTILINE | re.DOTALL)


def shape(value: Any) -> Any:
    """The keys of `value`, whatever their values; of a list those of its first item."""
    if isinstance(value, dict):
        return {key: shape(inner) for key, inner in value.items() if key != "categories"}
    return [shape(value[0])] if isinstance(value, list) and value else type(value).__name__


def test_the_reference_shows_what_is_asked_and_answered(client: TestClient) -> None:
    page = (Path(__file__).parents[3] / "docs/reference/http-api.md").read_text(encoding="utf-8")
    sections = SECTION.findall(page)
    described = client.get("/api/openapi.json").json()["paths"]
    assert {path.replace("/0", "/{piece}") for _, path, _ in sections} == set(described) - {"/api/health"}
    for method, path, code in sections:
        blocks = [json.loads(block) for block in re.findall(r"```json\n(.*?)```", code, re.DOTALL)]
        body = blocks[0] if method == "POST" else None
        answer = client.request(method, path, json=body)
        assert answer.status_code == 200, answer.text
        assert shape(answer.json()) == shape(blocks[-1]), path


def test_the_pieces_of_the_map_are_its_tags_by_use_and_its_places(
    served: Served, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(tag_map_module, "PIECE_TAGS", 10)
    one_more = replace(served)
    with TestClient(create_app(Loading(lambda: one_more))) as client:
        while client.get("/api/ready").status_code != 200:
            threading.Event().wait(0.01)
        whole, first = client.get("/api/map").json(), client.get("/api/map/0")
        found = [client.get(f"/api/map/{number}").json() for number in range(first.json()["num_pieces"])]
        beyond = client.get(f"/api/map/{len(found)}")
        assert (beyond.status_code, beyond.json()["error"]) == (404, f"the map has {len(found)} pieces; count from 0")
        etag = first.headers["etag"]
        for known in (etag, f'"x", W/{etag}'):
            again = client.get("/api/map/0", headers={"If-None-Match": known})
            assert (again.status_code, again.content, again.headers["etag"]) == (304, b"", etag)
        assert client.get("/api/map/0", headers={"If-None-Match": '"x"'}).json() == found[0]
    assert len({(piece["map"], piece["num_tags"]) for piece in found}) == 1
    assert [len(piece["tags"]) for piece in found[:-1]] == [10] * (len(found) - 1)
    columns = {
        name: [one for piece in found for one in piece[name]] for name in ("tags", "categories", "counts", "x", "y")
    }
    assert columns["counts"] == sorted(whole["counts"], reverse=True)
    rows = {row[:3]: row[3:] for row in zip(*columns.values(), strict=True)}
    x, y = np.array(whole["x"]), np.array(whole["y"])
    side = max(np.ptp(x), np.ptp(y))
    for row in zip(*(whole[name] for name in columns), strict=True):
        place = np.array(rows[row[:3]]) / 65535 - 0.5
        middle = np.array([x.min() + x.max(), y.min() + y.max()]) / 2
        assert np.abs(place - (np.array(row[3:]) - middle) / side).max() < 1e-5
    assert {0, 65535} <= {*columns["x"], *columns["y"]}


def test_what_is_still_loaded_answers_later(served: Served) -> None:
    may_load = threading.Event()

    def load() -> Served:
        assert may_load.wait(30)
        return served

    first = Served(served.embedder, served.completer, checkpoint="v1", waiting=frozenset({"posts", "map"}))
    said: list[str] = []
    with TestClient(create_app(Loading(load, first=lambda: first, say=said.append))) as client:
        while client.get("/api/ready").status_code != 200:
            threading.Event().wait(0.01)
        assert post(client, "complete", tags="solo")["completions"]
        info = client.get("/api/info").json()
        assert (info["has_posts"], info["has_map"]) == (True, True)
        loading = {"error": "the posts are loading; try again in a few seconds"}
        assert refused(client, "search", tags="solo") == (503, loading)
        for path in ("map", "map/0"):
            answer = client.get(f"/api/{path}")
            assert (answer.status_code, answer.json()["error"][:18]) == (503, "the map is loading")
        may_load.set()
        while client.get("/api/map").status_code != 200:
            threading.Event().wait(0.01)
        assert post(client, "search", tags="solo")["posts"]
    assert [line for line in said if "answers now" in line] == []
