"""Spelling of one piece, and the signs around it."""

from __future__ import annotations

import pytest

from booru_embed_core.tags.normalize import NARROW, Sign, Signs, bare, joined, unescaped, unescaped_all


def test_signs_are_removed_from_both_ends_the_fewest_first() -> None:
    piece = "((tracer (overwatch):1.2))"
    signs = Signs.of(piece)
    assert [sign.kind for sign in signs.opens] == ["(", "("]
    assert [sign.kind for sign in signs.closes] == [")", ")", ":", ")"]
    removals = list(signs.removals())
    assert removals[0] == (0, 0)
    assert [sum(pair) for pair in removals] == sorted(sum(pair) for pair in removals)
    assert piece[signs.starts[2] : signs.ends[3]] == "tracer (overwatch)"


@pytest.mark.parametrize(
    ("piece", "opens", "closes"),
    [
        ("1.2::x::", [Sign("::", 1.2)], [Sign("::")]),
        ("-.5::x", [Sign("::", -0.5)], []),
        ("x++", [], [Sign("+", 1.1), Sign("+", 1.1)]),
        ("(x)1.3", [Sign("(")], [Sign("+", 1.3), Sign(")")]),
        ("x:-1", [], [Sign(":", -1.0)]),
        ('["x"', [Sign("[", is_list=True), Sign("")], [Sign("")]),
        ("-x", [Sign("-", -1.0)], []),
        ("(x\\)", [Sign("(")], []),
        ("(reverse:1999)", [Sign("(")], [Sign(")")]),
        ("2$$x.", [Sign("")], [Sign("")]),
    ],
)
def test_every_sign_has_its_meaning(piece: str, opens: list[Sign], closes: list[Sign]) -> None:
    signs = Signs.of(piece)
    assert (signs.opens, signs.closes) == (opens, closes)


@pytest.mark.parametrize(
    ("piece", "name"),
    [
        ("(((", "((("), ("()", "()"), ("a\\(b\\)", "a(b)"), ("(foo_bar\\)", "foo_bar)"), ("foo (bar)", "foo_(bar)"),
        ("((foo (bar):1.2)", "foo_(bar)"), (":)", ":)"), ("a:1.2)", "a"), ("1.2::a b", "a_b"), ('"a"', "a"),
    ],
)  # fmt: skip
def test_an_unknown_piece_is_named_without_its_signs(piece: str, name: str) -> None:
    assert bare(piece) == name


def test_spellings() -> None:
    assert joined(" a  b\tc ") == "a_b_c"
    assert unescaped("\\(a\\) \\m/") == "(a) \\m/"
    assert unescaped_all("\\\\m/ \\(a\\) b\\_c") == "\\m/ (a) b_c"
    assert "\uff08\uff11\uff1a\u3000\uff09".translate(NARROW) == "(1: )"
