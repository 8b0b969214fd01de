"""The card of an exported model: its use, data, metrics beside the baselines, and limits."""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from booru_embed_core.evaluation.evaluation_file import EvaluationFile, read_evaluation
from booru_embed_core.evaluation.markdown import TITLES, metrics_table, verdict
from booru_embed_core.evaluation.task_figures import Margin
from booru_embed_core.schema import CATEGORIES

if TYPE_CHECKING:
    from booru_embed_core.export.quantization_loss import QuantizationLoss
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.training.checkpoint_config import CheckpointConfig

UNKNOWN_LICENSE: Final = "unknown"
"""The Hub's name for a licence that nobody has told."""
_TAGS: Final = ("danbooru", "tags", "embedding", "set-transformer", "matryoshka")
_NAME: Final = "booru-embed"
_HEAD_NAME: Final = "booru-embed-head"
_HALF_NAME: Final = "Split-half retrieval"
LIBRARY_USE: Final = """```python
from booru_embed_core import BooruEmbedder

embedder = BooruEmbedder.load("path/to/this/folder")
vectors = embedder.embed(["1girl cat_ears solo"])  # float32 [1, {dim}], unit length
```"""
ONNX_USE: Final = """`model.onnx` takes `input_ids` and `attention_mask`, int64 [captions, length], with the ids of
`tokenizer.json`: the summary token (2), the tags, then padding (0). It returns `embedding`, float32 [captions, {dim}]
of unit length, `state`, and `hidden_states` of every token. `completion.onnx` turns `state` into a logit for each tag.
`*_int8.onnx` are quantized versions with a quarter of the bytes. The library loads the folder without torch:

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

The folder holds no code: its weights are those of an architecture that transformers knows. Commas or line breaks
separate tags, whose words may be separated by spaces. Without them spaces separate tags, whose words need underscores:
`1girl cat_ears`. Weights are not read. Unknown tags are left out silently, and a caption of only unknown tags is read
as the empty one."""
BOTH_USE: Final = f"""{LIBRARY_USE}

{SENTENCE_USE.replace("The folder holds no code: its", "For this library the")}"""
_PURPOSE: Final = """## Intended use

Condition image models on a set of tags, search image collections by tags, compare tags, and suggest further tags.
Captions are sets: their order has no meaning. Do not use it to judge people or pictures: it never sees a picture."""


def card(
    config: CheckpointConfig,
    vocab: Vocab,
    evaluation: Path | None,
    use: str = LIBRARY_USE,
    library: str = "booru-embed",
    more: str = "",
    license_id: str = UNKNOWN_LICENSE,
) -> str:
    """The card as Markdown, with the Hub's metadata in front of it.

    Args:
        config: of the checkpoint.
        vocab: its vocabulary.
        evaluation: its ``evaluation.json``, or None.
        use: how to load this format; ``{dim}`` stands for E.
        library: the library that loads it, by its name on the Hub.
        more: sections of this format alone.
        license_id: of the model, by its name on the Hub.

    Raises:
        ValueError: the evaluation is of another model.
    """
    dim = config.model.embedding_dim
    found = None if evaluation is None else _evaluation(evaluation, vocab.num_tags)
    sections = [
        _metadata(library, license_id, found),
        f"# A set of Danbooru tags as one vector of {dim} numbers",
        _shape(config),
        use.format(dim=dim),
        _PURPOSE,
        _data(config, vocab),
        _metrics(found),
        *([more] if more else []),
        _limits(config, vocab),
    ]
    return "\n\n".join(sections) + "\n"


def loss_section(found: QuantizationLoss | None, precision: str = "int8") -> str:
    """The section on weights in `precision`: a table of what was measured, or a note that nothing was."""
    title = f"## Loss of {precision}"
    if found is None:
        return f"{title}\n\nNot measured: the packed file that the checkpoint was trained on was missing."
    rows = [
        f"| {metric} | {one.exact:.4f} | {one.rounded:.4f} | {one.difference:+.4f} ± {one.standard_error:.4f} |"
        for metric, one in found.recall.items()
    ]
    text = (
        f"On {found.num_posts:,} test posts, the same for both; ± is the standard error of the difference. The "
        "completion head ranks tags. The embedding finds the other half of a post among those of these posts, so that "
        "its recall depends on their number."
    )
    return "\n".join([title, "", text, "", f"| | float32 | {precision} | difference |", "|---|---:|---:|---:|", *rows])


def _metadata(library: str, license_id: str, found: EvaluationFile | None) -> str:
    """The card's metadata in YAML, of which JSON is a part; ``model-index`` has the figures of `found`."""
    lines = [
        f"library_name: {library}",
        "pipeline_tag: feature-extraction",
        f"license: {license_id}",
        f"tags: [{', '.join(_TAGS)}]",
    ]
    results = [] if found is None else _results(found)
    if results:
        lines += ["metrics: [recall]", "model-index:", f"- name: {_NAME}", "  results:"]
        lines += [f"  - {json.dumps(result, ensure_ascii=False)}" for result in results]
    return "\n".join(["---", *lines, "---"])


def _results(found: EvaluationFile) -> list[dict[str, Any]]:
    """Each task of `found` as a result of the Hub's ``model-index``; figures that are not finite are left out."""
    tasks = [
        (f"{hide}-hidden", str(TITLES.get(hide, hide)), task.models)  # type: ignore[call-overload]  # others' tasks too
        for hide, task in found.tasks.items()
    ]
    tasks.append(("split-half", _HALF_NAME, found.split_half_retrieval.models))
    dataset = {"type": "booru-posts", "name": f"posts of a booru ({found.split_sizes.test:,} tested)", "split": "test"}
    results = []
    for config, title, models in tasks:
        metrics = [
            {"type": metric, "value": round(value, 4), "name": metric if model == _NAME else f"{metric} ({model})"}
            for model in (_NAME, _HEAD_NAME)
            for metric, value in models.get(model, {}).items()
            if math.isfinite(value)
        ]
        if metrics:
            task = {"type": "feature-extraction", "name": title}
            results.append({"task": task, "dataset": dataset | {"config": config}, "metrics": metrics})
    return results


def _shape(config: CheckpointConfig) -> str:
    model = config.model
    dims = ", ".join(str(dim) for dim in (*model.matryoshka_dims, model.embedding_dim))
    return (
        f"Prefixes of {dims} numbers work as shorter embeddings. "
        f"A set transformer: {model.trunk}, width {model.width}, {model.num_layers} layers, {model.num_heads} heads; "
        f"trained from scratch for {config.training_length}."
    )


def _data(config: CheckpointConfig, vocab: Vocab) -> str:
    sizes = ", ".join(f"{vocab.sizes[category]:,} {category.value}" for category in CATEGORIES)
    ratings = ", ".join(config.trained_ratings) or "none; ratings were withheld"
    return (
        "## Data\n\n"
        f"Tags of posts of a booru: {config.num_train_posts:,} training posts. A hash of the post's id kept "
        f"{config.splits.validation_share:.0%} of all posts for validation and {config.splits.test_share:.0%} for the "
        f"test. Vocabulary: {vocab.num_tags:,} tags ({sizes}), each used at least "
        f"{int(vocab.counts[~vocab.is_unknown].min()):,} times (SHA-256 `{vocab.hash}`). Ratings given in "
        f"training: {ratings}."
    )


def _metrics(found: EvaluationFile | None) -> str:
    title = "## Metrics"
    if found is None:
        return f"{title}\n\nNot measured: the checkpoint had no evaluation when this card was written."
    lines = [
        title,
        "",
        f"On {found.split_sizes.test:,} test posts that training never saw. Some tags of each post are hidden, "
        "and all tags but the visible ones are ranked. recall@k = hits / min(k, hidden tags), averaged over posts; "
        "the best is bold. Baselines are fitted on the same training posts and tuned on the validation posts.",
    ]
    titles = {str(hide): title for hide, title in TITLES.items()}
    for hide, task in found.tasks.items():
        lines += ["", f"### {titles.get(hide, hide)}", "", *(metrics_table(task.models) if task.models else ()), ""]
        for model, margins in task.margins.items():
            known = {metric: Margin(**margin.model_dump()) for metric, margin in margins.items()}
            lines.append(verdict(model, known))
    lines += ["", *(f"- {caveat}" for caveat in (*found.notes, *found.caveats))]
    return "\n".join(lines).rstrip()


def _evaluation(file: Path, num_tags: int) -> EvaluationFile:
    """The content of ``evaluation.json`` for a model of `num_tags` tags.

    Raises:
        ValueError: the file is not an evaluation, or one with another vocabulary.
    """
    remedy = "materialize evaluation again, or leave --evaluation out"
    found = read_evaluation(file, remedy)
    if found.num_tags != num_tags:
        raise ValueError(f"{file}: of a model with {found.num_tags:,} tags, but this one has {num_tags:,}; {remedy}")
    return found


def _limits(config: CheckpointConfig, vocab: Vocab) -> str:
    never = "" if config.trained_ratings else " It was trained without ratings and takes none."
    return (
        "## Limits\n\n"
        f"It knows only the {vocab.num_tags:,} tags of its vocabulary; unknown tags are left out. "
        "It has learned which tags people combined on its training posts, with their habits, gaps and biases. "
        f"The vector of a rare tag rests on few posts.{never}"
    )
