"""The card of an exported model: data, metrics beside the baselines, what it is for, where it must not be trusted."""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from booru_embed_core.evaluation.markdown import TITLES, metrics_table, verdict
from booru_embed_core.evaluation.report import Margin
from booru_embed_core.schema import CATEGORIES

if TYPE_CHECKING:
    from collections.abc import Mapping

    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.training.checkpoint_config import CheckpointConfig

_HEAD: Final = """---
library_name: {library}
pipeline_tag: feature-extraction
tags: [danbooru, tags, embedding, set-transformer, matryoshka]
---
# A set of Danbooru tags as one vector of {dim} numbers
"""
LIBRARY_USE: Final = """```python
from booru_embed_core import BooruEmbedder

embedder = BooruEmbedder.load("path/to/this/folder")
vectors = embedder.embed(["1girl cat_ears solo"])  # float32 [1, {dim}], unit length
```"""
ONNX_USE: Final = """`model.onnx` takes `input_ids` and `attention_mask`, int64 [captions, length], with the ids of
`tokenizer.json`: first the summary token (2), then those of the tags, then padding (0). It gives `embedding`, float32
[captions, {dim}] of unit length, `state`, and `hidden_states` of every token. `completion.onnx` makes of `state` a
logit for each tag. `*_int8.onnx` are the same in a quarter of the bytes. The library reads the folder, without torch:

```python
from booru_embed_core import BooruEmbedder

embedder = BooruEmbedder.load("path/to/this/folder")  # or precision="int8"
vectors = embedder.embed(["1girl cat_ears solo"])  # float32 [1, {dim}], unit length
```"""
SENTENCE_USE: Final = """```python
from sentence_transformers import SentenceTransformer

model = SentenceTransformer("path/to/this/folder")
vectors = model.encode(["1girl cat_ears solo", "1girl, cat ears"])  # float32 [2, {dim}], unit length
```

No code comes with it: the weights are laid out as those of an architecture that transformers knows. Tags are separated
by spaces or commas; one that the vocabulary does not hold is left out without a word, and a caption of none is the
empty one."""
_PURPOSE: Final = """## Intended use

To condition image models on a set of tags, to search image collections by tags, to compare tags, and to suggest further
tags. Captions are sets: order means nothing. It is not made to judge people or pictures: it never sees a picture."""


def card(
    config: CheckpointConfig,
    vocab: Vocab,
    evaluation: Path | None,
    use: str = LIBRARY_USE,
    library: str = "booru-embed",
    more: str = "",
) -> str:
    """The card as Markdown.

    Args:
        config: of the checkpoint.
        vocab: its vocabulary.
        evaluation: its ``evaluation.json``, or None.
        use: how this form of it is loaded; ``{dim}`` stands for E.
        library: which library loads it, as the Hub calls it.
        more: sections that only this form has.

    Raises:
        ValueError: the evaluation is not one of this model.
    """
    sections = [
        _HEAD.format(library=library, dim=config.model.embedding_dim) + "\n" + _shape(config),
        use.format(dim=config.model.embedding_dim),
        _PURPOSE,
        _data(config, vocab),
        _metrics(vocab, evaluation),
        *([more] if more else []),
        _limits(config, vocab),
    ]
    return "\n\n".join(sections) + "\n"


def loss_section(found: Mapping[str, Mapping[str, float]] | None) -> str:
    """The section on int8: a table of what `export_loss.recall_of` found, or that nothing was measured."""
    title = "## What int8 loses"
    if found is None:
        return f"{title}\n\nNot measured: the packed file that the checkpoint was trained on was not there."
    rows = [
        f"| {what} | {of['fp32']:.4f} | {of['int8']:.4f} | {of['int8'] - of['fp32']:+.4f} |"
        for what, of in found.items()
    ]
    text = "On the test posts; tags are ranked by the completion head, halves are compared by the embedding."
    return "\n".join([title, "", text, "", "| | float32 | int8 | difference |", "|---|---:|---:|---:|", *rows])


def _shape(config: CheckpointConfig) -> str:
    model = config.model
    dims = ", ".join(str(dim) for dim in (*model.matryoshka_dims, model.embedding_dim))
    return (
        f"Its prefixes of {dims} numbers work alone too. "
        f"A set transformer: {model.trunk}, width {model.width}, {model.num_layers} layers, {model.num_heads} heads; "
        f"trained from scratch for {config.training.num_epochs} epochs."
    )


def _data(config: CheckpointConfig, vocab: Vocab) -> str:
    sizes = ", ".join(f"{vocab.sizes[category]:,} {category.value}" for category in CATEGORIES)
    ratings = ", ".join(config.trained_ratings) or "none: ratings were withheld"
    return (
        "## Data\n\n"
        f"Tags that people put on posts of a booru: {config.num_train_posts:,} posts to train on; of all posts "
        f"{config.splits.validation_share:.0%} were kept for validation and {config.splits.test_share:.0%} for the "
        f"test, chosen by a hash of the post's id. Vocabulary: {vocab.num_tags:,} tags ({sizes}), each used "
        f"{int(vocab.counts[~vocab.is_unknown].min()):,} times or more (SHA-256 `{vocab.hash}`). Ratings given in "
        f"training: {ratings}."
    )


def _metrics(vocab: Vocab, evaluation: Path | None) -> str:
    title = "## Metrics"
    if evaluation is None:
        return f"{title}\n\nNot measured: no evaluation lay beside the checkpoint when this card was written."
    found = read_evaluation(evaluation, vocab.num_tags)
    lines = [
        title,
        "",
        f"On {found['split_sizes']['test']:,} test posts that training never saw; some tags of a post are hidden and "
        "looked for among all tags but the visible ones. recall@k = hits / min(k, hidden tags), means over posts, the "
        "best in bold. Baselines were fitted on the same training posts and tuned on the validation posts.",
    ]
    for hide, task in found["tasks"].items():
        lines += ["", f"### {TITLES[hide]}", "", *metrics_table(task["models"]), ""]
        for model, margins in task["margins"].items():
            lines.append(verdict(model, {metric: Margin(**margin) for metric, margin in margins.items()}))
    lines += ["", *(f"- {caveat}" for caveat in found["caveats"])]
    return "\n".join(lines).rstrip()


def read_evaluation(file: Path, num_tags: int) -> dict[str, Any]:
    """What ``evaluation.json`` says of a model of `num_tags` tags.

    Raises:
        ValueError: it is no evaluation, or one of another vocabulary.
    """
    remedy = "materialize evaluation again, or leave --evaluation out"
    try:
        found = json.loads(file.read_text(encoding="utf-8"))
        known = found["num_tags"], found["tasks"], found["split_sizes"], found["caveats"]
    except (KeyError, TypeError, ValueError) as error:
        raise ValueError(f"{file}: not an evaluation ({type(error).__name__}: {error}); {remedy}") from None
    if known[0] != num_tags:
        raise ValueError(f"{file}: of a model of {known[0]:,} tags, and this one has {num_tags:,}; {remedy}")
    assert isinstance(found, dict)
    return found


def _limits(config: CheckpointConfig, vocab: Vocab) -> str:
    never = "" if config.trained_ratings else " It was never shown a rating, and takes none."
    return (
        "## Limits\n\n"
        f"It knows the {vocab.num_tags:,} tags of its vocabulary and no others: unknown ones are left out. "
        "What it has learned is which tags people put together on the posts it was trained on, with their habits, "
        f"gaps and biases; a rare tag's vector rests on few posts.{never}"
    )
