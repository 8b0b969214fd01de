"""Fuzzed: what people type. Captions are always read; a query is read or refused in one line."""

from __future__ import annotations

import csv
import gzip
import html
import itertools
import re
from pathlib import Path

from booru_embed_core.search.parser import parse_query
from tests.core.search.query_helpers import TOKENIZER
from tests.core.tags.caption_helpers import REAL
from tests.faults.fuzz_cases import Target

ROOT = Path(__file__).parents[2]
SAMPLE = ROOT / "data" / "sample" / "danbooru2017_sfw_posts.csv.gz"
NUM_POSTS = 30
SIGNS = (
    b" ", b",", b"\n", b"(", b")", b"[", b"]", b"{", b"}", b"<", b">", b"|", b":", b"::", b":1.2)", b"\\", b"\\(", b"-",
    b"+", b"*", b"~", b"_", b"<lora:a:1>", b"BREAK", b" AND ", b"[a:b:.5]", b"{a|b}", b"1.5::", b"\xe3\x80\x81",
    b"\xe3\x80\x80", b"\xef\xbc\x8c", b"\xe2\x80\xae", b"\0", b"\xf0\x9f\x91\xa9", b"negative prompt:", b"steps: 20",
    b"artist:", b"rating:g", b"score:9", b"1girl", b"solo", b"cat ears", b"re:zero", b"\\m/", b":3", b">:(",
)  # fmt: skip
GRAMMAR = (
    b" or ", b" and ", b" - ", b" + ", b" ~ ", b"-(", b"~(", b"order:score", b"order:id_asc", b"rating:g,s",
    b"score:>5", b"score:1..9", b"id:100", b"id:100,103", b"-*_ears", b"*", b"-rating:e", b"date:2020", b"miku (fate)",
)  # fmt: skip


def shown(folder: str) -> list[bytes]:
    """What stands in code in the pages of docs: captions, queries, and much that is neither."""
    texts = [page.read_text(encoding="utf-8") for page in sorted((ROOT / "docs" / folder).glob("*.md"))]
    codes = itertools.chain.from_iterable(re.findall(r"`([^`\n]+)`|<code>(.*?)</code>", text) for text in texts)
    return sorted({html.unescape(one or other).encode() for one, other in codes})


def exported() -> list[bytes]:
    """The tags of some posts, as the export has them and as prompts do."""
    with gzip.open(SAMPLE, "rt", encoding="utf-8", newline="") as stream:
        rows = list(itertools.islice(csv.DictReader(stream), NUM_POSTS))
    tags = [row["tag_string_general"] for row in rows]
    return [text.encode() for tag in tags for text in (tag, tag.replace(" ", ", ").replace("_", " "))]


def read_caption(content: bytes) -> None:
    """Reads a caption, which never fails; what it names is read again without a note."""
    text = content.decode("utf-8", "replace")
    for tokenizer in (REAL, TOKENIZER):
        encoded = tokenizer.encode(text)
        again = tokenizer.encode(tokenizer.normalized(encoded))
        assert again.token_ids == encoded.token_ids, (text, encoded, again)
        assert not again.notes, (text, again.notes)
        assert all("\n" not in note for note in encoded.notes), encoded.notes


def read_query(content: bytes) -> None:
    """Reads a query."""
    query = parse_query(content.decode("utf-8", "replace"), TOKENIZER)
    assert all("\n" not in note for note in query.notes), query.notes


CAPTIONS = Target(read_caption, lambda: [*shown("reference"), *exported()], SIGNS, errors=(), max_bytes=16_384)
QUERIES = Target(
    read_query, lambda: [*shown("guides"), *exported()], SIGNS + GRAMMAR, errors=(ValueError,), max_bytes=16_384
)
