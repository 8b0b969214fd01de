"""Which file names are captions, of which images, and what is left out."""

from __future__ import annotations

import pytest

from booru_embed_core.posts.readers.caption_files import LeftOut, Listing, is_table, printable


@pytest.mark.parametrize(
    ("names", "captions", "others", "num_bare"),
    [
        (["a.txt"], ["a.txt"], [], 0),
        (["a.txt", "a.jpg", "b.jpg"], ["a.txt"], [], 1),
        (["a.JPG", "a.TXT"], ["a.TXT"], [], 0),
        # One image of two names has one caption; two images of one stem and one caption have one too.
        (["a.jpg", "a.txt", "a.jpg.txt"], ["a.txt"], ["a.jpg.txt"], 0),
        (["a.jpg", "a.png", "a.txt"], ["a.txt"], [], 0),
        (["a.jpg", "a.png", "a.jpg.txt", "a.png.txt"], ["a.jpg.txt", "a.png.txt"], [], 0),
        (["a.jpg", "a.caption", "a.txt", "a.tags"], ["a.tags"], ["a.caption", "a.txt"], 0),
        (["a.jpg", "a.jpg.tags.txt", "a.jpg.urls.txt"], ["a.jpg.tags.txt"], ["a.jpg.urls.txt"], 0),
        (["a.zip", "a.zip.txt"], ["a.zip.txt"], ["a.zip"], 0),
        (["License.txt", "prompt.txt", "prompt.png"], ["prompt.txt"], ["License.txt"], 0),
        ([".txt", "txt", "a.npz"], [], [".txt", "a.npz", "txt"], 0),
    ],
)
def test_one_caption_an_image(names: list[str], captions: list[str], others: list[str], num_bare: int) -> None:
    for order in (names, names[::-1]):
        listing = Listing.of(order)
        assert (list(listing.captions), list(listing.others)) == (captions, others)
        assert listing.num_bare_images == num_bare


def test_captions_of_images_are_known_by_the_image_or_by_their_names() -> None:
    assert Listing.of(["a.txt", "b.jpg.txt", "c.txt", "c.png"]).num_of_images == 2


def test_of_many_files_that_are_left_out_the_first_are_named() -> None:
    left_out = LeftOut()
    for number in range(30):
        left_out.add(f"{number:02}.npz")
    left_out.add("sub/x")
    left_out.num_bare_images = 1200
    labels = left_out.labels("set")
    assert labels[:2] == ["set/00.npz", "set/01.npz"]
    assert labels[20:] == [
        "set: 11 more files (30 .npz, 1 without suffix in all)",
        "set: 1,200 images without a caption",
    ]


@pytest.mark.parametrize(
    ("start", "expected"),
    [
        (b"long hair, id card", False),
        (b"", False),
        (b"[x], y", False),
        (b'{"id": 1}', True),
        (b'\xef\xbb\xbf [{"id": 1}]', True),
        (b'"id"\trating\n', True),
        (b"id\n", False),
        (b"{red|blue} hair, solo", False),
    ],
)
def test_tables_of_posts_are_told_from_captions(start: bytes, expected: bool) -> None:
    assert is_table(start) == expected


def test_paths_stand_in_one_line() -> None:
    assert printable("a\nb\udcff\u3000c\x7f") == "a\\x0ab\\xff\u3000c\\x7f"
    assert printable("a\ud83d") == "a\\ud83d"
