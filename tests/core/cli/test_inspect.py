"""``booru-embed inspect``: what is in files, as tables for people and JSON for programs."""

from __future__ import annotations

import shutil
from pathlib import Path

import pytest

from booru_embed_core.settings import VocabSettings
from booru_embed_core.tags.build import what_is_lost
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tags.words import count_words
from booru_embed_core.tokens.lengths import short_posts
from tests.core.cli_helpers import Run
from tests.core.export_helpers import Walked, csv_bytes, row, walk
from tests.core.model_helpers import Trained
from tests.core.network_helpers import unseal


@pytest.fixture
def walked(tmp_path: Path) -> Walked:
    """Four posts, of whose five general tags the cut keeps two."""
    rows = [row(1, "cat_ears solo rare"), row(2, "cat_ears solo"), row(3, "cat_ears once"), row(4, "cat_(ears)")]
    (tmp_path / "export.csv").write_bytes(csv_bytes(rows))
    return walk(tmp_path / "export.csv", tmp_path, VocabSettings(keep_percentile=100, min_count=2))


def test_inspect_vocab_lists_searches_and_counts(run: Run, trained: Trained) -> None:
    vocab: Vocab = trained.corpus.vocab
    found = run("inspect", "vocab", trained.corpus.vocab_dir, "--json", "-k", 100).json
    assert found["num_tags"] == vocab.num_tags == len(found["tags"])
    assert found["sha256"] == vocab.hash
    assert found["sizes"] == {category.value: size for category, size in vocab.sizes.items()}
    counts = [one["count"] for one in found["tags"]]
    assert counts == sorted(vocab.counts.tolist(), reverse=True)
    for one in found["tags"]:
        assert vocab.tags[one["token_id"] - vocab.num_special] == one["tag"]
    cats = run("inspect", "vocab", trained.corpus.vocab_dir, "--search", "CAT_", "--json").json["tags"]
    assert [one["tag"] for one in cats] == ["cat_ears"]
    metas = run("inspect", "vocab", trained.checkpoint, "--category", "meta", "--json", "-k", 2).json["tags"]
    assert [one["category"] for one in metas] == ["meta", "meta"]
    table = run("inspect", "vocab", trained.checkpoint, "-k", 1).out.splitlines()
    assert table[0] == "36 tags: 24 general, 3 artist, 3 copyright, 3 character, 3 meta"
    assert len(table) == 9


def test_inspect_tokens_says_what_is_in_the_file(run: Run, trained: Trained) -> None:
    packed = trained.corpus.packed
    found = run("inspect", "tokens", trained.corpus.packed_path, "--json").json
    lengths = sorted(packed.field_lengths.sum(1).tolist())
    assert found["num_posts"] == sum(found["splits"].values()) == 300
    assert found["num_tokens"] == sum(lengths)
    assert found["length_percentiles"]["p100"] == lengths[-1]
    assert found["length_percentiles"]["p50"] == lengths[149]
    assert found["splits"]["train"] == trained.report.num_train_posts
    assert (found["token_dtype"], found["vocab_hash"]) == ("uint16", packed.vocab_hash)
    table, _, short = run("inspect", "tokens", trained.corpus.packed_path).out.partition("\n\nposts with\n")
    assert [line.split()[0] for line in table.splitlines()] == [name for name in found if name != "short_posts"]
    assert short.splitlines()[0].split() == [
        "tags",
        "of",
        "fewer",
        "than",
        "1",
        "fewer",
        "than",
        "5",
        "fewer",
        "than",
        "10",
    ]
    assert [line.split()[0] for line in short.splitlines()[1:]] == [one["tags_of"] for one in found["short_posts"]]


def test_inspect_checkpoint_says_what_it_was_made_of(run: Run, trained: Trained) -> None:
    found = run("inspect", "checkpoint", trained.checkpoint, "--json").json
    assert found["num_parameters"] == trained.report.num_parameters
    assert found["num_tags"] == 36
    assert found["packed_tokens"] == "v1"
    assert found["model"]["width"] == 32
    assert found["precision"] == "float32"
    few, *_, many = found["backends"].values()
    assert few == "numpy: so few captions take less time than importing torch"
    assert many.split(":")[0] in ("numpy", "torch")  # the network is tiny
    table = run("inspect", "checkpoint", trained.checkpoint).out
    assert [line.split()[0] for line in table.splitlines()] == list(found)


def test_inspect_checkpoint_says_that_an_older_one_has_no_checksum(run: Run, trained: Trained, tmp_path: Path) -> None:
    whole = run("inspect", "checkpoint", trained.checkpoint, "--json")
    assert whole.json["has_checksum"]
    assert whole.err == ""
    older = Path(shutil.copytree(trained.checkpoint, tmp_path / "older"))
    unseal(older)
    found = run("inspect", "checkpoint", older, "--json")
    assert not found.json["has_checksum"]
    assert found.err.startswith(
        f"note: {older / 'model.safetensors'} has no checksum, as an older booru-embed wrote it"
    )
    assert run("export", "hub", "-c", older, "-o", tmp_path / "again").code == 0
    assert run("inspect", "checkpoint", tmp_path / "again", "--json").json["has_checksum"]


def test_inspect_vocab_says_what_the_cut_lost(run: Run, walked: Walked) -> None:
    assert run("inspect", "vocab", walked.vocab_dir, "--json").json["lost"] == what_is_lost(walked.vocab).to_pylist()
    lines = [line.split() for line in run("inspect", "vocab", walked.vocab_dir).out.splitlines()]
    assert lines[1] == [
        "category",
        "tags",
        "kept",
        "tags",
        "lost",
        "uses",
        "kept",
        "uses",
        "lost",
        "share",
        "of",
        "uses",
        "lost",
    ]
    assert lines[2] == ["general", "2", "3", "5", "3", "37.50%"]
    assert lines[7:] == [[], ["3", "general", "cat_ears"], ["2", "general", "solo"]]


def test_inspect_tokens_says_how_many_posts_have_hardly_a_tag_left(run: Run, walked: Walked) -> None:
    short = run("inspect", "tokens", walked.packed_path, "--json").json["short_posts"]
    assert short == short_posts(walked.packed).to_pylist()
    assert short[0] == {"tags_of": "all", "fewer_than_1": 1, "fewer_than_5": 4, "fewer_than_10": 4}
    same = run("inspect", "tokens", walked.packed_path, "--vocab", walked.vocab_dir, "--json").json
    assert same["short_posts"] == short_posts(walked.packed, walked.vocab).to_pylist()


def test_inspect_tokens_refuses_another_vocab(run: Run, walked: Walked, trained: Trained) -> None:
    message = run("inspect", "tokens", walked.packed_path, "--vocab", trained.corpus.vocab_dir).failed(1)
    assert message.startswith(f"{walked.packed_path}: was made with the vocab ")


def test_inspect_words_counts_words_of_frequencies_or_posts(run: Run, walked: Walked) -> None:
    found = run("inspect", "words", walked.freq_dir, "--json").json
    words = count_words(walked.freq_dir)
    assert found["words"] == words.table.to_pylist()
    assert found["compared"] == words.compared.to_pylist()
    assert (found["num_labels"], found["num_words"], found["num_uses"]) == (5, 5, 8)
    assert found["words"][0]["word"] == "cat"
    assert run("inspect", "words", walked.posts_dir, "--json").json == found
    assert run("inspect", "words", walked.freq_dir, "--category", "meta", "--json").json["words"] == []
    lines = run("inspect", "words", walked.freq_dir, "-k", 1).out.splitlines()
    assert lines[0] == "5 labels of 5 words, 8 uses of labels"
    assert [line.split() for line in lines[2:]] == [
        ["cat", "4", "2", "0.00%"],
        [],
        ["to", "cover", "the", "same", "share", "of", "the", "labels'", "uses"],
        ["num", "labels", "share", "of", "uses", "num", "words"],
        ["5", "100.00%", "5"],
    ]


def test_inspect_words_names_a_folder_that_holds_neither(run: Run, tmp_path: Path) -> None:
    assert str(tmp_path) in run("inspect", "words", tmp_path).failed(1)


@pytest.mark.slow
def test_inspect_plan_counts_what_a_training_takes(run: Run, trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "settings.toml"
    file.write_text(
        "[model]\nwidth = 32\nnum_heads = 2\nnum_layers = 1\n[training]\nnum_epochs = 3\n", encoding="utf-8"
    )
    options = ("--settings", file, "--vocab", trained.corpus.vocab_dir)
    found = run("inspect", "plan", *options, "--packed", trained.corpus.packed_path, "--tflops", 2, "--json").json
    assert found["parameters"]["tag vectors"] == (trained.corpus.vocab.num_tokens + 5) * 32
    assert found["steps_of_epoch"] == pytest.approx(trained.report.num_train_posts / found["mean_step"]["num_captions"])
    assert found["seconds_of_training"] == pytest.approx(3 * found["flops_of_epoch"] / 2e12)
    longer = run("inspect", "plan", *options, "--mean-length", 40, "--posts", 512_000, "--json").json
    assert longer["steps_of_epoch"] == 2000
    assert longer["seconds_of_epoch"] is None
    assert longer["peak_bytes"]["total"] > found["peak_bytes"]["total"]
    elsewhere = run("inspect", "plan", *options, "--mean-length", 40, "--device", "cuda", "--json").json
    assert (elsewhere["device"], elsewhere["precision"]) == ("cuda", "bfloat16")
    assert elsewhere["mean_step"]["num_slots"] == elsewhere["mean_step"]["num_tokens"]
    lines = run("inspect", "plan", *options, "--mean-length", 40).out.splitlines()
    assert ["steps", "of", "epoch", "3,906"] in [line.split() for line in lines]
