"""The Parquet parts of the vectors, held open: their content stays the same when their folder moves or is removed."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq
from numpy.typing import NDArray

from booru_embed_core.errors import first_line
from booru_embed_core.search.folder import IndexMetadata, num_parts, part_name, verify_part
from booru_embed_core.search.stored_vectors import Float32
from booru_embed_core.search.vector_index import SearchError


@dataclass(frozen=True)
class HeldParts:
    """Vectors of posts in parts, each mmapped as a whole; no descriptor stays open.

    Attributes:
        names: the file name of each part, for messages.
        contents: its bytes.
        metadata: of the folder; its checksums are compared when a part is first read.
        verified: the numbers of the parts that were compared.
    """

    names: tuple[str, ...]
    contents: tuple[pa.Buffer, ...]
    metadata: IndexMetadata
    verified: set[int] = field(default_factory=set)

    @classmethod
    def open(cls, folder: Path, metadata: IndexMetadata) -> Self:
        """The parts of `metadata` in `folder`.

        Raises:
            OSError: one is missing.
        """
        names = tuple(part_name(number) for number in range(num_parts(metadata)))
        return cls(names, tuple(_mapped(folder / name) for name in names), metadata)

    def vectors(self, rows: NDArray[np.int64], dim: int) -> Float32:
        """The vectors of the posts in `rows` (int64 ``[n]``), float32 ``[n, dim]``; reads each part of them whole.

        Raises:
            SearchError: a part is damaged.
        """
        found = np.empty((len(rows), dim), np.float32)
        part_of, row_in_part = np.divmod(rows, self.metadata.part_posts)
        for part in np.unique(part_of).tolist():
            found[part_of == part] = self._part(part, dim)[row_in_part[part_of == part]]
        return found

    def _part(self, number: int, dim: int) -> NDArray[np.float16]:
        if number not in self.verified:
            verify_part(Path(self.names[number]), self.contents[number], self.metadata)
            self.verified.add(number)
        try:
            column = pq.read_table(pa.BufferReader(self.contents[number]), columns=["vector"])["vector"]
            flat: NDArray[np.float16] = pc.list_flatten(column).to_numpy()
            vectors = flat.reshape(len(column), dim)
            if not np.isfinite(vectors).all():
                raise ValueError("some are NaN or infinite")
            return vectors
        except (OSError, ValueError, LookupError, AttributeError) as error:
            raise SearchError(
                f"{self.names[number]}: the vectors of posts cannot be read ({first_line(error)}); rebuild the index"
            ) from None


def _mapped(file: Path) -> pa.Buffer:
    with pa.memory_map(str(file)) as source:
        return source.read_buffer()
