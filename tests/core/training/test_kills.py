"""Killed or asked to end at random moments, saves included: the training that goes on ends in the same bits."""

from __future__ import annotations

import os
import random
import signal
import subprocess
import sys
import time
from typing import Final

import pytest
from model_helpers import training_settings
from training_helpers import NARROW, Bench

NUM_KILLS: Final = int(os.environ.get("BOORU_EMBED_TEST_KILLS", "3"))

TRAINING: Final = """
import sys
from pathlib import Path
import torch
from booru_embed_core.settings import ModelSettings, TrainingSettings
from booru_embed_core.training.loop import train
torch.set_num_threads(1)
packed, vocab, work, out, model, training = sys.argv[1:7]
def should_stop():
    print("stepped", flush=True)
    return False
train(Path(packed), Path(vocab), Path(work), Path(out), ModelSettings.model_validate_json(model),
      TrainingSettings.model_validate_json(training), should_stop=should_stop)
"""


@pytest.mark.slow
@pytest.mark.timeout(60 + 30 * NUM_KILLS)
def test_a_training_killed_at_random_moments_ends_in_the_same_bits(bench: Bench) -> None:
    settings = training_settings(num_epochs=2 + NUM_KILLS, checkpoint_every_steps=2)
    bench.train("whole", settings)
    bench.out_dir("killed").mkdir()
    paths = (bench.corpus.packed_path, bench.corpus.vocab_dir, bench.work_dir("killed"), bench.out_dir("killed"))
    arguments = [*map(str, paths), NARROW.model_dump_json(), settings.model_dump_json(exclude_none=True)]
    moments = random.Random(NUM_KILLS)
    codes = []
    for _ in range(NUM_KILLS):
        process = subprocess.Popen([sys.executable, "-c", TRAINING, *arguments], stdout=subprocess.PIPE)
        assert process.stdout is not None
        with process.stdout:
            assert process.stdout.readline() == b"stepped\n"
            time.sleep(moments.uniform(0, 0.2))
            process.kill()
            codes.append(process.wait())
    assert -signal.SIGKILL in codes  # on a fast machine the last of them may come too late
    bench.train("killed", settings)
    assert bench.weights_sha256("killed") == bench.weights_sha256("whole")
    assert bench.log("killed") == bench.log("whole")
