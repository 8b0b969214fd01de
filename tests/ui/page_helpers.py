"""A stand-in for the server of `booru-embed serve`: immediate answers about few tags, and errors on demand."""

from __future__ import annotations

import json
import re
from collections.abc import Iterable
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from playwright.sync_api import Error, Page, Route

STATIC = Path(__file__).parents[2] / "booru_embed_core/web/static"
URL = "http://page.invalid/"
SHOWN_SECONDS = 60
"""Generous, since the machine may be busy."""
STRICT = "default-src 'self'; object-src 'none'; frame-ancestors 'none'"
CATEGORIES = ["general", "artist", "copyright", "character", "meta"]
ALIASES = {"nekomimi": "cat_ears"}
IMPLIED = {"chen": "touhou"}
TYPOS = {"cta": "cat"}


class Tag(NamedTuple):
    tag: str
    category: str
    count: int
    x: float
    y: float


VOCAB = [
    Tag("1girl", "general", 900, 0.0, 0.0),
    Tag("solo", "general", 800, 1.0, 0.0),
    Tag("cat_ears", "general", 300, 4.0, 4.0),
    Tag("cat_tail", "general", 200, 4.2, 4.0),
    Tag("cat_girl", "general", 100, 4.0, 4.3),
    Tag("hat", "general", 90, 0.0, 4.0),
    Tag("wlop", "artist", 20, 2.0, 2.0),
    Tag("touhou", "copyright", 80, 3.0, 0.0),
    Tag("chen", "character", 30, 3.5, 4.0),
    Tag("highres", "meta", 500, 0.0, 2.0),
]
CATEGORY_OF = {one.tag: one.category for one in VOCAB}


def named(tags: Iterable[str]) -> list[dict[str, str]]:
    return [{"tag": tag, "category": CATEGORY_OF[tag]} for tag in tags]


def read(text: str) -> tuple[dict[str, float], list[str]]:
    """The known tags of a caption with their weights (``1.5::hat::``), and the unknown ones."""
    between = "," if "," in text else None
    words = [word.strip().replace(" ", "_").lower() for word in text.split(between)]
    weights: dict[str, float] = {}
    for word in filter(None, words):
        found = re.fullmatch(r"([\d.]+)::(.+)::", word)
        weight, name = (float(found[1]), found[2]) if found else (1.0, word)
        weights[ALIASES.get(name, name)] = weight
    known = {tag: weight for tag, weight in weights.items() if tag in CATEGORY_OF}
    return known, [tag for tag in weights if tag not in known]


@dataclass
class StandIn:
    """Answers like the server.

    Attributes:
        refused: calls to refuse, with status and message.
        down: calls to leave without an answer.
        held: a prefix or caption whose answer waits until `release`.
        asked: the calls so far, with their bodies.
        outside: requests to other hosts.
        has_failed: whether a call was refused or left without an answer.
    """

    has_posts: bool = True
    left_out: list[dict[str, str]] = field(default_factory=list)
    practice: str = ""
    ratings: list[str] = field(default_factory=lambda: ["g", "s"])
    refused: dict[str, tuple[int, str]] = field(default_factory=dict)
    down: set[str] = field(default_factory=set)
    held: str | None = None
    asked: list[tuple[str, dict[str, Any]]] = field(default_factory=list)
    outside: list[str] = field(default_factory=list)
    waiting: list[tuple[Route, dict[str, Any]]] = field(default_factory=list)
    has_failed: bool = False

    def bodies(self, call: str, has: str = "tags") -> list[dict[str, Any]]:
        """The bodies of `call` that have the field `has`."""
        return [body for name, body in self.asked if name == call and has in body]

    def handle(self, route: Route) -> None:
        url = route.request.url
        if not url.startswith(URL):
            self.outside.append(url)
            route.abort()
            return
        path = url.removeprefix(URL).partition("?")[0]
        if not path.startswith("api/"):
            file = STATIC / (path.removeprefix("static/") or "index.html")
            route.fulfill(path=file, headers={"Content-Security-Policy": STRICT, "Content-Type": content_type(file)})
            return
        call, _, piece = path.removeprefix("api/").partition("/")
        body = {"piece": int(piece)} if piece else route.request.post_data_json or {}
        self.asked.append((call, body))
        if call in self.down:
            self.has_failed = True
            route.abort("connectionrefused")
        elif call in self.refused:
            self.refuse(route, *self.refused[call])
        elif self.held is not None and self.held in (body.get("prefix"), body.get("tags")):
            self.waiting.append((route, body))
        else:
            route.fulfill(json=getattr(self, call)(body))

    def refuse(self, route: Route, status: int, message: str) -> None:
        self.has_failed = True
        route.fulfill(status=status, json={"error": message})

    def release(self, refusal: tuple[int, str] | None = None) -> None:
        """Answers the waiting requests, and holds no more."""
        self.held = None
        for route, body in self.waiting:
            with suppress(Error):  # the page may have cancelled it
                if refusal is None:
                    route.fulfill(json=self.complete(body))
                else:
                    self.refuse(route, *refusal)

    def info(self, _body: dict[str, Any]) -> dict[str, Any]:
        info: dict[str, Any] = {"embedding_dim": 16, "num_tags": len(VOCAB), "has_map": True}
        info["categories"] = {name: sum(one.category == name for one in VOCAB) for name in CATEGORIES}
        told = {"checkpoint": "0123", "practice": self.practice, "left_out": self.left_out, "reload_error": None}
        return {**info, **told, "ratings": self.ratings, "has_posts": self.has_posts}

    def complete(self, body: dict[str, Any]) -> dict[str, Any]:
        known, unknown = read(body["tags"])
        implied = {IMPLIED[tag] for tag in known if tag in IMPLIED} - set(known)
        hidden = {*known, *body.get("banned", []), *(implied if body.get("implied") != "keep" else ())}
        typed = body.get("prefix", "").lower().replace(" ", "_")
        prefix = TYPOS.get(typed.removeprefix("-"), typed.removeprefix("-"))
        marks = {"match": "typo" if typed in TYPOS else "prefix", "is_excluded": typed.startswith("-")}
        found: list[dict[str, Any]] = []
        # A rating reverses the order, so that a test sees that it arrived.
        for rank, one in enumerate(VOCAB[::-1] if body.get("rating") else VOCAB):
            alias = next((name for name, tag in ALIASES.items() if tag == one.tag and name.startswith(prefix)), None)
            if one.tag in hidden or one.category not in body.get("categories", CATEGORIES):
                continue
            if one.tag.startswith(prefix) or alias is not None:
                named_by = None if one.tag.startswith(prefix) else alias
                found.append({**named([one.tag])[0], "probability": 0.4 / 2**rank, "alias": named_by, **marks})
        return {
            "completions": found[: body["k"] * 5],
            "known": [{**one, "weight": known[one["tag"]]} for one in named(known)],
            "unknown": unknown,
            "implied": named(implied),
            "notes": [f"{tag}: weight {weight:g}" for tag, weight in known.items() if weight != 1],
        }

    def fill(self, body: dict[str, Any]) -> dict[str, Any]:
        known, unknown = read(body["tags"])
        left = [one.tag for one in VOCAB if one.tag not in {*known, *body.get("banned", [])}]
        drawn = left[body.get("seed", 0) :][: body["n"]]
        tags = [{**one, "origin": "caption"} for one in named(known)] + [
            {**one, "origin": "drawn"} for one in named(drawn)
        ]
        words = [*(tag if weight == 1 else f"({tag}:{weight:g})" for tag, weight in known.items()), *unknown, *drawn]
        return {"tags": tags, "prompt": f"{body.get('dialect', 'a1111')}: {', '.join(words)}"}

    def similar(self, body: dict[str, Any]) -> dict[str, Any]:
        here = next(one for one in VOCAB if one.tag == body["tag"])
        others = sorted(
            (one for one in VOCAB if one is not here), key=lambda one: abs(one.x - here.x) + abs(one.y - here.y)
        )
        near = [{"tag": one.tag, "category": one.category, "similarity": 0.9} for one in others[: body["k"]]]
        return {"tag": here.tag, "neighbours": near}

    def search(self, body: dict[str, Any]) -> dict[str, Any]:
        posts = [
            {
                "post_id": 100 + index,
                "rating": rating,
                "score": 7,
                "similarity": 0.8,
                "tags": named(["1girl", "chen"]),
                "matched": [tag for tag in ("1girl", "chen") if tag in body["tags"].split()],
            }
            for index, rating in enumerate(["g", "s", "g"])
            if rating in body.get("ratings", ["g", "s"])
        ]
        notes = ["score:>10 is a condition of the stand-in"] if "score:>10" in body["tags"] else []
        return {"posts": posts, "unknown": [], "notes": notes}

    def map(self, body: dict[str, Any]) -> dict[str, Any]:
        """Piece ``body["piece"]`` of the map: six tags, then the others."""
        by_use = sorted(VOCAB, key=lambda one: -one.count)
        tags = (by_use[:6], by_use[6:])[body["piece"]]
        side = max(one.y for one in VOCAB)
        return {
            "map": "0123",
            "num_pieces": 2,
            "num_tags": len(VOCAB),
            "tags": [one.tag for one in tags],
            "categories": [CATEGORIES.index(one.category) for one in tags],
            "counts": [one.count for one in tags],
            "x": [round(65535 * one.x / side) for one in tags],
            "y": [round(65535 * one.y / side) for one in tags],
        }


def content_type(file: Path) -> str:
    return {".html": "text/html", ".js": "text/javascript", ".css": "text/css", ".svg": "image/svg+xml"}[file.suffix]


def colours_of(page: Page, selector: str) -> dict[str, int]:
    """The number of pixels of each colour in a canvas; keys are JSON lists of red, green and blue."""
    counts: dict[str, int] = page.locator(selector).evaluate(
        """canvas => {
          const { data } = canvas.getContext("2d").getImageData(0, 0, canvas.width, canvas.height);
          const counts = {};
          for (let i = 0; i < data.length; i += 4) {
            const colour = JSON.stringify([...data.slice(i, i + 3)]);
            counts[colour] = (counts[colour] ?? 0) + 1;
          }
          return counts;
        }"""
    )
    return counts


def nearly(colour: str, wanted: list[int]) -> bool:
    """Whether `colour` is close to `wanted`."""
    return all(abs(one - other) < 60 for one, other in zip(json.loads(colour), wanted, strict=True))
