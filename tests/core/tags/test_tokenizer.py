"""What people type, what exports hold, and the tokenizers library beside both."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
import tokenizers
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.schema import CATEGORIES, NUM_CATEGORIES, TAG_COLUMNS, Category
from booru_embed_core.tags.spelling import tokenizers_json
from booru_embed_core.tags.tokenizer import Encoded, Tokenizer, split_field
from booru_embed_core.tags.vocab import Vocab
from tests.core.export_helpers import ANY_TAG, Walked, record_fields

GENERAL, ARTIST, COPYRIGHT, CHARACTER, META = CATEGORIES


def tokenizer_of(tags: Sequence[tuple[Category, str]], counts: Sequence[int] | None = None) -> Tokenizer:
    """A tokenizer of these tags, which are in schema order."""
    categories = np.array([CATEGORIES.index(category) for category, _ in tags], dtype=np.uint8)
    array = np.array(counts or range(len(tags), 0, -1), dtype=np.int64)
    return Tokenizer(Vocab(tuple(tag for _, tag in tags), categories, array))


TYPED = tokenizer_of(
    [
        *(
            (GENERAL, tag)
            for tag in ("1girl", "solo", "cat_ears", "long_hair", "long", "hair", "\\o/", ":d", ":D", "a,b")
        ),
        *((GENERAL, tag) for tag in ("fate", "ideographic\u3000space", "o_o")),
        *((COPYRIGHT, tag) for tag in ("fate", "overwatch")),
        *((CHARACTER, tag) for tag in ("tracer_(overwatch)", "hatsune_miku", "overwatch")),
    ],
    [90, 80, 70, 60, 50, 40, 30, 20, 15, 10, 5, 4, 3, 50, 6, 9, 8, 6],
)


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        ("1girl cat_ears solo", ["1girl", "cat_ears", "solo"]),
        ("1girl, cat ears, tracer_\\(overwatch\\)", ["1girl", "cat_ears", "tracer_(overwatch)"]),
        ("tracer \\(Overwatch\\),Hatsune Miku", ["tracer_(overwatch)", "hatsune_miku"]),
        ("1girl cat_ears, solo", ["1girl", "cat_ears", "solo"]),
        ("long hair, 1girl", ["long_hair", "1girl"]),
        ("long hair 1girl", ["long", "hair", "1girl"]),
        ("hair long, 1girl", ["hair", "long", "1girl"]),
        ("  1girl\tsolo\n1girl ", ["1girl", "solo"]),
        (" , 1girl,, solo , ", ["1girl", "solo"]),
        ("\\o/, :D :d", ["\\o/", ":D", ":d"]),
        ("1GIRL", ["1girl"]),
        ("a,b 1girl", ["a,b", "1girl"]),
        ("1girl,solo a,b cat ears,o_o", ["1girl", "solo", "a,b", "cat_ears", "o_o"]),
        ("ideographic\u3000space 1girl\u3000solo", ["ideographic\u3000space", "1girl", "solo"]),
        ("General:1girl, character:hatsune miku", ["1girl", "hatsune_miku"]),
        ("", []),
        (" \t,", []),
    ],
)
def test_what_people_type_is_understood(text: str, tags: list[str]) -> None:
    encoded = TYPED.encode(text)
    assert [tag for _, tag in TYPED.decode(encoded.token_ids)] == tags
    assert encoded.unknown == ()


@pytest.mark.parametrize(
    ("text", "tag"),
    [
        ("fate", (COPYRIGHT, "fate")),
        ("general:fate", (GENERAL, "fate")),
        ("copyright:fate", (COPYRIGHT, "fate")),
        ("overwatch", (COPYRIGHT, "overwatch")),
        ("Character:Overwatch", (CHARACTER, "overwatch")),
    ],
)
def test_a_name_of_several_categories_is_the_most_used_or_the_named_one(text: str, tag: tuple[Category, str]) -> None:
    assert TYPED.decode(TYPED.encode(text).token_ids) == [tag]


def test_a_tag_is_taken_as_it_stands_before_it_is_unescaped_or_lowered() -> None:
    tags = ["\\(x)", "(x)", "ABC", "abc", "cat_ears", "cat", "ears"]
    tokenizer = tokenizer_of([(GENERAL, tag) for tag in tags])
    for tag in tags:
        assert tokenizer.decode(tokenizer.encode(tag).token_ids) == [(GENERAL, tag)]
    assert [tag for _, tag in tokenizer.decode(tokenizer.encode("\\(X\\), Abc, cat ears").token_ids)] == [
        "(x)",
        "abc",
        "cat_ears",
    ]


def test_unknown_tags_are_returned_normalised_and_once() -> None:
    encoded = TYPED.encode("dog ears, 1girl, x\\(y\\), dog_ears, meta:dog, 1girl dog")
    assert encoded.unknown == ("dog_ears", "x(y)", "meta:dog", "1girl_dog")
    assert [tag for _, tag in TYPED.decode(encoded.token_ids)] == ["1girl"]


def test_a_token_is_returned_once_in_order_of_first_mention() -> None:
    first = TYPED.encode("solo 1girl")
    assert TYPED.encode("solo, 1girl, Solo, general:1girl, SOLO") == first
    assert first.token_ids != TYPED.encode("1girl solo").token_ids


def test_export_fields_are_matched_exactly_within_their_category() -> None:
    encoded = TYPED.encode_fields({GENERAL: "solo  1GIRL fate solo", META: "1girl", COPYRIGHT: "fate"})
    assert TYPED.decode(encoded.token_ids) == [(GENERAL, "solo"), (GENERAL, "fate"), (COPYRIGHT, "fate")]
    assert encoded.unknown == ("general:1GIRL", "meta:1girl")
    assert TYPED.encode_fields({}) == Encoded((), ())


def test_fields_are_split_on_the_space_alone() -> None:
    assert split_field(" a\u3000b  c\td a\u3000b\u00a0 ") == ["a\u3000b", "c\td", "a\u3000b\u00a0"]
    assert split_field("") == []


@pytest.mark.parametrize("token_id", [-1, TYPED.vocab.num_tokens])
def test_an_id_outside_the_vocabulary_is_an_error(token_id: int) -> None:
    with pytest.raises(ValueError, match=f"token_id {token_id} is not in the vocabulary of"):
        TYPED.decode([token_id])


def test_special_tokens_decode_to_nothing() -> None:
    assert TYPED.decode(range(TYPED.vocab.num_special)) == []


@given(
    tags=st.lists(st.tuples(st.integers(0, NUM_CATEGORIES - 1), ANY_TAG), unique=True, min_size=1, max_size=10).map(
        sorted
    ),
    data=st.data(),
)
def test_spellings_fields_and_the_library_agree(tags: list[tuple[int, str]], data: st.DataObject) -> None:
    counts = data.draw(st.lists(st.integers(1, 4), min_size=len(tags), max_size=len(tags)))
    tokenizer = tokenizer_of([(CATEGORIES[category], tag) for category, tag in tags], counts)
    token_ids = data.draw(st.permutations(range(tokenizer.vocab.num_special, tokenizer.vocab.num_tokens)))
    spelled = {spelling: tokenizer.vocab.num_special + index for index, spelling in enumerate(tokenizer.spellings)}
    text = " ".join(tokenizer.spellings[token_id - tokenizer.vocab.num_special] for token_id in token_ids)
    assert tokenizer.encode(text) == Encoded(tuple(token_ids), ())
    assert tokenizers.Tokenizer.from_str(tokenizers_json(spelled)).encode(text).ids == token_ids
    fields = dict.fromkeys(CATEGORIES, "")
    for category, tag in tokenizer.decode(token_ids):
        fields[category] += f" {tag}"
    assert sorted(tokenizer.encode_fields(fields).token_ids) == sorted(token_ids)


@pytest.mark.slow
def test_the_library_gives_the_same_ids_over_the_sample(sample: Walked, sample_rows: list[dict[str, str]]) -> None:
    tokenizer = Tokenizer(sample.vocab)
    library = tokenizers.Tokenizer.from_file(str(sample.vocab_dir / "tokenizer.json"))
    kept = set(tokenizer.spellings)
    # No name stands in two categories of the sample, so its tags are their own spellings.
    assert kept == set(sample.vocab.tags)
    texts = [" ".join(tag for name in TAG_COLUMNS for tag in split_field(post[name])) for post in sample_rows]
    batch = library.encode_batch_fast(texts, add_special_tokens=False)
    unknown = library.token_to_id("unknown tag")
    num_unknown = 0
    for text, post, encoding in zip(texts, sample_rows, batch, strict=True):
        from_library = tuple(token_id for token_id in encoding.ids if token_id != unknown)
        own = tokenizer.encode_fields(record_fields(post))
        assert from_library == own.token_ids
        num_unknown += len(encoding.ids) - len(from_library)
        assert tokenizer.encode(text).token_ids == from_library
    assert num_unknown == sum(sample.encode_report.dropped_uses.values()) > 0


def with_unknown() -> Tokenizer:
    """Two general tags, one artist of a treacherous name, and an unknown token for each of the two categories."""
    return tokenizer_of(
        [
            *((GENERAL, tag) for tag in ("1girl", "solo", "unknown general")),
            *((ARTIST, tag) for tag in ("unknown_artist", "unknown artist")),
            (META, "highres"),
        ],
        [9, 8, 30, 2, 50, 1],
    )


def test_an_unknown_token_ends_its_field_once() -> None:
    tokenizer = with_unknown()
    encoded = tokenizer.encode_fields({GENERAL: "xyzzy solo plugh 1girl", ARTIST: "nobody", META: "none highres"})
    assert tokenizer.decode(encoded.token_ids) == [
        (GENERAL, "solo"),
        (GENERAL, "1girl"),
        (GENERAL, "unknown general"),
        (ARTIST, "unknown artist"),
        (META, "highres"),
    ]
    assert encoded.unknown == ("general:xyzzy", "general:plugh", "artist:nobody", "meta:none")
    assert tokenizer.encode_fields({GENERAL: "solo", ARTIST: ""}).token_ids == (tokenizer.vocab.num_special + 1,)


def test_nobody_can_type_an_unknown_token() -> None:
    tokenizer = with_unknown()
    for text in ("unknown artist", "unknown artist,", "artist:unknown artist,", "Unknown Artist, 1girl"):
        tags = [tag for _, tag in tokenizer.decode(tokenizer.encode(text).token_ids)]
        assert set(tags) <= {"unknown_artist", "1girl"}
    assert tokenizer.encode("unknown general, xyzzy").unknown == ("unknown_general", "xyzzy")


def test_spellings_have_a_place_for_unknown_tokens() -> None:
    assert with_unknown().spellings == with_unknown().vocab.tags


def test_a_tag_with_capitals_is_found_in_lower_case() -> None:
    tokenizer = tokenizer_of([(GENERAL, "Kantai"), (GENERAL, "solo")])
    for text in ("Kantai solo", "kantai solo", "KANTAI, SOLO"):
        encoded = tokenizer.encode(text)
        assert tokenizer.decode(encoded.token_ids) == [(GENERAL, "Kantai"), (GENERAL, "solo")]
        assert encoded.unknown == ()
