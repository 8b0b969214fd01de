"""All settings of the pipeline: one frozen model for each section of ``settings.toml``.

An unknown key, a wrong type or a value out of range raises `SettingsError`: one line with the file, the key, the value
and what is allowed. Defaults live only here; ``settings.toml`` may leave out any key.
"""

from __future__ import annotations

import hashlib
import itertools
import json
import os
import tomllib
from collections.abc import Mapping
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import BaseModel, ConfigDict, Field, ValidationError, model_validator

from booru_embed_core.errors import one_line
from booru_embed_core.schema import RATINGS, Category

SETTINGS_VARIABLE: Final = "BOORU_EMBED_SETTINGS"

# Strict, because pydantic would otherwise accept "12" and true as numbers.
Percentile = Annotated[float, Field(gt=0, le=100, strict=True)]
Share = Annotated[float, Field(ge=0, lt=1, strict=True)]
PositiveInt = Annotated[int, Field(ge=1, strict=True)]
NonNegative = Annotated[float, Field(ge=0, strict=True)]
Positive = Annotated[float, Field(gt=0, strict=True)]
OpenShare = Annotated[float, Field(gt=0, lt=1, strict=True)]
Seed = Annotated[int, Field(ge=0, lt=2**63, strict=True)]
_OPERATIONAL: Final = "changes how the work is done and not its result; left out of the section's version"
OperationalInt = Annotated[PositiveInt, _OPERATIONAL]


# Replace pydantic's messages that speak of Python types instead of TOML.
_MESSAGES: Final = {
    "model_type": "is a section with keys, not a value",
    "tuple_type": "should be a list, in brackets",
    "too_short": "should have at least one entry",
    "path_type": "should be a path, in quotes",
    "int_type": "should be a whole number, without quotes or point",
    "float_type": "should be a number, without quotes",
    "finite_number": "should be a finite number",
}

_REMOVED: Final[Mapping[str, str]] = {
    **dict.fromkeys(("naive_bayes_dampings", "item_knn_neighbours", "item_knn_exponents"), "baselines.py"),
    **dict.fromkeys(("ppmi_dim", "lsa_dims"), "tag_vectors.py"),
    **dict.fromkeys(("tag_table_dim", "tag_table_epochs"), "tag_table.py"),
    **dict.fromkeys(("item2vec_dim", "item2vec_epochs"), "item2vec.py"),
}
"""Former keys of ``[evaluation]`` → the file in booru_embed_core/evaluation that holds the constant now."""


class SettingsError(ValueError):
    """An unusable settings file; the message is one line with file, key, value and remedy."""


class _Section(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", allow_inf_nan=False)


class WarehouseSettings(_Section):
    """Where products are kept. Not observed, because moving the warehouse changes no content."""

    path: Path = Path("data/warehouse")
    keep_versions: PositiveInt = 3


class DuckdbSettings(_Section):
    """Resources of the data stages. Not observed, because they do not change the output."""

    threads: PositiveInt = 2
    memory_limit: Annotated[str, Field(pattern=r"^\d+(\.\d+)?\s*(MB|MiB|GB|GiB)$")] = "1GB"


ColumnName = Annotated[str, Field(pattern=r'^[^"]+$')]


class PostColumns(_Section):
    """The export's name for each column; a column that is named here must exist."""

    id: ColumnName = "id"
    rating: ColumnName = "rating"
    score: ColumnName = "score"
    tag_string: ColumnName = "tag_string"
    tag_string_general: ColumnName = "tag_string_general"
    tag_string_artist: ColumnName = "tag_string_artist"
    tag_string_copyright: ColumnName = "tag_string_copyright"
    tag_string_character: ColumnName = "tag_string_character"
    tag_string_meta: ColumnName = "tag_string_meta"
    is_deleted: ColumnName = "is_deleted"
    is_banned: ColumnName = "is_banned"
    is_flagged: ColumnName = "is_flagged"

    @model_validator(mode="after")
    def _each_once(self) -> Self:
        named = list(self.model_dump(exclude_unset=True).values())
        twice = next((name for name in named if named.count(name) > 1), None)
        if twice is not None:
            raise ValueError(f"column '{twice}' is named twice; name each column once")
        return self


class PostsSettings(_Section):
    """The export to read, and which of its posts to keep.

    An export is files, globs or folders, relative to the settings file, or a BigQuery table,
    ``project.dataset.table``. `bigquery_project` reads the table and is billed.
    """

    export: Annotated[tuple[str, ...], Field(min_length=1)] = ("data/sample/*.csv.gz",)
    bigquery_table: Annotated[str, Field(min_length=1)] | None = None
    bigquery_project: Annotated[str, Field(min_length=1)] | None = None
    ratings: Annotated[tuple[Literal["g", "s", "q", "e"], ...], Field(min_length=1)] = RATINGS
    min_score: Annotated[int, Field(ge=-(2**31), lt=2**31, strict=True)] | None = None
    limit_posts: PositiveInt | None = None
    aliases: Path | None = None
    tag_categories: Path | None = None
    columns: PostColumns = PostColumns()
    rating_names: dict[str, Literal["g", "s", "q", "e"]] = {}
    category_numbers: dict[str, Category] = {}
    max_rejected_share: Share = 0.01

    @model_validator(mode="after")
    def _one_export(self) -> Self:
        if self.bigquery_table is not None and "export" in self.model_fields_set:
            raise ValueError(f"export and bigquery_table ({self.bigquery_table}) are both set; remove one of them")
        if self.bigquery_project is not None and self.bigquery_table is None:
            raise ValueError(f"bigquery_project ({self.bigquery_project}) is set without a bigquery_table; name both")
        return self


class CategoryCut(_Section):
    """One category's own values; None takes the value of ``[vocab]``."""

    keep_percentile: Percentile | None = None
    min_count: PositiveInt | None = None


class VocabSettings(_Section):
    """Which tags get a token: the most frequent ones that cover `keep_percentile` percent of a category's uses.

    The others are dropped or become the unknown token of their category.
    """

    keep_percentile: Percentile = 99.5
    min_count: PositiveInt = 5
    unpopular: Literal["drop", "unk"] = "drop"
    general: CategoryCut = CategoryCut()
    artist: CategoryCut = CategoryCut()
    copyright: CategoryCut = CategoryCut()
    character: CategoryCut = CategoryCut()
    meta: CategoryCut = CategoryCut()

    def cut(self, category: Category) -> tuple[float, int]:
        """The percentile and the minimal count of `category`."""
        own: CategoryCut = getattr(self, category.value)
        percentile = self.keep_percentile if own.keep_percentile is None else own.keep_percentile
        return percentile, self.min_count if own.min_count is None else own.min_count


class TokensSettings(_Section):
    """How posts are split; a post's split depends only on its id and `split_key`."""

    validation_share: Share = 0.05
    test_share: Share = 0.10
    split_key: str = "booru-embed"

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must be below 1, or nothing is left to train on")
        return self


class ModelSettings(_Section):
    """The network's shape; the vocabulary's size comes from the vocab."""

    trunk: Literal["attention", "deepsets"] = "attention"
    width: PositiveInt = 256
    num_layers: PositiveInt = 1
    num_heads: PositiveInt = 8
    ffn_width: PositiveInt = 512
    decoder_width: PositiveInt = 512
    embedding_dim: PositiveInt = 128
    matryoshka_dims: tuple[PositiveInt, ...] = (16, 32, 64)
    dropout: Share = 0.0

    @model_validator(mode="after")
    def _shapes_fit(self) -> Self:
        if self.width % self.num_heads or (self.width // self.num_heads) % 8:
            raise ValueError(
                f"width {self.width} must be num_heads ({self.num_heads}) times a multiple of 8, for flash attention"
            )
        dims = (*self.matryoshka_dims, self.embedding_dim)
        if any(shorter >= longer for shorter, longer in itertools.pairwise(dims)):
            raise ValueError(
                f"matryoshka_dims {list(self.matryoshka_dims)} must ascend and lie below embedding_dim "
                f"({self.embedding_dim})"
            )
        return self


class TrainingSettings(_Section):
    """How the model is trained."""

    seed: Seed = 7
    num_epochs: PositiveInt = 8
    batch_posts: PositiveInt | None = 256
    batch_tokens: PositiveInt | None = None
    initial_vectors: Literal["ppmi_svd", "random"] = "ppmi_svd"
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: Positive = 4e-3
    warmup_share: Share = 0.05
    weight_decay: NonNegative = 0.05
    clip_norm: Positive = 1.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    split_draws: PositiveInt = 2
    duplicate_weight: NonNegative = 0.05
    contrastive_weight: NonNegative = 0.1
    contrastive_temperature: Positive = 0.07
    metadata_weight: NonNegative = 0.2
    metadata_keep_share: Share = 0.5
    checkpoint_every_steps: OperationalInt = 200
    keep_states: OperationalInt = 2
    num_processes: OperationalInt = 1

    @model_validator(mode="before")
    @classmethod
    def _tokens_instead_of_posts(cls, values: Any) -> Any:
        if isinstance(values, dict) and values.get("batch_tokens") is not None:
            return {"batch_posts": None, **values}
        return values

    @model_validator(mode="after")
    def _batches_have_one_bound(self) -> Self:
        if (self.batch_posts is None) == (self.batch_tokens is None):
            raise ValueError(f"batch_posts {self.batch_posts} and batch_tokens {self.batch_tokens}: set one of the two")
        return self


BaselineName: TypeAlias = Literal[
    "popularity", "naive_bayes", "item_knn", "ppmi_svd", "lsa", "tag_table", "item2vec", "ease", "edlae"
]


class EvaluationSettings(_Section):
    """What is measured on the test split, and the baselines to compare with."""

    seed: Seed = 7
    max_posts: PositiveInt = 20_000
    baselines: tuple[BaselineName, ...] = (
        "popularity",
        "naive_bayes",
        "item_knn",
        "ppmi_svd",
        "lsa",
        "tag_table",
        "ease",
        "edlae",
    )
    max_fitted_tags: PositiveInt = 8192
    ease_lambdas: Annotated[tuple[Positive, ...], Field(min_length=1)] = (30.0, 100.0, 300.0, 1000.0, 3000.0, 10_000.0)
    edlae_dropouts: Annotated[tuple[OpenShare, ...], Field(min_length=1)] = (0.03, 0.1, 0.25, 0.4, 0.5, 0.6)
    implied_threshold: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.98
    implied_min_count: PositiveInt = 20


class Settings(_Section):
    """All sections, and the folder that relative paths are resolved against."""

    warehouse: WarehouseSettings = WarehouseSettings()
    duckdb: DuckdbSettings = DuckdbSettings()
    posts: PostsSettings = PostsSettings()
    vocab: VocabSettings = VocabSettings()
    tokens: TokensSettings = TokensSettings()
    model: ModelSettings = ModelSettings()
    training: TrainingSettings = TrainingSettings()
    evaluation: EvaluationSettings = EvaluationSettings()
    root: Annotated[Path, Field(exclude=True)] = Path()

    @property
    def warehouse_path(self) -> Path:
        """The warehouse's folder; a relative path is resolved against the settings file."""
        return self.root / self.warehouse.path

    @property
    def tag_tables(self) -> tuple[Path, ...]:
        """The tag tables that `posts` needs; relative paths are resolved against the settings file."""
        tables = {table for table in (self.posts.aliases, self.posts.tag_categories) if table is not None}
        return tuple(self.root / table for table in sorted(tables))


OBSERVED_SECTIONS: Final = ("posts", "vocab", "tokens", "model", "training", "evaluation")
"""Sections that are data versions: a change rebuilds something."""


def load_settings(path: Path | str | None = None) -> Settings:
    """The settings in `path`, or else in ``$BOORU_EMBED_SETTINGS``, or else in ``./settings.toml``.

    Raises:
        SettingsError: the file is missing, is not TOML, or has an unknown key or an invalid value.
    """
    file = Path(path or os.environ.get(SETTINGS_VARIABLE) or "settings.toml")
    try:
        values = tomllib.loads(file.read_text(encoding="utf-8"))
    except FileNotFoundError:
        raise SettingsError(
            f"{file}: no such settings file; run in the project's root or point {SETTINGS_VARIABLE} at one"
        ) from None
    except OSError as error:
        raise SettingsError(f"{file}: cannot be read ({error.strerror}); give a settings file") from None
    except (tomllib.TOMLDecodeError, UnicodeDecodeError) as error:
        raise SettingsError(f"{file}: not valid TOML: {error}; correct that line") from None
    if "root" in values:
        raise SettingsError(f"{file}: unknown setting 'root'; remove it")
    try:
        return Settings.model_validate({**values, "root": file.resolve().parent})
    except ValidationError as error:
        raise SettingsError(one_line(_first_problem(file, error))) from None


def section_version(section: BaseModel) -> str:
    """The data version of `section`: 16 hex digits that change with any of its values, defaults included.

    `OperationalInt` values do not count, because they do not change the result.
    """
    fields = type(section).model_fields
    values = section.model_dump(mode="json", exclude={key for key in fields if _OPERATIONAL in fields[key].metadata})
    return hashlib.sha256(json.dumps(values, sort_keys=True).encode()).hexdigest()[:16]


def _first_problem(file: Path, error: ValidationError) -> str:
    first = error.errors()[0]
    where = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        section, _, key = where.partition(".")
        if section == "evaluation" and key in _REMOVED:
            return (
                f"{file}: [evaluation] {key} was removed in 0.2.0; it is now a constant in "
                f"booru_embed_core/evaluation/{_REMOVED[key]}; delete the line"
            )
        known = _known_keys(tuple(str(part) for part in first["loc"][:-1]))
        return f"{file}: unknown setting '{where}'; known here: {', '.join(known)}"
    message = _MESSAGES.get(first["type"], first["msg"].removeprefix("Value error, "))
    value = first["input"]
    shown = "" if isinstance(value, dict) else f" = {value!r}"
    return f"{file}: {where}{shown}: {message}; correct the value"


def _known_keys(parents: tuple[str, ...]) -> list[str]:
    model: type[BaseModel] = Settings
    for parent in parents:
        annotation = model.model_fields[parent].annotation
        assert isinstance(annotation, type)
        assert issubclass(annotation, BaseModel)
        model = annotation
    return sorted(set(model.model_fields) - {"root"})
