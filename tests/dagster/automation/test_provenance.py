"""Why an asset was rebuilt, in the words that the UI shows."""

from __future__ import annotations

from typing import Any

import dagster as dg
import pytest

from booru_embed_dagster.automation.provenance import INPUTS, why
from tests.dagster.project_helpers import Project

Built = tuple[Project, dg.ExecuteInProcessResult]
VOCAB = {
    "tag_frequencies": {"version": "a" * 16, "size": "1,000 tags"},
    "settings/vocab": {"version": "b" * 16, "values": {"keep_percentile": 95.0, "artist": {"min_count": None}}},
}


def made(inputs: dict[str, Any], code_version: str = "1", version: str = "old") -> dg.AssetMaterialization:
    tags = {"dagster/code_version": code_version, "dagster/data_version": version}
    return dg.AssetMaterialization("vocab", metadata={INPUTS: dg.MetadataValue.json(inputs)}, tags=tags)


def with_values(**values: Any) -> dict[str, Any]:
    section = VOCAB["settings/vocab"]["values"]
    return {**VOCAB, "settings/vocab": {"version": "c" * 16, "values": {**section, **values}}}  # type: ignore[dict-item]


@pytest.mark.parametrize(
    ("inputs", "lines"),
    [
        (VOCAB, ["no input has changed: it was rebuilt on request"]),
        (with_values(keep_percentile=90.0), ["`settings/vocab`: keep_percentile 95.0 → 90.0"]),
        (with_values(artist={"min_count": 3}), ["`settings/vocab`: artist.min_count not set → 3"]),
        (
            {**VOCAB, "tag_frequencies": {"version": "d" * 16, "size": "900 tags"}},
            ["`tag_frequencies` aaaaaaaa… → dddddddd…, 1,000 tags → 900 tags"],
        ),
        ({**VOCAB, "tag_frequencies": {"version": "d" * 16}}, ["`tag_frequencies` aaaaaaaa… → dddddddd…"]),
        ({"settings/vocab": VOCAB["settings/vocab"]}, ["`tag_frequencies` is no longer an input"]),
        ({**VOCAB, "posts": {"version": "e" * 16}}, ["`posts` is a new input"]),
    ],
)
def test_what_has_changed_is_said(inputs: dict[str, Any], lines: list[str]) -> None:
    assert why(made(VOCAB), inputs, "1", "new") == lines


def test_new_code_and_the_same_outcome_are_said() -> None:
    assert why(made(VOCAB, code_version="0", version="same"), VOCAB, "1", "same") == [
        "code version 0 → 1",
        "the result is the same as before: nothing downstream is rebuilt",
    ]


def test_the_first_time_is_said() -> None:
    assert why(None, VOCAB, "1", "new") == ["built for the first time"]


def test_a_materialization_of_before_the_description_was_kept_is_compared_by_name() -> None:
    before = dg.AssetMaterialization("vocab", tags={"dagster/code_version": "1"})
    assert why(before, {"posts": {"version": "x"}}, "1", "new") == ["`posts` is a new input"]


@pytest.mark.slow
def test_a_rebuilt_vocabulary_says_what_was_edited_and_what_came_of_it(
    built: Built, tmp_path_factory: pytest.TempPathFactory
) -> None:
    project = built[0].copy_to(tmp_path_factory.mktemp("why") / "copy")
    project.set(keep_percentile=90)
    with project.instance() as instance:
        result = project.materialize("vocab,packed_tokens", instance)
        assert result.success
        events = {event.asset_key.to_user_string(): event for event in result.get_asset_materialization_events()}

    def metadata(name: str) -> Any:
        return events[name].step_materialization_data.materialization.metadata

    assert metadata("vocab")["why"].value == "- `settings/vocab`: keep_percentile 95.0 → 90.0"
    before = built[1].asset_materializations_for_node("vocab")[0].metadata["dagster/row_count"].value
    after = metadata("vocab")["dagster/row_count"].value
    assert after < before
    assert metadata("packed_tokens")["why"].value.endswith(f"…, {before:,} tags → {after:,} tags")
    assert metadata("vocab")[INPUTS].value["settings/vocab"]["values"]["keep_percentile"] == 90.0
