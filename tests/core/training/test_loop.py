"""Training: it learns, equal settings give equal bytes, and it stops at a non-finite loss."""

from __future__ import annotations

import dataclasses
import math
import re

import numpy as np
import pytest
import torch
from safetensors.torch import load_file

from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.settings import TokensSettings
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.training.checkpoint import load_checkpoint
from booru_embed_core.training.checkpoint_config import read_config, read_log
from booru_embed_core.training.events import EVENTS_FOLDER
from booru_embed_core.training.optimizer import Optimizer
from booru_embed_core.training.progress import Progress
from booru_embed_core.training.step import NonFiniteLossError
from tests.core.model_helpers import Corpus, Trained, beyond_bounds, model_settings, training_settings
from tests.core.training.training_helpers import ARRAYS, Bench, write_packed


def test_the_loss_falls_on_a_corpus_that_can_be_learned(trained: Trained) -> None:
    log = read_log(trained.checkpoint)
    first, last = log[0], log[-1]
    assert last["loss"] < 0.8 * first["loss"]
    assert last["terms"]["bottleneck"] < 0.8 * first["terms"]["bottleneck"]
    validations = [record["validation"]["loss"] for record in log if "validation" in record]
    assert len(validations) == 6
    assert validations[-1] < 0.9 * validations[0]
    assert trained.report.validation_loss == min(validations)


def test_the_weights_of_the_best_epoch_are_published(bench: Bench) -> None:
    # Trained far past the point where a network of this size still generalises from so few posts.
    settings = training_settings(num_epochs=8, learning_rate=5e-2, batch_posts=64)
    losses: dict[float, float] = {}

    def note(progress: Progress) -> None:
        if progress.validation is not None:
            losses[progress.epoch] = progress.validation["loss"]

    report = bench.train("best", settings, report=note)
    best_epoch = min(losses, key=losses.__getitem__)
    assert report.best_epoch == best_epoch
    assert report.validation_loss == losses[best_epoch]
    config = read_config(bench.out_dir("best"))
    assert (config.best_epoch, config.validation_loss) == (best_epoch, losses[best_epoch])


def test_a_checkpoint_holds_what_inference_needs_and_sizes_from_the_vocab(trained: Trained) -> None:
    names = sorted(file.name for file in trained.checkpoint.iterdir() if file.name != EVENTS_FOLDER)
    assert names == [
        "README.md", "config.json", "model.safetensors", "tokenizer.json", "training_log.jsonl", "vocab.json",
        "vocab.parquet",
    ]  # fmt: skip
    model, config, vocab = load_checkpoint(trained.checkpoint)
    made_with = trained.corpus.vocab
    assert vocab.hash == config.vocab_hash == made_with.hash
    assert config.category_sizes == tuple(made_with.sizes.values())
    assert config.num_special == made_with.num_special
    assert config.packed_tokens == "v1"
    assert config.splits == trained.corpus.packed.split_settings
    assert model.tokens.weight.shape == (made_with.num_tokens, config.model.width)
    num_parameters = sum(parameter.numel() for parameter in model.parameters())
    assert trained.report.num_parameters == num_parameters
    weights = load_file(trained.checkpoint / "model.safetensors")
    assert all(tensor.dtype == torch.float32 for tensor in weights.values())
    card = (trained.checkpoint / "README.md").read_text(encoding="utf-8")
    assert f"{num_parameters:,} parameters" in card
    assert config.vocab_hash in card


def test_the_same_settings_give_the_same_bytes_and_another_seed_gives_others(bench: Bench) -> None:
    for name, seed in (("one", 3), ("two", 3), ("three", 4)):
        bench.train(name, training_settings(seed=seed, num_epochs=1))
    assert bench.weights_sha256("one") == bench.weights_sha256("two") != bench.weights_sha256("three")
    assert bench.log("one") == bench.log("two") != bench.log("three")


def test_a_huge_learning_rate_stops_with_step_and_posts(bench: Bench) -> None:
    with pytest.raises(NonFiniteLossError) as error:
        bench.train("wild", beyond_bounds(learning_rate=1e30, warmup_share=0.0))
    message = str(error.value)
    assert re.match(r"step \d+: (validation )?(loss|gradient norm) (nan|inf)", message)
    assert re.search(r"on a batch of \d+ posts with ids \d+, ", message)
    assert "lower [training] learning_rate (now 1e+30)" in message
    assert "\n" not in message
    assert not list(bench.out_dir("wild").iterdir())


def test_the_posts_named_are_those_of_the_batch(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real_step = Optimizer.step

    def poisoned(optimizer: Optimizer, rate: float) -> None:
        real_step(optimizer, rate)
        optimizer.parameters[0].data.fill_(math.nan)

    monkeypatch.setattr(Optimizer, "step", poisoned)
    with pytest.raises(NonFiniteLossError) as error:
        bench.train("nan", training_settings(batch_posts=5))
    named = [int(number) for number in re.findall(r"\d+", str(error.value).partition("ids ")[2].partition(";")[0])]
    packed = bench.corpus.packed
    rows = np.flatnonzero(packed.split_ids() == 0)
    order = rows[np.random.default_rng([7, 0]).permutation(len(rows))]
    assert named == packed.post_id[order[5:10]].tolist()


def test_a_validation_loss_that_is_no_number_stops_too(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    real_eval = SetEncoder.eval

    def poisoned(model: SetEncoder) -> SetEncoder:
        model.tag_bias.data.fill_(math.nan)
        return real_eval(model)

    monkeypatch.setattr(SetEncoder, "eval", poisoned)
    with pytest.raises(NonFiniteLossError, match="step 17: validation loss nan"):
        bench.train("nan", training_settings())
    assert not list(bench.out_dir("nan").iterdir())


def test_validation_is_the_same_each_time(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    # With an optimizer that does nothing, every epoch validates the same weights.
    monkeypatch.setattr(Optimizer, "step", lambda *_: None)
    seen: list[dict[str, float]] = []

    def note(progress: Progress) -> None:
        if progress.validation is not None:
            seen.append(progress.validation)

    bench.train("still", training_settings(num_epochs=3), report=note)
    assert len(seen) == 3
    assert seen[0] == seen[1] == seen[2]
    assert seen[0]["loss"] == pytest.approx(seen[0]["bottleneck"] + seen[0]["head"], rel=1e-6)


def test_validation_leaves_no_trace_in_the_training(bench: Bench, corpus: Corpus) -> None:
    """Without a validation split the last weights are published; on the same posts they equal that run's."""
    packed = corpus.packed
    path = bench.folder / "v0" / "tokens.safetensors"
    path.parent.mkdir()
    arrays = {name: getattr(packed, name) for name in ARRAYS}
    write_packed(packed, path, arrays, TokensSettings(validation_share=0.0, test_share=0.1))
    report = bench.train("none", training_settings(), packed_path=path)
    assert report.validation_loss is None
    assert report.best_epoch == 2.0
    config = read_config(bench.out_dir("none"))
    assert config.validation_loss is None
    assert config.num_train_posts == int((PackedFile.open(path).split_ids() == 0).sum()) > report.num_steps
    assert not any("validation" in record for record in read_log(bench.out_dir("none")))
    assert "| validation loss | not measured" in (bench.out_dir("none") / "README.md").read_text(encoding="utf-8")


def test_every_step_drops_something_else(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    seeds: list[int] = []
    real = torch.manual_seed

    def noted(seed: int) -> torch.Generator:
        seeds.append(seed)
        return real(seed)

    monkeypatch.setattr(torch, "manual_seed", noted)
    bench.train("one", training_settings(num_epochs=1))
    assert len(seeds) == len(set(seeds)) == 1 + 17  # the first weights, then each step


def test_progress_counts_steps_epochs_and_says_it_in_a_line(bench: Bench) -> None:
    seen: list[Progress] = []
    bench.train("one", training_settings(), report=seen.append)
    assert [progress.step for progress in seen] == [10, 17, 20, 30, 34]
    assert [progress.epoch for progress in seen] == pytest.approx([10 / 17, 1, 20 / 17, 30 / 17, 2])
    assert all(progress.num_steps == 34 and progress.tokens_per_second > 0 for progress in seen)
    assert [progress.validation is not None for progress in seen] == [False, True, False, False, True]
    assert seen[-1].eta_seconds == 0
    fixed = dataclasses.replace(seen[1], loss=1.25, tokens_per_second=12345.6, eta_seconds=3725)
    assert re.fullmatch(
        r"step 17/34  epoch 1\.00  loss 1\.2500  validation loss \d+\.\d{4}  12,346 tokens/s  ETA 1:02:05", fixed.line()
    )
    assert dataclasses.replace(fixed, validation=None, eta_seconds=59.6).line() == (
        "step 17/34  epoch 1.00  loss 1.2500  12,346 tokens/s  ETA 1:00"
    )


def test_every_term_is_in_the_log(trained: Trained) -> None:
    terms = {"bottleneck", "head", "duplicates", "contrastive", "metadata"}
    for record in read_log(trained.checkpoint):
        assert set(record["terms"]) == terms
        assert all(math.isfinite(value) for value in record["terms"].values())
        if "validation" in record:
            assert set(record["validation"]) == {*terms, "loss"}


@pytest.mark.slow
def test_bf16_trains_as_well(bench: Bench) -> None:
    reports = {
        precision: bench.train(precision, training_settings(precision=precision)) for precision in ("fp32", "bf16")
    }
    assert reports["bf16"].precision == "bfloat16"
    assert reports["bf16"].final_loss == pytest.approx(reports["fp32"].final_loss, rel=0.01)
    assert reports["bf16"].final_loss < bench.log("bf16")[0]["loss"]  # type: ignore[operator]


def test_deepsets_trains_as_well(bench: Bench) -> None:
    bench.train("deepsets", training_settings(), model_settings(trunk="deepsets"))
    log = bench.log("deepsets")
    assert log[-1]["loss"] < 0.95 * log[0]["loss"]  # type: ignore[operator]


def test_a_packed_file_of_another_vocabulary_is_refused(bench: Bench, corpus: Corpus) -> None:
    packed = corpus.packed
    other = bench.folder / "other.safetensors"
    arrays = {name: getattr(packed, name) for name in ARRAYS}
    write_packed(dataclasses.replace(packed, vocab_hash="0" * 64), other, arrays)
    with pytest.raises(ValueError, match=r"other\.safetensors: was made with the vocab 0000000000000000, not with"):
        bench.train("one", training_settings(), packed_path=other)
