"""Trainings side by side, and what tests compare."""

from __future__ import annotations

import dataclasses
import multiprocessing
import time
from collections.abc import Callable
from multiprocessing.context import ForkServerContext
from pathlib import Path

import pytest
import torch.distributed as dist

from booru_embed_core.filesystem import file_sha256
from booru_embed_core.settings import ModelSettings, TokensSettings, TrainingSettings
from booru_embed_core.tokens.packed_file import PackedFile
from booru_embed_core.tokens.packed_writer import packed_metadata, write_packed_file
from booru_embed_core.training.checkpoint_config import CheckpointError, read_log
from booru_embed_core.training.loop import TrainReport, train
from booru_embed_core.training.progress import Progress
from tests.core.model_helpers import Corpus, model_settings, training_settings

NARROW = model_settings(width=16, num_layers=1, ffn_width=16, embedding_dim=8, matryoshka_dims=(4,), dropout=0.2)
RESUMED = training_settings(checkpoint_every_steps=7)
LOGGED_STEPS = (7, 10, 14, 17, 20, 21, 28, 30, 34)
"""Of a training with `RESUMED`."""
FIELDS_OF_TIME = ("tokens_per_second", "eta_seconds")


@dataclasses.dataclass
class Bench:
    """Trainings on one corpus side by side, each in folders with its name."""

    corpus: Corpus
    folder: Path

    def work_dir(self, name: str) -> Path:
        return self.folder / f"work-{name}"

    def out_dir(self, name: str) -> Path:
        return self.folder / f"out-{name}"

    def train(
        self,
        name: str,
        settings: TrainingSettings,
        model: ModelSettings = NARROW,
        packed_path: Path | None = None,
        report: Callable[[Progress], None] = lambda _: None,
        should_stop: Callable[[], bool] = lambda: False,
        offer_save: Callable[[Callable[[], str | None]], None] = lambda _: None,
        announce: Callable[[str], object] = lambda _: None,
    ) -> TrainReport:
        self.out_dir(name).mkdir(exist_ok=True)
        return train(
            packed_path or self.corpus.packed_path,
            self.corpus.vocab_dir,
            self.work_dir(name),
            self.out_dir(name),
            model,
            settings,
            report,
            should_stop,
            offer_save,
            announce,
        )

    def weights_sha256(self, name: str) -> str:
        return file_sha256(self.out_dir(name) / "model.safetensors")

    def log(self, name: str) -> list[dict[str, object]]:
        """The published log without clock-dependent values."""
        return [
            {key: value for key, value in record.items() if key not in FIELDS_OF_TIME}
            for record in read_log(self.out_dir(name))
        ]


ARRAYS = ("tokens", "offsets", "field_lengths", "post_id", "rating", "score")


def write_packed(
    packed: PackedFile, path: Path, arrays: dict[str, object], splits: TokensSettings | None = None
) -> None:
    metadata = packed_metadata(packed.vocab_hash, packed.num_posts, packed.num_tokens, splits or packed.split_settings)
    write_packed_file(path, arrays, metadata)  # type: ignore[arg-type]


def forks() -> ForkServerContext:
    """Processes start with torch, TensorBoard's writer and this module imported, which saves seconds each.

    Also with torch's compiler, which its optimizers import to switch it off.
    """
    context = multiprocessing.get_context("forkserver")
    preloaded = ["tests.core.training.training_helpers", "torch.utils.tensorboard", "torch._dynamo"]
    context.set_forkserver_preload(preloaded)
    return context


def ranks_finish(target: Callable[..., object], num_ranks: int, *arguments: object) -> bool:
    """Whether ranks with torchrun's variables finished; they are forked with torch imported, without the launcher.

    Each calls `target` with `arguments` and its variables. The store is held here, as torchrun's agent holds it: a free
    port that rank 0 opens later may be taken by then.
    """
    store = dist.TCPStore("127.0.0.1", 0, is_master=True, wait_for_workers=False)
    shared = {
        "WORLD_SIZE": str(num_ranks),
        "MASTER_ADDR": "127.0.0.1",
        "MASTER_PORT": str(store.port),
        "TORCHELASTIC_USE_AGENT_STORE": "True",
        "TORCHELASTIC_RESTART_COUNT": "0",
    }
    ranks = [
        forks().Process(target=target, args=(*arguments, {**shared, "RANK": rank, "LOCAL_RANK": rank}))
        for rank in map(str, range(num_ranks))
    ]
    for rank in ranks:
        rank.start()
    deadline = time.monotonic() + 240
    for rank in ranks:
        rank.join(max(0, deadline - time.monotonic()))
    exit_codes = [rank.exitcode for rank in ranks]
    for rank in ranks:
        rank.kill()
    assert None not in exit_codes, f"ranks that hang have no exit code: {exit_codes}"
    return exit_codes == [0] * num_ranks


def stop_after(num_steps: int) -> Callable[[], bool]:
    """A `should_stop` that returns True from its `num_steps`-th call on; it is called once per step."""
    asked = iter(range(1, 1_000_000))
    return lambda: next(asked) >= num_steps


def refused(action: Callable[[], object], error: type[ValueError] = CheckpointError) -> str:
    """The one-line message of the error that `action` raises."""
    with pytest.raises(error) as caught:
        action()
    message = str(caught.value)
    assert "\n" not in message
    return message
