"""An answer that stays the same is compressed once and not sent again."""

from __future__ import annotations

import gzip

from starlette.requests import Request

from booru_embed_core.web.content import Content


def asked(**headers: str) -> Request:
    named = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    return Request({"type": "http", "method": "GET", "path": "/", "query_string": b"", "headers": named})


def test_content_is_sent_as_the_client_takes_it_unless_it_has_it() -> None:
    content, other = Content.of(b'{"a": 1}'), Content.of(b'{"a": 2}')
    assert content == Content.of(b'{"a": 1}')
    assert content.etag != other.etag
    plain, packed = content.answer(asked()), content.answer(asked(accept_encoding="br, gzip"))
    assert bytes(plain.body) == gzip.decompress(packed.body) == b'{"a": 1}'
    assert packed.headers["content-encoding"] == "gzip"
    known = content.answer(asked(if_none_match=content.etag, accept_encoding="gzip"))
    assert (known.status_code, known.body, known.headers["cache-control"]) == (304, b"", "no-cache")
    assert content.answer(asked(if_none_match=other.etag)).status_code == 200
