"""``booru-embed evaluate`` prints what the library measures."""

from __future__ import annotations

import csv
import shutil
from pathlib import Path

import numpy as np
import pytest

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.evaluation.metrics import evaluate_scorer
from booru_embed_core.evaluation.scorers import model_scorers
from booru_embed_core.evaluation.tasks import Hide, hold_out
from booru_embed_core.evaluation.tuning import baselines_from_packed
from booru_embed_core.schema import CATEGORIES, tag_column
from booru_embed_core.settings import EvaluationSettings
from booru_embed_core.training.checkpoint import load_checkpoint
from tests.core.cli_helpers import Run
from tests.core.evaluation.evaluation_helpers import captions_of
from tests.core.export_helpers import csv_bytes
from tests.core.model_helpers import Trained, topic_posts


@pytest.fixture(scope="module")
def new_posts(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Posts outside the training data: some with unknown tags, one with a single tag."""
    posts = topic_posts(60, seed=9)
    for number, post in enumerate(posts):
        post["id"] = 10**6 + number
        if number % 7 == 0:
            post["tag_string_general"] = f"{post['tag_string_general']} unheard_of"
    posts.append({**posts[0], "id": 5, **{tag_column(category): "" for category in CATEGORIES}})
    posts[-1]["tag_string_general"] = "solo unheard_of"
    file = tmp_path_factory.mktemp("posts") / "new.csv"
    file.write_bytes(csv_bytes(posts))
    return file


@pytest.mark.parametrize("hide", ["one", "half"])
def test_evaluate_is_the_librarys(
    run: Run, trained: Trained, embedder: BooruEmbedder, new_posts: Path, hide: Hide
) -> None:
    found = run("evaluate", "-c", trained.checkpoint, "--posts", new_posts, "--hide", hide, "--seed", 3, "--json")
    result = found.json
    assert list(result) == ["hide", "num_posts", "models"]
    with new_posts.open(encoding="utf-8", newline="") as stream:
        posts = list(csv.DictReader(stream))
    fields = [{category: post[tag_column(category)] for category in CATEGORIES} for post in posts]
    num_special = embedder.vocab.num_special
    tags = [[i - num_special for i in embedder.tokenizer.encode_fields(one).token_ids] for one in fields]
    post_ids = np.array([int(post["id"]) for post in posts])
    held_out = hold_out(captions_of(tags, embedder.vocab.num_tags), post_ids, hide, 3)
    assert result["num_posts"] == held_out.num_posts == sum(len(one) >= 2 for one in tags) < len(posts)
    baselines = baselines_from_packed(trained.corpus.packed, embedder.vocab, EvaluationSettings())
    scorers = [*model_scorers(load_checkpoint(trained.checkpoint)[0]), *baselines.scorers[hide]]
    assert result["models"] == {scorer.name: evaluate_scorer(scorer, held_out) for scorer in scorers}
    assert {"booru-embed", "booru-embed-head", "ease", "popularity"} <= set(result["models"])
    assert all(set(one) == {"recall@1", "recall@10", "recall@50", "mrr"} for one in result["models"].values())
    assert f"{new_posts}: 61 posts read, 61 kept, 0 duplicate, 0 rejected, 0 filtered" in found.err
    assert "trained on" not in found.err


def test_evaluate_as_a_table_warns_of_posts_that_were_trained_on(run: Run, trained: Trained) -> None:
    found = run("evaluate", "-c", trained.checkpoint, "--posts", trained.corpus.export)
    assert found.code == 0
    title, header, first, *_ = found.out.splitlines()
    assert title.endswith(" posts, one hidden, seed 7")
    assert header.split() == ["recall@1", "recall@10", "recall@50", "mrr"]
    assert first.split()[0] == "booru-embed"
    num_train = trained.report.num_train_posts
    assert f"warning: {num_train} of 300 posts were trained on; the figures are too good" in found.err


def test_evaluate_wants_the_packed_file_that_was_trained_on(
    run: Run, trained: Trained, new_posts: Path, tmp_path: Path
) -> None:
    moved = shutil.copytree(trained.checkpoint, tmp_path / "checkpoint" / "v1")
    arguments = ("evaluate", "-c", moved, "--posts", new_posts, "--json")
    message = run(*arguments).failed(1)
    assert message.startswith(f"{tmp_path / 'packed_tokens' / 'v1' / 'tokens.safetensors'}: no such file")
    assert message.endswith("name the packed file that the checkpoint was trained on with --tokens")
    assert run(*arguments, "--tokens", trained.corpus.packed_path).json["num_posts"] == 60
    link = tmp_path / "checkpoint" / "current"
    link.symlink_to("v1")
    shutil.copytree(trained.corpus.packed_path.parent, tmp_path / "packed_tokens" / "v1")
    assert run("evaluate", "-c", link, "--posts", new_posts, "--json").json["num_posts"] == 60


def test_evaluate_refuses_what_is_no_export(run: Run, trained: Trained, tmp_path: Path) -> None:
    file = tmp_path / "posts.csv"
    arguments = ("evaluate", "-c", trained.checkpoint, "--posts", file)
    assert str(file) in run(*arguments).failed(1)
    file.write_text("a,b\n1,2\n", encoding="utf-8")
    assert "wrong columns" in run(*arguments).failed(1)
    file.write_bytes(csv_bytes([]))
    assert run(*arguments).code == 1
    message = run("evaluate", "-c", trained.checkpoint, "--posts", trained.corpus.export, "--tokens", file).failed(1)
    assert message.startswith(f"{file}: not a packed file")
