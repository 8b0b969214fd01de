"""The card describes the checkpoint, and its example runs."""

from __future__ import annotations

import re

import numpy as np

from booru_embed_core.schema import CATEGORIES
from booru_embed_core.training.checkpoint_config import read_config
from booru_embed_core.training.model_card import model_card
from tests.core.model_helpers import Trained


def test_the_card_names_sizes_training_and_vocabulary(trained: Trained) -> None:
    config, vocab = read_config(trained.checkpoint), trained.corpus.vocab
    card = model_card(config, vocab, 1234567)
    assert "as one unit vector of 16 numbers.\nIts prefixes 4, 8, 16 work on their own." in card
    assert "attention, width 32, 2 layers, 1,234,567 parameters" in card
    assert ", ".join(f"{vocab.sizes[category]} {category.value}" for category in CATEGORIES) in card
    assert f"{trained.report.num_train_posts} posts, 6 epochs; best after {config.best_epoch:g}" in card
    assert f"| validation loss | {config.validation_loss:.4f} " in card
    assert vocab.hash in card
    assert not config.is_practice


def test_a_run_that_is_bounded_is_a_practice_even_if_all_epochs_fit(trained: Trained) -> None:
    config = read_config(trained.checkpoint)
    bounded = config.training.model_copy(update={"max_minutes": 60.0})
    small = config.model_copy(update={"training": bounded, "num_planned_steps": config.num_steps})
    assert small.is_practice
    assert "for 6 epochs, a practice run: [training] bounds it, although all steps fitted." in small.practice_note


def test_the_cards_example_runs(trained: Trained) -> None:
    card = (trained.checkpoint / "README.md").read_text(encoding="utf-8")
    (example,) = re.findall(r"```python\n(.*?)```", card, re.DOTALL)
    names: dict[str, object] = {}
    exec(example.replace("path/to/this/folder", str(trained.checkpoint)), names)
    vectors = names["vectors"]
    assert isinstance(vectors, np.ndarray)
    assert vectors.shape == (1, 16)
