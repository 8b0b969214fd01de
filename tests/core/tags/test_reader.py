"""Every way in which people write a tag leads to it, whatever signs it is made of; nothing they type is an error."""

from __future__ import annotations

import re
from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.schema import Category
from booru_embed_core.tags.normalize import PREFIXES
from booru_embed_core.tags.tokenizer import Tokenizer
from tests.core.export_helpers import ANY_TAG, Walked
from tests.core.tags.caption_helpers import DIALECTS, NAMES, REAL, spaced, tokenizer_of

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


@pytest.mark.parametrize("dialect", DIALECTS)
def test_real_names_survive_every_dialect_with_their_weight(dialect: str) -> None:
    write, weight, ambiguous = DIALECTS[dialect]
    for tag_index, tag in enumerate(REAL.vocab.tags):
        if tag not in ambiguous:
            encoded = REAL.encode(write(tag))
            assert encoded.token_ids == (REAL.vocab.num_special + tag_index,), (write(tag), encoded)
            assert (encoded.weights or (1.0,)) == (weight,), (write(tag), encoded)
            assert all(name.startswith("qq") for name in encoded.unknown), (write(tag), encoded)


def test_tags_of_the_sample_survive_every_dialect(sample: Walked) -> None:
    """A tenth of them in each dialect."""
    tokenizer = Tokenizer(sample.vocab)
    for number, (name, (write, weight, _)) in enumerate(DIALECTS.items()):
        for tag_index in range(number % 10, sample.vocab.num_tags, 10):
            encoded = tokenizer.encode(write(sample.vocab.tags[tag_index]))
            assert encoded.token_ids == (sample.vocab.num_special + tag_index,), (name, encoded)
            assert (encoded.weights or (1.0,)) == (weight,), (name, encoded)


def test_words_of_the_sample_are_tags_where_one_of_them_is_none(sample: Walked) -> None:
    tokenizer = Tokenizer(sample.vocab)
    tags = set(sample.vocab.tags)
    num_several = num_read = 0
    for tag in sample.vocab.tags:
        words = tag.split("_")
        if len(words) > 1:
            read = [name for _, name in tokenizer.decode(tokenizer.encode(f"1girl {spaced(tag)}").token_ids)]
            num_several += 1
            num_read += read == ["1girl", tag]
            assert (read == ["1girl", tag]) != (tags.issuperset(words)), (tag, read)
    assert num_read > 0.95 * num_several > 200


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
     "(x " * 5_000 + "," + ")" * 5_000, ":" * 20_000 + ")", "a " * 10_000 + ",", ": " * 10_000 + "),", "\\(" * 9_000,
     "\\" * 20_000, '"' * 20_000, "cat " * 5_000 + "ears", "[a:" * 5_000 + "0.5]" * 5_000, "[a|" * 5_000,
     "a AND " * 3_000, "smile" + "+" * 20_000, "1.2::a " * 5_000, "{2$$" * 5_000, "\uff08" * 10_000, "rating:" * 5_000,
     "long-" * 5_000, " " * 50_000 + "(", "__" * 9_000, "Steps: " * 3_000],
    ids=lambda text: text[:12],
)  # fmt: skip
def test_long_nonsense_costs_no_more_than_its_length(text: str) -> None:
    """What were quadratic in these lengths would run into the suite's limit of one test."""
    encoded = REAL.encode(text)
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
        ("gen:1girls", "1girl", ["gen:1girls: read as 1girl"]),
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


def test_unknown_pieces_are_named_without_their_signs() -> None:
    assert REAL.encode("(dog ears:1.2), foo (bar), :(, ((x)), y:1.1), [z").unknown == (
        "dog_ears", "foo_(bar)", ":(", "x", "y", "z",
    )  # fmt: skip
    assert REAL.encode("(foo (bar):1.2), 1.2::qq::, 'xx', yy++, :)").unknown == ("foo_(bar)", "qq", "xx", "yy", ":)")


def test_another_name_that_several_tags_have_is_the_most_used_ones() -> None:
    names = {Category.GENERAL: ("a", "b"), Category.META: ("c",)}
    tokenizer = tokenizer_of(names, meta={"x": "c"}, general={"x": "b", "c": "a"})
    assert [tag for _, tag in tokenizer.decode(tokenizer.encode("x c").token_ids)] == ["b", "c"]
    assert tokenizer.aliases == {"x": tokenizer.vocab.num_special + 1}


PROMPTS = tokenizer_of(
    {
        Category.GENERAL: (
            "1girl", "solo", "cat", "cat_ears", "hat", "witch_hat", "black_hair", "green_eyes", "very_long_hair", "bow",
            "long_hair", "smile", "sailor_dress", "dress", "looking_at_viewer", "\\m/", "\\o/", "light_blue",
            "blue_sky",
        ),
        Category.CHARACTER: ("tracer_(overwatch)",),
    },
    general={"bunny": "hat"},
)  # fmt: skip


@pytest.mark.parametrize(
    ("text", "tags"),
    [
        # words without commas
        ("1girl cat ears", "1girl cat_ears"),
        ("cat ears", "cat_ears"),
        ("1girl black hair green eyes sailor dress looking at viewer solo",
         "1girl black_hair green_eyes sailor_dress looking_at_viewer solo"),
        ("1girl cat hat bow", "1girl cat hat bow"),
        ("very long hair witch hat", "very_long_hair witch_hat"),
        ("Cat Ears  Witch Hat", "cat_ears witch_hat"),
        ("light blue sky", "light_blue"),
        ("cat ears tracer (overwatch) tracer \\(overwatch\\)", "cat_ears tracer_(overwatch)"),
        ("char:tracer (overwatch) general: cat ears", "tracer_(overwatch) cat_ears"),
        ("black hair (cat ears:1.2) [witch hat] green eyes++", "black_hair cat_ears witch_hat green_eyes"),
        # one tag a line, and lists of other separators
        ("cat ears\nhat\n\nlooking at viewer\n", "cat_ears hat looking_at_viewer"),
        ("solo,\nblack hair\r\ncat ears, hat", "solo black_hair cat_ears hat"),
        ("* solo\n* black hair", "solo black_hair"),
        ("solo\tblack hair\tcat ears", "solo black_hair cat_ears"),
        ("hat ||| cat ears, solo|||bow", "hat cat_ears solo bow"),
        ("solo\uff0ccat ears\u3001hat\uff1bbow\u3002", "solo cat_ears hat bow"),
        ("\uff28\uff41\uff54, \u300ccat ears\u300d", "hat cat_ears"),
        ("cat-ears black-hair", "cat_ears black_hair"),
        ("'hat', \u201ccat ears\u201d, \"bow\".", "hat cat_ears bow"),
        ("A cat ears. Black hair. Hat.", "cat_ears black_hair hat"),
        # dialects
        (".8::witch hat, bow::, -2::hat, smile::, cat ears", "witch_hat bow cat_ears"),
        ("1.5::witch hat 0.5::bow", "witch_hat bow"),
        ("{{witch hat}}, [[bow]], (((hat)))", "witch_hat bow hat"),
        ("cat ears+, (witch hat)--, (bow, hat)++", "cat_ears witch_hat bow hat"),
        ("(\"cat ears\", \"hat\").and()", "cat_ears hat"),
        ("1girl [green eyes|cat ears] hat", "1girl green_eyes cat_ears hat"),
        ("[black hair, bow:cat ears, hat:0.4], [:witch hat:5], [smile::.5]",
         "black_hair bow cat_ears hat witch_hat smile"),
        ("[[hat|bow]:cat ears:0.5]", "hat bow cat_ears"),
        ("{hat|bow|{witch hat|cat ears}}, {1-2$$smile|solo}", "hat bow witch_hat cat_ears smile solo"),
        ("{0.2::hat|.8::cat ears}", "hat cat_ears"),
        ("cat ears AND black hair:1.1 AND hat :0.5", "cat_ears black_hair hat"),
        ("hat BREAK cat ears BREAK", "hat cat_ears"),
        ("hat ADDCOMM cat ears", "hat cat_ears"),
        ("<lora:a b:0.5:1><hypernet:x:1> cat ears, __a/b__, (embedding:neg-v2:1.2)", "cat_ears"),
        ("cat ears, bow\nNegative prompt: hat\nSteps: 3, Seed: 1", "cat_ears bow"),
        ("cat ears, bow\nSteps: 30, Sampler: DDIM, hat", "cat_ears bow"),
        ("prompt: cat ears, bow Negative prompt: hat", "cat_ears bow"),
        ("\\\\m/, (\\\\o/:1.2)", "\\m/ \\o/"),
        ("-hat, bow, -(cat ears)", "bow"),
        ("['hat', 'cat ears']", "hat cat_ears"),
    ],
)  # fmt: skip
def test_prompts_of_every_kind_are_read(text: str, tags: str) -> None:
    encoded = PROMPTS.encode(text)
    assert [tag for _, tag in PROMPTS.decode(encoded.token_ids)] == tags.split()
    assert set(encoded.unknown) <= {"A", "sky"}


@pytest.mark.parametrize(
    ("text", "weights"),
    [
        ("hat, (bow:1.3), ((smile)), [solo], {cat}", {"bow": 1.3, "smile": 1.21, "solo": 0.909091, "cat": 1.05}),
        ("((hat, bow:1.5), smile:0.5)", {"hat": 0.75, "bow": 0.75, "smile": 0.5}),
        ("(hat:1.2), (bow:-1), (smile:0), -(solo:1.2)", {"hat": 1.2}),
        ("1.2::hat, {bow}::, smile", {"hat": 1.2, "bow": 1.26}),
        ("1.2::hat, .5::bow, smile", {"hat": 1.2, "bow": 0.5, "smile": 0.5}),
        ("-1::(hat:2), bow::, smile+", {"smile": 1.1}),
        ("(hat)1.3, (bow, (smile)-)++, cat---", {"hat": 1.3, "bow": 1.21, "smile": 1.089, "cat": 0.729}),
        ("([hat|bow]:1.4), ({smile|cat})", {"hat": 1.4, "bow": 1.4, "smile": 1.1, "cat": 1.1}),
        ("[(hat:1.3):bow:0.5], {0.1::(smile:2)|0.9::cat}", {"hat": 1.3, "smile": 2.0}),
        ("(hat, bow), smile:1.4", {"hat": 1.1, "bow": 1.1, "smile": 1.4}),
        ("(hat, bow", {}),
        ("hat), bow:1.2)", {"bow": 1.2}),
        ("solo AND hat, {bow}:0.5 AND cat", {"hat": 0.5, "bow": 0.525}),
        ('{"hat": 0.83, "bow": 1, "smile": 0.05}', {"hat": 0.83, "smile": 0.05}),
        ("hat, (hat:1.2), (hat:0.3), bunny", {"hat": 1.2}),
        ("hat, bow, -1::hat::", {}),
        ("[" * 300 + "hat" + "]" * 300 + ", " + "(" * 300 + "bow" + ")" * 300, {"hat": 0.001, "bow": 100.0}),
    ],
)
def test_weights_of_nested_signs_multiply(text: str, weights: dict[str, float]) -> None:
    encoded = PROMPTS.encode(text)
    tags = [tag for _, tag in PROMPTS.decode(encoded.token_ids)]
    found = dict(zip(tags, encoded.weights or (1.0,) * len(tags), strict=True))
    assert {tag: weight for tag, weight in found.items() if weight != 1} == weights
    assert encoded.unknown == ()
    noted = [note for note in encoded.notes if "weight" in note]
    assert len(noted) >= len(weights)


def test_several_mentions_of_a_tag_are_noted() -> None:
    assert PROMPTS.encode("hat, (bunny:1.5)").notes == (
        "bunny: another name of hat",
        "(bunny:1.5): read as hat with weight 1.5",
        "hat: mentioned with weights 1, 1.5; 1.5 counts",
    )


@pytest.mark.parametrize(
    "tag",
    ["{}", "c++", "c--", "1.2", "1.2::x", "x::", "a|b", "[x]", "(y)", "{z}", "x:1.2", "AND", "BREAK", "__w__", "-hat",
     "<lora:x:1>", "embedding:x", "[a:b:0.5]", '"q"', "z.", "::", "prompt:", "Steps:", ";", "|||", "\uff0c", "a\uff0cb",
     "(", ")", "(x", "x)", "2$$x", "-", "*", "rating:g", "long-hair", "\uff57", ")++", "AND_x"],
)  # fmt: skip
def test_a_tag_of_signs_is_itself_alone_among_words_and_in_a_list(tag: str) -> None:
    tokenizer = tokenizer_of({Category.GENERAL: (tag, "hat", "cat_ears", "x", "long_hair", "solo")})
    for text, tags in (
        (tag, [tag]),
        (f"hat {tag} solo", ["hat", tag, "solo"]),
        (f"hat, {tag}, cat ears", ["hat", tag, "cat_ears"]),
        (f"{tag}\ncat ears", [tag, "cat_ears"]),
        (f"Hat, {tag}, solo", ["hat", tag, "solo"]),
    ):
        encoded = tokenizer.encode(text)
        assert [name for _, name in tokenizer.decode(encoded.token_ids)] == tags, (text, encoded)
        assert encoded.weights == ()


def test_a_phrase_between_commas_is_one_unknown_tag_or_at_least_two_known_ones() -> None:
    read = PROMPTS.encode("hat of straw, cat ears of a kitten with black hair, bow")
    assert [tag for _, tag in PROMPTS.decode(read.token_ids)] == ["cat_ears", "black_hair", "bow"]
    assert read.unknown == ("hat_of_straw", "of", "a", "kitten", "with")
