"""The card of an exported model: its figures are those of the evaluation, its facts those of the checkpoint."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest

from booru_embed_core.export.formats import CheckpointSource
from booru_embed_core.export.model_card import LIBRARY_USE, ONNX_USE, SENTENCE_USE, card, loss_section
from booru_embed_core.export.quantization_loss import Compared, QuantizationLoss
from tests.core.model_helpers import Trained


@pytest.fixture(scope="module")
def source(trained: Trained) -> CheckpointSource:
    return CheckpointSource.open(trained.checkpoint, tokens=trained.corpus.packed_path)


@pytest.fixture
def evaluation(tmp_path: Path) -> Path:
    """The evaluation of a model of 36 tags."""
    metrics = {"recall@1": 0.25, "recall@10": 0.5}
    margin = {"against": "ease", "difference": 0.1, "standard_error": 0.01}
    tasks = {
        "half": {
            "models": {"booru-embed": metrics, "ease": {name: value / 2 for name, value in metrics.items()}},
            "margins": {"booru-embed": dict.fromkeys(metrics, margin)},
        }
    }
    half = {"models": {"booru-embed": {"recall@1": 0.125}}}
    tasks["one"] = {"models": {"booru-embed-head": {"recall@10": 0.75, "mrr": math.nan}}}
    split_sizes = {"train": 2000, "validation": 10, "test": 1234}
    file = tmp_path / "evaluation.json"
    found = {"num_tags": 36, "tasks": tasks, "split_sizes": split_sizes, "caveats": ["Every post is rated 's'."]}
    found["split_half_retrieval"] = half
    file.write_text(json.dumps(found), encoding="utf-8")
    return file


def test_the_card_has_metrics_beside_baselines(source: CheckpointSource, evaluation: Path) -> None:
    text = card(source.config, source.vocab, evaluation)
    assert text.startswith("---\nlibrary_name: booru-embed\n")
    for title in ("## Intended use", "## Data", "## Metrics", "### Half of the tags hidden", "## Limits"):
        assert f"\n{title}\n" in text
    assert "On 1,234 test posts" in text
    assert "| booru-embed | **0.250** | **0.500** |" in text
    assert "| ease | 0.125 | 0.250 |" in text
    assert "- `booru-embed` is ahead of ease at recall@1 (+0.100 ± 0.010)" in text
    assert "- Every post is rated 's'." in text
    assert f"{source.config.num_train_posts} training posts" in text


def test_the_hub_reads_the_metadata(source: CheckpointSource, evaluation: Path) -> None:
    """By the Hub's own library; its check on the web cannot run here, and asks for the same words."""
    from huggingface_hub import EvalResult, ModelCard, ModelCardData
    from huggingface_hub.repocard_data import eval_results_to_model_index

    read = ModelCard(card(source.config, source.vocab, evaluation, license_id="cc-by-4.0"))
    data = read.data
    assert isinstance(data, ModelCardData)
    assert (data.license, data.library_name, data.pipeline_tag) == ("cc-by-4.0", "booru-embed", "feature-extraction")
    assert {"danbooru", "embedding"} <= set(data.tags or ())
    assert data.model_name == "booru-embed"
    results = data.eval_results
    assert results is not None
    dataset = {
        "dataset_type": "booru-posts",
        "dataset_name": "posts of a booru (1,234 tested)",
        "dataset_split": "test",
    }
    task = {"task_type": "feature-extraction"}
    half = task | dataset | {"task_name": "Half of the tags hidden", "dataset_config": "half-hidden"}
    one = task | dataset | {"task_name": "One tag hidden", "dataset_config": "one-hidden"}
    split = task | dataset | {"task_name": "Split-half retrieval", "dataset_config": "split-half"}
    head = "recall@10 (booru-embed-head)"
    assert results == [
        EvalResult(**half, metric_type="recall@1", metric_value=0.25, metric_name="recall@1"),
        EvalResult(**half, metric_type="recall@10", metric_value=0.5, metric_name="recall@10"),
        EvalResult(**one, metric_type="recall@10", metric_value=0.75, metric_name=head),  # without MRR, which is NaN
        EvalResult(**split, metric_type="recall@1", metric_value=0.125, metric_name="recall@1"),
    ]
    index = eval_results_to_model_index("booru-embed", results)
    assert index == data.to_dict()["model-index"]
    assert ModelCard(str(read)).data.to_dict() == data.to_dict()
    assert ModelCard(card(source.config, source.vocab, None)).data.license == "unknown"


@pytest.mark.parametrize(
    ("text", "message"),
    [("[]", "should be an object"), ("{", "is not JSON"), ("[" * 100_000, "is nested"), ('{"num_tags": 36}', "lacks")],
)
def test_what_is_no_evaluation_is_named(source: CheckpointSource, tmp_path: Path, text: str, message: str) -> None:
    (tmp_path / "evaluation.json").write_text(text, encoding="utf-8")
    with pytest.raises(ValueError, match=rf"evaluation\.json: {message}.*; materialize evaluation again"):
        card(source.config, source.vocab, tmp_path / "evaluation.json")


def test_the_evaluation_of_another_vocabulary_is_refused(source: CheckpointSource, evaluation: Path) -> None:
    evaluation.write_text(evaluation.read_text(encoding="utf-8").replace("36", "37"), encoding="utf-8")
    with pytest.raises(ValueError, match="of a model with 37 tags, but this one has 36"):
        card(source.config, source.vocab, evaluation)


@pytest.mark.parametrize("use", [LIBRARY_USE, ONNX_USE, SENTENCE_USE])
def test_the_use_of_every_format_has_the_length_of_the_vectors(source: CheckpointSource, use: str) -> None:
    text = card(source.config, source.vocab, None, use, "some-library", "## More\n\nOf this format.")
    assert text.startswith("---\nlibrary_name: some-library\n")
    assert "16] of unit length" in text or "[1, 16], unit length" in text or "[2, 16], unit length" in text
    assert "{dim}" not in text
    assert text.index("## Metrics\n\nNot measured") < text.index("## More") < text.index("## Limits")
    assert text.endswith("\n")


def test_the_facts_of_the_checkpoint_are_in_the_card(source: CheckpointSource) -> None:
    text = card(source.config, source.vocab, None)
    assert f"Vocabulary: {source.vocab.num_tags} tags (24 general, 3 artist, 3 copyright, 3 character, 3 meta)" in text
    assert f"used at least {source.vocab.counts.min()} times (SHA-256 `{source.vocab.hash}`)" in text
    assert "Ratings given in training: g, s, q, e." in text
    assert "trained without ratings" not in text
    silent = source.config.model_copy(update={"trained_ratings": ()})
    text = card(silent, source.vocab, None)
    assert "Ratings given in training: none; ratings were withheld." in text
    assert text.rstrip().endswith("It was trained without ratings and takes none.")


def test_the_loss_is_the_difference_of_both_recalls() -> None:
    recall = {"recall@10": Compared(0.5, 0.475, 0.01234), "R@1": Compared(0.25, 0.26, 0.002)}
    text = loss_section(QuantizationLoss(1234, recall))
    assert text.splitlines()[2].startswith("On 1,234 test posts, the same for both; ± is the standard error")
    assert text.splitlines()[-2:] == [
        "| recall@10 | 0.5000 | 0.4750 | -0.0250 ± 0.0123 |",
        "| R@1 | 0.2500 | 0.2600 | +0.0100 ± 0.0020 |",
    ]
    assert loss_section(None).splitlines()[0] == text.splitlines()[0] == "## Loss of int8"
