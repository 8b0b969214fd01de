"""Every way in which people write a tag leads to it, whatever signs it is made of; nothing they type is an error."""

from __future__ import annotations

import re
from collections.abc import Callable

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.schema import CATEGORIES, Category
from booru_embed_core.tags.normalize import PREFIXES, bare
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab
from tests.core.export_helpers import ANY_TAG, Walked

NAMES = {
    Category.GENERAL: (
        "1girl", "solo", "cat_ears", "long_hair", "smile", ":3", ":d", ":o", ":p", ";)", ">:)", ">:(", ":>=", ":<",
        ":/", ":|", "d:", "3:", "o_o", "^_^", ">o<", "<o>_<o>", "<|>_<|>", "|_|", "\\m/", "\\||/", "\\(^o^)/",
        "double_\\m/", "c:", "+_+", "...", "?", "gauss_<bokashi", "m->g", ":>", ">_<", "rating", "and",
    ),
    Category.ARTIST: ("wlop", "ryisu_(deluxe<<<)", "art:ist", "malice<p>white_rabbit"),
    Category.COPYRIGHT: (
        "overwatch", "fate", "re:zero_kara_hajimeru_isekai_seikatsu", "nier:automata", "reverse:1999",
        "danganronpa_2:_goodbye_despair", "under_night_in-birth_exe:late[st]", "evangelion:_3.0_you_can_(not)_redo",
    ),
    Category.CHARACTER: (
        "tracer_(overwatch)", "00_qan[t]", "rem_(re:zero)", "vertin_(reverse:1999)", "jeanne_d'arc_(ruler)_(fate)",
        "elysia_(herrscher_of_human:_ego)_(honkai_impact)", "2b_(nier:automata)",
    ),
    Category.META: ("highres", "commentary_request"),
}  # fmt: skip
"""Real names of the site, among them all kinds that hold what prompts use as signs."""


def tokenizer_of(names: dict[Category, tuple[str, ...]], **aliases: dict[str, str]) -> Tokenizer:
    tags = tuple(tag for category in CATEGORIES for tag in names.get(category, ()))
    categories = np.repeat(np.arange(5, dtype=np.uint8), [len(names.get(category, ())) for category in CATEGORIES])
    counts = np.arange(len(tags), 0, -1, dtype=np.int64)
    named = {Category(category): tag_of for category, tag_of in aliases.items()}
    return Tokenizer(Vocab(tags, categories, counts, aliases=named))


REAL = tokenizer_of(NAMES)

WAYS: dict[str, Callable[[str], str]] = {
    "as it stands": str,
    "in a list": lambda tag: f"{tag}, ",
    "escaped": lambda tag: re.sub(r"([()\[\]])", r"\\\1", tag),
    "upper case": str.upper,
    "title case": str.title,
    "spaces": lambda tag: tag.replace("_", " ") + ",",
    "weight": lambda tag: f"({tag}:1.2)",
    "weight, spaces": lambda tag: f"({tag.replace('_', ' ')}:1.2)",
    "weight, escaped": lambda tag: "(" + re.sub(r"([()])", r"\\\1", tag).replace("_", " ") + ":0.85)",
    "weight within layers": lambda tag: f"[(({tag}:1.2)):.5]",
    "emphasis": lambda tag: f"(({tag}))",
    "emphasis, spaces": lambda tag: f"(({tag.replace('_', ' ')})),",
    "less": lambda tag: f"[{tag}]",
    "braces": lambda tag: "{{" + tag + "}}",
    "start of a group": lambda tag: f"({tag}, ",
    "end of a group": lambda tag: f", {tag}:1.3)",
    "behind a network": lambda tag: f"<lora:some_style:0.8> {tag}",
    "behind a break": lambda tag: f"BREAK {tag}",
    "twice": lambda tag: f"{tag} {tag}",
}


@pytest.mark.parametrize("way", WAYS)
def test_real_names_survive_every_way_of_writing_them(way: str) -> None:
    for tag_index, tag in enumerate(REAL.vocab.tags):
        text = WAYS[way](tag)
        encoded = REAL.encode(text)
        assert encoded.token_ids == (REAL.vocab.num_special + tag_index,), (text, encoded)
        assert encoded.unknown == ()


@pytest.mark.parametrize("prefix", PREFIXES)
def test_real_names_survive_their_category_and_any_other(prefix: str) -> None:
    for tag_index, (tag, category_id) in enumerate(zip(REAL.vocab.tags, REAL.vocab.categories.tolist(), strict=True)):
        for text in (f"{prefix}:{tag}", f"{prefix.upper()}: {tag.replace('_', ' ')},", f"({prefix}:{tag}:1.2)"):
            if (prefix, tag) == ("c", ":"):
                continue
            encoded = REAL.encode(text)
            assert encoded.token_ids == (REAL.vocab.num_special + tag_index,), (text, encoded)
            said = [note for note in encoded.notes if "taken for" in note]
            assert len(said) == (PREFIXES[prefix] != category_id), (text, encoded.notes)


def test_every_tag_of_the_sample_survives_every_way(sample: Walked) -> None:
    tokenizer = Tokenizer(sample.vocab)
    every = tuple(range(sample.vocab.num_special, sample.vocab.num_tokens))
    spelled = tokenizer.spellings
    for way, write in WAYS.items():
        found = [tokenizer.encode(write(spelling)).token_ids for spelling in spelled]
        assert found == [(token_id,) for token_id in every], way
    assert tokenizer.encode(" ".join(spelled)).token_ids == every
    assert tokenizer.encode(", ".join(f"({s.replace('_', ' ')}:1.1)" for s in spelled)).token_ids == every


@given(st.lists(ANY_TAG, min_size=1, max_size=8, unique=True), st.data())
@settings(max_examples=200)
def test_a_tag_of_any_signs_is_itself_before_it_is_anything_else(tags: list[str], data: st.DataObject) -> None:
    tokenizer = tokenizer_of({Category.GENERAL: tuple(tags)})
    mentioned = data.draw(st.lists(st.sampled_from(tags), min_size=1, unique=True))
    encoded = tokenizer.encode(" ".join(mentioned))
    assert [tokenizer.vocab.tags[token_id - tokenizer.vocab.num_special] for token_id in encoded.token_ids] == mentioned
    assert (encoded.unknown, encoded.notes) == ((), ())


PROMPT = st.lists(
    st.sampled_from(
        [*NAMES[Category.GENERAL], "tracer (overwatch)", "(", ")", "[", "]", "{", "}", "\\", "\\(", ":1.2)", ":", ",",
         "\n", " ", "BREAK", "<lora:x:1>", "<lora:", "artist:", "rating:g", "rating:", "char: ", "1GIRL", "nobody", "_"]
    )
    | st.text(max_size=4),
    max_size=14,
).map("".join)  # fmt: skip


@given(PROMPT)
@settings(max_examples=400)
def test_nothing_is_an_error_and_what_was_normalised_stays(text: str) -> None:
    encoded = REAL.encode(text)
    assert len(set(encoded.token_ids)) == len(encoded.token_ids)
    assert all(unknown.strip() for unknown in encoded.unknown)
    assert not any("\n" in line for line in encoded.unknown)
    once = REAL.normalized(encoded)
    again = REAL.encode(once)
    assert (again.token_ids, again.unknown, again.notes, again.ratings) == (encoded.token_ids, (), (), ())
    assert REAL.normalized(again) == once


@pytest.mark.parametrize(
    "text",
    ["(" * 20_000, ")" * 20_000, "(a:1.2)" * 4_000, "<lora:" * 5_000, "(" * 9_000 + "cat ears" + ":1.2)" * 9_000,
     "(x " * 5_000 + "," + ")" * 5_000, ":" * 20_000 + ")", "a " * 10_000 + ",", ": " * 10_000 + "),", "\\(" * 9_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_long_nonsense_costs_no_more_than_its_length(text: str) -> None:
    """What were quadratic in these lengths would run into the suite's limit of one test."""
    encoded = REAL.encode(text * 10)
    assert len(encoded.token_ids) <= 1
    assert len(encoded.unknown) <= 3


@pytest.mark.parametrize(
    ("text", "tags", "notes"),
    [
        ("(cat ears:1.2)", "cat_ears", ["(cat ears:1.2): read as cat_ears with weight 1.2"]),
        ("((cat ears)), [smile]", "cat_ears smile",
         ["((cat ears)): read as cat_ears with weight 1.21", "[smile]: read as smile with weight 0.909091"]),
        ("(cat ears, long hair:1.2) solo", "cat_ears long_hair solo",
         ["(cat ears: read as cat_ears with weight 1.2", "long hair:1.2): read as long_hair with weight 1.2"]),
        ("(cat ears:1.2) solo", "cat_ears solo", ["(cat ears:1.2): read as cat_ears with weight 1.2"]),
        ("(long_hair 1girl:1.1)", "long_hair 1girl",
         ["(long_hair: read as long_hair with weight 1.1", "1girl:1.1): read as 1girl with weight 1.1"]),
        ("1girl BREAK solo<lora:x:1>", "1girl solo", ["<lora:x:1>: left out", "BREAK: left out"]),
        ("artist:wlop", "wlop", []),
        ("artist:overwatch", "overwatch", ["artist:overwatch: taken for overwatch, which is copyright"]),
        ("1girls, wlop_(artist), Sole_Female", "1girl wlop solo",
         ["1girls: another name of 1girl", "wlop_(artist): another name of wlop", "Sole_Female: another name of solo"]),
        ("gen:1girls", "1girl", ["gen:1girls: taken for 1girl, which is general"]),
        (":3 >:( ;)", ":3 >:( ;)", []),
        ("(:3:1.2), (>:(:1.1)", ":3 >:(",
         ["(:3:1.2): read as :3 with weight 1.2", "(>:(:1.1): read as >:( with weight 1.1"]),
    ],
)  # fmt: skip
def test_what_is_taken_off_is_noted(text: str, tags: str, notes: list[str]) -> None:
    general = {"1girls": "1girl", "sole_female": "solo", "solo": "1girl", "gone": "nobody"}
    tokenizer = tokenizer_of(NAMES, general=general, artist={"wlop_(artist)": "wlop"})
    encoded = tokenizer.encode(text)
    names = [tag for _, tag in tokenizer.decode(encoded.token_ids)]
    assert names == tags.split()
    assert list(encoded.notes) == notes
    assert encoded.unknown == ()


def test_ratings_are_set_apart() -> None:
    encoded = REAL.encode("1girl rating:g rating:Explicit, rating: safe, (rating:q), rating, rating:x")
    assert encoded.ratings == ("g", "e", "q")
    assert encoded.unknown == ("rating:x",)
    assert [tag for _, tag in REAL.decode(encoded.token_ids)] == ["1girl", "rating"]
    own = tokenizer_of({Category.GENERAL: ("rating:g",)}).encode("rating:g")
    assert (len(own.token_ids), own.ratings) == (1, ())


def test_unknown_pieces_are_named_without_their_brackets() -> None:
    assert REAL.encode("(dog ears:1.2), foo (bar), :(, ((x)), y:1.1), [z").unknown == (
        "dog_ears", "foo_(bar)", ":(", "x", "y", "z",
    )  # fmt: skip
    assert (bare("((("), bare("()"), bare("a\\(b\\)")) == ("(((", "()", "a(b)")
    # An escaped bracket belongs to the name, not to a layer around it.
    assert bare("(foo_bar\\)") == "foo_bar)"


def test_another_name_that_several_tags_have_is_the_most_used_ones() -> None:
    names = {Category.GENERAL: ("a", "b"), Category.META: ("c",)}
    tokenizer = tokenizer_of(names, meta={"x": "c"}, general={"x": "b", "c": "a"})
    assert [tag for _, tag in tokenizer.decode(tokenizer.encode("x c").token_ids)] == ["b", "c"]
    assert tokenizer.aliases == {"x": tokenizer.vocab.num_special + 1}
