"""The HTTP API and the page, as an ASGI application: ``docs/reference/http-api.md``.

This module holds routes, limits and errors. The answers come from `completions`, `search`, `tag_map` and the embedder,
each in its own thread. Completions, of which a typing person asks for many, are computed in batches (`batching`).
"""

from __future__ import annotations

import re
from collections.abc import AsyncIterator, Callable, Collection, Coroutine, Mapping, Sequence
from contextlib import asynccontextmanager
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Annotated, Any, Final, TypeAlias

from anyio import to_thread
from fastapi import FastAPI, Request
from fastapi import Path as PathParameter
from fastapi.exceptions import RequestValidationError
from fastapi.middleware.gzip import GZipMiddleware
from fastapi.responses import FileResponse, HTMLResponse, JSONResponse, Response
from fastapi.routing import APIRoute
from fastapi.staticfiles import StaticFiles
from starlette.exceptions import HTTPException
from starlette.middleware.cors import CORSMiddleware
from starlette.types import ASGIApp

from booru_embed_core.embedder.captions import Caption
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.fill import FillQuery, ReadFill, fill_all, read_fill
from booru_embed_core.embedder.results import Filled, Normalized, UnknownTagsError
from booru_embed_core.errors import one_line
from booru_embed_core.schema import CATEGORIES, TAG_SEPARATOR
from booru_embed_core.web import answers, models
from booru_embed_core.web.batching import MicroBatcher
from booru_embed_core.web.completions import Completer, PrefixQuery, ReadQuery, Suggestions
from booru_embed_core.web.content import COMPRESS_LEVEL
from booru_embed_core.web.docs import docs_page
from booru_embed_core.web.middleware import LOOPBACK_HOSTS, BodyLimit, HostCheck, SecurityHeaders
from booru_embed_core.web.served import Loading, Served

STATIC: Final = Path(__file__).parent / "static"
_COMPRESSED_BYTES: Final = 100_000
"""Minimal size of an answer that gzip compresses while it is sent, such as many embeddings."""
MAX_FILLS: Final = 16
"""Captions that are filled together; more would keep the first ones waiting."""
MAX_THREADS: Final = 8
"""That read and search at once: they share the interpreter's lock, and each keeps memory of its own."""
_JSON_TYPE: Final = re.compile(r"application/(?:[\w.+-]+\+)?json")
_Completions: TypeAlias = MicroBatcher[PrefixQuery, tuple[Completer, ReadQuery], Suggestions]
_Fills: TypeAlias = MicroBatcher[FillQuery, tuple[BooruEmbedder, ReadFill], Filled]


_REFUSED: Final[dict[int | str, dict[str, Any]]] = {
    status: {"model": models.ErrorAnswer, "description": what}
    for status, what in {
        400: "The body is not JSON.",
        413: "The body is too large.",
        415: "The Content-Type is not application/json.",
        421: "The Host is not a name of this server.",
        422: "A value is invalid, or no tag is known; the answer names the field.",
        503: "The model is loading.",
    }.items()
}
_NO_MAP: Final = "no map is served here; start `booru-embed serve` with --map"
_NOT_FOUND: Final[dict[int | str, dict[str, Any]]] = {
    404: {"model": models.ErrorAnswer, "description": "Not served here."}
}


class _App(FastAPI):
    """FastAPI with layers around all others, also around its own that answers a 500."""

    allow_origins: Collection[str] = ()
    hosts: Collection[str] = ()

    def build_middleware_stack(self) -> ASGIApp:
        stack = super().build_middleware_stack()
        if self.allow_origins:
            stack = CORSMiddleware(stack, self.allow_origins, allow_methods=("GET", "POST"))
        return SecurityHeaders(HostCheck(stack, self.hosts))


class _JsonRoute(APIRoute):
    """A route that reads a body only where it is said to be JSON.

    A page of any origin may send plain text without asking first; FastAPI before 0.132 reads that as JSON too.
    """

    def get_route_handler(self) -> Callable[[Request], Coroutine[Any, Any, Response]]:
        handle = super().get_route_handler()
        if self.body_field is None:
            return handle

        async def checked(request: Request) -> Response:
            given = [one.partition(";")[0].strip().lower() for one in request.headers.getlist("content-type")]
            if len(given) != 1 or not _JSON_TYPE.fullmatch(given[0]):
                raise HTTPException(415, "the body is not said to be JSON; send Content-Type: application/json")
            return await handle(request)

        return checked


def create_app(loading: Loading, allow_origins: Collection[str] = (), hosts: Collection[str] = ()) -> FastAPI:
    """The application, which starts `loading` when it starts and stops it when it ends.

    If the first load fails, every answer except ``/api/health`` is a 503 with its message.

    Args:
        loading: what is served.
        allow_origins: origins whose pages may read answers in a browser; ``*`` stands for all.
        hosts: names and addresses that are answered, beside those of this machine alone; ``*`` stands for all.
    """
    completions, fills = _completions(loading), _fills(loading)

    @asynccontextmanager
    async def lifespan(_app: FastAPI) -> AsyncIterator[None]:
        to_thread.current_default_thread_limiter().total_tokens = MAX_THREADS
        loading.start()
        yield
        loading.stop()
        completions.close()
        fills.close()

    app = _App(
        title="booru-embed",
        version="1",
        description="Vectors, completions, similar tags and posts for sets of tags.",
        docs_url=None,  # Swagger's page loads scripts from another host
        redoc_url=None,
        openapi_url="/api/openapi.json",
        generate_unique_id_function=lambda route: route.name,  # clients are generated with these names
        lifespan=lifespan,
    )
    app.router.route_class = _JsonRoute
    app.allow_origins = allow_origins
    app.hosts = (*LOOPBACK_HOSTS, *hosts)
    app.add_middleware(GZipMiddleware, minimum_size=_COMPRESSED_BYTES, compresslevel=COMPRESS_LEVEL)
    app.add_middleware(BodyLimit)
    app.add_exception_handler(RequestValidationError, _refuse_values)
    app.add_exception_handler(HTTPException, _refuse)
    app.add_exception_handler(ValueError, _refuse_value_of(loading))
    app.add_exception_handler(Exception, _fail)
    _add_status(app, loading)
    _add_tags(app, loading)
    _add_completions(app, completions)
    _add_fills(app, fills)
    _add_posts(app, loading)
    _add_page(app)
    return app


def _completions(loading: Loading) -> _Completions:
    """Answers by the model that read the query, since another may be loaded between the two."""

    def read(query: PrefixQuery) -> tuple[Completer, ReadQuery]:
        completer = loading.served.completer
        return completer, completer.read(query)

    def answer(queries: Sequence[tuple[Completer, ReadQuery]]) -> list[Suggestions]:
        of_each = groupby(queries, key=itemgetter(0))
        return [one for completer, group in of_each for one in completer.answer([query for _, query in group])]

    return MicroBatcher(read, answer)


def _fills(loading: Loading) -> _Fills:
    """Like `_completions`; in a thread of its own, since a caption takes a pass through the network per tag."""

    def read(query: FillQuery) -> tuple[BooruEmbedder, ReadFill]:
        embedder = loading.served.embedder
        return embedder, read_fill(embedder, query)

    def answer(queries: Sequence[tuple[BooruEmbedder, ReadFill]]) -> list[Filled]:
        of_each = groupby(queries, key=itemgetter(0))
        return [one for embedder, group in of_each for one in fill_all(embedder, [query for _, query in group])]

    return MicroBatcher(read, answer, MAX_FILLS)


def _add_status(app: FastAPI, loading: Loading) -> None:
    unready: dict[int | str, dict[str, Any]] = {503: _REFUSED[503]}

    @app.get("/api/health")
    async def health() -> models.Status:
        """Whether the server runs."""
        return models.Status(status="ok")

    @app.get("/api/ready", responses=unready)
    async def ready() -> models.Status:
        """Whether the model is loaded."""
        loading.served  # noqa: B018  raises until there is one
        return models.Status(status="ready")

    @app.get("/api/info", responses=unready)
    async def info() -> models.Info:
        """The model's sizes, and what else is served."""
        served = loading.served
        vocab = served.embedder.vocab
        known = ~vocab.is_unknown
        return models.Info(
            embedding_dim=served.embedder.embedding_dim,
            num_tags=int(known.sum()),
            categories={
                category: int((known & (vocab.categories == category_id)).sum())
                for category_id, category in enumerate(CATEGORIES)
            },
            ratings=list(served.embedder.config.trained_ratings),
            has_posts=served.posts is not None or "posts" in served.waiting,
            has_map=served.tag_map is not None or "map" in served.waiting,
            checkpoint=served.checkpoint,
            practice=served.embedder.config.practice_note,
            left_out=[models.LeftOut(what=what, reason=loading.hidden(reason)) for what, reason in served.left_out],
            reload_error=loading.reload_error,
        )


def _add_tags(app: FastAPI, loading: Loading) -> None:
    # FastAPI runs functions that are not async in threads, many at once.
    @app.post("/api/embed", responses=_REFUSED)
    def embed(asked: models.EmbedRequest) -> models.EmbedAnswer:
        """A unit vector for each caption."""
        embedder = loading.served.embedder
        read = [embedder.normalize(caption) for caption in asked.captions]
        for index, one in enumerate(read):
            if one.unknown and not one.tags:
                raise UnknownTagsError(f"captions[{index}]: not in the vocabulary: {', '.join(one.unknown)}")
        vectors = embedder.embed([_known(one) for one in read], asked.rating, asked.score, asked.dim)
        return models.EmbedAnswer(
            dim=vectors.shape[1],
            embeddings=[
                models.Embedding(caption=caption, unknown=list(one.unknown), notes=list(one.notes), vector=vector)
                for caption, one, vector in zip(asked.captions, read, vectors.tolist(), strict=True)
            ],
        )

    @app.post("/api/similar", responses=_REFUSED)
    def similar(asked: models.SimilarRequest) -> models.SimilarAnswer:
        """The tags whose embeddings are nearest to that of one tag."""
        return answers.similar_answer(loading.served.embedder, asked)

    @app.get("/api/map", response_model=models.TagMap, responses={503: _REFUSED[503], **_NOT_FOUND})
    def tag_map(request: Request) -> Response:
        """The coordinates of every tag on the map; similar tags lie together."""
        loading.served.check_not_waiting("map")
        answer = loading.served.map_answer
        if answer is None:
            raise HTTPException(404, _NO_MAP)
        return answer.answer(request)

    of_piece: dict[int | str, dict[str, Any]] = {status: _REFUSED[status] for status in (422, 503)}

    @app.get("/api/map/{piece}", response_model=models.MapPiece, responses=of_piece | _NOT_FOUND)
    def map_piece(request: Request, piece: Annotated[int, PathParameter(ge=0)]) -> Response:
        """A piece of the map, as the page takes it: the most used tags first, places in whole numbers."""
        loading.served.check_not_waiting("map")
        pieces = loading.served.map_pieces
        if pieces is None:
            raise HTTPException(404, _NO_MAP)
        if piece >= len(pieces):
            raise HTTPException(404, f"the map has {len(pieces)} pieces; count from 0")
        return pieces[piece].answer(request)


def _known(read: Normalized) -> Caption:
    """The known tags of a caption with their weights; text, which is quicker, where all are 1."""
    if all(weight == 1 for weight in read.weights):
        return read.caption
    return dict(zip(read.caption.split(TAG_SEPARATOR), read.weights, strict=True))


def _add_completions(app: FastAPI, completions: _Completions) -> None:
    @app.post("/api/complete", responses=_REFUSED)
    async def complete(asked: models.CompleteRequest) -> models.CompleteAnswer:
        """The most probable further tags of a caption; its unknown tags are ignored."""
        return answers.complete_answer(await completions(answers.prefix_query(asked)))


def _add_fills(app: FastAPI, fills: _Fills) -> None:
    @app.post("/api/fill", responses=_REFUSED)
    async def fill(asked: models.FillRequest) -> models.FillAnswer:
        """A whole caption: further tags drawn one after another, without contradictions; its unknown tags are kept."""
        return answers.fill_answer(await fills(answers.fill_query(asked)), asked)


def _add_posts(app: FastAPI, loading: Loading) -> None:
    @app.post("/api/search", responses=_REFUSED | _NOT_FOUND)
    def search(asked: models.SearchRequest) -> models.SearchAnswer:
        """The posts that have most of a query's tags, the nearest first, among those that pass the filters."""
        served = loading.served
        served.check_not_waiting("posts")
        if served.posts is None:
            raise HTTPException(404, _no_posts(loading, served))
        return answers.search_answer(served.posts, served.embedder, asked)


def _no_posts(loading: Loading, served: Served) -> str:
    reasons = [f"posts are left out: {loading.hidden(reason)}" for what, reason in served.left_out if what == "posts"]
    return "; ".join(reasons) or "no posts are served here; make an index with `booru-embed index`"


def _add_page(app: FastAPI) -> None:
    @app.get("/api/docs", include_in_schema=False)
    async def docs() -> HTMLResponse:
        return HTMLResponse(docs_page(app.openapi()))

    @app.get("/", include_in_schema=False)
    async def page() -> Response:
        index = STATIC / "index.html"
        if not index.exists():
            raise HTTPException(404, "the page is not part of this installation; the API is at /api/docs")
        return FileResponse(index, headers={"Cache-Control": "no-cache"})

    app.mount("/static", StaticFiles(directory=STATIC, check_dir=False), name="static")


def _error(status: int, message: str, field: str | None = None, headers: Mapping[str, str] | None = None) -> Response:
    content = {"error": one_line(message)}
    return JSONResponse(content | ({"field": field} if field else {}), status, headers)


async def _refuse(_request: Request, error: Exception) -> Response:
    assert isinstance(error, HTTPException)
    return _error(error.status_code, str(error.detail), headers=error.headers)


def _refuse_value_of(loading: Loading) -> Callable[[Request, Exception], Coroutine[Any, Any, Response]]:
    async def refuse(_request: Request, error: Exception) -> Response:
        return _error(422, loading.hidden_in_answer(str(error)))

    return refuse


async def _fail(_request: Request, _error_raised: Exception) -> Response:
    return _error(500, "a fault of the server; its log has the reason")


async def _refuse_values(_request: Request, error: Exception) -> Response:
    assert isinstance(error, RequestValidationError)
    first = error.errors()[0]
    if first["type"] == "json_invalid":
        return _error(400, f"the body is not JSON: {first.get('ctx', {}).get('error', first['msg'])}")
    field = ".".join(str(part) for part in first["loc"][1:])
    return _error(422, f"{field or 'body'}: {first['msg']}; see /api/docs", field)
