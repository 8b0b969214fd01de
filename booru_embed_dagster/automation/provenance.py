"""Why a product was rebuilt: its inputs compared with those of the previous version.

A description of the inputs is stored with each materialization. The next one can name what has changed, even if the
older products were pruned.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any, Final

import dagster as dg

from booru_embed_core.settings import Settings
from booru_embed_dagster.automation.observation import DATA_VERSION_TAG, POSTS_EXPORT

INPUTS: Final = "inputs"
"""The metadata key of a materialization's description of its inputs."""
CODE_VERSION_TAG: Final = "dagster/code_version"
INPUT_VERSION_TAG: Final = "dagster/input_data_version"
_SHOWN_DIGITS: Final = 8
_ROWS: Final = {"posts": "posts", "tag_frequencies": "tags", "vocab": "tags", "packed_tokens": "posts"}
_SETTINGS: Final = "settings/"

Inputs = Mapping[str, Mapping[str, Any]]


def input_tags(versions: Mapping[str, str]) -> dict[str, str]:
    """Tags with the version of each input of a materialization.

    Dagster sets these tags too, from what was recorded when the step began. An edit may have been recorded after the
    run read its settings, so only the run knows the versions that it used.
    """
    return {f"{INPUT_VERSION_TAG}/{name}": version for name, version in versions.items()}


def describe_inputs(instance: dg.DagsterInstance, versions: Mapping[str, str], settings: Settings) -> Inputs:
    """The version of each input, with the values of a settings section or the size of a product in words."""
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
    """What has changed since the materialization `before`, one line per change.

    `inputs`, `code_version` and `version` describe the new materialization.
    """
    if before is None:
        return ["built for the first time"]
    lines = changes(before, inputs, code_version) or ["no input has changed: it was rebuilt on request"]
    if (before.tags or {}).get(DATA_VERSION_TAG) == version:
        lines.append("the result is the same as before: nothing downstream is rebuilt")
    return lines


def changes(before: dg.AssetMaterialization, inputs: Inputs, code_version: str | None) -> list[str]:
    """How `inputs` and `code_version` differ from those of the materialization `before`, one line per change."""
    tags = before.tags or {}
    recorded = before.metadata.get(INPUTS)
    known: Inputs = recorded.value if isinstance(recorded, dg.JsonMetadataValue) else {}  # type: ignore[assignment]
    lines = []
    if tags.get(CODE_VERSION_TAG) != code_version:
        lines.append(f"code version {tags.get(CODE_VERSION_TAG)} → {code_version}")
    for name in sorted({*known, *inputs}):
        lines += _changes(name, known.get(name), inputs.get(name))
    return lines


def _changes(name: str, before: Mapping[str, Any] | None, after: Mapping[str, Any] | None) -> Iterator[str]:
    if before is None or after is None:
        yield f"`{name}` is {'a new input' if before is None else 'no longer an input'}"
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
    # The product may have been built outside of this instance, or rebuilt since.
    if event is None or not noun or (event.tags or {}).get(DATA_VERSION_TAG) != version or count not in event.metadata:
        return None
    return f"{event.metadata[count].value:,} {noun}"
