"""Killed or stopped at random moments, even during saves, a resumed training ends in the same bits."""

from __future__ import annotations

import contextlib
import os
import random
import signal
import time
from multiprocessing.synchronize import Event
from typing import Final

import pytest
import torch

from booru_embed_core.settings import TrainingSettings
from booru_embed_core.training.loop import TrainingInterrupted
from tests.core.model_helpers import training_settings
from tests.core.training.training_helpers import Bench, forks

NUM_KILLS: Final = int(os.environ.get("BOORU_EMBED_TEST_KILLS", "3"))


def train_until_killed(bench: Bench, settings: TrainingSettings, begun: Event) -> None:
    """A training in its own process that sets `begun` after each step and stops on SIGTERM."""
    torch.set_num_threads(1)
    asked: list[int] = []
    signal.signal(signal.SIGTERM, lambda *_: asked.append(1))

    def should_stop() -> bool:
        begun.set()
        return bool(asked)

    with contextlib.suppress(TrainingInterrupted):
        bench.train("killed", settings, should_stop=should_stop)


@pytest.mark.slow
@pytest.mark.timeout(300 + 60 * NUM_KILLS)
def test_a_training_killed_at_random_moments_ends_in_the_same_bits(bench: Bench) -> None:
    settings = training_settings(num_epochs=2 + NUM_KILLS, checkpoint_every_steps=2)
    bench.train("whole", settings)
    processes = forks()
    numbers = random.Random(NUM_KILLS)
    signals = [signal.SIGKILL] * NUM_KILLS + [signal.SIGTERM] * (1 + NUM_KILLS // 4)
    numbers.shuffle(signals)
    codes = []
    for number in signals:
        begun = processes.Event()
        process = processes.Process(target=train_until_killed, args=(bench, settings, begun))
        process.start()
        while process.is_alive() and not begun.wait(0.1):
            pass
        time.sleep(numbers.uniform(0, 0.2))
        (process.kill if number == signal.SIGKILL else process.terminate)()
        process.join()
        codes.append(process.exitcode)
        process.close()
    # The last signal may arrive after training is done.
    assert -signal.SIGKILL in codes
    assert set(codes) <= {0, -signal.SIGKILL}
    bench.train("killed", settings)
    assert bench.weights_sha256("killed") == bench.weights_sha256("whole")
    assert bench.log("killed") == bench.log("whole")
