"""`booru-embed from-tagger`: vectors of a tagger's scores, and lines that add up."""

from __future__ import annotations

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from booru_embed_core.embedder import tagger_captions
from booru_embed_core.embedder.embedder import BooruEmbedder
from tests.core.cli_helpers import Run, cli
from tests.core.model_helpers import Trained

SCORES = {
    "a.png": {"1girl": 0.99, "cat_ears": 0.7, "tail": 0.01, "general": 0.9, "sensitive": 0.1},
    "b.png": {"1boy": 0.9, "blorb": 0.6, "hatsune_miku": 0.02, "sensitive": 0.8},
}


def test_scores_become_a_file_of_vectors_and_every_score_is_told(run: Run, trained: Trained, tmp_path: Path) -> None:
    file, output = tmp_path / "tags.json", tmp_path / "vectors.parquet"
    file.write_text(json.dumps(SCORES))
    outcome = run("from-tagger", file, "--output", output, "--checkpoint", trained.checkpoint, "--dim", 4)
    assert outcome.code == 0, outcome.err
    table = pq.read_table(output)
    assert table.column("id").to_pylist() == ["a.png", "b.png"]
    assert table.column("unknown").to_pylist() == [[], ["blorb"]]
    assert {len(vector) for vector in table.column("vector").to_pylist()} == {4}
    lines = outcome.err.splitlines()
    assert f"{file}: 2 rows read: 2 with known tags, 0 empty" in lines
    assert lines[-3:] == [
        f"{file}: 9 scores: 4 tags kept, 1 below --general-threshold 0.05, 1 below --character-threshold 0.05, "
        "3 of ratings",
        "warning: kept tags outside the vocabulary: 1, with their images: blorb (1)",
        "note: by rating: 1 g, 1 s; ratings are no tags: give --rating to embed all images with one",
    ]


def test_what_computes_follows_from_the_source_alone(
    run: Run, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed job then computes the rest as it began."""
    asked: list[int | None] = []
    load = BooruEmbedder.load

    def noted(checkpoint: Path, num_captions: int | None) -> BooruEmbedder:
        asked.append(num_captions)
        return load(checkpoint, num_captions=num_captions)

    monkeypatch.setattr(BooruEmbedder, "load", noted)
    (tmp_path / "images").mkdir()
    for name in ("a", "b", "c"):
        (tmp_path / "images" / f"{name}.txt").write_text("1girl")
    (tmp_path / "tags.json").write_text(json.dumps(SCORES))
    for source in ("images", "tags.json"):
        assert run("from-tagger", tmp_path / source, "--checkpoint", trained.checkpoint).code == 0
    assert asked == [3, 1 + len(json.dumps(SCORES)) // 50]


def test_a_folder_tells_which_images_it_leaves_out_and_json_prints(run: Run, trained: Trained, tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        (tmp_path / name).touch()
    (tmp_path / "a.txt").write_text("1girl, cat ears")
    outcome = run("from-tagger", tmp_path, "--checkpoint", trained.checkpoint, "--json")
    assert [one["id"] for one in outcome.json["embeddings"]] == ["a.png"]
    assert outcome.err.endswith("warning: 1 images without tags are left out, such as b.png\n")


def test_categories_come_from_selected_tags(run: Run, trained: Trained, tmp_path: Path) -> None:
    (tmp_path / "tags.csv").write_text("image,tag,score\na,hatsune_miku,0.5\n")
    (tmp_path / "selected_tags.csv").write_text("tag_id,name,category,count\n1,hatsune_miku,0,3\n")
    options = ["--checkpoint", trained.checkpoint, "--character-threshold", 0.85]
    kept = run("from-tagger", tmp_path / "tags.csv", *options, "--selected-tags", tmp_path / "selected_tags.csv")
    assert "1 scores: 1 tags kept" in kept.err
    assert "1 below --character-threshold 0.85" in run("from-tagger", tmp_path / "tags.csv", *options).err


@pytest.mark.parametrize(
    ("arguments", "code", "message"),
    [
        (["nothing.json"], 1, "nothing.json: no such file or folder; name what the tagger wrote"),
        (["tags.json", "--restart"], 2, "--restart is for --output"),
        (["tags.json", "--json", "--output", "a.npy"], 2, "give one of them"),
        (["tags.json", "--output", "a.txt"], 1, "name an --output of these"),
        (["tags.json", "--general-threshold", "1.5"], 2, "--general-threshold"),
        (["bad.json"], 1, "bad.json: image 'x': tag 'hat' has the score 30;"),
        (["unknown.json"], 1, "--on-unknown zero or empty goes past such rows"),
    ],
)
def test_wrong_use_and_bad_scores_end_in_one_line(
    run: Run, trained: Trained, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    arguments: list[str], code: int, message: str,
) -> None:  # fmt: skip
    monkeypatch.chdir(tmp_path)
    Path("tags.json").write_text(json.dumps(SCORES))
    Path("bad.json").write_text('{"x": {"hat": 30}}')
    Path("unknown.json").write_text('{"x": {"blorb": 1}}')
    assert message in run("from-tagger", *arguments, "--checkpoint", trained.checkpoint).failed(code)


def test_the_defaults_are_those_of_the_library() -> None:
    from booru_embed_core.cli import from_tagger

    assert from_tagger._THRESHOLD == tagger_captions.DEFAULT_THRESHOLD
    assert from_tagger._POWER == tagger_captions.DEFAULT_POWER
    assert from_tagger._MAX_POWER == tagger_captions.MAX_POWER
    assert cli.app.info.name == "booru-embed"
