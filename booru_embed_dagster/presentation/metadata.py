"""The metadata that Dagster shows of a product: version, path, size, columns, first rows, and a picture.

Nothing is measured here: every figure comes from the asset or from the product's own tables.
"""

from __future__ import annotations

import base64
import itertools
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Final

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
from safetensors import safe_open

from booru_embed_core.schema import CATEGORIES, RATINGS, SPLITS, TAG_SEPARATOR, Category
from booru_embed_core.tags.build import what_is_lost
from booru_embed_core.tags.frequency import FREQUENCY_SCHEMA
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.packed_file import TENSOR_TYPES, PackedFile
from booru_embed_dagster.automation.provenance import INPUTS, describe_inputs, input_tags, why

if TYPE_CHECKING:
    from booru_embed_core.evaluation.evaluation_file import EvaluationFile
    from booru_embed_dagster.resources import Pipeline
    from booru_embed_dagster.warehouse.warehouse import Draft

_PREVIEW_ROWS: Final = 10
_PREVIEW_TAGS: Final = 4
"""Rows of each category."""
_PREVIEW_CHARACTERS: Final = 100
_OURS: Final = "booru-embed"
_HEADLINE: Final = "recall@10"

COLUMN_MEANINGS: Final = {
    "id": "Danbooru's id of the post",
    "post_id": "Danbooru's id of the post",
    "rating": "general, sensitive, questionable or explicit, by its first letter",
    "score": "votes for the post minus votes against it",
    **{str(category): f"the post's {category} tags, in the export's order, each once" for category in CATEGORIES},
    "tag": "the tag as Danbooru spells it",
    "tags": "the post's tags that are in the vocabulary",
    "category": "general, artist, copyright, character or meta",
    "count": "posts that have the tag",
    "cumulative_share": "share of the category's uses, of this tag and all more frequent ones",
    "percentile": "share of the category's uses to keep, in percent",
    "min_count": "posts that have the least used kept tag",
    "vocab_size": "tags kept",
    "coverage": "share of the category's uses that is kept",
    "embedding_bytes": "memory of one float32 row per tag at the default width",
    "token_id": "number of the token, unique over all categories",
    "local_id": "number of the tag within its category",
    "length": "tags of a post that are in the vocabulary",
    "num_posts": "posts of exactly this length",
    "share_covered": "share of posts of this length or shorter",
    "vector": "embedding of the tag alone, or of all tags of the post, of unit length",
    "x": "position on the map of tags, from left to right; only for the most used tags",
    "y": "position on the map of tags, from bottom to top",
    "hidden": "how many of a post's tags were hidden",
    "model": "the embedder (booru-embed…) or a baseline",
    "mrr": "1 / rank of the best-ranked hidden tag, mean over posts",
    "recall@1": "share of posts whose best-ranked tag is a hidden one",
    "recall@10": "hits among the first 10 / min(10, hidden tags), mean over posts",
    "recall@50": "hits among the first 50 / min(50, hidden tags), mean over posts",
    "num_tokens": "uses of kept tags in all posts",
    "packed_bytes": "size of the packed file",
    "num_parameters": "parameters of the network, including its table of tag vectors",
    "flops_per_epoch": "floating-point operations of an epoch of training, as `inspect plan` counts them",
    "seconds_per_epoch": "seconds of an epoch of the short training, on this machine under its load",
    "recall_one": "recall@10 with one tag hidden; a hidden tag without a token is a miss",
    "recall_half": "recall@10 with half of the tags hidden; a hidden tag without a token is a miss",
    "recall_one_within": "recall@10 with one tag hidden, of hidden tags with a token; favours small vocabularies",
    "recall_half_within": "the same with half of the tags hidden",
    "tokens": "local ids of the tags, record after record, within a record category after category",
    "offsets": "where each record starts in tokens, and the end",
    "field_lengths": "tags of each category, in schema order",
}
"""The meaning of each column, for a reader who sees the table for the first time."""


def materialized(
    pipeline: Pipeline, draft: Draft, **metadata: dg.MetadataValue | str | float | int
) -> dg.MaterializeResult[None]:
    """The result of the running asset: the product of `draft`, its inputs, why it was rebuilt, and `metadata`.

    The product's version is the data version; its path and size are added to the metadata.
    """
    product, context = draft.product, dg.AssetExecutionContext.get()
    size_bytes = sum(file.stat().st_size for file in product.path.iterdir() if file.is_file())
    num_rows = metadata.get("dagster/row_count")
    rows = f"{num_rows:,} rows, " if isinstance(num_rows, int) else ""
    last = context.instance.get_latest_materialization_event(context.asset_key)
    inputs = describe_inputs(context.instance, draft.inputs, pipeline.settings)
    code_version = context.assets_def.code_versions_by_key[context.asset_key]
    reasons = why(last.asset_materialization if last else None, inputs, code_version, product.version)
    context.log.info(f"{product.asset}: {rows}{size_bytes / 1e6:,.1f} MB in {product.path} ({'; '.join(reasons)})")
    return dg.MaterializeResult(
        data_version=dg.DataVersion(product.version),
        tags=input_tags(draft.inputs),
        metadata={
            "why": dg.MetadataValue.md("\n".join(f"- {reason}" for reason in reasons)),
            "path": dg.MetadataValue.path(product.path),
            "size_bytes": size_bytes,
            **metadata,
            **links(pipeline, draft),
            INPUTS: dg.MetadataValue.json(dict(inputs)),
        },
    )


def practice_metadata(note: str) -> dict[str, str]:
    """The `note` on a product of a checkpoint from a practice run; empty for a whole training."""
    return {"practice": note} if note else {}


def links(pipeline: Pipeline, draft: Draft) -> dict[str, dg.MetadataValue]:
    """Links to the inputs of `draft`, and the path of the previous version."""
    shown: dict[str, dg.MetadataValue] = {
        f"made from {name}": dg.MetadataValue.asset(dg.AssetKey(name.split("/"))) for name in sorted(draft.inputs)
    }
    for before in pipeline.warehouse.earlier(draft.product.asset)[:1]:
        shown["version before"] = dg.MetadataValue.path(before.path)
    return shown


def table_metadata(rows: pa.Table, num_rows: int | None = None) -> dict[str, dg.MetadataValue | int]:
    """Row count, column schema and preview of a table of `num_rows` (None: all) that starts with `rows`."""
    columns = [(field.name, str(field.type)) for field in rows.schema]
    return {
        "dagster/row_count": rows.num_rows if num_rows is None else num_rows,
        "dagster/column_schema": column_schema(columns),
        "preview": preview(rows.slice(0, _PREVIEW_ROWS).to_pylist()),
    }


def parquet_metadata(files: Sequence[Path]) -> dict[str, dg.MetadataValue | int]:
    """The same of the Parquet `files` that are one table; only their footers and the first rows are read."""
    first = pq.ParquetFile(files[0])
    batches = list(itertools.islice(first.iter_batches(batch_size=_PREVIEW_ROWS), 1))
    num_rows = sum(int(pq.read_metadata(file).num_rows) for file in files)
    return table_metadata(pa.Table.from_batches(batches, first.schema_arrow), num_rows)


def frequencies_metadata(frequencies: Mapping[Category, pa.Table]) -> dict[str, dg.MetadataValue | int]:
    """Row count of the tables of all categories together, their columns, and the most used tags of each."""
    rows = [
        {"category": category.value, **row}
        for category, table in frequencies.items()
        for row in table.slice(0, _PREVIEW_TAGS).to_pylist()
    ]
    columns = [(field.name, str(field.type)) for field in FREQUENCY_SCHEMA]
    return {
        "dagster/row_count": sum(table.num_rows for table in frequencies.values()),
        "dagster/column_schema": column_schema(columns),
        "preview": preview(rows),
        **{f"num_{category}_tags": table.num_rows for category, table in frequencies.items()},
        "num_uses": sum(int(table["count"].to_numpy().sum()) for table in frequencies.values()),
    }


def vocab_metadata(vocab: Vocab) -> dict[str, dg.MetadataValue | int | float]:
    """Sizes of `vocab`, and the uses that its cut keeps and loses."""
    lost = what_is_lost(vocab).to_pylist()
    num_kept, num_lost = (sum(row[name] for row in lost) for name in ("uses_kept", "uses_lost"))
    return {
        "num_tags": vocab.num_tags,
        **{f"num_{category}_tags": size for category, size in vocab.sizes.items()},
        "share_of_uses_kept": num_kept / max(1, num_kept + num_lost),
        "lost": preview(lost),
    }


def lengths_metadata(lengths: pa.Table) -> dict[str, dg.MetadataValue | int]:
    """The table of `lengths` (`LENGTHS_SCHEMA`), and the lengths that hold half, 99% and all of the posts."""
    share = lengths["share_covered"].to_numpy()
    held = {"median_length": 0.5, "length_of_99_percent": 0.99, "longest": 1.0}
    return {
        **table_metadata(lengths),
        **{name: int(np.searchsorted(share, wanted)) for name, wanted in held.items()},
    }


def packed_metadata(packed: PackedFile, vocab: Vocab) -> dict[str, dg.MetadataValue | int | float]:
    """Records, tensors and the first records in words, of a packed file that was made with `vocab`."""
    tensors = {name: getattr(packed, name) for name in TENSOR_TYPES}
    splits = np.bincount(packed.split_ids(), minlength=len(SPLITS))
    rows = [
        {
            "post_id": int(packed.post_id[post_index]),
            "rating": RATINGS[packed.rating[post_index]],
            "score": int(packed.score[post_index]),
            "tags": " ".join(vocab.tags[i - vocab.num_special] for i in packed.record_token_ids(post_index, vocab)),
        }
        for post_index in range(min(_PREVIEW_ROWS, packed.num_posts))
    ]
    return {
        "dagster/row_count": packed.num_posts,
        "dagster/column_schema": column_schema(
            [(name, f"{array.dtype}{list(array.shape)}") for name, array in tensors.items()]
        ),
        "preview": preview(rows),
        "num_tokens": packed.num_tokens,
        "tokens_per_post": packed.num_tokens / max(1, packed.num_posts),
        **{f"num_{split}_posts": int(num_posts) for split, num_posts in zip(SPLITS, splits, strict=True)},
    }


def weights_metadata(file: Path) -> dict[str, dg.MetadataValue | int]:
    """Tensors of a safetensors `file`, from its header alone."""
    with safe_open(file, framework="np") as weights:
        slices = {name: weights.get_slice(name) for name in weights.keys()}  # noqa: SIM118
        columns = [(name, f"{part.get_dtype()}{part.get_shape()}") for name, part in slices.items()]
    return {"dagster/column_schema": column_schema(columns), "num_tensors": len(columns)}


def evaluation_metadata(evaluation: EvaluationFile) -> dict[str, dg.MetadataValue | int | float]:
    """A row for each task and model, and as numbers of their own, to follow over versions, those of our embedding.

    Beside its recall@10 stands that of the best baseline.
    """
    tasks = evaluation.tasks
    rows = [
        {"hidden": hide, "model": name, **metrics}
        for hide, task in tasks.items()
        for name, metrics in task.models.items()
    ]
    figures: dict[str, float] = {}
    for hide, task in tasks.items():
        ours = task.models.get(_OURS, {})
        figures |= {f"{hide}_hidden_{metric}": value for metric, value in ours.items()}
        if margin := task.margins.get(_OURS, {}).get(_HEADLINE):
            figures[f"{hide}_hidden_{_HEADLINE}_best_baseline"] = ours[_HEADLINE] - margin.difference
    split_half = evaluation.split_half_retrieval.models
    if _OURS in split_half:
        figures["split_half_retrieval@1"] = split_half[_OURS]["recall@1"]
    columns = [(name, "string" if name in ("hidden", "model") else "float") for name in (rows[0] if rows else ())]
    return {
        "dagster/row_count": len(rows),
        "dagster/column_schema": column_schema(columns),
        "preview": preview(rows),
        **figures,
    }


def column_schema(columns: Sequence[tuple[str, str]]) -> dg.TableColumnSchemaMetadataValue | dg.MetadataValue:
    """The schema of `columns` (name, type), with the meaning of each."""
    described = [dg.TableColumn(name, type_name, description=COLUMN_MEANINGS.get(name)) for name, type_name in columns]
    return dg.MetadataValue.table_schema(dg.TableSchema(described))


def preview(rows: Sequence[Mapping[str, object]]) -> dg.MetadataValue:
    """`rows` as a table; long values are cut short."""
    records = [dg.TableRecord({key: _shown(value) for key, value in row.items()}) for row in rows]
    # Dagster takes the columns from the first record; without records it needs a schema.
    return dg.MetadataValue.table(records, schema=None if records else dg.TableSchema([]))


def warned(lines: Sequence[str]) -> dict[str, dg.MetadataValue]:
    """`lines` as metadata, each also logged as a warning; empty without lines."""
    for line in lines:
        dg.get_dagster_logger().warning(line)
    return {"warnings": dg.MetadataValue.text("\n".join(lines))} if lines else {}


def picture(png: bytes, file: Path) -> dg.MetadataValue:
    """`png` as inline Markdown for Dagster's UI; also written to `file`, beside the product's data."""
    file.write_bytes(png)
    return dg.MetadataValue.md(f"![{file.stem}](data:image/png;base64,{base64.b64encode(png).decode()})")


def _shown(value: object) -> str | int | float | bool | None:
    if value is None or isinstance(value, bool | int):
        return value
    if isinstance(value, float):
        return float(f"{value:.6g}")
    if isinstance(value, list) and all(isinstance(tag, str) for tag in value):
        value = TAG_SEPARATOR.join(value)
    text = str(value)
    return text if len(text) <= _PREVIEW_CHARACTERS else text[: _PREVIEW_CHARACTERS - 1] + "…"
