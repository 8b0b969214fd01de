"""What is taken out of a prompt before it is read."""

from __future__ import annotations

import pytest

from booru_embed_core.tags.dialects import without_settings


@pytest.mark.parametrize(
    ("text", "rest", "notes"),
    [
        ("a <lora:x:0.5>, b", "a  , b", ["<lora:x:0.5>: left out"]),
        ("<o>_<o>, <a>, <", "<o>_<o>, <a>, <", []),
        ("__a/b*__, c__d__e", ", c__d__e", ["__a/b*__: left out"]),
        ("a, embedding:x-1:1.2", "a,", ["embedding:x-1:1.2: left out"]),
        ("a\r\nNegative prompt: b\r\nSteps: 20, c", "a",
         ["Negative prompt: b: the negative prompt, left out", "Steps: 20, c: settings, left out"]),
        ("a\nnegative prompt: b", "a", ["negative prompt: b: the negative prompt, left out"]),
        ("a Undesired Content: b", "a", ["Undesired Content: b: the negative prompt, left out"]),
        ("1. a\n2) b\n3.5", "a\nb\n3.5", []),
        ("{2$$ and $$a|b}, {1-$$, $$a}", "{2$$a|b}, {1-$$a}", []),
        ("a\u060cb\u061bc", "a,b,c", []),
        ("a, b\nSteps: 20, Sampler: c", "a, b", ["Steps: 20, Sampler: c: settings, left out"]),
        ("first Steps: taken, b", "first Steps: taken, b", []),
        ("Positive prompt: a", "a", ["Positive prompt: left out"]),
        ("- a\n\u2022 b\n-c", "a\nb\n-c", []),
        ("\uff21\uff0c\u300cb\u300d", 'A,"b"', ["full-width signs: read as ASCII"]),
        ("\uff57\uff0c\uff57\uff57 a\u3000b", "\uff57,ww a\u3000b", ["full-width signs: read as ASCII"]),
        ("__known__ <known:1>", "__known__ <known:1>", []),
    ],
)  # fmt: skip
def test_what_names_no_tag_is_left_out_with_a_note(text: str, rest: str, notes: list[str]) -> None:
    found: list[str] = []
    known = {"__known__", "<known:1>", "\uff57", "a\u3000b"}
    assert without_settings(text, known, found) == rest
    assert found == notes
