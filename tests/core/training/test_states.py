"""Training states on disk: the last few, complete, and free of executable content."""

from __future__ import annotations

import errno
import hashlib
import io
import os
import pickle
import random
from pathlib import Path
from typing import Any

import pytest
import torch

from booru_embed_core.training import states
from booru_embed_core.training.states import (
    PARTIAL_FILE,
    DamagedStateWarning,
    load_state,
    save_state,
    state_files,
    write_state,
)
from tests.core.model_helpers import encoder
from tests.core.training.training_helpers import refused

FILE = "state-000000003.pt"
REMEDY = "remove state-*.pt there to train from the start"
STATE: dict[str, Any] = {
    "fingerprint": "mine",
    "step": 3,
    "model": {"weight": torch.arange(600.0).view(30, 20)},
    "best_loss": 1.5,
    "best_weights": None,
}


def test_a_state_comes_back_as_it_was_and_none_is_none(tmp_path: Path) -> None:
    assert load_state(tmp_path, "mine") is None
    model = encoder()
    optimizer = torch.optim.AdamW(model.parameters(), fused=True)
    sum(parameter.square().sum() for parameter in model.parameters()).backward()  # type: ignore[union-attr]
    optimizer.step()
    save_state(tmp_path, {**STATE, "model": model.state_dict(), "optimizer": optimizer.state_dict()})
    state = load_state(tmp_path, "mine")
    assert state is not None
    assert state["step"] == 3
    assert all(torch.equal(state["model"][name], tensor) for name, tensor in model.state_dict().items())
    moments = optimizer.state_dict()["state"]
    assert all(torch.equal(state["optimizer"]["state"][i]["exp_avg"], moments[i]["exp_avg"]) for i in moments)
    assert [file.name for file in tmp_path.iterdir()] == [FILE]


def test_a_state_of_other_settings_is_refused(tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    message = refused(lambda: load_state(tmp_path, "other"))
    assert message == (f"{tmp_path / FILE}: belongs to a training with other inputs or settings; {REMEDY}")


def test_a_damaged_state_is_refused_whatever_was_damaged(tmp_path: Path) -> None:
    save_state(tmp_path, STATE)
    file = tmp_path / FILE
    whole = file.read_bytes()
    numbers = random.Random(1)
    damaged = [whole[: numbers.randrange(len(whole))] for _ in range(100)] + [b"", whole + b"\0"]
    for _ in range(300):
        flipped = bytearray(whole)
        flipped[numbers.randrange(len(whole))] ^= 1 << numbers.randrange(8)
        damaged.append(bytes(flipped))
    for content in damaged:
        file.write_bytes(content)
        message = refused(lambda: load_state(tmp_path, "mine"))
        assert message == (f"{file}: damaged training state: wrong SHA-256; {REMEDY}")


def test_a_damaged_state_is_warned_of_and_the_one_before_it_gone_on_from(tmp_path: Path) -> None:
    files = [save_state(tmp_path, {**STATE, "step": step}, 3) for step in (8, 9, 10)]
    for file in files[1:]:
        file.write_bytes(file.read_bytes()[:-1])
    with pytest.warns(DamagedStateWarning) as warned:
        state = load_state(tmp_path, "mine")
    assert state is not None
    assert state["step"] == 8
    assert [str(one.message) for one in warned] == [
        f"{files[2]}: damaged training state; resuming from {files[0].name}"
    ]
    # Training resumes before the damaged states' steps, so they are removed first.
    save_state(tmp_path, {**STATE, "step": 9}, 3)
    assert [file.name for file in state_files(tmp_path)] == ["state-000000008.pt", "state-000000009.pt"]
    files[0].write_bytes(b"")
    (tmp_path / "state-000000009.pt").write_bytes(b"")
    assert refused(lambda: load_state(tmp_path, "mine")).startswith(f"{tmp_path / 'state-000000009.pt'}: damaged")


@pytest.mark.parametrize("num_kept", [1, 2, 3])
def test_the_last_states_are_kept(tmp_path: Path, num_kept: int) -> None:
    for step in (99, 100, 2000, 1_000_000, 1_000_000):
        save_state(tmp_path, {**STATE, "step": step}, num_kept)
    kept = [f"state-{step:09}.pt" for step in (100, 2000, 1_000_000)][-num_kept:]
    assert [file.name for file in state_files(tmp_path)] == kept
    assert sorted(file.name for file in tmp_path.iterdir()) == kept


def test_fewer_are_kept_when_the_setting_is_lowered(tmp_path: Path) -> None:
    for step, num_kept in ((1, 4), (2, 4), (3, 4), (4, 4), (5, 2)):
        save_state(tmp_path, {**STATE, "step": step}, num_kept)
    assert [file.name for file in state_files(tmp_path)] == ["state-000000004.pt", "state-000000005.pt"]


def test_a_kill_while_saving_leaves_the_previous_state(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save_state(tmp_path, STATE)

    def killed(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("os.fsync", killed)
    with pytest.raises(KeyboardInterrupt):
        save_state(tmp_path, {**STATE, "step": 4})
    state = load_state(tmp_path, "mine")
    assert state is not None
    assert state["step"] == 3


def test_progress_is_seen_until_a_state_is_whole(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever waits for a slow disk looks at size and time of the unfinished file."""
    monkeypatch.setattr(states, "_PIECE_BYTES", 4096)
    partial = tmp_path / PARTIAL_FILE
    seen: list[int] = []
    copied: list[int] = []
    real = os.utime

    def note(file: Path) -> None:
        real(file, ns=(len(seen), len(seen)))  # the clock of a file system may be coarse
        seen.append(partial.stat().st_mtime_ns)

    monkeypatch.setattr("os.utime", note)
    state = {**STATE, "model": {"weight": torch.arange(9000.0)}}
    file = save_state(tmp_path, state, when_copied=lambda: copied.append(partial.stat().st_size))
    assert copied == [file.stat().st_size]
    assert seen == list(range(-(-copied[0] // 4096)))
    found = load_state(tmp_path, "mine")
    assert found is not None
    assert torch.equal(found["model"]["weight"], state["model"]["weight"])


def test_a_full_disk_is_told_as_it_is() -> None:
    """torch would tell of an unexpected position in its archive."""

    class Full(io.BytesIO):
        def write(self, content: Any) -> int:
            if self.tell() > 1000:
                raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            return super().write(content)

    with pytest.raises(OSError, match="No space left"):
        states._copy(STATE, Full())


class Hostile:
    """Unpickling this creates the file at `path`."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[object, ...]:
        return open, (str(self.path), "w")


@pytest.mark.parametrize("writer", ["pickle", "torch", "torch, old format"])
def test_a_hostile_state_is_refused_and_not_executed(tmp_path: Path, writer: str) -> None:
    trap = tmp_path / "executed"
    state = {**STATE, "extra": Hostile(trap)}
    buffer = io.BytesIO()
    if writer == "pickle":
        pickle.dump(state, buffer, protocol=2)
    else:
        torch.save(state, buffer, _use_new_zipfile_serialization=writer == "torch")
    content = buffer.getvalue()
    # A forged state comes with a matching hash.
    (tmp_path / FILE).write_bytes(hashlib.sha256(content).digest() + content)
    message = refused(lambda: load_state(tmp_path, "mine"))
    assert message == f"{tmp_path / FILE}: not a training state (UnpicklingError); {REMEDY}"
    assert not trap.exists()
    # The trap works: it snaps without the guard.
    buffer.seek(0)
    if writer == "pickle":
        pickle.load(buffer)["extra"].close()
    else:
        torch.load(buffer, weights_only=False)["extra"].close()
    assert trap.exists()


@pytest.mark.parametrize("state", [[1, 2], {"step": 3}, {"fingerprint": "mine"}, 7])
def test_something_else_that_torch_saved_is_refused(tmp_path: Path, state: object) -> None:
    write_state(tmp_path / FILE, state)  # type: ignore[arg-type]
    assert "not a training state (" in refused(lambda: load_state(tmp_path, "mine"))
