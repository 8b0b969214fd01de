"""The rules of ``tokenizers`` read captions as the embedder does, and no alias is lost."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from booru_embed_core.export import caption_rules
from booru_embed_core.export.caption_rules import tokenizer_json
from booru_embed_core.schema import Category
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab

tokenizers = pytest.importorskip("tokenizers")

TAGS = ("1girl", "solo", "cat_ears", "long_hair", "smile", "hat", ":3", ">:(", "foo", "cat")
CHARACTERS = ("hatsune_miku", "tracer_(overwatch)", "re:zero", "foo")
ALIASES = {
    "1girls": "1girl",
    "female_solo": "solo",
    "catears": "cat_ears",
    "cat_ear": "cat_ears",
    "ears_(cat)": "cat_ears",
    "longhair": "long_hair",
    "/lh": "long_hair",
    "d'oh": "smile",
    "a,b": "hat",
    "co:hat": "hat",
}


def vocab(*tags: str, characters: tuple[str, ...] = (), aliases: dict[str, str] | None = None) -> Vocab:
    num = len(tags) + len(characters)
    return Vocab(
        tags=(*tags, *characters),
        categories=np.repeat(np.array([0, 3], np.uint8), [len(tags), len(characters)]),
        counts=np.arange(num, 0, -1, dtype=np.int64),
        aliases={Category.GENERAL: aliases or {}},
    )


def rules(of: Vocab) -> Any:
    return tokenizers.Tokenizer.from_str(json.dumps(tokenizer_json(of), ensure_ascii=False))


@pytest.fixture(scope="module")
def names() -> Vocab:
    return vocab(*TAGS, characters=CHARACTERS, aliases=ALIASES)


@pytest.fixture(scope="module")
def own(names: Vocab) -> Tokenizer:
    return Tokenizer(names)


@pytest.fixture(scope="module")
def read(names: Vocab) -> Callable[[str], list[int]]:
    """The token ids behind the summary token."""
    tokenizer = rules(names)

    def ids(text: str) -> list[int]:
        first, *rest = tokenizer.encode(text).ids
        assert first == 2
        return rest

    return ids


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("1girl cat_ears solo", "1girl cat_ears solo"),
        ("1Girl, cat ears,LONG HAIR", "1girl cat_ears long_hair"),
        ("1girls, longhair", "1girl long_hair"),
        ("1girl, 1girls", "1girl"),
        ("cat ears, catears, cat ear, CatEars", "cat_ears"),
        (r"ears \(cat\), hat", "cat_ears hat"),
        ("char:foo, foo, character:hatsune miku", "foo character:foo hatsune_miku"),
        ("general:catears co:hat", "cat_ears hat"),
        ("re:zero, ch:re:zero", "re:zero"),
        ("1girl \n solo, hat", "1girl solo hat"),
        ("\n\n1girl\n long hair \r\ncat ears\n", "1girl long_hair cat_ears"),
        ("long hair\n", "long_hair"),
        ("one line of words\n1girl, solo", "1girl solo"),
        (" ,, 1girl ,\n, solo , ,", "1girl solo"),
        ("1girl\uff0csolo\u3001cat ears\u3002hat", "1girl solo cat_ears hat"),
        ("1girl ||| long hair, hat", "1girl long_hair hat"),
        ("1girl\tsolo\u3000hat", "1girl solo hat"),
        (":3, >:(", ":3 >:("),
        ("", ""),
        ("cat dog xyzzy", "cat"),
    ],
)
def test_captions_are_read_as_the_embedder_reads_them(
    own: Tokenizer, read: Callable[[str], list[int]], text: str, expected: str
) -> None:
    token_ids = list(own.encode(expected).token_ids)
    assert len(token_ids) == len(expected.split())
    assert sorted(own.encode(text).token_ids) == sorted(token_ids)
    assert sorted(read(text)) == sorted(token_ids)


@given(data=st.data())
@settings(max_examples=60)
def test_names_in_any_order_are_read_as_the_embedder_reads_them(
    own: Tokenizer, read: Callable[[str], list[int]], data: st.DataObject
) -> None:
    known = [name for name in (*own.spellings, *ALIASES, "xyzzy") if "," not in name]
    words = data.draw(st.lists(st.sampled_from(known)))
    separator = data.draw(st.sampled_from([" ", ", ", ",", "\n", " ,\n", "\uff0c", " ||| "]))
    if separator != " ":
        spellings = [(word, word.replace("_", " "), word.upper(), escaped(word)) for word in words]
        words = [data.draw(st.sampled_from(of_word)) for of_word in spellings]
    end = data.draw(st.sampled_from(["", separator]))
    if len(words) == 1 and " " in words[0]:
        end = ","  # without any separator only the library looks for a tag in several words
    text = separator.join(words) + end
    if separator == " " and not all(word in own.spellings for word in words):
        text = text.replace(":3", "")  # behind a space that may be a weight
    assert sorted(read(text)) == sorted(own.encode(text).token_ids), text


@given(
    text=st.lists(
        st.sampled_from([*TAGS, "cat ears", *"()[]{}|-", ":1.2", "++", "1.2::", "::", "xyzzy"])
        | st.sampled_from([", ", " ", "\n", '"', "BREAK ", "<lora:x:1>", "\uff0e", "\\(", "artist:"]),
        max_size=20,
    ).map("".join)
)
@settings(max_examples=60)
def test_what_the_embedder_normalized_is_read_alike(
    own: Tokenizer, read: Callable[[str], list[int]], text: str
) -> None:
    encoded = own.encode(text)
    assert read(own.normalized(encoded)) == list(encoded.token_ids)


def escaped(tag: str) -> str:
    return tag.replace("(", r"\(").replace(")", r"\)")


@pytest.mark.parametrize("num_tags", [1, 2, 8, 9, 130])
def test_any_number_of_tags_has_aliases(num_tags: int) -> None:
    """Also where one alias begins another, and where they end alike."""
    tags = [f"tag_{number}" for number in range(num_tags)]
    aliases = {f"{prefix}{number}": tag for number, tag in enumerate(tags) for prefix in ("t", "ta", "é", "日本")}
    read = rules(vocab(*tags, aliases=aliases))
    own = Tokenizer(vocab(*tags, aliases=aliases))
    assert len(own.aliases) == 4 * num_tags
    for names in (own.aliases, own.spellings):
        text = ",".join(names)
        assert read.encode(text).ids[1:] == list(own.encode(text).token_ids)
    for alias, token_id in own.aliases.items():
        assert read.encode(f"{alias}, nothing").ids[1:] == [token_id]
    assert read.encode("t0x, xt0, t, 0, ta_0").ids[1:] == []


def test_every_id_has_one_entry_so_that_new_ones_follow() -> None:
    of = vocab("Foo", "foo", "bar", characters=("foo",), aliases={"baz": "bar", "qux": "Foo"})
    entries = tokenizer_json(of)["model"]["vocab"]
    assert sorted(entries.values()) == list(range(of.num_tokens))
    tokenizer = rules(of)
    assert json.loads(tokenizer.to_str())["model"]["vocab"] == entries
    assert tokenizer.add_tokens(["new"]) == 1
    assert tokenizer.token_to_id("new") == of.num_tokens
    assert tokenizer.encode("foo qux").ids[1:] == [of.num_special]


def test_no_text_gives_a_special_token_or_forges_the_signs_of_an_alias(read: Callable[[str], list[int]]) -> None:
    forged = [f"{letter}{one}{other}" for letter in "ab" for one in "\u0300\u0301" for other in "\u0300\u0301"]
    for text in ("pad token", "pad_token, summary token", "rating g", ",", "##a", "unknown tag, ,", *forged):
        assert read(text) == []
    assert read(",".join(forged)) == []


def test_marks_that_a_tag_holds_are_no_signs_of_aliases() -> None:
    of = vocab("cafe\u0300", "hat", aliases={"cap": "hat", "e\u0301": "hat"})
    for text, num in (("cafe\u0300, cap", 2), ("e\u0301", 1), ("cafe", 0)):
        assert len(rules(of).encode(text).ids) == 1 + num


def test_more_tags_with_aliases_than_signs_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(caption_rules, "_LETTERS", "a")
    with pytest.raises(ValueError, match=r"2 tags have aliases, more than the 1 that this format holds"):
        tokenizer_json(vocab("foo", "bar", aliases={"x": "foo", "y": "bar"}))
