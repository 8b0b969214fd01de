"""Queries as people type them, beside what Python says of each post."""

from __future__ import annotations

import itertools
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.embedder.results import UnknownTagsError
from booru_embed_core.schema import RATING_NAMES
from booru_embed_core.search.filters import Order
from booru_embed_core.search.parser import as_query, parse_query
from booru_embed_core.search.posts_table import PostsTable
from tests.core.search.query_helpers import GENERAL, TAGS, TOKENIZER, Post, expected_ids, parsed, passing_ids, plain

EARS = {"cat_ears", "dog_ears"}


def has(*tags: str) -> Callable[[Post], bool]:
    return lambda post: set(tags) <= post.tags


def has_any(*tags: str) -> Callable[[Post], bool]:
    return lambda post: bool(set(tags) & post.tags)


@pytest.mark.parametrize(
    ("text", "tags", "passes"),
    [
        ("solo -hat", ["solo"], lambda post: "hat" not in post.tags),
        ("-solo -hat", [], lambda post: not {"solo", "hat"} & post.tags),
        ("~cat ~hat", [], has_any("cat", "hat")),
        ("solo ~cat ~hat 1girl", ["solo", "1girl"], has_any("cat", "hat")),
        ("~cat", [], has("cat")),
        ("cat ~ hat", [], has_any("cat", "hat")),
        ("solo cat ~ hat 1girl", ["solo", "1girl"], has_any("cat", "hat")),
        ("( cat ~ hat ) solo", ["solo"], has_any("cat", "hat")),
        ("(cat~ hat)", None, None),
        ("(cat ~ hat ~ solo)", [], has_any("cat", "hat", "solo")),
        ("cat or hat", [], has_any("cat", "hat")),
        ("cat OR hat", [], has_any("cat", "hat")),
        ("cat solo or hat", [], lambda post: {"cat", "solo"} <= post.tags or "hat" in post.tags),
        ("1girl (cat solo or hat)", ["1girl"], lambda post: {"cat", "solo"} <= post.tags or "hat" in post.tags),
        ("cat and hat", ["cat", "hat"], lambda _: True),
        ("(cat solo) or (hat)", [], lambda post: {"cat", "solo"} <= post.tags or "hat" in post.tags),
        ("-rating:g,s score:1,2,3 cat", ["cat"], lambda post: post.rating in "qe" and post.score in (1, 2, 3)),
        ("-(cat hat)", [], lambda post: not {"cat", "hat"} <= post.tags),
        ("-( cat ~ hat ) 1girl", ["1girl"], lambda post: not {"cat", "hat"} & post.tags),
        ("-(cat or -hat)", [], lambda post: not ("cat" in post.tags or "hat" not in post.tags)),
        ("~(cat hat) ~solo", [], lambda post: {"cat", "hat"} <= post.tags or "solo" in post.tags),
        ("(solo -(cat ~ hat)) ~ :)", [], None),
        ("(solo hat)", ["solo", "hat"], lambda _: True),
        ("((solo hat) -cat)", ["solo", "hat"], lambda post: "cat" not in post.tags),
        ("--cat", [], has("cat")),
        ("-~cat", [], lambda post: "cat" not in post.tags),
        ("*_ears", [], has_any(*EARS)),
        ("-*_ears", [], lambda post: not EARS & post.tags),
        ("~*_EARS ~hat", [], has_any(*EARS, "hat")),
        ("*ears*", [], has_any(*EARS, "ears_down")),
        ("character:*fate*", [], has_any("miku_(fate)", "solo_(fate)")),
        ("*", [], lambda post: bool(post.tags)),
        ("rating:g,s", [], lambda post: post.rating in "gs"),
        ("-rating:e", [], lambda post: post.rating != "e"),
        ("rating:safe", [], lambda post: post.rating == "g"),
        ("~rating:g ~hat", [], lambda post: post.rating == "g" or "hat" in post.tags),
        ("score:>10", [], lambda post: post.score > 10),
        ("score:>=10 score:<20", [], lambda post: 10 <= post.score < 20),
        ("score:<=0", [], lambda post: post.score <= 0),
        ("score:5..10", [], lambda post: 5 <= post.score <= 10),
        ("score:10..5", [], lambda post: 5 <= post.score <= 10),
        ("score:5...10", [], lambda post: 5 <= post.score < 10),
        ("score:..5", [], lambda post: post.score <= 5),
        ("score:5..", [], lambda post: post.score >= 5),
        ("score:-3", [], lambda post: post.score == -3),
        ("score:-4..-2", [], lambda post: -4 <= post.score <= -2),
        ("score:1,3,7..9", [], lambda post: post.score in (1, 3, 7, 8, 9)),
        ("-score:<5", [], lambda post: post.score >= 5),
        ("id:100..130", [], lambda post: post.id <= 130),
        ("id:>400 -id:403", [], lambda post: post.id > 403),
        ("id:103,109", [], lambda post: post.id in (103, 109)),
        ("~id:103 ~id:109", [], lambda post: post.id in (103, 109)),
        ("id:103 or hat", [], lambda post: post.id == 103 or "hat" in post.tags),
        ("-id:103", [], lambda post: post.id != 103),
        ("hat - solo", ["hat"], lambda _: True),
        ("hat - rating:e", ["hat"], lambda post: post.rating != "e"),
        ("hat - ( cat ~ solo )", ["hat"], lambda post: not {"cat", "solo"} & post.tags),
        ("hat - solo rating:g", ["hat"], lambda post: post.rating == "g"),
        ("hat - solo -cat score:>3", ["hat"], lambda post: "cat" not in post.tags and post.score > 3),
        ("hat - solo ~cat ~1girl", ["hat"], has_any("cat", "1girl")),
        ("hat - ( solo -cat ) + 1girl", ["hat", "1girl"], lambda post: "solo" not in post.tags or "cat" in post.tags),
        ("hat - (solo 1girl)", ["hat"], lambda _: True),
        ("hat - *_ears", ["hat"], lambda post: not EARS & post.tags),
        ("hat + cat or solo", ["hat"], has_any("cat", "solo")),
        # Names that look like grammar.
        (":) -:3", [":)"], lambda post: ":3" not in post.tags),
        ("-:)", [], lambda post: ":)" not in post.tags),
        ("(:3 ~ :))", [], has_any(":3", ":)")),
        ("-(;))", [], lambda post: ";)" not in post.tags),
        ("-_- --_-", ["-_-"], lambda post: "-_-" not in post.tags),
        ("(-_- ~ +_+) x-ray", ["x-ray"], has_any("-_-", "+_+")),
        ("-(o)_(o) (o)_(o)", ["(o)_(o)"], lambda post: "(o)_(o)" not in post.tags),
        ("((o)_(o) ~ hat)", [], has_any("(o)_(o)", "hat")),
        ("-miku_(fate)", [], lambda post: "miku_(fate)" not in post.tags),
        ("(miku_(fate) ~ tracer_\\(overwatch\\))", [], has_any("miku_(fate)", "tracer_(overwatch)")),
        ("re:zero -RE:ZERO", ["re:zero"], lambda post: "re:zero" not in post.tags),
        ("user -fate", ["user"], lambda post: "fate" not in post.tags),
        ("character:solo_(fate) -general:hat", ["solo_(fate)"], lambda post: "hat" not in post.tags),
        ("-longhair", [], lambda post: "long_hair" not in post.tags),
        ("black and white -hat", ["black_and_white"], lambda post: "hat" not in post.tags),
        ("-black and white", [], lambda post: "black_and_white" not in post.tags),
        ("a,b -hat", ["a,b"], lambda post: "hat" not in post.tags),
        # Captions with commas, spaces, weights and dialects beside the grammar.
        ("1girl, long hair, -cat ears, rating:g", ["1girl", "long_hair"], None),
        ("-cat ears, 1girl", ["1girl"], lambda post: "cat_ears" not in post.tags),
        ("-blue eyes, 1girl", ["1girl"], lambda post: "blue_eyes" not in post.tags),
        ("-blue eyes 1girl", ["1girl"], lambda post: "blue_eyes" not in post.tags),
        ("1girl -cat solo, hat", ["1girl", "solo", "hat"], lambda post: "cat" not in post.tags),
        ("cat ears ~ dog ears, solo", ["solo"], has_any(*EARS)),
        ("cat ears or dog ears", [], has_any(*EARS)),
        ("(long hair:1.2), (solo), -hat", ["long_hair", "solo"], lambda post: "hat" not in post.tags),
        ("(long hair, miku (fate):1.1), 1girl, -hat", ["long_hair", "miku_(fate)", "1girl"], None),
        ("-(hat:1.2) [solo]", ["solo"], lambda post: "hat" not in post.tags),
        ("1girl,solo,-hat", ["1girl", "solo"], lambda post: "hat" not in post.tags),
        ("1girl\nlong hair\n-hat", ["1girl", "long_hair"], lambda post: "hat" not in post.tags),
        ("1girl\uff0c long hair\u3001-hat", ["1girl", "long_hair"], lambda post: "hat" not in post.tags),
        ("1girl, rating: safe", ["1girl"], lambda post: post.rating == "g"),
        ("rating:g, 1girl", ["1girl"], lambda post: post.rating == "g"),
        ("1girl,rating:g", ["1girl"], lambda post: post.rating == "g"),
        ("1girl AND solo <lora:x:1> -hat", ["1girl", "solo"], lambda post: "hat" not in post.tags),
        ("1girl -hat\nNegative prompt: solo, -cat\nSteps: 20", ["1girl"], lambda post: "hat" not in post.tags),
        ("- 1girl\n- solo", ["1girl", "solo"], lambda _: True),
        ("", [], lambda _: True),
        ("   \n ", [], lambda _: True),
    ],
)
def test_a_query_means_what_it_says(
    posts_table: PostsTable, text: str, tags: list[str] | None, passes: Callable[[Post], bool] | None
) -> None:
    if tags is not None:
        assert plain(text) == tags
    if passes is not None:
        assert passing_ids(text, posts_table) == expected_ids(passes)
        ids = expected_ids(passes)
        assert ids, "a filter that nothing passes says nothing"


EXPRESSIONS = st.recursive(
    st.sampled_from([*GENERAL[:-1], "tracer_(overwatch)", "re:zero", "rating:g,e", "score:>7", "*_ears"]),
    lambda inner: st.tuples(st.sampled_from(["or", "~", "all", "not", "opt"]), st.lists(inner, min_size=2, max_size=3)),
    max_leaves=8,
)


def _spelled(expression: object) -> str:
    """One spelling of `expression`; groups are always bracketed."""
    if isinstance(expression, str):
        return expression
    kind, inner = expression  # type: ignore[misc]
    parts = [_spelled(one) for one in inner]
    if kind == "not":
        return f"-({' '.join(parts)})"
    if kind == "opt":
        return "( " + " ".join(f"~{part}" for part in parts) + " )"
    return "(" + {"or": " or ", "~": " ~ ", "all": " "}[kind].join(parts) + ")"


def _holds(expression: object, post: Post) -> bool:
    if expression == "rating:g,e":
        return post.rating in "ge"
    if expression == "score:>7":
        return post.score > 7
    if expression == "*_ears":
        return bool(EARS & post.tags)
    if isinstance(expression, str):
        return expression in post.tags
    kind, inner = expression  # type: ignore[misc]
    found = [_holds(one, post) for one in inner]
    return not all(found) if kind == "not" else all(found) if kind == "all" else any(found)


@settings(max_examples=60, deadline=None)
@given(expression=EXPRESSIONS)
def test_nested_groups_mean_what_python_says(posts_table: PostsTable, expression: object) -> None:
    text = f"-{_spelled(expression)}"  # the minus makes plain tags filters
    if isinstance(expression, str):
        text = f"-({text[1:]})"
    assert passing_ids(text, posts_table) == expected_ids(lambda post: not _holds(expression, post))


@settings(max_examples=60, deadline=None)
@given(tag=st.sampled_from(TAGS), other=st.sampled_from(TAGS), spaced=st.booleans())
def test_every_name_takes_every_sign(posts_table: PostsTable, tag: str, other: str, spaced: bool) -> None:
    one, two = (name.replace("_", " ") + "," if spaced and name[0].isalpha() else name for name in (tag, other))
    assert plain(f"{one} {two}") == list(dict.fromkeys((tag, other)))
    assert passing_ids(f"-{one}", posts_table) == expected_ids(lambda post: tag not in post.tags)
    both = expected_ids(has_any(tag, other))
    assert passing_ids(f"~{tag} ~{other}", posts_table) == both
    assert passing_ids(f"( {tag} ~ {other} )", posts_table) == both
    assert passing_ids(f"({tag} or {other})", posts_table) == both
    assert plain(f"{tag} - {other}") == [tag]
    assert plain(f"{tag} - {other}", -1) == [other]


@pytest.mark.parametrize("name", RATING_NAMES)
def test_a_rating_has_the_names_that_captions_know(posts_table: PostsTable, name: str) -> None:
    for typed in (name, name.upper()):
        expected = expected_ids(lambda post: post.rating == RATING_NAMES[name])
        assert passing_ids(f"1girl rating:{typed}", posts_table) == expected


@pytest.mark.parametrize(
    ("text", "order"),
    [
        ("order:score", Order("score", descending=True)),
        ("1girl order:score_asc", Order("score", descending=False)),
        ("ORDER:ID", Order("post_id", descending=False)),
        ("order:id_desc hat", Order("post_id", descending=True)),
        ("hat - solo order:score", Order("score", descending=True)),
    ],
)
def test_an_order_is_read(text: str, order: Order) -> None:
    assert parsed(text).order == order


@pytest.mark.parametrize(
    "text", ["(hat:-1) solo", "solo, -1::hat::", "solo (hat:0)", "solo -(hat:1.2)", "-1::hat, solo"]
)
def test_a_weight_of_0_or_less_excludes(posts_table: PostsTable, text: str) -> None:
    excluded = {"hat", "solo"} if text.startswith("-1") else {"hat"}
    assert passing_ids(text, posts_table) == expected_ids(lambda post: not excluded & set(post.tags))


def test_an_id_alone_means_posts_like_it() -> None:
    query = parsed("id:103 hat - id:7 solo")
    assert [(term.sign, term.post_ids) for term in query.terms] == [(1, (103,)), (-1, (7,))]
    assert query.post_ids == (103, 7)
    assert query.filters == ()
    assert (plain(query.text), plain(query.text, -1)) == (["hat"], ["solo"])
    assert [(term.sign, term.post_ids) for term in parsed("hat - solo id:7").terms] == [(1, ()), (-1, ()), (1, (7,))]


@pytest.mark.parametrize(
    ("text", "unknown", "tags"), [("hat blorb", ("blorb",), ["hat"]), ("hat, artist:foo", ("artist:foo",), ["hat"])]
)
def test_unknown_plain_tags_are_told(text: str, unknown: tuple[str, ...], tags: list[str]) -> None:
    assert parsed(text).unknown() == unknown
    assert plain(text) == tags


@pytest.mark.parametrize(
    ("text", "notes"),
    [
        ("(long hair:1.2) -hat", ["(long hair:1.2): read as long_hair with weight 1.2"]),
        ("-longhair", ["longhair: another name of long_hair"]),
        ("-blue eyes solo", ["blue eyes: read as one tag"]),
        ("-(hat:1.2)", ["hat:1.2", "weights"]),
        ("hat <lora:x:1>", ["<lora:x:1>: left out"]),
        ("1girl, -1::hat, solo::", ["-1::hat: weight -1, left out", "hat: excluded", "solo: excluded"]),
        ("solo -solo", ["solo: asked for and excluded; no post has it"]),
    ],
)
def test_what_is_read_differently_is_noted(text: str, notes: list[str]) -> None:
    joined = "\n".join(parsed(text).notes)
    for note in notes:
        assert note in joined


@pytest.mark.parametrize(
    "name",
    [
        "user",
        "fav",
        "date",
        "age",
        "filetype",
        "pool",
        "source",
        "favcount",
        "md5",
        "status",
        "width",
        "tagcount",
        "sort",
        "whatever",
    ],
)
@pytest.mark.parametrize("text", ["1girl {}", "-{}", "~{} hat", "( hat ~ {} )", "1girl, {}"])
def test_metatags_that_the_index_cannot_answer_are_named(name: str, text: str) -> None:
    with pytest.raises(ValueError, match=f"{name}:bob.*but not '{name}'; leave it out"):
        parsed(text.format(f"{name}:bob"))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("hat limit:5", "limit:5: give the number of posts as k"),
        ("hat scor:>10", "write score:>10"),
        ("ratings:g", "write rating:g"),
        ("foo:>3", "but not 'foo'"),
        ("rating:x", "rating:x in the query: 'x' is not one of g, s, q, e"),
        ("1girl rating:", "rating: in the query: '' is not one of"),
        ("rating:g,,s", "rating:g,,s in the query: '' is not one of"),
        ("rating:g,solo", "'solo' is not one of"),
        ("score:many", "score:many: 'many' is not a number or a range"),
        ("score:>", "'>' is not a number or a range"),
        ("score:1,", "score:1"),
        ("score:..", "'..' is not a number or a range"),
        ("id:x", "id:x: 'x' is not a number or a range; write id:10, id:>=10"),
        ("score:99999999999999999999", "is not a number or a range"),
        ("order:random", "order:random: posts can be ordered by score, score_desc, score_asc, id, id_asc, id_desc"),
        ("-order:score", "an order takes no sign"),
        ("( order:score ~ hat )", "an order takes no sign and stands outside of groups"),
        ("hat or order:score", "an order takes no sign and stands outside of groups"),
        ("hat - order:score", "an order takes no sign"),
        ("order:score order:id", "has 2 orders; leave one"),
        ("hat -", "nothing on one side of a sign"),
        ("- hat", "nothing on one side of a sign"),
        ("+ hat", "nothing on one side of a sign"),
        ("hat - + cat", "nothing on one side of a sign"),
        ("id:3 -", "nothing on one side of a sign"),
        ("hat or", "nothing on one side of this; write a or b"),
        ("or hat", "nothing on one side of this; write a or b"),
        ("hat and", "nothing on one side of this; write a and b"),
        ("-hat ~", "'~': nothing on one side of ~|nothing stands after this sign"),
        ("~ hat", "nothing on one side of ~"),
        ("( hat ~ cat", "'\\( hat ~ cat': this parenthesis is never closed"),
        ("-hat )", "'\\)': this parenthesis closes nothing"),
        ("-( )", "nothing between these parentheses"),
        ("-(hat - cat)", "signs with spaces around them stand outside of parentheses"),
    ],
)
def test_what_cannot_be_answered_is_one_line(text: str, message: str) -> None:
    if text == "score:1,":
        assert parsed(text).filters
        return
    with pytest.raises(ValueError, match=message) as caught:
        parsed(text)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("-blorb", "blorb"),
        ("hat -blorb", "blorb"),
        ("~blorb ~hat", "blorb"),
        ("( hat ~ blorb )", "blorb"),
        ("hat or blorb", "blorb"),
        ("-purple zebra hair, hat", "purple_zebra_hair"),
        ("*_zebra", r"\*_zebra"),
        ("-artist:*", r"artist:\*"),
    ],
)
def test_unknown_tags_in_a_filter_are_errors_that_name_them(text: str, name: str) -> None:
    with pytest.raises(UnknownTagsError, match=name) as caught:
        parsed(text)
    assert "\n" not in str(caught.value)


def test_a_mistyped_tag_gets_a_proposal() -> None:
    with pytest.raises(UnknownTagsError, match="Did you mean long_hair"):
        parsed("-long_hiar")


@pytest.mark.parametrize(
    "text",
    [
        "hat" + " " * 10_000 + "-",
        "-" * 10_000 + "hat",
        "(" * 10_000 + "hat ~ solo" + ")" * 10_000,
        "( " * 5_000 + "hat ~ solo" + " )" * 5_000,
        "-( " * 3_000 + "hat" + " )" * 3_000,
        "hat -" + ")" * 10_000,
        "~ " * 5_000,
        "or " * 3_000,
        "-x" * 5_000,
        " ~".join(["hat"] * 3_000) + " ~",
        "score:" + "," * 9_000,
        "*" * 5_000 + "x",
    ],
)
def test_long_nonsense_is_an_error_after_few_steps(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    looked_up = 0
    real = TOKENIZER.tag_named

    def counted(name: str) -> int | None:
        nonlocal looked_up
        looked_up += 1
        return real(name)

    monkeypatch.setattr(TOKENIZER, "tag_named", counted)
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - any one-line error will do
        parsed(text)
    assert "\n" not in str(caught.value)
    assert len(str(caught.value)) < 1_000
    assert looked_up < 30 * len(text)


@pytest.mark.parametrize("sign", [" or ", " ~ ", " -", " ~", " and ", ", ", " + "])
def test_a_long_query_is_read_whole(sign: str) -> None:
    names = [name for name, _ in zip(itertools.cycle(["hat", "solo", "cat", "1girl"]), range(1_500))]
    query = parsed("1girl" + sign + sign.join(names))
    assert query.filters or query.terms


def test_a_query_that_is_read_already_is_taken() -> None:
    query = parsed("1girl - solo id:3")
    assert as_query(query, TOKENIZER) is query
    assert as_query("1girl - solo id:3", TOKENIZER) == query
    assert query.text == "1girl - solo id:3"
    with pytest.raises(ValueError, match="read for another vocabulary"):
        as_query(parse_query("hat", TOKENIZER).__class__(vocab_hash="0" * 64), TOKENIZER)
