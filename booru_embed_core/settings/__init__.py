"""All settings of the pipeline: one frozen model for each section of ``settings.toml``.

An unknown key, a wrong type or a value out of range raises `SettingsError`: one line with the file, the key, the value
and what is allowed. ``settings.toml`` may leave out any key.
"""

from booru_embed_core.settings.load import SETTINGS_VARIABLE, SettingsError, load_settings, section_version
from booru_embed_core.settings.posts import PostColumns, PostsSettings, SourceSettings, TrueValues
from booru_embed_core.settings.presets import PRESETS, PresetName
from booru_embed_core.settings.sections import (
    OBSERVED_SECTIONS,
    BaselineName,
    CategoryCut,
    DuckdbSettings,
    EvaluationSettings,
    ModelSettings,
    Settings,
    TokensSettings,
    TrainingSettings,
    VocabSettings,
    WarehouseSettings,
)

__all__ = [
    "OBSERVED_SECTIONS",
    "PRESETS",
    "SETTINGS_VARIABLE",
    "BaselineName",
    "CategoryCut",
    "DuckdbSettings",
    "EvaluationSettings",
    "ModelSettings",
    "PostColumns",
    "PostsSettings",
    "PresetName",
    "Settings",
    "SettingsError",
    "SourceSettings",
    "TokensSettings",
    "TrainingSettings",
    "TrueValues",
    "VocabSettings",
    "WarehouseSettings",
    "load_settings",
    "section_version",
]
