"""Everything in the GPU benchmark that runs on a CPU; its figures there mean nothing."""

from __future__ import annotations

import importlib.util
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from benchmarks import training_gpu
from benchmarks._packed import random_packed
from benchmarks._results import BOORU_EMBED
from benchmarks.training_gpu import EAGER, READINGS, SAME, Bench
from booru_embed_core.settings import ModelSettings
from booru_embed_core.tokens.packed_file import PackedFile

pytestmark = pytest.mark.slow

TINY = ModelSettings(width=32, num_layers=2, num_heads=2, ffn_width=48, embedding_dim=16, matryoshka_dims=(4, 8))
SIZES = (64, 8, 4, 16, 2)
CPU = torch.device("cpu")


@pytest.fixture
def packed(tmp_path: Path) -> PackedFile:
    return training_gpu.with_sizes(random_packed(tmp_path, 60), SIZES)


@pytest.fixture
def bench(packed: PackedFile) -> Bench:
    return Bench(packed, TINY, CPU)


def test_ids_lie_below_the_sizes_of_their_categories(packed: PackedFile) -> None:
    highest = [0] * len(SIZES)
    for start, lengths in zip(packed.offsets, packed.field_lengths, strict=False):
        for category, (first, length) in enumerate(zip(np.cumsum([start, *lengths]), lengths, strict=False)):
            of_field = packed.tokens[int(first) : int(first) + int(length)]
            highest[category] = max(highest[category], int(of_field.max(initial=0)))
    assert training_gpu.category_sizes(packed) == tuple(high + 1 for high in highest)
    assert all(high < size for high, size in zip(highest, SIZES, strict=True))
    assert sum(highest) > sum(SIZES) / 2


def test_utilisation_and_the_epoch_follow_from_the_time_of_a_step(bench: Bench) -> None:
    found = training_gpu.measure_booru_embed(bench, 8, rounds=1, num_steps=2, peak_tflops=2.0)
    assert tuple(found["ways"]) == (*READINGS, EAGER)
    assert found["ways"][SAME]["share_of_its_batch"] == 0
    flops = 3 * sum(found["forward_flops"].values())
    for figure in found["ways"].values():
        seconds = figure["milliseconds_a_step"] / 1e3
        assert figure["mfu"] == pytest.approx(flops / seconds / 2e12, abs=1e-4)
        assert figure["epoch_seconds"] == pytest.approx(60 / 8 * seconds, abs=0.06)


def test_buckets_are_near_the_loop() -> None:
    found = training_gpu.parity(CPU, training_gpu.backends_of(CPU), heads=2, head_dim=16)
    assert len(found) == 4
    for name, error in found.items():
        assert 0 < error < (1e-5 if "float32" in name else 2e-2), name


def test_what_takes_most_of_a_step_comes_first(bench: Bench) -> None:
    found = training_gpu.kernels(bench, 8, num=5)
    times = [kernel["milliseconds"] for kernel in found]
    assert len(found) == 5
    assert times == sorted(times, reverse=True)
    assert times[0] > 0


def test_a_run_shows_and_writes_everything(
    bench: Bench, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    written: list[dict[str, Any]] = []
    monkeypatch.setattr(training_gpu, "write", lambda name, figures: written.append(dict(figures)))
    training_gpu.measure(bench, 8, 6, rounds=1, num_steps=1)
    shown = capsys.readouterr().out
    for text in (
        "utilisation unknown (at least 30%, aim 40%)",
        "(at most 120)",
        "(below 2%)",
        "against the loop",
        "calls",
    ):
        assert text in shown
    assert written[0].keys() >= {"model", "parity", BOORU_EMBED, "kernels", "targets"}
    if importlib.util.find_spec("transformers") is None:
        assert "transformers is not installed" in shown
        assert len(written) == 1
        return
    assert "peers" not in written[0]
    ways = written[1]["peers"]["ways"]
    assert next(iter(ways)) == BOORU_EMBED
    assert {"BertModel, sdpa", "ModernBertModel, sdpa"} <= set(ways)
    assert ways[BOORU_EMBED]["over_ours"] == 1
    assert all(figure["posts_per_second"] > 0 for figure in ways.values())
    assert "a step takes 1.00 of booru-embed's time (at least 2)" in shown


@pytest.mark.parametrize(
    ("name", "peak"),
    [("NVIDIA H200", 989.4), ("NVIDIA H100 PCIe", 756.5), ("NVIDIA H100 80GB HBM3", 989.4), ("T4", None)],
)
def test_the_peak_goes_by_the_devices_name(name: str, peak: float | None) -> None:
    assert training_gpu.peak_tflops(name) == peak


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_so_and_writes_nothing(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(training_gpu, "write", lambda *_: pytest.fail("wrote results"))
    training_gpu.main()
    assert "needs a CUDA device: nothing measured" in capsys.readouterr().out
