"""An answer that stays the same: compressed once, and not sent again to a browser that has it."""

from __future__ import annotations

import gzip
import hashlib
from dataclasses import dataclass
from typing import Final, Self

from starlette.requests import Request
from starlette.responses import Response

COMPRESS_LEVEL: Final = 5
"""Higher ones take several times as long and save a few percent."""


@dataclass(frozen=True)
class Content:
    """JSON, compressed by gzip, and its entity tag."""

    compressed: bytes
    etag: str

    @classmethod
    def of(cls, content: bytes) -> Self:
        """The compressed `content`."""
        digest = hashlib.sha256(content).hexdigest()
        return cls(gzip.compress(content, COMPRESS_LEVEL, mtime=0), f'"{digest[:32]}"')

    def answer(self, request: Request) -> Response:
        """The answer to `request`: 304 for a browser that has the content, which asks each time."""
        headers = {"Vary": "Accept-Encoding", "ETag": self.etag, "Cache-Control": "no-cache"}
        known = [one.strip().removeprefix("W/") for one in request.headers.get("if-none-match", "").split(",")]
        if self.etag in known:
            return Response(None, 304, headers)
        if "gzip" in request.headers.get("accept-encoding", ""):
            return Response(self.compressed, 200, {**headers, "Content-Encoding": "gzip"}, "application/json")
        return Response(gzip.decompress(self.compressed), 200, headers, "application/json")
