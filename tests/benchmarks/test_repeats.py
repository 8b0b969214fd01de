"""The repeats benchmark: its inputs, and that it counts a repeat. The embedder's own test has ten thousand inputs."""

from __future__ import annotations

from pathlib import Path
from typing import cast

import numpy as np
import pytest

from benchmarks import repeats
from benchmarks._results import RESULTS
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.results import Completion
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab


class Echo:
    """An embedder that offers its input tags, twice."""

    def __init__(self, tokenizer: Tokenizer) -> None:
        self.tokenizer = tokenizer

    def complete(self, caption: str) -> list[Completion]:
        given = self.tokenizer.decode(self.tokenizer.encode(caption).token_ids)
        return [Completion(tag, category, 0.5) for category, tag in given] * 2


def test_a_repeat_is_counted_however_the_tag_was_typed() -> None:
    vocab = Vocab(("cat_ears", "a_(b)"), np.array([0, 3], np.uint8), np.array([2, 1]))
    echo = cast("BooruEmbedder", Echo(Tokenizer(vocab)))
    captions = [r"CAT_EARS, a \(b\), cat ears", "", "nobody, cat ears"]
    assert repeats.count(echo, captions) == {"num_offered": 6, "num_repeated": 3, "num_twice": 3}


def test_inputs_are_the_same_for_a_seed_and_of_every_size() -> None:
    spellings = [f"tag_{number}_(x)" for number in range(5)]
    first, again, other = ([*repeats.random_inputs(spellings, 300, seed)] for seed in (1, 1, 2))
    assert first == again != other
    vocab = Vocab(tuple(spellings), np.zeros(5, np.uint8), np.arange(5, 0, -1))
    tokenizer = Tokenizer(vocab)
    read = [tokenizer.encode(caption) for caption in first]
    assert {len(one.token_ids) for one in read} == {0, 1, 2, 3, 4, 5}
    assert all(one.token_ids for one in read if one.unknown)
    assert any(one.unknown for one in read)
    assert any(caption.count(",") >= 5 for caption in first)  # some tag twice


def test_without_a_checkpoint_it_says_so_and_writes_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("BOORU_EMBED_CHECKPOINT", str(tmp_path / "none"))
    before = sorted(RESULTS.iterdir())
    repeats.main()
    assert "no such checkpoint, nothing counted" in capsys.readouterr().out
    assert sorted(RESULTS.iterdir()) == before
