"""The benchmark of the start and the backends: its captions, its turns, its tables."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import embedding_backends as benchmark
from benchmarks._backend_tables import embedding_backends
from booru_embed_core.tags.build import save_vocab
from booru_embed_core.tags.tokenizer import Tokenizer
from booru_embed_core.tags.vocab import Vocab

VOCAB = Vocab(
    tuple(f"tag_{number}" for number in range(40)), np.zeros(40, np.uint8), np.arange(40, 0, -1, dtype=np.int64) * 10
)


def test_captions_are_known_tags_of_some_length() -> None:
    captions = benchmark.captions_of(VOCAB, 50)
    assert captions == benchmark.captions_of(VOCAB, 50) != benchmark.captions_of(VOCAB, 50, seed=1)
    read = [Tokenizer(VOCAB).encode(caption) for caption in captions]
    assert not any(one.unknown for one in read)
    assert 3 < sum(len(one.token_ids) for one in read) / 50 < 16


def test_ways_take_turns_and_the_median_counts() -> None:
    order: list[str] = []
    seconds = {"one": iter([3.0, 9.0, 4.0]), "other": iter([1.0, 2.0, 1.0])}

    def way(name: str) -> float:
        order.append(name)
        return next(seconds[name])

    found = benchmark.alternated({"one": lambda: way("one"), "other": lambda: way("other")}, 3)
    assert found == {"one": 4.0, "other": 1.0}
    assert order == ["one", "other"] * 3


def test_numpy_and_torch_are_compared_on_a_checkpoint_of_many_tags(tmp_path: Path) -> None:
    small = tmp_path / "small"
    small.mkdir()
    save_vocab(VOCAB, small)
    checkpoint = benchmark.large_checkpoint(small, tmp_path, 60)
    assert Vocab.load(checkpoint).tags[:40] == VOCAB.tags
    assert Vocab.load(checkpoint).num_tags == 60
    found = benchmark.largest_difference(checkpoint, 40)
    assert (found["captions"], found["completed_captions"]) == (40, 4)
    assert 0 < found["embeddings"] < 1e-5
    assert found["probabilities"] < 1e-5
    assert benchmark._tokens_of(checkpoint) is None


def test_tables_have_a_row_a_case() -> None:
    loss = {"recall@10": {"exact": 0.5, "rounded": 0.49, "standard_error": 0.002}}
    light = {
        name: {"bytes": size, "load_seconds_numpy": 0.1, "load_seconds_torch": 0.2, "complete_seconds": 0.3}
        for name, size in (("float32", 9_000_000), ("half", 4_500_000), ("int8", 4_400_000))
    }
    text = embedding_backends(
        {
            "commit": "abc1234",
            "time": "2031-02-03T04:05:06+00:00",
            "machine": {"cpu": "a processor"},
            "torch": "9.9",
            "before": "fedcba9",
            "rounds": 3,
            "load_average_before": 0.5,
            "start_commit": "1234abc",
            "start": {"sample": {"before": 0.52, "now": 0.38}},
            "largest_difference": {
                "captions": 10_000, "embeddings": 4e-7, "completed_captions": 1000, "probabilities": 3e-6
            },
            "light": {
                "sample": {**light, "half": {**light["half"], "recall": loss}, "posts": 1000,
                           "int8": {**light["int8"], "recall": loss}},
                "131,072 tags": light,
            },
            "matrix": {"1000": {"numpy": 0.9, "torch": 2.1, "auto": 0.95, "auto_over_best": 1.056}},
        }
    )  # fmt: skip
    assert "| `booru-embed complete`, the sample's size | 0.52 | 0.38 | .5 |" in text
    assert "| 1,000 | 0.90 | 2.10 | 0.95 | 1.06 |" in text
    assert "| half | 4.5 | 0.10 | 0.20 | 0.30 |" in text
    assert "| recall@10 | 0.5000 | 0.4900 (-0.0100 ± 0.0020) | 0.4900 (-0.0100 ± 0.0020) |" in text
    assert "4e-07 over 10,000 captions" in text
    assert text.count("Recall on") == 1


@pytest.mark.parametrize("case", benchmark.MAX_START_SECONDS)
def test_limits_are_those_of_the_table(case: str) -> None:
    from benchmarks._backend_tables import _LIMITS

    assert float(_LIMITS[case]) == benchmark.MAX_START_SECONDS[case]
