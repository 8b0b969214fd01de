"""The corpus of the benchmark of large vocabularies is one that training reads."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks import training_scale
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile


@pytest.mark.parametrize("num_tags", [300, 70_000])
def test_a_post_has_a_tag_once_and_ids_fit(tmp_path: Path, num_tags: int) -> None:
    training_scale.write_corpus(tmp_path / "corpus", num_tags, num_posts=500)
    vocab = Vocab.load(tmp_path / "corpus/vocab")
    packed = PackedFile.open(tmp_path / "corpus" / PACKED_FILE, vocab.hash)
    assert (vocab.num_tags, packed.num_posts) == (num_tags, 500)
    assert packed.tokens.dtype == (np.uint32 if num_tags > 65_535 else np.uint16)
    captions = np.split(packed.tokens, packed.offsets[1:-1].astype(np.int64))
    assert all(len(np.unique(caption)) == len(caption) > 0 for caption in captions)
    assert 20 < packed.num_tokens / 500 < 45
    assert np.bincount(packed.tokens, minlength=num_tags).tolist() == vocab.counts.tolist()
    assert vocab.counts[:10].sum() > vocab.counts[100:110].sum()


def test_figures_of_a_case_are_of_both_builds(monkeypatch: pytest.MonkeyPatch) -> None:
    costs = {"before": [8.0, 6.0], "now": [2.0, 3.0]}

    def trained(build: Path, *_: Path) -> dict[str, float]:
        cpu = costs[build.name].pop(0)
        memory = {"peak_mb": 100 * cpu, "start_peak_mb": 10 * cpu, "start_cpu_seconds": 1}
        return {"num_tags": 9, "num_tokens": 5, "cpu_seconds": cpu, **memory}

    monkeypatch.setattr(training_scale, "_trained", trained)
    case = training_scale._compared([Path("before"), Path("now")], Path("vocab"), Path("packed"), num_rounds=2)
    assert case["ratios"] == [0.25, 0.5]
    assert case["ratio_to_before"] == 0.375
    assert (case["cpu_seconds"], case["cpu_seconds_before"]) == (2.5, 7.0)
    assert (case["peak_mb"], case["peak_mb_before"]) == (250, 700)
