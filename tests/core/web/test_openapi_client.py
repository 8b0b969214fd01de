"""A client that openapi-python-client generates from the API's document calls the real application."""

from __future__ import annotations

import importlib
import json
import re
import subprocess
import sys
import threading
from pathlib import Path
from types import ModuleType
from typing import Any

import anyio
import httpx
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.web.app import create_app
from booru_embed_core.web.completions import Completer
from booru_embed_core.web.served import Loading, Served
from booru_embed_core.web.tag_map import tag_map

pytestmark = pytest.mark.filterwarnings("ignore::booru_embed_core.embedder.results.UnknownTagsWarning")
PACKAGE = "generated_client"


@pytest.fixture(scope="module")
def app(search_embedder: BooruEmbedder, post_search: PostSearch) -> Any:
    served = Served(search_embedder, Completer(search_embedder), post_search, tag_map(search_embedder), "v1")
    return create_app(Loading(lambda: served))


@pytest.fixture(scope="module")
def document(app: Any) -> dict[str, Any]:
    found = json.loads(json.dumps(app.openapi()))
    assert isinstance(found, dict)
    return found


@pytest.fixture(scope="module")
def generated(document: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> ModuleType:
    folder = tmp_path_factory.mktemp("client")
    (folder / "openapi.json").write_text(json.dumps(document), encoding="utf-8")
    (folder / "config.yml").write_text("post_hooks: []\n", encoding="utf-8")
    command = [str(Path(sys.executable).with_name("openapi-python-client")), "generate", "--meta", "none"]
    options = ["--path", "openapi.json", "--config", "config.yml", "--output-path", PACKAGE, "--fail-on-warning"]
    done = subprocess.run([*command, *options], cwd=folder, capture_output=True, text=True, timeout=120)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "arning" not in done.stdout + done.stderr
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(folder)
        return importlib.import_module(PACKAGE)


def imported(name: str) -> Any:
    return importlib.import_module(f"{PACKAGE}.{name}")


def test_operations_and_their_errors_have_short_names_and_one_type(document: dict[str, Any]) -> None:
    operations = [one for methods in document["paths"].values() for one in methods.values()]
    names = {one["operationId"] for one in operations}
    assert names == {
        *("health", "ready", "info", "tag_map", "map_piece"),
        *("embed", "similar", "complete", "fill", "search"),
    }
    for operation in operations:
        assert operation["summary"]
        for status, answer in operation["responses"].items():
            reference = answer["content"]["application/json"]["schema"]["$ref"]
            assert reference.endswith("/ErrorAnswer") == (status != "200"), (operation["operationId"], status)
    assert "HTTPValidationError" not in document["components"]["schemas"]


def test_a_generated_client_completes_embeds_and_compares(app: Any, generated: ModuleType) -> None:
    models = imported("models")

    async def ask() -> None:
        client = generated.Client(base_url="http://localhost")
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://localhost") as http,
        ):
            client.set_async_httpx_client(http)

            async def call(name: str, **arguments: Any) -> Any:
                return await imported(f"api.default.{name}").asyncio(client=client, **arguments)

            while isinstance(await call("ready"), models.ErrorAnswer):
                threading.Event().wait(0.01)
            asked = models.CompleteRequest(tags="1girl, blorb", k=2, categories=[models.Category.GENERAL])
            answer = await call("complete", body=asked)
            assert isinstance(answer, models.CompleteAnswer)
            assert [one.category for one in answer.completions] == [models.Category.GENERAL] * 2
            assert answer.unknown == ["blorb"]
            embedded = await call("embed", body=models.EmbedRequest(captions=["1girl", "1boy, sword"], dim=4))
            assert isinstance(embedded, models.EmbedAnswer)
            assert [len(one.vector) for one in embedded.embeddings] == [4, 4]
            near = await call("similar", body=models.SimilarRequest(tag="cat_ears", k=1))
            assert isinstance(near.neighbours[0], models.SimilarTag)
            filled = await call("fill", body=models.FillRequest(tags="(cat ears:1.2)", n=1, seed=3))
            assert filled.prompt.startswith("(cat ears:1.2), ")
            found = await call("search", body=models.SearchRequest(tags="1girl", k=1, by=models.SearchRequestBy.TAGS))
            assert len(found.posts) == 1
            refused = await call("similar", body=models.SimilarRequest(tag="blorb"))
            assert isinstance(refused, models.ErrorAnswer)
            assert re.match("'blorb': not in the vocabulary", refused.error)
            piece = await call("map_piece", piece=99)
            assert isinstance(piece, models.ErrorAnswer)

    anyio.run(ask)
