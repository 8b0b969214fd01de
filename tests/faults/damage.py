"""Products that were damaged on the disk, each read by what reads it: refused by name, or the same answers.

``python -m tests.faults.damage --num 2000`` damages files of all products, a child process for each, and prints a
table. The damage of one number is always the same.
"""

from __future__ import annotations

import argparse
import dataclasses
import hashlib
import os
import pickle
import shutil
import sys
import tempfile
import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.export.tag_vectors import embeddings_table
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.search.build import index_posts
from booru_embed_core.search.folder import read_vectors
from booru_embed_core.search.post_search import PostSearch
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tags.build import build_vocab
from booru_embed_core.tags.cut import cost_curve
from booru_embed_core.tags.frequency import count_tags
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.encode import encode_posts
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_core.training.checkpoint import save_checkpoint
from booru_embed_core.training.checkpoint_config import CheckpointConfig
from booru_embed_core.training.states import DamagedStateWarning, load_state, save_state
from booru_embed_core.web.tag_map import tag_map
from booru_embed_dagster.warehouse.warehouse import Warehouse
from tests.core.export_helpers import KEEP_ALL, ONE_THREAD, Walked, csv_bytes, walk
from tests.core.model_helpers import model_settings, topic_posts, training_settings

CAPTIONS = ["1girl cat_ears bell", "1boy, sword", "scenery sky tree highres", ""]
QUERIES = ("1girl", "sky -tree", "~sword ~cape rating:s", "scenery order:score_asc", "id:1003 - solo")
ZEROES = 512


@dataclass(frozen=True)
class Made:
    """A whole set of products below `base`."""

    base: Path
    walked: Walked

    @property
    def checkpoint(self) -> Path:
        return self.version("checkpoint")

    def version(self, asset: str) -> Path:
        """The current version of `asset` in the warehouse of this set."""
        return Warehouse(self.base / "warehouse").current(asset).path


@dataclass(frozen=True)
class Product:
    """A product and what reads it.

    Attributes:
        folder: where it lies in a set of products.
        read: reads it from a folder of the same content; gives what the reader works with.
    """

    folder: Callable[[Made], Path]
    read: Callable[[Path, Made], object]


def make(base: Path, seed: int) -> Made:
    """All products of an export of 200 posts; `seed` chooses the posts and the weights, which nobody trained."""
    base.mkdir(parents=True)
    (base / "posts.csv").write_bytes(csv_bytes(topic_posts(200, seed)))
    walked = walk(base / "posts.csv", base / "walked")
    made, vocab = Made(base, walked), walked.vocab
    torch.manual_seed(seed)
    sizes = tuple(vocab.sizes.values())
    shape = EncoderConfig(settings=model_settings(), num_special=vocab.num_special, category_sizes=sizes)
    config = CheckpointConfig(
        vocab_hash=vocab.hash, num_special=vocab.num_special, category_sizes=sizes, model=model_settings(),
        training=training_settings(), splits=TokensSettings(), packed_tokens="packed", score_bin_edges=[[0.0] * 9] * 4,
        trained_ratings=("g", "s"), num_train_posts=100, best_epoch=1.0, validation_loss=2.5,
    )  # fmt: skip
    warehouse = Warehouse(base / "warehouse")
    with warehouse.new_version("checkpoint", defined_by=["model.safetensors"]) as draft:
        save_checkpoint(draft.path, SetEncoder(shape), config, walked.vocab_dir)
    for name in ("work", "states"):
        (base / name).mkdir()
    with warehouse.new_version("post_embeddings") as draft:
        index_posts(made.checkpoint, walked.packed_path, draft.path, base / "work", "cpu", "fp32", lambda _: None)
    embedder = BooruEmbedder.load(made.checkpoint, "cpu", "fp32")
    table = embeddings_table(embedder)
    points = np.random.default_rng(seed).random((2, len(table))).astype(np.float32)
    for axis, values in zip("xy", points, strict=True):
        table = table.append_column(axis, pa.array(values))
    with warehouse.new_version("tag_embeddings", defined_by=["*.parquet"]) as draft:
        pq.write_table(table, draft.path / "tag_embeddings.parquet", compression="zstd")
    for step in (4, 8):
        state = {"fingerprint": base.name, "step": step, "model": {"a": torch.full((99,), float(step + seed))}}
        save_state(base / "states", state, num_kept=2)
    return made


def digest(value: object) -> str:
    """A hash of what a reader works with."""
    return hashlib.sha256(pickle.dumps(value)).hexdigest()


def files_of(folder: Path) -> dict[str, bytes]:
    """The content of a folder's files."""
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file()}


def scratch(folder: Path) -> Path:
    """A new empty folder beside `folder`."""
    return Path(tempfile.mkdtemp(dir=folder.parent))


def read_embedder(folder: Path, _: Made) -> object:
    """Loads a checkpoint, embeds and completes."""
    embedder = BooruEmbedder.load(folder, "cpu", "fp32")
    vectors = embedder.embed(CAPTIONS, on_unknown="zero").tobytes()
    completed = [embedder.complete("1girl cat_ears", k=9), embedder.similar_tags("sky", k=9)]
    return vectors, repr(completed), repr(embedder.config.model_dump(exclude={"files", "checksum"}))


def read_search(folder: Path, made: Made) -> object:
    """Opens a folder for search and asks for posts; reads all vectors, as `duplicates` does."""
    search, embedder = PostSearch.open(folder), BooruEmbedder.load(made.checkpoint, "cpu", "fp32")
    found = [repr(search.search(embedder, query, 20)) for query in QUERIES]
    return found, read_vectors(folder).tobytes()


def read_packed(folder: Path, made: Made) -> object:
    """Opens a packed file for the vocabulary that it was made with."""
    packed = PackedFile.open(folder / PACKED_FILE, made.walked.vocab.hash)
    arrays = [getattr(packed, name).tobytes() for name in ("tokens", "offsets", "field_lengths", "post_id", "rating")]
    return arrays, packed.score.tobytes(), repr(packed.split_settings)


def read_tag_map(folder: Path, made: Made) -> object:
    """The coordinates that the page draws."""
    embedder = BooruEmbedder.load(made.checkpoint, "cpu", "fp32")
    found = tag_map(embedder, folder / "tag_embeddings.parquet")
    return found.tag_indices.tobytes(), found.points.tobytes()


def read_states(folder: Path, made: Made) -> object:
    """The state that a training resumes from. The one before it is as good: it ends in the same weights."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DamagedStateWarning)
        state = load_state(folder, made.base.name)
    assert state is not None
    weights = state["model"]["a"]
    return bool((weights == weights[0]).all()) and float(weights[0]) - state["step"]


def read_counted(folder: Path, _: Made) -> object:
    """Counts the tags of posts."""
    out_dir = scratch(folder)
    count_tags(folder, out_dir, ONE_THREAD)
    return files_of(out_dir)


def read_encoded(folder: Path, made: Made) -> object:
    """Encodes posts."""
    out_dir = scratch(folder)
    encode_posts(folder, made.walked.vocab, out_dir, TokensSettings())
    return files_of(out_dir)


def read_vocab(folder: Path, _: Made) -> object:
    """Loads a vocabulary, whatever its hash covers."""
    vocab = Vocab.load(folder)
    return vocab.hash, repr(vocab.settings), repr(vocab.lost), repr(vocab.aliases), vocab.implications.sha256


PRODUCTS = {
    "posts, counted": Product(lambda made: made.walked.posts_dir, read_counted),
    "posts, encoded": Product(lambda made: made.walked.posts_dir, read_encoded),
    "frequencies, cut": Product(lambda made: made.walked.freq_dir, lambda f, _: build_vocab(f, KEEP_ALL).hash),
    "frequencies, drawn": Product(lambda made: made.walked.freq_dir, lambda f, _: repr(cost_curve(f).to_pylist())),
    "vocab": Product(lambda made: made.walked.vocab_dir, read_vocab),
    "packed tokens": Product(lambda made: made.walked.packed_path.parent, read_packed),
    "checkpoint": Product(lambda made: made.checkpoint, read_embedder),
    "post embeddings": Product(lambda made: made.version("post_embeddings"), read_search),
    "tag embeddings": Product(lambda made: made.version("tag_embeddings"), read_tag_map),
    "training states": Product(lambda made: made.base / "states", read_states),
}


@dataclass(frozen=True)
class Damage:
    """What was done to which file of a product."""

    product: str
    kind: str
    file: str
    content: bytes = dataclasses.field(repr=False)


def damages(name: str, made: Made, other: Made, num: int, seed: int) -> list[Damage]:
    """`num` damages of the product `name`: half of them a flipped bit, and of all of its files."""
    random, found = Random(f"{seed} {name}"), list[Damage]()
    folder, foreign = PRODUCTS[name].folder(made), PRODUCTS[name].folder(other)
    files = sorted(path for path in folder.iterdir() if path.is_file())
    while len(found) < num:
        file = files[len(found) % len(files)] if len(found) < len(files) else random.choice(files)
        whole = file.read_bytes()
        at = random.randrange(len(whole))
        kind = random.choice(("flip", "flip", "flip", "flip", "cut", "zeroes", "swap", "tail"))
        match kind:
            case "flip":
                content = whole[:at] + bytes([whole[at] ^ 1 << random.randrange(8)]) + whole[at + 1 :]
            case "cut":
                content = whole[:at]
            case "zeroes":
                content = whole[:at] + bytes(min(ZEROES, len(whole) - at)) + whole[at + ZEROES :]
            case "swap":
                content = (foreign / file.name).read_bytes() if (foreign / file.name).exists() else b""
            case _:
                content = whole + whole[at:]
        if content != whole:
            found.append(Damage(name, kind, file.name, content))
    return found


def outcome(damage: Damage, made: Made, parent: Path, whole: str) -> str:
    """What the reader makes of a damaged product in the new folder `parent`: ``refused``, ``same``, or ``other: …``."""
    product = PRODUCTS[damage.product]
    folder = parent / product.folder(made).name
    shutil.copytree(product.folder(made), folder)
    (folder / damage.file).write_bytes(damage.content)
    try:
        found = digest(product.read(folder, made))
    except ValueError as error:
        text = str(error)
        if not type(error).__module__.startswith("booru_embed") or "\n" in text:
            return f"other: {type(error).__name__}: {text[:200]}"
        names = [path.name for path in folder.iterdir()]
        is_named = damage.file in text or str(folder) in text or any(name in text for name in names)
        return "refused" if is_named else f"other: names no file: {text[:200]}"
    except Exception as error:  # noqa: BLE001  whatever it is, it is what is looked for
        return f"other: {type(error).__name__}: {str(error)[:200]}"
    return "same" if found == whole else "other: other answers"


def in_child(action: Callable[[], str]) -> str:
    """What `action` returns in a child process, which may be killed by what it reads."""
    reading, writing = os.pipe()
    pid = os.fork()
    if pid == 0:
        os.close(reading)
        try:
            text = action()
        except BaseException as error:  # noqa: BLE001  the parent tells of it
            text = f"other: {error!r}"
        os.write(writing, text.encode())
        os._exit(0)
    os.close(writing)
    with os.fdopen(reading, "rb") as stream:
        text = stream.read().decode()
    _, status = os.waitpid(pid, 0)
    return text if os.WIFEXITED(status) and text else f"other: killed by signal {os.WTERMSIG(status)}"


def table_of(outcomes: list[tuple[Damage, str]]) -> str:
    """The counts by product, as Markdown."""
    counts: dict[str, Counter[str]] = {}
    for damage, text in outcomes:
        counts.setdefault(damage.product, Counter()).update([text.partition(":")[0]])
    total = sum(counts.values(), Counter[str]())
    rows = [
        f"| {name} | {count.total()} | {count['refused']} | {count['same']} | {count['other']} |"
        for name, count in [*counts.items(), ("all", total)]
    ]
    return "\n".join(["| product | damaged | refused by name | same answers | other |", "|---|---|---|---|---|", *rows])


def tried(name: str, made: Made, other: Made, num: int, seed: int, base: Path) -> Iterator[tuple[Damage, str]]:
    """`num` damages of a product and their outcomes, each read in a child of this process."""
    whole = in_child(lambda: whole_of(name, made, base))
    assert not whole.startswith("other"), (name, whole)
    for damage in damages(name, made, other, num, seed):
        yield damage, in_child(partial(outcome, damage, made, base / "damaged", whole))
        shutil.rmtree(base / "damaged")


def main() -> None:
    """Damages the products and prints the table; what is neither refused nor the same is printed first."""
    parser = argparse.ArgumentParser(prog="python -m tests.faults.damage")
    parser.add_argument("--num", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=18)
    parser.add_argument("--products", nargs="*", default=list(PRODUCTS), choices=list(PRODUCTS), metavar="PRODUCT")
    options = parser.parse_args()
    outcomes: list[tuple[Damage, str]] = []
    with tempfile.TemporaryDirectory() as name:
        base = Path(name)
        folders = [base / "one", base / "two"]
        for seed, folder in enumerate(folders, start=1):
            # In a child: threads of the writers would not survive the forks that follow.
            said = in_child(lambda folder=folder, seed=seed: make(folder, seed).base.name)  # type: ignore[misc]
            assert said == folder.name, said
        made, other = map(reopened, folders)
        num = -(-options.num // len(options.products))
        for product in options.products:
            for damage, found in tried(product, made, other, num, options.seed, base):
                outcomes.append((damage, found))
                if found.startswith("other"):
                    sys.stdout.write(f"{damage}: {found}\n")
                    sys.stdout.flush()
    sys.stdout.write(table_of(outcomes) + "\n")


def whole_of(name: str, made: Made, base: Path) -> str:
    """What the reader of a product works with if nothing is damaged."""
    folder = base / "whole" / name / PRODUCTS[name].folder(made).name
    shutil.copytree(PRODUCTS[name].folder(made), folder)
    return digest(PRODUCTS[name].read(folder, made))


def reopened(base: Path) -> Made:
    """The products below `base`, which another process has made."""
    work = base / "walked"
    packed = work / "packed" / PACKED_FILE
    vocab: Any = Vocab.load(work / "vocab")
    reports: Any = None
    folders = (work / "posts", work / "freq", work / "vocab")
    return Made(base, Walked(base / "posts.csv", *folders, packed, reports, {}, vocab, reports))


if __name__ == "__main__":
    main()
