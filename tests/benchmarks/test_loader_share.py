"""What the benchmark of the loader's share measures, on a CPU, where the shares themselves say nothing."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import loader_share
from benchmarks._packed import random_packed
from benchmarks.loader_share import WAYS, WITHOUT, Bench, shares


def test_every_way_is_measured_against_the_same_batch(tmp_path: Path) -> None:
    packed = random_packed(tmp_path, 60)
    packed = dataclasses.replace(packed, tokens=packed.tokens % np.uint16(16))
    bench = Bench(packed, torch.device("cpu"), 16)
    found = shares(bench, 8, rounds=1, num_steps=2)
    assert tuple(found) == WAYS
    assert found[WITHOUT]["share_of_its_batch"] == 0
    assert all(figure["milliseconds_a_step"] > 0 for figure in found.values())
    assert all(parameter.grad is not None for parameter in bench.model.parameters() if parameter.requires_grad)


@pytest.mark.skipif(torch.cuda.is_available(), reason="has a CUDA device")
def test_without_a_gpu_it_says_so_and_writes_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    loader_share.main()
    assert "needs a CUDA device: nothing measured" in capsys.readouterr().out
    assert not (Path(loader_share.__file__).parent / "results/loader_share.json").exists()
