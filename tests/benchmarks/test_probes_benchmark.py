"""The probes benchmark at a small size."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest

from benchmarks.probes import measure, write_posts
from booru_embed_core.settings import ModelSettings, TrainingSettings

pytestmark = pytest.mark.slow


def test_the_same_seed_gives_the_same_posts_with_every_rating(tmp_path: Path) -> None:
    for name, seed in (("one", 1), ("again", 1), ("other", 2)):
        write_posts(tmp_path / name, 200, seed)
    one, again, other = ((tmp_path / name).read_text() for name in ("one", "again", "other"))
    assert one == again != other
    posts = list(csv.DictReader(one.splitlines()))
    assert len(posts) == 200
    assert {post["rating"] for post in posts} == set("gsqe")
    assert len({post["score"] for post in posts}) > 20


def test_all_that_embed_are_probed(tmp_path: Path) -> None:
    model = ModelSettings(width=32, num_layers=1, num_heads=2, ffn_width=32, embedding_dim=16, matryoshka_dims=(8,))
    found = measure(tmp_path, 400, model, TrainingSettings(num_epochs=1, device="cpu", precision="fp32"))
    assert found["num_posts"] == 400
    assert set(found["probes"]) == {"rating", "score"}
    for result in found["probes"].values():
        assert list(result["models"]) == ["booru-embed", "booru-embed-8d", "ppmi_svd", "constant"]
