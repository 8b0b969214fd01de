"""Asset checks: what must hold of a product before anything is made from it.

All of them block: when one fails, what is downstream of its asset does not run. A check reads the product from disk,
as its readers do, and compares it with something that it was not made by.
"""

import json
import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, cast

import dagster as dg
import numpy as np
import pyarrow.parquet as pq
from safetensors.numpy import load_file

from booru_embed_core.posts.files import REJECTS_FILE, REPORT_FILE, PostsReport
from booru_embed_core.posts.parts import count_posts, part_files
from booru_embed_core.schema import CATEGORIES, RATINGS, Category
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import PACKED_FILE, PackedFile
from booru_embed_dagster.assets.evaluation import EVALUATION_FILE, TAG_EMBEDDINGS_FILE
from booru_embed_dagster.resources import Pipeline

LENGTH_TOLERANCE: Final = 1e-3
SAMPLED_ROW_GROUPS: Final = 4
SAMPLED_POSTS: Final = 256
"""Of all of these row groups together."""


@dataclass(frozen=True)
class Findings:
    """What a check saw: the `problems`, each with its remedy (none: it passed), and `figures` to show."""

    problems: list[str]
    figures: Mapping[str, int | float | str] = field(default_factory=dict)


def blocking(asset: str) -> Callable[[Callable[[Pipeline], Findings]], dg.AssetChecksDefinition]:
    """A decorator that makes a function of the pipeline a blocking check of `asset`.

    A ``ValueError`` of the core (a file that cannot be read, say) fails the check with its line.
    """

    def define(examine: Callable[[Pipeline], Findings]) -> dg.AssetChecksDefinition:
        """The check that runs `examine`, with its name and its docstring."""

        @dg.asset_check(asset=asset, name=examine.__name__, description=examine.__doc__, blocking=True)
        def check(pipeline: Pipeline) -> dg.AssetCheckResult:
            try:
                findings = examine(pipeline)
            except ValueError as error:
                findings = Findings([str(error)])
            passed = not findings.problems
            description = "; ".join(findings.problems) or None
            if description:  # Dagster's own error says only which check it was
                dg.get_dagster_logger().error(f"{asset}: {description}")
            return dg.AssetCheckResult(passed=passed, description=description, metadata=dict(findings.figures))

        return check

    return define


@blocking("posts")
def posts_reconcile(pipeline: Pipeline) -> Findings:
    """Every line of the export became a post, was filtered or is in `rejects.parquet`, and the files say the same."""
    (posts,) = pipeline.current("posts")
    report = PostsReport.from_json((posts.path / REPORT_FILE).read_text(encoding="utf-8"))
    num_posts = count_posts(posts.path)
    num_set_aside = int(pq.read_metadata(posts.path / REJECTS_FILE).num_rows)
    problems = []
    if not report.reconciles:
        problems.append(
            f"{posts.path / REPORT_FILE}: read is not kept + duplicate + rejected + filtered; materialize posts again"
        )
    if num_posts != report.num_kept:
        problems.append(f"{posts.path}: {num_posts} posts, {report.num_kept} reported; materialize posts again")
    if num_set_aside != report.num_duplicate + report.num_rejected:
        problems.append(
            f"{posts.path / REJECTS_FILE}: {num_set_aside} lines, "
            f"{report.num_duplicate + report.num_rejected} reported; materialize posts again"
        )
    figures = {"num_read": report.num_read, "num_kept": num_posts, "num_filtered": report.num_filtered}
    return Findings(problems, {**figures, "num_set_aside": num_set_aside})


@blocking("vocab")
def vocab_is_sane(pipeline: Pipeline) -> Findings:
    """The vocabulary has tags, each once, with dense ids, the most used first, and is what its hash says."""
    (product,) = pipeline.current("vocab")
    vocab = Vocab.load(product.path)
    problems = []
    if vocab.num_tags == 0:
        problems.append(f"{product.path}: no tags; lower [vocab] min_count and materialize vocab")
    if len(set(zip(vocab.categories.tolist(), vocab.tags, strict=True))) != vocab.num_tags:
        problems.append(f"{product.path}: a tag stands there twice; materialize vocab again")
    if np.any((np.diff(vocab.counts) > 0) & (np.diff(vocab.categories) == 0)):
        problems.append(f"{product.path}: not in the order of use; materialize vocab again")
    return Findings(problems, {"num_tags": vocab.num_tags, "num_tokens": vocab.num_tokens, "sha256": vocab.hash})


@blocking("packed_tokens")
def packed_tokens_decode_to_posts(pipeline: Pipeline) -> Findings:
    """A sample of packed records, decoded, is what the posts table says, tags outside the vocabulary aside."""
    (tokens,) = pipeline.current("packed_tokens")
    vocab = Vocab.load(pipeline.made_from(tokens, "vocab").path)
    posts = pipeline.made_from(tokens, "posts")
    packed = PackedFile.open(tokens.path / PACKED_FILE, vocab.hash)
    num_posts = count_posts(posts.path)
    if packed.num_posts != num_posts:
        return Findings([f"{packed.path}: {packed.num_posts} posts of {num_posts}; materialize packed_tokens again"])
    known = {category: frozenset(vocab.tags_of(category)) for category in CATEGORIES}
    num_compared = 0
    for post_index, row in sample_rows(posts.path):
        num_compared += 1
        expected = _expected_record(row, known)
        found = _decoded_record(packed, post_index, vocab)
        if found != expected:
            problem = (
                f"{packed.path}: record {post_index} is {found}, the post {expected}; materialize packed_tokens again"
            )
            return Findings([problem], {"num_compared": num_compared})
    return Findings([], {"num_compared": num_compared})


@blocking("checkpoint")
def training_stayed_finite(pipeline: Pipeline) -> Findings:
    """Every loss in the training log is a number, and so is every weight."""
    from booru_embed_core.training.checkpoint import LOG_FILE, WEIGHTS_FILE, read_log

    (checkpoint,) = pipeline.current("checkpoint")
    records = read_log(checkpoint.path)
    problems = []
    if not records:
        problems.append(f"{checkpoint.path / LOG_FILE}: is empty; materialize checkpoint again")
    broken = [record["step"] for record in records if not _is_finite([record["loss"], record.get("validation", {})])]
    if broken:
        problems.append(f"{checkpoint.path / LOG_FILE}: no finite loss at step {broken[0]}; lower learning_rate")
    weights = load_file(checkpoint.path / WEIGHTS_FILE)
    spoilt = [name for name, tensor in weights.items() if not np.isfinite(tensor).all()]
    if spoilt:
        problems.append(f"{checkpoint.path / WEIGHTS_FILE}: {spoilt[0]} is not finite; lower learning_rate")
    return Findings(problems, {"num_records": len(records), "num_tensors": len(weights)})


@blocking("evaluation")
def embedding_beats_popularity(pipeline: Pipeline) -> Findings:
    """The embedding finds more hidden tags among its first ten than naming the most used tags does."""
    from booru_embed_core.evaluation.scorers import EMBEDDING_NAME

    (evaluation,) = pipeline.current("evaluation")
    tasks = json.loads((evaluation.path / EVALUATION_FILE).read_text(encoding="utf-8"))["tasks"]
    problems: list[str] = []
    figures: dict[str, int | float | str] = {}
    for hide, task in tasks.items():
        recall = {name: metrics["recall@10"] for name, metrics in task["models"].items()}
        ours, floor = recall.get(EMBEDDING_NAME, math.nan), recall.get("popularity", 0.0)
        figures |= {f"{hide}_hidden": ours, f"{hide}_hidden_popularity": floor}
        if not ours > floor:  # nan is no better either
            problems.append(
                f"{hide} hidden: recall@10 {ours:.3f}, popularity {floor:.3f}; train longer or lower learning_rate"
            )
    return Findings(problems, figures)


@blocking("tag_embeddings")
def embeddings_are_unit_vectors(pipeline: Pipeline) -> Findings:
    """Every tag of the vocabulary has an embedding that is finite and of unit length."""
    (embeddings,) = pipeline.current("tag_embeddings")
    vocab = Vocab.load(pipeline.made_from(embeddings, "vocab").path)
    file = embeddings.path / TAG_EMBEDDINGS_FILE
    table = pq.read_table(file)
    problems = []
    if table["tag"].to_pylist() != list(vocab.tags):
        problems.append(f"{file}: its tags are not those of the vocab; materialize tag_embeddings again")
    lengths = np.linalg.norm(np.array(table["vector"].to_pylist(), dtype=np.float64), axis=-1)
    if not np.all(np.abs(lengths - 1) < LENGTH_TOLERANCE):  # nan is none either
        problems.append(f"{file}: a vector is not of unit length; materialize checkpoint again")
    return Findings(problems, {"num_tags": table.num_rows})


def sample_rows(posts_dir: Path, seed: int = 7) -> Iterator[tuple[int, dict[str, object]]]:
    """Rows of the posts table with their post_index: some of some row groups, the same ones each time."""
    generator = np.random.default_rng(seed)
    groups = []
    start = 0
    for file in part_files(posts_dir):
        metadata = pq.read_metadata(file)
        for number in range(metadata.num_row_groups):
            groups.append((file, number, start))
            start += int(metadata.row_group(number).num_rows)
    chosen = generator.permutation(len(groups))[:SAMPLED_ROW_GROUPS].tolist()
    for place in chosen:
        file, number, start = groups[place]
        table = pq.ParquetFile(file).read_row_group(number)
        rows = generator.permutation(table.num_rows)[: SAMPLED_POSTS // len(chosen)]
        yield from zip((start + rows).tolist(), table.take(rows).to_pylist(), strict=True)


def _is_finite(values: object) -> bool:
    if isinstance(values, Mapping):
        values = list(values.values())
    return all(map(_is_finite, values)) if isinstance(values, list) else math.isfinite(float(str(values)))


_Record = tuple[object, object, object, dict[Category, list[str]]]


def _expected_record(row: Mapping[str, object], known: Mapping[Category, frozenset[str]]) -> _Record:
    tags = {
        category: [tag for tag in cast("list[str]", row[category]) if tag in known[category]] for category in CATEGORIES
    }
    return row["id"], row["rating"], row["score"], tags


def _decoded_record(packed: PackedFile, post_index: int, vocab: Vocab) -> _Record:
    tags: dict[Category, list[str]] = {category: [] for category in CATEGORIES}
    for token_id in packed.record_token_ids(post_index, vocab).tolist():
        place = token_id - vocab.num_special
        tags[CATEGORIES[vocab.categories[place]]].append(vocab.tags[place])
    rating = RATINGS[packed.rating[post_index]]
    return int(packed.post_id[post_index]), rating, int(packed.score[post_index]), tags
