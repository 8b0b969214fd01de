"""What signs around tags multiply to."""

from __future__ import annotations

import pytest

from booru_embed_core.tags.emphasis import Emphasis, Mention
from booru_embed_core.tags.normalize import Sign


def mention(weight: float = 1.0) -> Mention:
    return Mention("x", 1, None, "x", has_signs=False, note=None, weight=weight)


def opened(emphasis: Emphasis, *signs: Sign) -> float:
    return emphasis.open(signs, range(len(signs)))


def test_groups_multiply_what_stands_within() -> None:
    emphasis, inner, outer, beside = Emphasis(), mention(0.5), mention(), mention()
    opened(emphasis, Sign("("), Sign("{"))
    emphasis.mention(inner)
    assert emphasis.close([Sign("}")], [1]) == (1.0, [])
    emphasis.mention(outer)
    assert emphasis.close([Sign(":", 2.0), Sign(")")], [2, 3]) == (1.0, [])
    emphasis.mention(beside)
    emphasis.finish()
    assert (inner.weight, outer.weight, beside.weight) == (pytest.approx(1.05), 2.0, 1.0)


def test_alternatives_weigh_nothing_and_are_returned() -> None:
    emphasis, first, second = Emphasis(), mention(), mention()
    opened(emphasis, Sign("{"), Sign("::", 0.3))
    emphasis.mention(first)
    emphasis.separate("|")
    opened(emphasis, Sign("::", 0.7))
    emphasis.mention(second)
    assert emphasis.close([Sign("}")], [9]) == (1.0, [(0, 9, True)])
    emphasis.finish()
    assert (first.weight, second.weight) == (1.0, 1.0)
    assert second.is_noted


def test_brackets_without_a_partner_weigh_nothing() -> None:
    emphasis, first, second = Emphasis(), mention(), mention()
    assert emphasis.close([Sign(")"), Sign("+", 1.5)], [0, 1]) == (1.5, [])
    opened(emphasis, Sign("["), Sign("("))
    emphasis.mention(first)
    emphasis.close([Sign("]")], [1])
    opened(emphasis, Sign("("))
    emphasis.mention(second)
    emphasis.finish()
    assert (first.weight, second.weight) == (pytest.approx(1 / 1.1, abs=1e-6), 1.0)


def test_a_minus_is_given_back() -> None:
    assert opened(Emphasis(), Sign("-", -1.0), Sign("(")) == -1.0


@pytest.mark.parametrize(
    ("has_signs", "weight", "note"),
    [
        (False, 1.0, []),
        (True, 1.0, ["(x): read as y"]),
        (False, 1.2, ["(x): weight 1.2"]),
        (True, 1.2, ["(x): read as y with weight 1.2"]),
        (True, -1.0, ["(x): weight -1, left out"]),
        (True, 0.0, ["(x): weight 0, left out"]),
    ],
)
def test_notes_tell_what_was_done(has_signs: bool, weight: float, note: list[str]) -> None:
    assert Mention("(x)", 1, None, "y", has_signs=has_signs, note=None, weight=weight).notes() == note
