"""How the explanation of a file is printed: aligned, short, and nothing that is empty."""

from __future__ import annotations

from dataclasses import replace

import pytest

from booru_embed_core.cli.explanation import print_explanation
from booru_embed_core.posts.file_sample import FileExplanation


def test_a_file_is_told_in_aligned_lines(capsys: pytest.CaptureFixture[str]) -> None:
    print_explanation(
        FileExplanation(
            file="a/posts.parquet",
            kind="Parquet",
            refused="a/posts.parquet: no",
            columns={"id": "id", "score": "points", "is_deleted": "gone"},
            unused=tuple(f"column{number}" for number in range(14)),
            tag_separator=",",
            null_words=("\\N", "None"),
            ratings={"safe": (7, "g"), "x": (2, None)},
            num_sampled=1000,
            num_hidden=3,
            num_rejected=2,
            reasons=("line 5: rating 'x' is not one of g, s, q, e",),
            notes=("a doubt",),
        )
    )
    assert capsys.readouterr().out.splitlines() == [
        "a/posts.parquet: Parquet",
        "  refused   a/posts.parquet: no",
        "  columns   id, score = points, is_deleted = gone",
        f"  not read  {', '.join(f'column{number}' for number in range(12))} and 2 more",
        "  tags      separated by commas",
        "  nothing   \\N, None",
        "  ratings   safe (7) -> g, x (2) -> ? [posts.rating_names]",
        "  flags     is_deleted = gone",
        "  records   1,000 looked at, 2 rejected, 3 filtered by flags",
        "            line 5: rating 'x' is not one of g, s, q, e",
        "  note      a doubt",
        "",
    ]


@pytest.mark.parametrize(
    ("separator", "told"),
    [
        (None, "in lists"),
        ("list", "in printed lists"),
        (" ", "separated by spaces"),
        ("\n", "separated by line breaks"),
        ("|", "separated by '|'"),
    ],
)
def test_how_tags_stand_is_told_in_words(capsys: pytest.CaptureFixture[str], separator: str | None, told: str) -> None:
    print_explanation(FileExplanation(file="a", kind="Caption", tag_separator=separator))
    assert f"  tags     {told}\n" in capsys.readouterr().out


def test_a_file_that_is_not_read_is_told_by_its_error_alone(capsys: pytest.CaptureFixture[str]) -> None:
    print_explanation(FileExplanation(file="a.csv", refused="a.csv: broken"))
    assert capsys.readouterr().out == "a.csv\n  refused  a.csv: broken\n\n"


def test_what_a_file_has_in_common_with_the_one_before_is_told_once(capsys: pytest.CaptureFixture[str]) -> None:
    first = FileExplanation(file="a", kind="CSV", columns={"id": "id"}, tag_separator=" ", num_sampled=3)
    print_explanation(replace(first, file="b", ratings={"s": (3, "s")}), first)
    assert capsys.readouterr().out == "b: CSV\n  ratings  s (3) -> s\n  records  3 looked at, 0 rejected\n\n"
