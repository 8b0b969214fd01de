"""The variables by which torchrun and other launchers tell a process its rank: checked, shown, and left out.

A shell, a container or a job script may hold some that an earlier launcher left behind. Standard library only: the
asset `checkpoint` imports this before torch.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Final

RANK: Final = "RANK"
WORLD_SIZE: Final = "WORLD_SIZE"
LOCAL_RANK: Final = "LOCAL_RANK"
_ADDRESS: Final = ("MASTER_ADDR", "MASTER_PORT")
_SHOWN: Final = (RANK, WORLD_SIZE, LOCAL_RANK, *_ADDRESS)
_NAMES: Final = frozenset(
    [
        *_SHOWN,
        "LOCAL_WORLD_SIZE",
        "GROUP_RANK",
        "GROUP_WORLD_SIZE",
        "NODE_RANK",
        "ROLE_NAME",
        "ROLE_RANK",
        "ROLE_WORLD_SIZE",
    ]
)
_PREFIXES: Final = ("TORCHELASTIC_", "PET_")
"""Of torchrun's variables for its processes, and of those that it reads in place of its own options."""
_REMEDY: Final = "unset these variables to train alone, or start the ranks with torchrun"
_MAX_PORT: Final = 65_535


class LaunchError(ValueError):
    """A launcher's variables contradict each other, or the ranks that they describe do not find each other."""


def launch_variables(environment: Mapping[str, str]) -> list[str]:
    """The names of a launcher's variables in `environment`, sorted."""
    return sorted(name for name in environment if name in _NAMES or name.startswith(_PREFIXES))


def without_launch_variables(environment: Mapping[str, str]) -> dict[str, str]:
    """`environment` without a launcher's variables."""
    left_out = set(launch_variables(environment))
    return {name: value for name, value in environment.items() if name not in left_out}


def described(environment: Mapping[str, str]) -> str:
    """The variables that a message is about, with their values."""
    return ", ".join(f"{name}={environment[name]}" for name in _SHOWN if name in environment)


def checked_variables(environment: Mapping[str, str] = os.environ, needs_local_rank: bool = False) -> Mapping[str, str]:
    """`environment`, whose launch variables describe one rank among several, or none.

    Args:
        environment: the variables of this process.
        needs_local_rank: whether ranks choose their GPU by it.

    Raises:
        LaunchError: one is missing, is no number, or does not fit the others; names them all, and a remedy.
    """
    shown = described(environment)
    given = {name: _number(environment, name, shown) for name in (RANK, WORLD_SIZE, LOCAL_RANK) if name in environment}
    num_ranks = given.get(WORLD_SIZE, 1)
    if WORLD_SIZE not in given and RANK in given:
        raise LaunchError(f"{shown}: {WORLD_SIZE} is missing; {_REMEDY}")
    if num_ranks < 1:
        raise LaunchError(f"{shown}: {WORLD_SIZE} is below 1; {_REMEDY}")
    if not 0 <= given.get(RANK, 0) < num_ranks:
        raise LaunchError(f"{shown}: {RANK} is not below {WORLD_SIZE}, from 0 on; {_REMEDY}")
    if num_ranks == 1:
        return environment
    if missing := [name for name in (RANK, *_ADDRESS) if not environment.get(name)]:
        raise LaunchError(f"{shown}: {', '.join(missing)} missing; {_REMEDY}")
    if needs_local_rank and LOCAL_RANK not in given:
        raise LaunchError(f"{shown}: {LOCAL_RANK} is missing, which chooses the GPU; {_REMEDY}")
    if not 0 <= given.get(LOCAL_RANK, 0) < num_ranks:
        raise LaunchError(f"{shown}: {LOCAL_RANK} is not below {WORLD_SIZE}, from 0 on; {_REMEDY}")
    if not 0 < _number(environment, "MASTER_PORT", shown) <= _MAX_PORT:
        raise LaunchError(f"{shown}: MASTER_PORT is not between 1 and {_MAX_PORT}; {_REMEDY}")
    return environment


def _number(environment: Mapping[str, str], name: str, shown: str) -> int:
    try:
        return int(environment[name])
    except ValueError:
        raise LaunchError(f"{shown}: {name} is not a number; {_REMEDY}") from None
