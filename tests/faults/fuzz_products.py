"""Fuzzed: the files of products that are JSON or begin with it, and the settings.

The first byte of an input says which file it is, or whether its checksums are made right: behind a wrong one no reader
looks at anything else.
"""

from __future__ import annotations

import copy
import functools
import hashlib
import json
import tempfile
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from booru_embed_core.json_files import content_checksum
from booru_embed_core.schema import CATEGORIES
from booru_embed_core.search.folder import METADATA_FILE, IndexMetadata, read_metadata
from booru_embed_core.search.vector_index import SearchError
from booru_embed_core.settings import ModelSettings, SettingsError, TokensSettings, TrainingSettings, load_settings
from booru_embed_core.tags.build import save_vocab
from booru_embed_core.tags.vocab import VOCAB_FILE, Vocab, VocabError
from booru_embed_core.tokens.packed_file import PackedFile, PackedFileError, header_sha256
from booru_embed_core.tokens.packed_writer import packed_metadata, write_packed_file
from booru_embed_core.training.checkpoint_config import CONFIG_FILE, CheckpointConfig, CheckpointError, read_config
from booru_embed_dagster.warehouse.manifests import MANIFEST, WarehouseError, read_manifest
from tests.core.search.query_helpers import TOKENIZER
from tests.core.tokens.packed_helpers import packed_of
from tests.faults.fuzz_cases import Target
from tests.faults.fuzz_texts import ROOT

JSON_WORDS = (
    b"{", b"}", b"[", b"]", b'"', b",", b":", b"null", b"true", b"-1", b"0", b"1e400", b"9" * 30, b"NaN", b"Infinity",
    b'"\\ud800"', b"\\", b"\xff", b"{}", b"[]", b'""', b'"a"', b"[[[[", b'{"a":', b"18446744073709551616", b"-0.0",
    b'"../x"', b"\n", b"\0", b'"sizes":', b'"shape":[', b'"data_offsets":[0,0]', b'"dtype":"U32"', b"4294967296",
)  # fmt: skip
ARRAYS = ("tokens", "offsets", "field_lengths", "post_id", "rating", "score")


@functools.cache
def scratch() -> Path:
    """A folder for the inputs, in memory where the system has such a folder."""
    memory = Path("/dev/shm")
    return Path(tempfile.mkdtemp(prefix="fuzz-", dir=memory if memory.is_dir() else None))


ODD_VALUES: tuple[Any, ...] = (
    None, True, False, 0, 1, -1, 2**31, 2**63, 2**64, 10**30, 0.5, -0.0, 1e308, "", "a", "0", "-1", "\0", "\ud800", [],
    {}, [[]], [0], ["a"], {"a": 1}, "x" * 200, [0] * 50, "../x", 65_536, "9" * 19,
)  # fmt: skip


def changed_json(text: bytes, random: Random) -> bytes:
    """JSON with one to three of its values replaced, removed, repeated or exchanged."""
    try:
        content = json.loads(text)
    except (ValueError, RecursionError):
        return text + b"}"
    for _ in range(random.randint(1, 3)):
        inner = content
        while isinstance(inner, dict | list) and inner:
            keys: list[Any] = list(inner) if isinstance(inner, dict) else list(range(len(inner)))
            key, other = random.choice(keys), random.choice(keys)
            if isinstance(inner[key], dict | list) and inner[key] and random.random() < 0.8:
                inner = inner[key]
                continue
            kind = random.randrange(5)
            if kind == 0:
                del inner[key]
            elif kind == 1:
                inner[key] = copy.deepcopy(inner[other])  # else what holds itself cannot be written
            elif kind == 2 and isinstance(inner[key], int):
                inner[key] += random.choice((-1, 1, 256, -(2**32)))
            elif kind == 3 and isinstance(inner, dict):
                inner[f"{key}x"] = inner[key]
            else:
                inner[key] = copy.deepcopy(random.choice(ODD_VALUES))
            break
    return json.dumps(content).encode()


def change_packed(content: bytes, random: Random) -> bytes:
    """A packed file with another header, or with a byte of data more or less."""
    end = 9 + int.from_bytes(content[1:9], "little")
    text, data = content[9:end], content[end:]
    text = changed_json(text, random)
    data = random.choice((data, data, data, data + b"\0", data[:-1], data[::-1]))
    return random.choice((b"\0", b"\1", b"\1")) + len(text).to_bytes(8, "little") + text + data


def change_json(content: bytes, random: Random) -> bytes:
    """The file of the same kind with other values."""
    return content[:1] + changed_json(content[1:], random)


def packed_seeds() -> list[bytes]:
    """Packed files of a few posts, with both kinds of checksums."""
    found = []
    for records in ([[[1, 2], [], [0], [], []]], [[[1], [2], [], [3], []], [[], [], [], [], [7, 8]]], []):
        packed = packed_of(records)
        arrays = {name: getattr(packed, name) for name in ARRAYS}
        file = scratch() / "seed.safetensors"
        write_packed_file(
            file, arrays, packed_metadata("0" * 64, packed.num_posts, packed.num_tokens, TokensSettings())
        )
        found += [flag + file.read_bytes() for flag in (b"\0", b"\1")]
    return found


def with_right_hashes(content: bytes) -> bytes:
    """A packed file whose header names the hashes of what it holds."""
    length = int.from_bytes(content[:8], "little")
    try:
        header = json.loads(content[8 : 8 + length])
        header["__metadata__"]["data_sha256"] = hashlib.sha256(content[8 + length :]).hexdigest()
        header["__metadata__"]["header_sha256"] = header_sha256(header)
        text = json.dumps(header).encode()
    except (ValueError, TypeError, LookupError, AttributeError, RecursionError):
        return content
    return len(text).to_bytes(8, "little") + text + content[8 + length :]


def read_packed(content: bytes) -> None:
    """Opens a packed file and looks at all that it holds."""
    file = scratch() / "tokens.safetensors"
    file.write_bytes(with_right_hashes(content[1:]) if content[:1] > b"\0" else content[1:])
    packed = PackedFile.open(file)
    assert int(packed.offsets[-1]) == packed.num_tokens
    assert packed.tokens.sum() >= 0
    assert len(packed.split_ids()) == packed.num_posts


def vocab_seeds() -> list[bytes]:
    """A vocabulary with aliases, with both kinds of checksums."""
    save_vocab(TOKENIZER.vocab, scratch())
    text = (scratch() / VOCAB_FILE).read_bytes()
    for path in scratch().iterdir():
        path.unlink()
    return [b"\0" + text, b"\1" + text]


def with_right_sums(content: bytes) -> bytes:
    """A description of a vocabulary with its own checksums."""
    try:
        description: dict[str, Any] = json.loads(content)
        by_category = [description["tags"][category.value] for category in CATEGORIES]
        tags = [tag for listed in by_category for tag in listed]
        counts = [count for category in CATEGORIES for count in description["counts"][category.value]]
        ids = [index for index, listed in enumerate(by_category) for _ in listed]
        whole = Vocab(tuple(tags), np.array(ids, np.uint8), np.array(counts, np.int64))
        description["sha256"] = whole.hash if tags else description.get("sha256")
        description["checksum"] = content_checksum(description)
        return json.dumps(description).encode()
    except (ValueError, TypeError, LookupError, AttributeError, OverflowError, RecursionError):
        return content


def read_vocab(content: bytes) -> None:
    """Loads a vocabulary and uses it."""
    file = scratch() / VOCAB_FILE
    file.write_bytes(with_right_sums(content[1:]) if content[:1] > b"\0" else content[1:])
    vocab = Vocab.load(scratch())
    assert sum(vocab.sizes.values()) == vocab.num_tags
    assert len(vocab.local_ids) == vocab.num_tags


def config_seeds() -> list[bytes]:
    """A file of each kind that is a mapping of values."""
    config = CheckpointConfig(
        vocab_hash="0" * 64, num_special=4, category_sizes=(7, 3, 0, 4, 2), model=ModelSettings(),
        training=TrainingSettings(), splits=TokensSettings(), packed_tokens="v1", score_bin_edges=[[0.0] * 9] * 4,
        trained_ratings=("g",), num_train_posts=3, best_epoch=1.0, validation_loss=None,
    )  # fmt: skip
    IndexMetadata(
        format_version=1, num_posts=3, dim=16, vocab_hash="0" * 64, part_posts=64, nprobe=1, recall=1.0, index="flat",
        file_bytes={"a": 1},
    ).write(scratch())  # fmt: skip
    index = (scratch() / METADATA_FILE).read_bytes()
    manifest = {"asset": "vocab", "version": "0" * 16, "inputs": {"a": "b"}, "files": ["x"], "created": "2026"}
    settings = [path.read_bytes() for path in sorted([ROOT / "settings.toml", *(ROOT / "data/sample").glob("*.toml")])]
    return [
        b"\4" + config.model_dump_json().encode(),
        b"\5" + index,
        b"\2" + json.dumps(manifest).encode(),
        *(b"\3" + text for text in settings),
    ]


def with_right_checksum(text: bytes) -> bytes:
    """JSON with its own checksum."""
    try:
        values = json.loads(text)
        return json.dumps({**values, "checksum": content_checksum(values)}).encode()
    except (ValueError, TypeError, AttributeError, RecursionError):
        return text


def read_config_file(content: bytes) -> None:
    """Reads a config, the metadata of an index, a manifest, or settings."""
    folder, kind = scratch(), (content or b"\0")[0]
    name = (CONFIG_FILE, METADATA_FILE, MANIFEST, "settings.toml")[kind % 4]
    (folder / name).write_bytes(with_right_checksum(content[1:]) if kind % 8 > 3 else content[1:])
    if name == METADATA_FILE:
        read_metadata(folder)
    elif name == MANIFEST:
        read_manifest(folder)
    elif name == CONFIG_FILE:
        read_config(folder)
    else:
        load_settings(folder / name)


PACKED = Target(read_packed, packed_seeds, JSON_WORDS, errors=(PackedFileError,), change=change_packed)
VOCAB = Target(read_vocab, vocab_seeds, JSON_WORDS, errors=(VocabError,), change=change_json)
CONFIGS = Target(
    read_config_file,
    config_seeds,
    (*JSON_WORDS, b"[[posts]]\n", b"[a.b]\n", b"= ", b"#", b"'''", b'"""', b"[vocab.artist]\n", b"1979-05-27"),
    errors=(CheckpointError, SearchError, WarehouseError, SettingsError),
    max_bytes=8192,
    change=change_json,
)
