"""A launcher's variables: checked, left out, and a meeting of the ranks that ends in time."""

from __future__ import annotations

import socket
from datetime import timedelta

import pytest
import torch.distributed as dist

from booru_embed_core.training import distributed
from booru_embed_core.training.distributed import joined_ranks
from booru_embed_core.training.launch_variables import (
    LaunchError,
    checked_variables,
    launch_variables,
    without_launch_variables,
)

RANKS = {"RANK": "1", "WORLD_SIZE": "4", "LOCAL_RANK": "1", "MASTER_ADDR": "host", "MASTER_PORT": "29500"}
ALONE = "unset these variables to train alone, or start the ranks with torchrun"


def test_every_variable_of_a_launcher_is_left_out_and_nothing_else() -> None:
    others = {"PATH": "/bin", "OMP_NUM_THREADS": "2", "CUDA_VISIBLE_DEVICES": "0", "RANKS": "1", "MY_PET_NAME": "x"}
    left_behind = {**RANKS, "TORCHELASTIC_RUN_ID": "x", "PET_NNODES": "2", "GROUP_RANK": "0", "ROLE_WORLD_SIZE": "4"}
    assert launch_variables({**others, **left_behind}) == sorted(left_behind)
    assert without_launch_variables({**left_behind, **others}) == others


@pytest.mark.parametrize(
    "environment",
    [{}, {"WORLD_SIZE": "1"}, {"WORLD_SIZE": "1", "RANK": "0"}, RANKS, {"MASTER_ADDR": "host"}, {"LOCAL_RANK": "3"}],
)
def test_variables_that_fit_pass(environment: dict[str, str]) -> None:
    assert checked_variables(environment) is environment


@pytest.mark.parametrize(
    ("changes", "reason"),
    [
        ({"WORLD_SIZE": None}, "WORLD_SIZE is missing"),
        ({"RANK": "4"}, "RANK is not below WORLD_SIZE, from 0 on"),
        ({"RANK": "-1"}, "RANK is not below WORLD_SIZE, from 0 on"),
        ({"WORLD_SIZE": "1"}, "RANK is not below WORLD_SIZE, from 0 on"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE is below 1"),
        ({"RANK": "one"}, "RANK is not a number"),
        ({"RANK": ""}, "RANK is not a number"),
        ({"WORLD_SIZE": "4.0"}, "WORLD_SIZE is not a number"),
        ({"LOCAL_RANK": "x"}, "LOCAL_RANK is not a number"),
        ({"LOCAL_RANK": "4"}, "LOCAL_RANK is not below WORLD_SIZE, from 0 on"),
        ({"RANK": None}, "RANK missing"),
        ({"MASTER_ADDR": "", "MASTER_PORT": None}, "MASTER_ADDR, MASTER_PORT missing"),
        ({"MASTER_PORT": "http"}, "MASTER_PORT is not a number"),
        ({"MASTER_PORT": "70000"}, "MASTER_PORT is not between 1 and 65535"),
    ],
)
def test_variables_that_do_not_fit_are_named_with_their_values(changes: dict[str, str | None], reason: str) -> None:
    environment = {name: value for name, value in {**RANKS, **changes}.items() if value is not None}
    shown = ", ".join(f"{name}={environment[name]}" for name in RANKS if name in environment)
    with pytest.raises(LaunchError) as caught:
        checked_variables(environment)
    assert str(caught.value) == f"{shown}: {reason}; {ALONE}"


def test_a_gpu_is_chosen_by_a_local_rank() -> None:
    environment = {name: value for name, value in RANKS.items() if name != "LOCAL_RANK"}
    assert checked_variables(environment) is environment
    with pytest.raises(LaunchError, match=f": LOCAL_RANK is missing, which chooses the GPU; {ALONE}$"):
        checked_variables(environment, needs_local_rank=True)


@pytest.fixture
def closed_port() -> int:
    """A port of this machine at which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as server:
        port: int = server.getsockname()[1]
    return port


@pytest.mark.parametrize("rank", ["0", "1"])
def test_ranks_that_do_not_meet_end_in_one_line(
    monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str], closed_port: int, rank: str
) -> None:
    """The first rank waits for others that do not come, another one for a first that is not there."""
    monkeypatch.setattr(distributed, "JOIN_TIMEOUT", timedelta(seconds=1))
    variables = {**RANKS, "RANK": rank, "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(closed_port)}
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    with pytest.raises(LaunchError) as caught, joined_ranks():
        pytest.fail("the ranks cannot have met")
    shown = f"RANK={rank}, WORLD_SIZE=4, LOCAL_RANK=1, MASTER_ADDR=127.0.0.1, MASTER_PORT={closed_port}"
    message = str(caught.value)
    assert message.startswith(f"{shown}: the ranks did not find each other within 1 s (")
    assert message.endswith("free port of rank 0, or unset these variables to train alone")
    assert "\n" not in message
    assert f"training: {shown}: waits for the other ranks, 1 s at most\n" in capfd.readouterr().err
    assert not dist.is_initialized()


def test_the_variables_of_this_process_are_checked(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(LaunchError, match="RANK, MASTER_ADDR, MASTER_PORT missing"), joined_ranks():
        pytest.fail("there is no other rank")
