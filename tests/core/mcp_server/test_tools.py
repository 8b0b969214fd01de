"""The tools without the protocol: their answers, and refusals that an assistant can act on."""

from __future__ import annotations

from typing import Any

import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.results import UnknownTagsError
from booru_embed_core.mcp_server.tools import TOOLS, Assistant, ToolError
from booru_embed_core.search.post_search import PostSearch

pytestmark = pytest.mark.filterwarnings("ignore::booru_embed_core.embedder.results.UnknownTagsWarning")


@pytest.fixture(scope="module")
def assistant(search_embedder: BooruEmbedder, post_search: PostSearch) -> Assistant:
    return Assistant(search_embedder, lambda: (post_search, ""))


def call(assistant: Assistant, tool: str, **arguments: Any) -> Any:
    (found,) = (one for one in TOOLS if one.name == tool)
    answer = found.call(assistant, arguments)
    assert isinstance(answer, found.answer)
    return answer


def refused(assistant: Assistant, tool: str, **arguments: Any) -> str:
    with pytest.raises(ToolError) as error:
        call(assistant, tool, **arguments)
    assert "\n" not in str(error.value)
    return str(error.value)


def test_complete_answers_as_the_embedder_does(assistant: Assistant) -> None:
    answer = call(assistant, "complete", tags="1girl, blorb", k=4)
    found = assistant.embedder.complete("1girl", k=4)
    assert [one.tag for one in answer.completions] == [one.tag for one in found]
    assert [one.probability for one in answer.completions] == pytest.approx([one.probability for one in found])
    assert answer.unknown == ["blorb"]
    corrected = call(assistant, "complete", prefix="hatsune_mikku").completions
    assert [(one.tag, one.match) for one in corrected] == [("hatsune_miku", "typo")]


def test_fill_writes_a_prompt_in_its_dialect(assistant: Assistant) -> None:
    answer = call(assistant, "fill", tags=r"(tracer \(overwatch\):1.2)", n=2, dialect="novelai")
    assert answer.prompt.startswith("1.2::tracer (overwatch)::, ")
    assert [one.origin for one in answer.tags] == ["caption", "drawn", "drawn"]
    assert answer == call(assistant, "fill", tags=r"(tracer \(overwatch\):1.2)", n=2, dialect="novelai")


def test_normalize_tells_how_a_caption_is_read(assistant: Assistant) -> None:
    answer = call(assistant, "normalize", tags="1girl, (cat ears:1.2), -tail, blorb, rating:g")
    assert answer.caption == "1girl cat_ears"
    assert [(one.tag, one.category, one.weight) for one in answer.known] == [
        ("1girl", "general", 1.0),
        ("cat_ears", "general", 1.2),
    ]
    assert (answer.unknown, answer.ratings, [one.tag for one in answer.excluded]) == (["blorb"], ["g"], ["tail"])
    assert "(cat ears:1.2): read as cat_ears with weight 1.2" in answer.notes


def test_similar_and_search_answer_as_the_library_does(assistant: Assistant) -> None:
    near = call(assistant, "similar", tag="cat ears", k=2).neighbours
    assert [one.tag for one in near] == [one.tag for one in assistant.embedder.similar_tags("cat_ears", 2)]
    posts = call(assistant, "search", tags="1girl cat_ears -sword", k=3, ratings=["g"]).posts
    assert len(posts) == 3
    for post in posts:
        assert post.rating == "g"
        assert "sword" not in {one.tag for one in post.tags}


@pytest.mark.parametrize(
    ("tool", "arguments", "message"),
    [
        ("complete", {"k": 201}, "k: Input should be less than or equal to 200; see the tool's input schema"),
        ("complete", {"k": "5"}, "k: Input should be a valid integer"),
        ("complete", {"tags": "a" * 10_001}, "tags: String should have at most 10000 characters"),
        ("complete", {"tag": "1girl"}, "tag: Extra inputs are not permitted"),
        ("complete", {"banned": ["*_a"] * 51}, "banned: has 51 patterns, more than 50"),
        ("complete", {"score": 3}, "score"),
        ("fill", {"n": 201}, "n: Input should be less than or equal to 200"),
        ("fill", {"dialect": "midjourney"}, "dialect: Input should be 'a1111', 'comfyui', 'novelai' or 'danbooru'"),
        ("normalize", {}, "tags: Field required"),
        ("similar", {"tag": "blorb"}, "'blorb': not in the vocabulary: blorb; call `complete` with its beginning"),
        ("similar", {"tag": "1girl solo"}, "is 2 tags, not one"),
        ("search", {"tags": "id:999999"}, "999999"),
    ],
)
def test_a_call_that_cannot_be_answered_names_the_argument_and_a_remedy(
    assistant: Assistant, tool: str, arguments: dict[str, Any], message: str
) -> None:
    assert message in refused(assistant, tool, **arguments)


def test_posts_are_found_with_the_first_search_and_their_absence_is_explained(search_embedder: BooruEmbedder) -> None:
    calls: list[str] = []

    def none_fits() -> tuple[None, str]:
        calls.append("")
        return None, "post_embeddings: made by another model"

    without = Assistant(search_embedder, none_fits)
    assert call(without, "normalize", tags="solo").caption == "solo"
    assert not calls
    for _ in range(2):
        assert refused(without, "search", tags="solo") == "posts are left out: post_embeddings: made by another model"
    assert len(calls) == 1
    assert "make an index with `booru-embed index`" in refused(
        Assistant(search_embedder, lambda: (None, "")), "search", tags="solo"
    )
    with pytest.raises(UnknownTagsError, match="inspect vocab"):  # the remedy of the command line, which is replaced
        search_embedder.similar_tags("blorb")
