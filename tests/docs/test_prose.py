"""The splitter that the docs are measured with sees every sentence, and nothing that is not prose."""

from __future__ import annotations

import pytest

from tests.docs.prose_helpers import anchors, prose_lines, sentences

PAGE = """# What `make run` builds: a title

<!-- a comment
of two lines. -->
One sentence, with a [link](https://example.org/a.b?c=d) over
two lines. Another one, e.g. this (see [there](x.md#y)). `code` begins a third! Does
"a quoted one" end here? The version 1.13.27 is .962 at J. Doe's.

- An item
  that goes on. Its second sentence.
- Another item: no full stop

  ```sh
  ls . # Not. A. Sentence.
  ```

| a table. With. Points. | b |
|---|---|

$$ a. B. C. $$

$$
x. Y.
$$

The end.
"""


def test_the_sentences_of_a_page() -> None:
    assert [sentence.text for sentence in sentences(PAGE)] == [
        "What Code builds: a title",
        "One sentence, with a link over two lines.",
        "Another one, e.g. this (see there).",
        "Code begins a third!",
        'Does "a quoted one" end here?',
        "The version 1.13.27 is .962 at J. Doe's.",
        "An item that goes on.",
        "Its second sentence.",
        "Another item: no full stop",
        "The end.",
    ]


def test_a_sentence_knows_its_paragraph_s_line() -> None:
    lines = PAGE.splitlines()
    assert [lines[line - 1].lstrip("#- ")[:3] for line in dict.fromkeys(s.line for s in sentences(PAGE))] == [
        "Wha", "One", "An ", "Ano", "The",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("text", "num_words"),
    [
        ("Four words and - 1.", 4),
        ("`one two three` is one word.", 4),
        ("See [two words](https://example.org/not/counted) here.", 4),
        ("![A picture's text](x.png)", 3),
    ],
)
def test_words_are_counted_as_a_reader_does(text: str, num_words: int) -> None:
    (sentence,) = sentences(text)
    assert sentence.num_words == num_words


def test_a_long_sentence_is_seen_in_every_kind_of_paragraph() -> None:
    long = " ".join(["word"] * 31)
    for page in (long, f"# {long}", f"- {long}", f"1. {long}", f"Short. {long[1:].capitalize()}", f"> {long}"):
        assert max(sentence.num_words for sentence in sentences(page)) == 31, page


def test_lines_of_prose_keep_their_numbers() -> None:
    shown = {line.number: line.text for line in prose_lines(PAGE) if line.text}
    lines = PAGE.splitlines()
    assert all(lines[number - 1] == text for number, text in shown.items())
    assert not {number for number in shown if "Not. A." in lines[number - 1] or lines[number - 1].startswith("|")}
    assert {5, 6, 7, 9, 26} <= set(shown)


def test_anchors_are_those_of_the_headings() -> None:
    page = "# Recall@k\n\n## `[posts]` and [a link](x.md)\n\n```sh\n# no heading\n```\n\n### What's left, what isn't?\n"
    assert anchors(page) == {"recallk", "posts-and-a-link", "whats-left-what-isnt"}
