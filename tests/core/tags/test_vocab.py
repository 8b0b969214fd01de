"""The vocabulary as it is read: the same that was saved, or a line on what is wrong with it."""

from __future__ import annotations

import hashlib
import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from booru_embed_core.schema import CATEGORIES, SPECIAL_TOKENS
from booru_embed_core.settings import VocabSettings
from booru_embed_core.tags.build import build_vocab, save_vocab
from booru_embed_core.tags.vocab import Vocab, VocabError
from tests.core.export_helpers import Walked


def test_the_description_says_what_is_inside(sample: Walked) -> None:
    description = json.loads((sample.vocab_dir / "vocab.json").read_text(encoding="utf-8"))
    assert description["sha256"] == sample.vocab.hash
    assert description["tags"] == {category.value: list(sample.vocab.tags_of(category)) for category in CATEGORIES}
    counts = [count for category in CATEGORIES for count in description["counts"][category.value]]
    assert counts == sample.vocab.counts.tolist()
    assert description["special_ids"] == {token: index for index, token in enumerate(SPECIAL_TOKENS)}
    assert description["sizes"] == {category.value: size for category, size in sample.vocab.sizes.items()}
    assert VocabSettings.model_validate(description["settings"]) == sample.vocab.settings == VocabSettings()


def test_a_loaded_vocab_is_the_saved_one_to_the_byte(sample: Walked, tmp_path: Path) -> None:
    loaded = Vocab.load(sample.vocab_dir)
    assert (loaded.hash, loaded.tags, loaded.settings) == (sample.vocab.hash, sample.vocab.tags, sample.vocab.settings)
    save_vocab(loaded, tmp_path)
    for name in ("vocab.parquet", "vocab.json", "tokenizer.json"):
        assert (tmp_path / name).read_bytes() == (sample.vocab_dir / name).read_bytes(), name


def test_the_hash_sees_order_category_and_count_but_no_settings() -> None:
    def hash_of(tags: str, categories: list[int], counts: list[int], settings: VocabSettings | None = None) -> str:
        return Vocab(
            tuple(tags), np.array(categories, np.uint8), np.array(counts, np.int64), settings or VocabSettings()
        ).hash

    base = hash_of("ab", [0, 1], [3, 2])
    others = [hash_of("ba", [0, 1], [3, 2]), hash_of("ab", [0, 0], [3, 2]), hash_of("ab", [0, 1], [3, 1])]
    assert len({base, *others}) == 4
    assert hash_of("ab", [0, 1], [3, 2], VocabSettings(keep_percentile=50)) == base


def reseal(vocab_dir: Path, **changed: object) -> None:
    """Makes ``vocab.json`` fit the other files again, as somebody would who writes vocabularies by another program."""
    file = vocab_dir / "vocab.json"
    description = json.loads(file.read_text(encoding="utf-8")) | changed
    for name in description["files"]:
        description["files"][name] = hashlib.sha256((vocab_dir / name).read_bytes()).hexdigest()
    del description["checksum"]
    text = json.dumps(description, sort_keys=True)
    file.write_text(json.dumps({**description, "checksum": hashlib.sha256(text.encode()).hexdigest()}))


def text_of(name: str, text: str) -> Callable[[Path], object]:
    return lambda vocab_dir: (vocab_dir / name).write_text(text)


def change_json(change: Callable[[dict[str, Any]], object]) -> Callable[[Path], None]:
    def apply(vocab_dir: Path) -> None:
        description = json.loads((vocab_dir / "vocab.json").read_text(encoding="utf-8"))
        change(description)
        reseal(vocab_dir, **description)

    return apply


def swap_two_tags(description: dict[str, Any]) -> None:
    tags = description["tags"]["general"]
    tags[0], tags[1] = tags[1], tags[0]


@pytest.mark.parametrize(
    ("damage", "message"),
    [
        (lambda folder: reseal(folder, sha256="0ab"), r"vocab\.json: sha256 = '0ab': String should match"),
        (change_json(swap_two_tags), r"vocab\.json: its sha256 .* is not that of"),
        (change_json(lambda d: d["tags"].pop("meta")), r"vocab\.json: lacks a category of general, artist"),
        (change_json(lambda d: d["lost"].clear()), r"vocab\.json: lacks a category of general, artist"),
        (change_json(lambda d: d["lost"].pop("meta")), r"vocab\.json: lacks a category of general, artist"),
        (change_json(lambda d: d["tags"]["general"].append("more")), r"tags and counts are not equally many"),
        (change_json(lambda d: d["sizes"].update(general=1 << 60)), r"tags and counts are not equally many"),
        (
            change_json(lambda d: d["tags"]["general"].__setitem__(0, 1)),
            r"tags\.general\.0 = 1: should be a valid",
        ),
        (change_json(lambda d: d["counts"]["general"].__setitem__(0, "9")), r"counts\.general\.0 = '9': should be a"),
        (change_json(lambda d: d["counts"]["general"].__setitem__(0, 2**70)), r"counts\.general\.0 = 1180591620717"),
        (
            change_json(lambda d: d["counts"]["general"].__setitem__(0, -1)),
            r"counts\.general\.0 = -1: should be",
        ),
        (change_json(lambda d: d.update(num_tokens=1 << 62)), r"special tokens, tags and tokens are not \(17, "),
        (change_json(lambda d: d["special_ids"].update({"pad token": 3})), r"special tokens, tags and tokens are not"),
        (
            change_json(lambda d: d.update(implications={"0": "1000000"})),
            r"implications that are none \(an impl",
        ),
        (change_json(lambda d: d.update(implications={"x": "1"})), r"implications that are none \("),
        (change_json(lambda d: d.update(implications={"1" * 50: "1"})), r"implications that are none \("),
        (change_json(lambda d: d.update(aliases={"colour": {}})), r"aliases\.colour"),
        (change_json(lambda d: d.update(files=[])), r"vocab\.json: files: should be an object"),
        (change_json(lambda d: d.update(colour="red")), r"vocab\.json: unknown key colour"),
        (
            lambda folder: reseal(folder, settings={"min_count": -1}),
            r"vocab\.json: settings\.min_count = -1: sh",
        ),
        (
            lambda folder: reseal(folder, format_version=2),
            r"vocab\.json: format_version 2 instead of 3; build the vocab",
        ),
        (text_of("vocab.json", "{"), r"vocab\.json: is not JSON"),
        (text_of("vocab.json", "[" * 100_000), r"vocab\.json: is nested too deeply"),
        (text_of("vocab.json", "[]"), r"vocab\.json: should be an object"),
        (text_of("vocab.json", '{"format_version": 3}'), r"vocab\.json: lacks checksum"),
        (text_of("tokenizer.json", "{}"), r"tokenizer\.json: was changed or belongs to another vocab"),
        (shutil.rmtree, r"vocab\.json: no such file; build the vocab first"),
    ],
)
def test_a_damaged_vocab_is_refused_in_one_line(sample: Walked, tmp_path: Path, damage: object, message: str) -> None:
    folder = tmp_path / "vocab"
    shutil.copytree(sample.vocab_dir, folder)
    assert callable(damage)
    damage(folder)
    with pytest.raises(VocabError, match=message) as caught:
        Vocab.load(folder)
    assert str(folder) in str(caught.value)
    assert "\n" not in str(caught.value)


def test_vocab_json_is_enough_and_files_beside_it_are_checked(sample: Walked, tmp_path: Path) -> None:
    shutil.copy(sample.vocab_dir / "vocab.json", tmp_path)
    assert Vocab.load(tmp_path).hash == sample.vocab.hash
    (tmp_path / "vocab.parquet").write_bytes(b"PAR1 none")
    with pytest.raises(VocabError, match=r"vocab\.parquet: was changed or belongs to another vocab"):
        Vocab.load(tmp_path)


def test_the_hash_of_a_vocabulary_without_unknown_tokens_stays_what_it_was() -> None:
    """The literal is of the code before unknown tokens: packed files and checkpoints name their vocabulary by it."""
    vocab = Vocab(
        ("1girl", "solo", "someone", "original"), np.array([0, 0, 1, 2], np.uint8), np.array([9, 7, 3, 2], np.int64)
    )
    assert vocab.hash == "217c6a334664f95bd6927fb9d6cde2c3866d912cae0eab55596f753c93bf87b7"
    assert not vocab.is_unknown.any()


@pytest.mark.parametrize("name", ["vocab.parquet", "vocab.json", "tokenizer.json"])
def test_any_flipped_bit_and_any_cut_is_refused_by_name_or_harmless(sample: Walked, tmp_path: Path, name: str) -> None:
    shutil.copytree(sample.vocab_dir, tmp_path, dirs_exist_ok=True)
    content = (tmp_path / name).read_bytes()
    generator = np.random.default_rng(7)
    positions = generator.integers(0, len(content), 150).tolist()
    flips = [content[:p] + bytes([content[p] ^ 1 << bit]) + content[p + 1 :] for p in positions for bit in (p % 8, 5)]
    num_read = 0
    for damaged in (*flips, *(content[:position] for position in (0, 1, *positions, len(content) - 2))):
        (tmp_path / name).write_bytes(damaged)
        try:
            loaded = Vocab.load(tmp_path)
        except VocabError as error:
            assert str(tmp_path / name) in str(error)  # noqa: PT017
            assert "\n" not in str(error)  # noqa: PT017
        else:
            assert name == "vocab.json", "only white space between JSON's signs may change"
            assert (loaded.hash, loaded.settings) == (sample.vocab.hash, sample.vocab.settings)
            num_read += 1
    assert num_read < len(positions)


def test_files_of_another_vocab_are_refused_by_name(sample: Walked, tmp_path: Path) -> None:
    other = build_vocab(sample.freq_dir, VocabSettings(keep_percentile=50))
    save_vocab(other, tmp_path)
    for name in ("vocab.parquet", "tokenizer.json"):
        folder = tmp_path / f"with-{name}"
        shutil.copytree(sample.vocab_dir, folder)
        shutil.copy(tmp_path / name, folder)
        with pytest.raises(VocabError, match=rf"/{name}: was changed or belongs to another vocab: .*build the vocab"):
            Vocab.load(folder)
