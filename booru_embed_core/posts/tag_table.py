"""Tables of tags, aliases and implications, as sites, taggers and prompt tools pass them around.

There are two kinds. A table of tags has a tag and its category in each row, and may have the tag's other names. A table
of aliases has an old name (the antecedent) and the tag that replaced it (the consequent), and may have a status. One of
implications has the same columns: a tag, and one that each post with it has too.
"""

from __future__ import annotations

import html
from collections import Counter
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from numpy.typing import NDArray

from booru_embed_core.filesystem import scratch_folder
from booru_embed_core.posts.containers import called, unpacked
from booru_embed_core.posts.tag_fields import are_lists, list_items
from booru_embed_core.posts.tag_tables.columns import Block, Role, TagRows, describes_posts
from booru_embed_core.posts.tag_tables.numbers import CategoryNumbers, NoTag, Site
from booru_embed_core.posts.tag_tables.rows import read_rows
from booru_embed_core.posts.validation import ExportError
from booru_embed_core.schema import CATEGORIES, TAG_SEPARATOR, Category

UNKNOWN: Final = -1
"""The category_id of a tag whose category the table does not say."""
_MIN_COMMA_SHARE: Final = 0.01
_CATEGORY_IDS: Final = {category: index for index, category in enumerate(CATEGORIES)}


@dataclass(frozen=True)
class TagTable:
    """The rows of a table, in its order.

    Attributes:
        tags: each row's tag; none in a table of aliases.
        category_ids: indices of `CATEGORIES`, int8 ``[len(tags)]``, or `UNKNOWN`.
        aliases: old names with their tags.
        alias_category_ids: the category of each alias's tag.
        left_out: numbers of rows that are no tag or no alias, by what they are.
    """

    tags: pa.Array[Any]
    category_ids: NDArray[np.int8]
    aliases: Sequence[tuple[str, str]] = ()
    alias_category_ids: Sequence[int] = ()
    left_out: Mapping[str, int] = field(default_factory=dict)
    implications: Sequence[tuple[str, str, str]] = ()
    """Antecedent, consequent and row of each, in a table of implications."""
    has_tags: bool = True
    """Whether it is a table of tags, and not one of aliases."""


def read_tag_table(
    file: Path, setting: str, numbers: Mapping[str, Category] | None = None, *, html_entities: bool = False
) -> TagTable:
    """The table in `file`: CSV or TSV with or without a header, JSON or Parquet, plain, packed or in an archive.

    Args:
        file: the table.
        setting: the key of ``[posts]`` that names the file, ``aliases``, ``implications`` or ``tag_categories``: what
            is wanted of it.
        numbers: categories by numbers and names, besides Danbooru's.
        html_entities: whether to take back entities such as ``&#039;`` in names.

    Raises:
        ExportError: the file is no such table, or a row of it is none.
    """
    try:
        with scratch_folder() as scratch, closing(unpacked(file, str(file), scratch, [])) as parts:
            path, label = next(parts)
            with called(label, path, file):
                table = _read_table(path, label, setting, numbers, html_entities=html_entities)
            another = next(parts, None)
        if another is not None:
            raise ExportError(f"{file}: holds {label} and {another[1]}; unpack it and name one under {_named(setting)}")
        return table
    except FileNotFoundError:
        raise ExportError(f"{file}: no such file; correct {_named(setting)}") from None
    except IsADirectoryError:
        raise ExportError(f"{file}: a folder; name the table in it under {_named(setting)}") from None


def _read_table(
    file: Path, name: str, setting: str, numbers: Mapping[str, Category] | None, *, html_entities: bool
) -> TagTable:
    rows = read_rows(file, lambda value: isinstance(CategoryNumbers(numbers)[value], Category))
    _check_columns(file, name, rows, setting)
    reading = _Reading(file, rows.unit, numbers, html_entities, setting)
    is_pairs = setting != "tag_categories" and {Role.OLD, Role.NEW} <= rows.roles
    for block in rows.blocks:
        (reading.add_pairs if is_pairs else reading.add_tags)(block)
    return reading.pairs_table() if is_pairs else reading.tags_table()


def _named(setting: str) -> str:
    return f"[posts] {setting}"  # the command line puts its option in


def _check_columns(file: Path, name: str, rows: TagRows, setting: str) -> None:
    """Raises where the table is not of the kind that `setting` wants."""
    roles = rows.roles
    is_aliases, is_pairs = setting == "aliases", {Role.OLD, Role.NEW} <= roles
    if is_pairs and is_aliases and "implication" in Path(name).name.lower():
        raise ExportError(
            f"{file}: a table of implications, which replace no tag; name it under {_named('implications')}, and "
            f"give aliases under {_named(setting)}"
        )
    if setting == "implications":
        _check_implications(file, name, rows)
        return
    if {Role.NAME, Role.ALIASES if is_aliases else Role.CATEGORY} <= roles or (is_aliases and is_pairs):
        return
    found = ",".join(rows.names)[:200]
    if describes_posts(rows.names):
        raise ExportError(
            f"{file}: holds posts and no tags: found the columns {found!r}; name it under [posts] export, and a table "
            f"of tags under {_named(setting)}"
        )
    if is_pairs:
        raise ExportError(
            f"{file}: a table of aliases, which has no categories: found the columns {found!r}; name it under "
            f"{_named('aliases')}, and a table of tag,category under {_named(setting)}"
        )
    if {Role.NAME, Role.CATEGORY} <= roles:
        raise ExportError(
            f"{file}: a table of tags without aliases: found the columns {found!r}, wanted tag,category,aliases or "
            f"antecedent_name,consequent_name; name it under {_named('tag_categories')}, or remove {_named(setting)}"
        )
    wanted = "tag,category,aliases or antecedent_name,consequent_name" if is_aliases else "tag,category"
    raise ExportError(
        f"{file}: found the columns {found!r}, wanted {wanted}; correct the header (add one where the first line is a "
        f"row) or remove {_named(setting)}"
    )


def _check_implications(file: Path, name: str, rows: TagRows) -> None:
    """Raises where the table is not one of implications."""
    if not {Role.OLD, Role.NEW} <= rows.roles:
        raise ExportError(
            f"{file}: found the columns {','.join(rows.names)[:200]!r}, wanted antecedent_name,consequent_name; "
            f"correct the header (add one where the first line is a row) or remove {_named('implications')}"
        )
    if "alias" in Path(name).name.lower():
        raise ExportError(
            f"{file}: a table of aliases, which are names of one tag; name it under {_named('aliases')}, and give "
            f"implications under {_named('implications')}"
        )


class _Reading:
    """What was read of a table so far."""

    def __init__(
        self,
        file: Path,
        unit: str,
        numbers: Mapping[str, Category] | None,
        html_entities: bool,
        setting: str,
    ) -> None:
        self._file = file
        self._unit = unit
        self._numbers = numbers
        self._html_entities = html_entities
        self._wants_aliases = setting == "aliases"
        self._pairs = "implications" if setting == "implications" else "aliases"
        self._inactive = f"{self._pairs} that are not active"
        self._categories: CategoryNumbers | None = None
        self._tags: list[pa.Array[Any]] = []
        self._category_ids: list[NDArray[np.int8]] = []
        self._num_tags = 0
        self._names_have_spaces = False
        self._aliases: list[tuple[int, int, str | Sequence[Any]]] = []
        """Number of the row, index of the tag, and its aliases as the file has them."""
        self._tag_of: dict[str, tuple[str, int]] = {}
        self._implications: list[tuple[str, str, str]] = []
        self._left_out: Counter[str] = Counter()

    def add_tags(self, block: Block) -> None:
        """Adds rows of a table of tags."""
        names = self._clean_names(block.columns[Role.NAME], block.numbers)
        ids = np.full(len(names), UNKNOWN, dtype=np.int8)
        keep: NDArray[np.bool_] | None = None
        if Role.CATEGORY in block.columns:
            if self._categories is None:
                self._categories = CategoryNumbers(self._numbers, _site(block))
            meanings = self._categories.meanings(_listed(block.columns[Role.CATEGORY]))
            if not _CATEGORY_IDS.keys() >= set(meanings):
                keep = self._without_ratings(meanings, names, block)
            ids = np.fromiter((_CATEGORY_IDS.get(m, UNKNOWN) for m in meanings), np.int8, len(meanings))  # type: ignore[arg-type]
        indices = np.arange(len(names)) + self._num_tags
        if keep is not None:
            indices = np.cumsum(keep) - 1 + self._num_tags
            names, ids = names.filter(pa.array(keep)), ids[keep]
        fields = _listed(block.columns.get(Role.ALIASES, ())) if self._wants_aliases else ()
        for row, aliases in enumerate(fields):
            if aliases and (keep is None or keep[row]):
                self._aliases.append((block.numbers[row], int(indices[row]), aliases))
        self._tags.append(names)
        self._category_ids.append(ids)
        self._num_tags += len(names)

    def _without_ratings(self, meanings: list[Any], names: pa.Array[Any], block: Block) -> NDArray[np.bool_]:
        """Which rows are tags; the others are counted.

        Raises:
            ExportError: a row's category is unknown.
        """
        assert self._categories is not None
        keep = np.ones(len(meanings), dtype=np.bool_)
        for row, meaning in enumerate(meanings):
            if isinstance(meaning, Category):
                continue
            name, value = str(names[row].as_py()), _listed(block.columns[Role.CATEGORY][row : row + 1])[0]
            if meaning is None and self._categories.is_rating(name, value):
                meaning = NoTag.RATING
            if meaning is None:
                problem = self._categories.problem(value)
                raise ExportError(f"{self._where(block.numbers[row])}: the tag {name[:80]!r} has {problem}")
            self._left_out[meaning.value] += 1
            keep[row] = False
        return keep

    def add_pairs(self, block: Block) -> None:
        """Adds rows of a table of aliases or implications: those that are active, if it has a status."""
        numbers: Sequence[int] = block.numbers
        old, new = (_listed(block.columns[role]) for role in (Role.OLD, Role.NEW))
        if Role.STATUS in block.columns:
            active = [str(status).strip().lower() == "active" for status in _listed(block.columns[Role.STATUS])]
            self._left_out[self._inactive] += len(active) - sum(active)
            old, new, numbers = ([v for v, a in zip(one, active, strict=True) if a] for one in (old, new, numbers))
        names = zip(self._clean_list(old, numbers), self._clean_list(new, numbers), strict=True)
        if self._pairs == "implications":
            rows = zip(numbers, names, strict=True)
            self._implications += [(cause, effect, f"{self._unit} {number}") for number, (cause, effect) in rows]
            return
        for number, (alias, tag) in zip(numbers, names, strict=True):
            before, first = self._tag_of.setdefault(alias, (tag, number))
            if before != tag:
                raise ExportError(
                    f"{self._where(number)}: {alias!r} is an old name of {tag!r}, and of {before!r} in {self._unit} "
                    f"{first}; remove one of them, or name implications under {_named('implications')}"
                )

    def tags_table(self) -> TagTable:
        """The table, once all rows of tags are added."""
        tags = pa.concat_arrays(self._tags) if self._tags else pa.array([], pa.string())
        ids = np.concatenate([*self._category_ids, np.empty(0, dtype=np.int8)])
        texts = [one for _, _, one in self._aliases if isinstance(one, str)]
        has_lists, separator = are_lists(texts), _separator(texts, self._names_have_spaces)
        found, numbers, indices = [], [], []
        for number, index, names in self._aliases:
            items = list_items(names) if has_lists and isinstance(names, str) else None
            listed = items if items is not None else names.split(separator) if isinstance(names, str) else names
            for name in listed if isinstance(listed, list) else [listed]:
                if name is not None and name != "" and not (isinstance(name, str) and name.isspace()):
                    found.append(name)
                    numbers.append(number)
                    indices.append(index)
        of_tags = [str(tag) for tag in tags.take(pa.array(indices, pa.int64())).to_pylist()]
        aliases = list(zip(self._clean_list(found, numbers), of_tags, strict=True))
        return TagTable(tags, ids, aliases, ids[indices].tolist() if indices else [], dict(self._left_out))

    def pairs_table(self) -> TagTable:
        """The table, once all rows of aliases or implications are added.

        Raises:
            ExportError: none is active.
        """
        if self._left_out[self._inactive] and not (self._tag_of or self._implications):
            raise ExportError(
                f"{self._file}: {self._left_out[self._inactive]:,} {self._pairs}, and none with the status active; "
                f"correct the status or leave the column out"
            )
        aliases = [(alias, tag) for alias, (tag, _) in self._tag_of.items()]
        none: pa.Array[Any] = pa.array([], pa.string())
        left_out = {name: number for name, number in self._left_out.items() if number}
        ids, unknown = np.empty(0, dtype=np.int8), [UNKNOWN] * len(aliases)
        return TagTable(none, ids, aliases, unknown, left_out, self._implications, has_tags=False)

    def _clean_list(self, values: Sequence[Any], numbers: Sequence[int]) -> list[str]:
        return cast("list[str]", self._clean_names(values, numbers).to_pylist())

    def _clean_names(self, values: Sequence[Any] | pa.Array[Any], numbers: Sequence[int]) -> pa.StringArray:
        """`values` as tags: without spaces around them, underscores for those within.

        Raises:
            ExportError: one is empty, is no text, or holds a line break.
        """
        try:
            names: Any = values.cast(pa.string()) if isinstance(values, pa.Array) else pa.array(values, pa.string())
        except (pa.ArrowException, UnicodeEncodeError, TypeError):
            texts = [self._text(value, number) for value, number in zip(_listed(values), numbers, strict=True)]
            names = pa.array(texts, pa.string())
        names = pc.utf8_trim(names, TAG_SEPARATOR)  # other white space may be part of a tag
        is_wrong = pc.or_(pc.equal(names, pa.scalar("")), pc.match_substring_regex(names, r"[\r\n]")).fill_null(True)
        if pc.any(is_wrong).as_py():
            row = pc.index(is_wrong, pa.scalar(True)).as_py()
            raise self._no_name(_listed(values)[row], numbers[row])
        spaces = pc.match_substring(names, TAG_SEPARATOR)
        if pc.any(spaces).as_py():
            self._names_have_spaces = True
            names = pc.replace_substring(names, TAG_SEPARATOR, "_")
        if self._html_entities and pc.any(pc.match_substring(names, "&")).as_py():
            names = pa.array([html.unescape(name) for name in names.to_pylist()], pa.string())
        assert isinstance(names, pa.StringArray)
        return names

    def _text(self, value: Any, number: int) -> str:
        """`value` as a name: JSON of some sites has numbers for tags such as ``2021``."""
        is_number = isinstance(value, int) and not isinstance(value, bool)
        text = str(value) if is_number or isinstance(value, str) else ""
        if not text.isascii() and any("\ud800" <= char <= "\udfff" for char in text):
            raise self._no_name(value, number)
        return text

    def _no_name(self, value: Any, number: int) -> ExportError:
        if value is None or str(value).strip() == "":
            return ExportError(
                f"{self._where(number)}: the name is empty; correct it (pandas reads the tags null and nan as nothing "
                "without keep_default_na=False)"
            )
        return ExportError(f"{self._where(number)}: the name {str(value)[:80]!r} is no tag; correct it")

    def _where(self, number: int) -> str:
        return f"{self._file} {self._unit} {number}"


def _listed(column: Sequence[Any] | pa.Array[Any]) -> Sequence[Any]:
    return column.to_pylist() if isinstance(column, pa.Array) else column


def _site(block: Block) -> Site | None:
    """The site of a table of tags, by the way that it writes ``ambiguous``: only two kinds of sites do."""
    values = _listed(block.columns.get(Role.AMBIGUOUS, ()))
    if not values:
        return None
    return Site.MOEBOORU if str(values[0]).strip().lower() in ("true", "false") else Site.GELBOORU


def _separator(fields: Sequence[str], names_have_spaces: bool) -> str:
    """What separates the aliases of a row: a comma if the table has some between two names, else a space.

    No site allows commas in tags, so few of them are enough. A space is part of an alias where tags have spaces too.
    """
    num_commas = num_spaces = 0
    for one in fields:
        if "," in one and sum(bool(name.strip()) for name in one.split(",")) > 1:
            num_commas += 1
        elif TAG_SEPARATOR in one.strip():
            num_spaces += 1
    is_comma = names_have_spaces or (num_commas > 0 and num_commas >= _MIN_COMMA_SHARE * num_spaces)
    return "," if is_comma else TAG_SEPARATOR
