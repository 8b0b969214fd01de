"""The sections of ``settings.toml``, one frozen model each, except ``[posts]``. Defaults live only here."""

from __future__ import annotations

import itertools
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self, TypeAlias

from pydantic import Field, model_validator

from booru_embed_core.schema import Category
from booru_embed_core.settings.base import (
    MAX_COUNT,
    OPERATIONAL,
    MemorySize,
    OpenShare,
    PathValue,
    Penalty,
    Percentile,
    PositiveInt,
    Section,
    Seed,
    Share,
    Switch,
    Text,
    Weight,
)
from booru_embed_core.settings.posts import PostsSettings


class WarehouseSettings(Section):
    """Where products are kept. Not observed, because moving the warehouse changes no content."""

    path: PathValue = Path("data/warehouse")
    keep_versions: Annotated[int, Field(ge=1, le=100_000, strict=True)] = 3


class DuckdbSettings(Section):
    """Resources of the data stages. Not observed, because they do not change the output."""

    threads: Annotated[int, Field(ge=1, le=1024, strict=True)] = 2
    memory_limit: MemorySize = "1GB"


Processes: TypeAlias = Annotated[int, Field(ge=1, le=1024, strict=True)]


class ProcessesSettings(Section):
    """Processes of the stages after training. Not observed, because they do not change the output."""

    evaluation: Processes = 1
    post_embeddings: Processes = 1


class CategoryCut(Section):
    """One category's own values; None takes the value of ``[vocab]``."""

    keep_percentile: Percentile | None = None
    min_count: PositiveInt | None = None


class VocabSettings(Section):
    """Which tags get a token: the most frequent ones that cover `keep_percentile` percent of a category's uses.

    The others are dropped or become the unknown token of their category.
    """

    keep_percentile: Percentile = 99.5
    min_count: PositiveInt = 5
    unpopular: Literal["drop", "unk"] = "drop"
    implied_threshold: Annotated[float, Field(ge=0.9, le=1, strict=True)] = 0.98
    implied_min_count: Annotated[int, Field(ge=20, le=MAX_COUNT, strict=True)] = 20
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


class TokensSettings(Section):
    """How posts are encoded and split; a post's split depends only on its id and `split_key`."""

    validation_share: Share = 0.05
    test_share: Share = 0.10
    split_key: Text = "booru-embed"
    drop_implied: Switch = False

    @model_validator(mode="after")
    def _leave_something_to_train_on(self) -> Self:
        if self.validation_share + self.test_share >= 1:
            raise ValueError("validation_share + test_share must be below 1, or nothing is left to train on")
        return self


Width: TypeAlias = Annotated[int, Field(ge=1, le=32_768, strict=True)]


class ModelSettings(Section):
    """The network's shape; the vocabulary's size comes from the vocab."""

    trunk: Literal["attention", "deepsets"] = "attention"
    width: Width = 256
    num_layers: Annotated[int, Field(ge=1, le=128, strict=True)] = 1
    num_heads: Annotated[int, Field(ge=1, le=1024, strict=True)] = 8
    ffn_width: Width = 512
    feed_forward_first: Switch = True
    decoder_width: Width = 512
    embedding_dim: Width = 128
    matryoshka_dims: Annotated[tuple[Width, ...], Field(max_length=64)] = (16, 32, 64)
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


class TrainingSettings(Section):
    """How the model is trained."""

    seed: Seed = 7
    num_epochs: Annotated[int, Field(ge=1, le=10_000, strict=True)] = 12
    max_steps: PositiveInt | None = None
    max_minutes: Annotated[float, Field(gt=0, le=1e6, strict=True)] | None = None
    batch_posts: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] | None = 256
    batch_tokens: Annotated[int, Field(ge=1, le=100_000_000, strict=True)] | None = None
    num_sampled_tags: Annotated[int, Field(ge=1, le=1_000_000, strict=True)] = 8192
    initial_vectors: Literal["correlation", "ppmi_svd", "random"] = "correlation"
    optimizer: Literal["muon", "adamw"] = "muon"
    learning_rate: Annotated[float, Field(gt=0, le=10, strict=True)] = 6e-3
    warmup_share: Share = 0.05
    decay: Literal["linear", "cosine"] = "linear"
    weight_decay: Weight = 0.05
    clip_norm: Annotated[float, Field(gt=0, le=1e6, strict=True)] = 1.0
    precision: Literal["auto", "bf16", "fp32"] = "auto"
    device: Literal["auto", "cpu", "cuda"] = "auto"
    split_draws: Annotated[int, Field(ge=1, le=1000, strict=True)] = 4
    whole_share: Share = 0.75
    duplicate_weight: Weight = 0.05
    contrastive_weight: Weight = 0.1
    contrastive_temperature: Annotated[float, Field(ge=1e-3, le=1000, strict=True)] = 0.07
    metadata_weight: Weight = 0.2
    metadata_keep_share: Share = 0.5
    checkpoint_every_minutes: Annotated[float, Field(gt=0, le=1e6, strict=True), OPERATIONAL] = 5.0
    checkpoint_every_steps: Annotated[PositiveInt | None, OPERATIONAL] = None
    keep_states: Annotated[int, Field(ge=1, le=1000, strict=True), OPERATIONAL] = 2
    num_processes: Annotated[Processes, OPERATIONAL] = 1

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


class EvaluationSettings(Section):
    """What is measured on the test split, and the baselines to compare with."""

    seed: Seed = 7
    max_posts: PositiveInt = 20_000
    baselines: Annotated[tuple[BaselineName, ...], Field(max_length=100)] = (
        "popularity",
        "naive_bayes",
        "item_knn",
        "ppmi_svd",
        "lsa",
        "tag_table",
        "ease",
        "edlae",
    )
    max_fitted_tags: Annotated[int, Field(ge=1, le=100_000, strict=True)] = 8192
    ease_lambdas: Annotated[tuple[Penalty, ...], Field(min_length=1, max_length=100)] = (
        30.0,
        100.0,
        300.0,
        1000.0,
        3000.0,
        10_000.0,
    )
    edlae_dropouts: Annotated[tuple[OpenShare, ...], Field(min_length=1, max_length=100)] = (
        0.03,
        0.1,
        0.25,
        0.4,
        0.5,
        0.6,
    )
    max_scores: Annotated[int, Field(ge=1, le=10**15, strict=True)] = 2_000_000_000
    max_baseline_seconds: PositiveInt = 300
    implied_threshold: Annotated[float, Field(gt=0, le=1, strict=True)] = 0.98
    implied_min_count: PositiveInt = 20


class Settings(Section):
    """All sections, and the folder that relative paths are resolved against."""

    warehouse: WarehouseSettings = WarehouseSettings()
    duckdb: DuckdbSettings = DuckdbSettings()
    processes: ProcessesSettings = ProcessesSettings()
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
        sources = self.posts.sources
        named = ((source.aliases, source.implications, source.tag_categories) for source in sources)
        tables = {table for tables in named for table in tables if table is not None}
        return tuple(self.root / table for table in sorted(tables))


OBSERVED_SECTIONS: Final = ("posts", "vocab", "tokens", "model", "training", "evaluation")
"""Sections that are data versions: a change rebuilds something."""
