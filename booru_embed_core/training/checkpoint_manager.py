"""Keeps a running training's files: its states, the state before a failure, and the best checkpoint.

What belongs here: which files are kept, and when they are written. File formats are in ``states`` and ``checkpoint``.
"""

from __future__ import annotations

import shutil
import time
from pathlib import Path
from typing import Any, Final, Self

from booru_embed_core.errors import disk_errors
from booru_embed_core.filesystem import remove, removed_on_error, sync, sync_tree
from booru_embed_core.tags.vocab import Vocab
from booru_embed_core.tokens.batches import ratings_of
from booru_embed_core.training.checkpoint import save_checkpoint
from booru_embed_core.training.checkpoint_config import CARD_FILE, CheckpointConfig
from booru_embed_core.training.model_card import model_card
from booru_embed_core.training.progress import Progress
from booru_embed_core.training.states import FAILED_STATE_FILE, fitting, load_state, save_state, write_state
from booru_embed_core.training.step import NonFiniteLossError, Run

BEST_FOLDER: Final = "best-epoch-"
"""Prefix of the work folder's subfolder with the best checkpoint by validation loss; the epoch number follows."""


class CheckpointManager:
    """Saves `run` in `work_dir`, on the first rank only. A context manager for the training thread.

    Only the training thread changes the run. Another thread may save it while that thread computes (`Run.computing`).

    Args:
        run: the training.
        vocab: its vocabulary.
        vocab_dir: folder of the vocabulary's files.
        work_dir: where states are kept.
        fingerprint: hash of all inputs that the weights depend on.
    """

    def __init__(self, run: Run, vocab: Vocab, vocab_dir: Path, work_dir: Path, fingerprint: str) -> None:
        self.run = run
        self.vocab = vocab
        self.vocab_dir = vocab_dir
        self.work_dir = work_dir
        self.fingerprint = fingerprint

    def __enter__(self) -> Self:
        self.run.changes.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.run.is_over = True
        self.run.changes.release()

    def restore(self) -> bool:
        """Loads the last saved state into the run; whether there is one.

        Raises:
            CheckpointError: see `states.load_state`.
        """
        run, state = self.run, load_state(self.work_dir, self.fingerprint)
        if state is None:
            return False
        with fitting(self.work_dir):
            run.limit(state.get("num_steps"))  # older states have none
            run.model.load_state_dict(state["model"])
            run.optimizer.load_state_dict(state["optimizer"])
            if run.tables is not None:
                run.tables.load_state_dict(state["tables"])
            run.step, run.best_loss, run.best_epoch = state["step"], state["best_loss"], state["best_epoch"]
            run.best_weights, run.started = state["best_weights"], time.monotonic() - state["seconds"]
            run.unvalidated = Progress(**state["unvalidated"]) if state["unvalidated"] else None
        return True

    def save(self) -> str:
        """Saves the state and returns a message about it; call it on the training thread."""
        run = self.run
        if run.ranks.is_first:
            save_state(self.work_dir, self._state(), run.settings.keep_states)
        return f"stopped at step {run.step} of {run.num_steps}; the state is in {self.work_dir}"

    def save_meanwhile(self) -> str | None:
        """Like `save`, for other threads: waits until the training thread is computing. None if training is over."""
        with self.run.changes:
            return None if self.run.is_over else self.save()

    def save_failed(self, error: NonFiniteLossError) -> Path:
        """Saves the state in which `error` was raised, with the batch's ``post_ids``, and returns the file."""
        file = self.work_dir / FAILED_STATE_FILE
        if self.run.ranks.is_first:
            write_state(file, {**self._state(), "post_ids": error.post_ids})
        return file

    def keep_best(self) -> None:
        """Writes the weights as the best checkpoint so far, then removes the previous one."""
        if not self.run.ranks.is_first:
            return
        partial = self.work_dir / "best.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with removed_on_error(partial), disk_errors(self.work_dir):
            partial.mkdir()
            self.write_checkpoint(partial)
            sync_tree(partial)
        best = self.work_dir / f"{BEST_FOLDER}{self.run.best_epoch:g}"
        shutil.rmtree(best, ignore_errors=True)
        partial.rename(best)
        sync(self.work_dir)
        for other in self.work_dir.glob(BEST_FOLDER + "*"):
            if other != best:
                remove(other)  # what a fault of the disk leaves goes the next time

    def write_checkpoint(self, folder: Path) -> None:
        """Writes the current model and its card into `folder`."""
        run = self.run
        packed, rows = run.batches.packed, run.batches.post_index
        implications = self.vocab.implications
        config = CheckpointConfig(
            vocab_hash=self.vocab.hash,
            num_special=self.vocab.num_special,
            category_sizes=tuple(self.vocab.sizes.values()),
            model=run.model.config.settings,
            training=run.settings,
            splits=packed.split_settings,
            packed_tokens=packed.path.resolve().parent.name,
            score_bin_edges=run.edges,
            trained_ratings=ratings_of(packed, rows) if run.settings.metadata_keep_share else (),
            num_train_posts=len(rows),
            best_epoch=run.best_epoch,
            validation_loss=run.validation_loss,
            num_steps=run.num_steps,
            num_planned_steps=run.steps.num_planned,
            implications_sha256=implications.sha256 if implications.num_pairs else None,
        )
        save_checkpoint(folder, run.model, config, self.vocab_dir)
        (folder / CARD_FILE).write_text(model_card(config, self.vocab, run.num_parameters), encoding="utf-8")

    def _state(self) -> dict[str, Any]:
        run = self.run
        return {
            "fingerprint": self.fingerprint,
            "step": run.step,
            "num_steps": run.num_steps,
            "model": run.model.state_dict(),
            "optimizer": run.optimizer.state_dict(),
            "tables": run.tables.state_dict() if run.tables else None,
            "best_loss": run.best_loss,
            "best_epoch": run.best_epoch,
            "best_weights": run.best_weights,
            "seconds": run.seconds,
            "unvalidated": vars(run.unvalidated) if run.unvalidated else None,
        }
