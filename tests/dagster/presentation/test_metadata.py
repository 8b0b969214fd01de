"""What Dagster is given to show."""

from __future__ import annotations

import base64
from pathlib import Path

import dagster as dg
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from booru_embed_core.posts.parquet_parts import POSTS_SCHEMA
from booru_embed_core.tags.build import VOCAB_SCHEMA
from booru_embed_core.tags.cut import COST_SCHEMA
from booru_embed_dagster.presentation.metadata import (
    column_schema,
    links,
    parquet_metadata,
    picture,
    preview,
    table_metadata,
    warned,
    weights_metadata,
)
from booru_embed_dagster.resources import Pipeline
from tests.dagster.project_helpers import Project


def shown_rows(value: object) -> list[dict[str, object]]:
    assert isinstance(value, dg.TableMetadataValue)
    return [dict(record.data) for record in value.records]


def test_a_result_has_the_version_the_path_and_the_size(built: tuple[Project, dg.ExecuteInProcessResult]) -> None:
    product = built[0].warehouse.current("vocab")
    (event,) = built[1].asset_materializations_for_node("vocab")
    assert (event.tags or {})["dagster/data_version"] == product.version
    assert event.metadata["path"] == dg.MetadataValue.path(product.path)
    assert event.metadata["size_bytes"].value == sum(file.stat().st_size for file in product.path.iterdir())
    assert event.metadata["why"].value == "- built for the first time"


def test_a_table_shows_its_first_rows_and_counts_all() -> None:
    table = pa.table({"tag": [f"tag_{number}" for number in range(25)], "count": range(25)})
    shown = table_metadata(table)
    assert shown["dagster/row_count"] == 25
    assert shown_rows(shown["preview"]) == table.slice(0, 10).to_pylist()
    assert table_metadata(table, 1000)["dagster/row_count"] == 1000


def test_parquet_files_of_one_table_are_counted_together(tmp_path: Path) -> None:
    files = [tmp_path / "0.parquet", tmp_path / "1.parquet"]
    for file in files:
        pq.write_table(pa.table({"tag": [file.stem] * 30}), file)
    shown = parquet_metadata(files)
    assert shown["dagster/row_count"] == 60
    assert shown_rows(shown["preview"]) == [{"tag": "0"}] * 10


def test_an_empty_table_is_shown_with_its_columns(tmp_path: Path) -> None:
    pq.write_table(VOCAB_SCHEMA.empty_table(), tmp_path / "vocab.parquet")
    shown = parquet_metadata([tmp_path / "vocab.parquet"])
    assert shown["dagster/row_count"] == 0
    assert shown_rows(shown["preview"]) == []
    schema = shown["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchemaMetadataValue)
    assert [column.name for column in schema.schema.columns] == VOCAB_SCHEMA.names


@pytest.mark.parametrize("name", [*POSTS_SCHEMA.names, *VOCAB_SCHEMA.names, *COST_SCHEMA.names])
def test_every_column_has_a_meaning(name: str) -> None:
    schema = column_schema([(name, "int64")])
    assert isinstance(schema, dg.TableSchemaMetadataValue)
    (column,) = schema.schema.columns
    assert column.description


def test_long_values_are_cut_numbers_rounded_and_tags_joined() -> None:
    record = {"long": "x" * 101, "short": "y" * 100, "share": 1 / 3, "no": None, "all": [1, 2], "tags": ["a", "b"]}
    (row,) = shown_rows(preview([record]))
    assert row["long"] == "x" * 99 + "…"
    assert (row["short"], row["share"], row["no"]) == ("y" * 100, 0.333333, None)
    assert (row["all"], row["tags"]) == ("[1, 2]", "a b")


def test_a_picture_is_shown_in_place_and_written(tmp_path: Path) -> None:
    shown = picture(b"png", tmp_path / "map.png")
    assert shown.value == f"![map](data:image/png;base64,{base64.b64encode(b'png').decode()})"
    assert (tmp_path / "map.png").read_bytes() == b"png"


def test_weights_are_described_from_their_header(tmp_path: Path) -> None:
    save_file({"a": np.zeros((2, 3), np.float32), "b": np.zeros(4, np.float16)}, tmp_path / "model.safetensors")
    shown = weights_metadata(tmp_path / "model.safetensors")
    schema = shown["dagster/column_schema"]
    assert isinstance(schema, dg.TableSchemaMetadataValue)
    assert {(column.name, column.type) for column in schema.schema.columns} == {("a", "F32[2, 3]"), ("b", "F16[4]")}
    assert shown["num_tensors"] == 2


def test_links_lead_to_the_inputs_and_to_the_version_before(project: Project) -> None:
    pipeline = Pipeline(settings_file=str(project.settings_file))
    made = []
    for text in ("first", "second"):
        with pipeline.new_version("posts", sections=["posts"], sources={"posts_export": "e" * 16}) as draft:
            (draft.path / "part.parquet").write_text(text)
        made.append((draft, links(pipeline, draft)))
    pages = {
        "made from posts_export": dg.MetadataValue.asset(dg.AssetKey("posts_export")),
        "made from settings/posts": dg.MetadataValue.asset(dg.AssetKey(["settings", "posts"])),
    }
    assert made[0][1] == pages
    assert made[1][1] == {**pages, "version before": dg.MetadataValue.path(made[0][0].product.path)}


def test_warnings_are_shown_and_none_where_there_is_none() -> None:
    assert warned([]) == {}
    assert warned(["one", "other"]) == {"warnings": dg.MetadataValue.text("one\nother")}
