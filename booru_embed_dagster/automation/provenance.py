"""Why a product was made again: what it is made from, beside what the version before it was made from.

The description of the inputs is stored with each materialization, so that the next one can say what has changed also
when the older products have been pruned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import dagster as dg

from booru_embed_core.settings import Settings
from booru_embed_dagster.automation.observation import DATA_VERSION_TAG, POSTS_EXPORT

INPUTS: Final = "inputs"
"""The metadata in which a materialization keeps the description of its inputs."""
CODE_VERSION_TAG: Final = "dagster/code_version"
INPUT_VERSION_TAG: Final = "dagster/input_data_version"
_SHOWN_DIGITS: Final = 8
_ROWS: Final = {"posts": "posts", "tag_frequencies": "tags", "vocab": "tags", "packed_tokens": "posts"}
_SETTINGS: Final = "settings/"

Inputs = Mapping[str, Mapping[str, Any]]


def input_tags(versions: Mapping[str, str]) -> dict[str, str]:
    """The tags that say what a materialization was made from, by the name of each input.

    Dagster sets them too, from what was recorded when the step began. An edit may have been recorded since the run read
    its settings, so only the run knows what it used.
    """
    return {f"{INPUT_VERSION_TAG}/{name}": version for name, version in versions.items()}


def describe_inputs(instance: dg.DagsterInstance, versions: Mapping[str, str], settings: Settings) -> Inputs:
    """Each input's version and, of a section of the settings, its values; of a product, its size in words."""
    described: dict[str, dict[str, Any]] = {}
    for name, version in sorted(versions.items()):
        described[name] = {"version": version}
        if name.startswith(_SETTINGS):
            section = getattr(settings, name.removeprefix(_SETTINGS))
            described[name]["values"] = section.model_dump(mode="json")
        elif size := _size(instance, name, version):
            described[name]["size"] = size
    return described


def why(before: dg.AssetMaterialization | None, inputs: Inputs, code_version: str | None, version: str) -> list[str]:
    """What has changed since the materialization `before`, a line for each change.

    `inputs`, `code_version` and `version` are those of the materialization that is being made.
    """
    if before is None:
        return ["made for the first time"]
    tags = before.tags or {}
    recorded = before.metadata.get(INPUTS)
    known: Inputs = recorded.value if isinstance(recorded, dg.JsonMetadataValue) else {}  # type: ignore[assignment]
    lines = []
    if tags.get(CODE_VERSION_TAG) != code_version:
        lines.append(f"code version {tags.get(CODE_VERSION_TAG)} → {code_version}")
    for name in sorted({*known, *inputs}):
        lines += _changes(name, known.get(name), inputs.get(name))
    if not lines:
        lines.append("nothing that it is made from has changed: it was asked for")
    if tags.get(DATA_VERSION_TAG) == version:
        lines.append("it came out as before: what is made from it stays as it is")
    return lines


def _changes(name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[str]:
    if before is None or after is None:
        yield f"`{name}` is {'a new input' if before is None else 'no input any more'}"
    elif before["version"] != after["version"]:
        sizes = before.get("size"), after.get("size")
        size = f", {sizes[0]} → {sizes[1]}" if all(sizes) and sizes[0] != sizes[1] else ""
        values = _changed_values(before.get("values", {}), after.get("values", {}))
        if values:
            yield f"`{name}`: {', '.join(values)}"
        else:
            yield f"`{name}` {_short(before['version'])} → {_short(after['version'])}{size}"


def _changed_values(before: Mapping[str, Any], after: Mapping[str, Any]) -> list[str]:
    old, new = dict(_flat(before)), dict(_flat(after))
    return [
        f"{key} {_shown(old, key)} → {_shown(new, key)}" for key in sorted({*old, *new}) if old.get(key) != new.get(key)
    ]


def _flat(values: Mapping[str, Any], prefix: str = "") -> Iterator[tuple[str, Any]]:
    for key, value in values.items():
        if isinstance(value, Mapping):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield prefix + key, value


def _shown(values: Mapping[str, Any], key: str) -> str:
    return str(values[key]) if values.get(key) is not None else "not set"


def _short(version: str) -> str:
    return f"{version[:_SHOWN_DIGITS]}…"


def _size(instance: dg.DagsterInstance, name: str, version: str) -> str | None:
    if name == POSTS_EXPORT:
        records = instance.fetch_observations(dg.AssetKey(name), limit=1).records
        event: dg.AssetObservation | dg.AssetMaterialization | None = records[0].asset_observation if records else None
        noun, count = "bytes", "size_bytes"
    else:
        entry = instance.get_latest_materialization_event(dg.AssetKey(name))
        event = entry.asset_materialization if entry else None
        noun, count = _ROWS.get(name, ""), "dagster/row_count"
    # The product may have been made outside of this instance, or again since.
    if event is None or not noun or (event.tags or {}).get(DATA_VERSION_TAG) != version or count not in event.metadata:
        return None
    return f"{event.metadata[count].value:,} {noun}"
