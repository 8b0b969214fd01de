"""The model card that travels with a checkpoint."""

from __future__ import annotations

from booru_embed_core.schema import CATEGORIES
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.training.checkpoint_config import CheckpointConfig


def model_card(config: CheckpointConfig, vocab: Vocab, num_parameters: int) -> str:
    """The card as Markdown: what the model is, what it was trained on, how to use it, and its limits."""
    sizes = ", ".join(f"{vocab.sizes[category]:,} {category.value}" for category in CATEGORIES)
    model = config.model
    loss = "not measured" if config.validation_loss is None else f"{config.validation_loss:.4f}"
    dims = ", ".join(str(dim) for dim in (*model.matryoshka_dims, model.embedding_dim))
    return f"""---
library_name: booru-embed
tags: [danbooru, tags, embedding, set-transformer, matryoshka]
---
# A booru-embed checkpoint

Embeds a set of Danbooru tags as one unit vector of {model.embedding_dim} numbers.
Its prefixes {dims} work on their own.

| | |
|---|---|
| trunk | {model.trunk}, width {model.width}, {model.num_layers} layers, {num_parameters:,} parameters |
| vocabulary | {vocab.num_tags:,} tags: {sizes} |
| trained on | {config.num_train_posts:,} posts, {config.training_length}; best after {config.best_epoch:.3g} |
| validation loss | {loss} (bottleneck + completion head) |
| vocab SHA-256 | `{config.vocab_hash}` |

```python
from booru_embed_core import BooruEmbedder

embedder = BooruEmbedder.load("path/to/this/folder")
vectors = embedder.embed(["1girl cat_ears solo"])  # float32 [1, {model.embedding_dim}], unit length
```

## Limits

It knows only the {vocab.num_tags:,} tags above; unknown tags are reported and left out. It has learned which tags
people combined on its training posts, with their habits, gaps and biases. The evaluation beside it measures its
quality against linear baselines fitted on the same posts.
"""
