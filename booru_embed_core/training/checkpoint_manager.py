"""Keeps a running training's files: its states, the state before a failure, and the best checkpoint.

What belongs here: which files are kept, and when they are written. File formats are in ``states`` and ``checkpoint``.
"""

from __future__ import annotations

import shutil
import threading
import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

from torch import Tensor

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


@dataclass(frozen=True)
class _Best:
    """The best checkpoint so far, which is to be written."""

    weights: Mapping[str, Tensor]
    config: CheckpointConfig


class CheckpointManager:
    """Saves `run` in `work_dir`, on the first rank only. A context manager for the training thread.

    Only the training thread changes the run. Another thread may save it while that thread computes (`Run.computing`).
    States are saved beside the training: a thread copies them into the system's cache while the next step computes,
    whose update waits for that, and then hashes them and flushes them to disk.

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
        self._is_due = False
        self._best: _Best | None = None
        self._last_saved = time.monotonic()
        self._saved: tuple[int, bool] | None = None
        """What the last state was saved of: `_moment`."""
        self._writer: threading.Thread | None = None
        self._error: BaseException | None = None

    def __enter__(self) -> Self:
        self.run.changes.acquire()
        return self

    def __exit__(self, *_: object) -> None:
        self.run.is_over = True
        self._wait()
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
        """Saves the state and returns a message about it when it is on disk; the caller holds ``run.changes``."""
        run = self.run
        if run.ranks.is_first:
            self._wait()
            # What failed beside the training is tried again.
            if self._best is not None or self._error is not None or self._saved != self._moment:
                self._error = None
                self._write_best(self._best)
                save_state(self.work_dir, self._state(), run.settings.keep_states)
                self._note_saved()
        return f"stopped at step {run.step} of {run.num_steps}; the state is in {self.work_dir}"

    def save_beside(self) -> None:
        """Has the state saved during the next step by `hand_over`, or now if there is none."""
        if self.run.step == self.run.num_steps:
            self.save()
        else:
            self._is_due = True

    def hand_over(self) -> bool:
        """Whether a state is due, which another thread now saves; it releases ``run.changes`` when it is copied.

        Raises:
            DiskError: the last state could not be written.
        """
        if not self.run.ranks.is_first:
            return False
        if self._error is not None:
            raise self._error
        minutes = self.run.settings.checkpoint_every_minutes
        if not self._is_due and time.monotonic() - self._last_saved < 60 * minutes:
            return False
        self._wait()
        if self._error is not None:
            raise self._error
        state, best = self._state(), self._best
        self._note_saved()
        self._writer = threading.Thread(target=self._write, args=(state, best), name="state-writer", daemon=True)
        self._writer.start()
        return True

    def save_meanwhile(self) -> str | None:
        """Like `save`, for other threads: waits until the training thread is computing. None if training is over."""
        with self.run.changes:
            return None if self.run.is_over else self.save()

    def save_failed(self, error: NonFiniteLossError) -> Path:
        """Saves the state in which `error` was raised, with the batch's ``post_ids``, and returns the file."""
        file = self.work_dir / FAILED_STATE_FILE
        if self.run.ranks.is_first:
            self._wait()
            write_state(file, {**self._state(), "post_ids": error.post_ids})
        return file

    def keep_best(self) -> None:
        """Has the best weights written as the best checkpoint so far, before the next state is."""
        if self.run.ranks.is_first:
            assert self.run.best_weights is not None
            self._best = _Best(self.run.best_weights, self._config())

    def write_checkpoint(self, folder: Path, best: _Best | None = None) -> None:
        """Writes the current model, or the `best`, and its card into `folder`."""
        run = self.run
        config = self._config() if best is None else best.config
        save_checkpoint(folder, run.model, config, self.vocab_dir, None if best is None else best.weights)
        (folder / CARD_FILE).write_text(model_card(config, self.vocab, run.num_parameters), encoding="utf-8")

    @property
    def _moment(self) -> tuple[int, bool]:
        """The step, and whether it is being validated."""
        return self.run.step, self.run.unvalidated is not None

    def _note_saved(self) -> None:
        self._is_due, self._best, self._last_saved, self._saved = False, None, time.monotonic(), self._moment

    def _wait(self) -> None:
        """Waits until nothing is written beside the training."""
        if self._writer is not None:
            self._writer.join()
            self._writer = None

    def _write(self, state: Mapping[str, Any], best: _Best | None) -> None:
        """Saves `state` and `best`; releases ``run.changes``, which the caller holds, once the state is copied."""
        is_released = threading.Event()

        def when_copied() -> None:
            is_released.set()
            self.run.changes.release()
            self._write_best(best)

        try:
            save_state(self.work_dir, state, self.run.settings.keep_states, when_copied)
        except BaseException as error:  # noqa: BLE001  raised by the training thread
            self._error, self._best = error, self._best or best
        finally:
            if not is_released.is_set():
                self.run.changes.release()

    def _write_best(self, best: _Best | None) -> None:
        """Writes `best` into its folder, then removes the one before it."""
        if best is None:
            return
        partial = self.work_dir / "best.partial"
        shutil.rmtree(partial, ignore_errors=True)
        with removed_on_error(partial), disk_errors(self.work_dir):
            partial.mkdir()
            self.write_checkpoint(partial, best)
            sync_tree(partial)
        folder = self.work_dir / f"{BEST_FOLDER}{best.config.best_epoch:g}"
        shutil.rmtree(folder, ignore_errors=True)
        partial.rename(folder)
        sync(self.work_dir)
        for other in self.work_dir.glob(BEST_FOLDER + "*"):
            if other != folder:
                remove(other)  # what a fault of the disk leaves goes the next time

    def _config(self) -> CheckpointConfig:
        run = self.run
        packed, rows = run.batches.packed, run.batches.post_index
        implications = self.vocab.implications
        return CheckpointConfig(
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
