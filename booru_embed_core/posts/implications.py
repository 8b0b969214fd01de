"""Tables of implications: the tag that a site adds, the consequent, wherever the antecedent is.

What follows from the posts themselves is counted in ``tags``, where both become those of the vocabulary.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, NamedTuple

import pyarrow as pa
import pyarrow.parquet as pq

from booru_embed_core.posts.aliases import Aliases
from booru_embed_core.posts.arrow import read_parquet, schema_of, strings
from booru_embed_core.posts.paths import IMPLICATIONS_FILE
from booru_embed_core.posts.tag_table import read_tag_table
from booru_embed_core.posts.validation import ExportError

IMPLICATIONS_SCHEMA: Final = schema_of({"antecedent": pa.string(), "consequent": pa.string()})
_ONE_TAG: Final = "implications between two names of one tag"
_MAX_SHOWN: Final = 8


class Implication(NamedTuple):
    """A row of a table: a post with `antecedent` has `consequent` too."""

    antecedent: str
    consequent: str
    file: Path
    row: str


@dataclass(frozen=True)
class TagImplications:
    """The active implications of a table, in its order, under the names that tags have today.

    Attributes:
        rows: of several with the same two tags the first.
        left_out: numbers of rows that do not count, by what they are.
    """

    rows: Sequence[Implication] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)

    @classmethod
    def load(cls, file: Path, aliases: Aliases, *, html_entities: bool = False) -> TagImplications:
        """The implications of `file`, a table with antecedents and consequents; see `read_tag_table`.

        Args:
            file: the table.
            aliases: old names, which are replaced.
            html_entities: whether to take back entities such as ``&#039;`` in names.

        Raises:
            ExportError: the file is no such table, or implications lead back to themselves.
        """
        table = read_tag_table(file, "implications", html_entities=html_entities)
        tag_of, num_same = aliases.tag_of_any, 0
        rows: dict[tuple[str, str], Implication] = {}
        for antecedent, consequent, place in table.implications:
            cause, effect = tag_of.get(antecedent, antecedent), tag_of.get(consequent, consequent)
            if cause == effect and antecedent != consequent:
                num_same += 1
                continue
            rows.setdefault((cause, effect), Implication(cause, effect, file, place))
        check_chains(rows.values())
        left_out = {**table.left_out, **({_ONE_TAG: num_same} if num_same else {})}
        return cls(tuple(rows.values()), left_out)


def check_chains(rows: Iterable[Implication]) -> None:
    """Returns when each chain of the implications `rows` has an end.

    Raises:
        ExportError: one leads back to its beginning; names its tags, and the rows of the tables.
    """
    next_of: dict[str, list[Implication]] = {}
    for row in rows:
        next_of.setdefault(row.antecedent, []).append(row)
    done: set[str] = set()
    for start in next_of:
        if start in done:
            continue
        chain: list[Implication] = []
        waiting = [iter(next_of[start])]
        on_chain = {start: 0}
        while waiting:
            following = next(waiting[-1], None)
            if following is None:
                waiting.pop()
                left = chain.pop().consequent if chain else start
                on_chain.pop(left)
                done.add(left)
            elif following.consequent in on_chain:
                raise _cycle([*chain[on_chain[following.consequent] :], following])
            elif following.consequent not in done:
                chain.append(following)
                on_chain[following.consequent] = len(chain)
                waiting.append(iter(next_of.get(following.consequent, ())))


def _cycle(rows: Sequence[Implication]) -> ExportError:
    """The error about implications that lead from each one's consequent to the next, and back."""
    names = " → ".join([row.antecedent for row in rows[:_MAX_SHOWN]] + ["…"] * (len(rows) > _MAX_SHOWN))
    is_one_file = len({row.file for row in rows}) == 1
    where = ", ".join(row.row if is_one_file else f"{row.file} {row.row}" for row in rows[:_MAX_SHOWN])
    return ExportError(
        f"{rows[0].file}: implications lead back to themselves: {names} → {rows[0].antecedent} ({where}); remove one "
        "of these rows, or set its status to deleted"
    )


def write_implications(tables: Sequence[TagImplications], out_dir: Path) -> None:
    """Writes the implications of all `tables` as ``implications.parquet``; nothing where there are none.

    Raises:
        ExportError: those of several tables lead back to themselves.
    """
    every = {(row.antecedent, row.consequent): row for table in reversed(tables) for row in reversed(table.rows)}
    if not every:
        return
    rows = list(reversed(every.values()))
    check_chains(rows)
    columns = [pa.array([row.antecedent for row in rows]), pa.array([row.consequent for row in rows])]
    pq.write_table(pa.table(columns, schema=IMPLICATIONS_SCHEMA), out_dir / IMPLICATIONS_FILE, compression="zstd")


def read_implications(posts_dir: Path) -> list[tuple[str, str]]:
    """Antecedent and consequent of each of the implications beside posts; none where there is no such file."""
    file = posts_dir / IMPLICATIONS_FILE
    if not file.exists():
        return []
    columns = read_parquet(file)
    return list(zip(strings(columns["antecedent"]), strings(columns["consequent"]), strict=True))
