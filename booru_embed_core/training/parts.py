"""Results that ranks compute in parts; each is kept in a file of its own until the work is done.

A part is a whole file or none, and names what it was made from. So an interrupted stage goes on from its finished
parts, with any number of ranks.
"""

from __future__ import annotations

import hashlib
import zipfile
import zlib
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import Any, Final, Self, TypeAlias

import numpy as np
import torch
from numpy.typing import NDArray

from booru_embed_core.filesystem import atomic_file
from booru_embed_core.training.distributed import ONE_RANK, Ranks

Arrays: TypeAlias = dict[str, NDArray[Any]]
"""What a part holds; names may contain a slash."""

KEPT_FILES: Final = "*.npz"
_MADE_FROM: Final = "made_from"


@dataclass(frozen=True)
class Parts:
    """Computes parts, or takes those that an earlier run has finished.

    Attributes:
        ranks: this process and those that share the work.
        folder: keeps the parts, and all ranks see it; without one, parts are only returned.
        made_from: a hash of all that decides the results; parts that were made from something else are not taken.
        taken: the names of the parts that this rank found finished.
    """

    ranks: Ranks = ONE_RANK
    folder: Path | None = None
    made_from: str = ""
    taken: list[str] = field(default_factory=list, compare=False)

    def of(self, *sources: bytes) -> Self:
        """These parts, made from `sources` as well."""
        digest = hashlib.sha256(self.made_from.encode())
        for source in sources:
            digest.update(hashlib.sha256(source).digest())
        return replace(self, made_from=digest.hexdigest())

    def each(self, name: str, num: int, compute: Callable[[int], Arrays]) -> list[Arrays]:
        """``compute(number)`` for each number from 0 to `num` - 1, in that order, on every rank.

        Every rank asks for the same names in the same order; a name is used once.

        Raises:
            RankLostError: another rank ended; finished parts stay.
        """
        return self.ranks.each(name, num, lambda number: self.part(f"{name}-{number:05}", partial(compute, number)))

    def together(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """What all ranks compute together, and each of them then has: `compute` may exchange numbers with the others.

        Raises:
            RankLostError: as `each`.
        """
        found = self._read(name)
        if not self.ranks.any(found is None):
            assert found is not None
            self.taken.extend([name] * self.ranks.is_first)
            return found
        found = compute()
        if self.ranks.is_first:
            self._write(name, found)
        return found

    def part(self, name: str, compute: Callable[[], Arrays]) -> Arrays:
        """The part `name`: the finished one, or what `compute` returns, which is kept then. For one rank alone."""
        found = self._read(name)
        if found is None:
            found = compute()
            self._write(name, found)
        else:
            self.taken.append(name)
        return found

    def num_taken(self) -> int:
        """How many parts all ranks found finished; each of them asks."""
        return int(self.ranks.sum(torch.tensor(len(self.taken))))

    def _read(self, name: str) -> Arrays | None:
        """The finished part `name`; None without one. One with a changed bit is none: zip has a checksum."""
        if self.folder is None:
            return None
        try:
            with self._file(name).open("rb") as stream, np.load(stream, allow_pickle=False) as content:
                found: Arrays = {key: content[key] for key in content.files}
        except (OSError, ValueError, EOFError, LookupError, zipfile.BadZipFile, zlib.error):
            return None
        return found if str(found.pop(_MADE_FROM, "")) == self.made_from else None

    def _write(self, name: str, found: Arrays) -> None:
        if self.folder is None:
            return
        with atomic_file(self._file(name)) as partial_file, partial_file.open("wb") as stream:
            np.savez(stream, allow_pickle=False, **{_MADE_FROM: np.array(self.made_from)}, **found)

    def _file(self, name: str) -> Path:
        assert self.folder is not None
        return self.folder / f"{name}.npz"
