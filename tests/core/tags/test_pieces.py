"""Where a text is cut."""

from __future__ import annotations

import pytest

from booru_embed_core.tags.pieces import KnownNames, PieceCutter

NAMES = ("steins;gate", ";)", "|_|", ":|", ">:(", "3;", "re:zero", "hat", "cat_ears", "big_3", "a_and_b")


def is_name(text: str) -> bool:
    return text.strip(" ()").replace(" ", "_").casefold() in NAMES


def pieces(text: str) -> tuple[list[str], str]:
    """The pieces, and the separator before each."""
    cut = PieceCutter(NAMES, NAMES).cut(text, KnownNames(is_name, is_name), [])
    return [text[piece.start : piece.end].strip() for piece in cut.pieces], "".join(p.before or "." for p in cut.pieces)


@pytest.mark.parametrize(
    ("text", "parts"),
    [
        ("(cat ears, tracer (overwatch):1.2) BREAK [hat|bow] solo",
         ["(cat ears", "tracer (overwatch):1.2)", "[hat", "bow]", "solo"]),
        ("a; steins;gate; ;), x", ["a", "steins;gate", ";)", "x"]),
        ("(steins;gate:1.2), STEINS;GATE", ["(steins;gate:1.2)", "STEINS;GATE"]),
        ("big 3; hat; 3; x", ["big 3", "hat", "3;", "x"]),
        ("[| ||hat], [:||x]", ["[| |", "hat]", "[:|", "x]"]),
        ("[>:(|hat], x", ["[>:(", "hat]", "x"]),
        ("[re:zero:hat:0.5] [hat:re:zero:0.5] [re:zero:0.5]",
         ["[re:zero", "hat:0.5]", "[hat", "re:zero:0.5]", "[re:zero:0.5]"]),
        ("[hat::0.5][:hat:0.5]", ["[hat", ":0.5][", "hat:0.5]"]),
        ("(a:1.2) b (c)1.3 d (e)++ f", ["(a:1.2)", "b (c)1.3", "d (e)++", "f"]),
        ("1.2::a:: b 0.5::c", ["1.2::a::", "b", "0.5::c"]),
        ("a\tb", ["a", "b"]),
        ("a\tb, c", ["a\tb", "c"]),
        ("A AND B, x AND y", ["A AND B", "x", "y"]),
        ("AND, x AND", ["AND", "x AND"]),
        ("a ||| b", ["a", "b"]),
        (" , ,\n", []),
    ],
)  # fmt: skip
def test_a_text_is_cut_between_tags(text: str, parts: list[str]) -> None:
    assert pieces(text)[0] == parts


def test_alternatives_are_told_from_lists() -> None:
    assert pieces("[a|b], {c|d}, [hat:cat ears:0.5]")[1] == ".|,|,:"


def test_the_parts_of_and_have_weights() -> None:
    text = "a, b AND c, d :1.2 AND e"
    cut = PieceCutter((), ()).cut(text, KnownNames(is_name, is_name), [])
    assert [(text[piece.start : piece.end].strip(), piece.weight) for piece in cut.pieces] == [
        ("a", 1.0), ("b", 1.0), ("c", 1.2), ("d", 1.2), ("e", 1.0),
    ]  # fmt: skip
