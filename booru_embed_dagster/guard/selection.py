"""The assets that a selection in Dagster's grammar names; one that names nothing is refused.

Dagster 1.13.27 takes an empty selection for "everything" (``findings/dagster-empty-selection.sh``).
"""

from __future__ import annotations

import difflib
import re
import warnings
from collections.abc import Iterable
from typing import TYPE_CHECKING, Any, Final

import dagster as dg
from dagster_shared.check import CheckError

if TYPE_CHECKING:
    from dagster._core.definitions.assets.graph.base_asset_graph import BaseAssetGraph

_VALUE: Final = r'(?:"[^"]*"|[^\s"(),+=]+)'
_TERM: Final = re.compile(rf"\w+:{_VALUE}(?:={_VALUE})?")
"""An attribute and its value: ``key:vocab``, ``group:"tags"``, ``tag:"domain"="posts"``."""
_BARE: Final = re.compile(r"\d*\+?([^+]*)\+?\d*")
"""A name with the pluses that add what is upstream and downstream of it."""


class SelectionError(ValueError):
    """A selection is not one, or names no asset."""


def select_assets(selection: str, graph: BaseAssetGraph[Any]) -> list[dg.AssetKey]:
    """The assets that `selection` names, sources among them, from the top of the lineage down.

    As for ``dg launch``, commas join selections.

    Raises:
        SelectionError: Dagster cannot read it, it names no asset, or one of its terms names none.
    """
    for part in selection.split(","):
        chosen = _resolve(part, graph)
        for term in _TERM.findall(part):
            if not _resolve(term, graph):
                where = "" if term == part else f", a part of {selection!r},"
                raise SelectionError(f"{term!r}{where} names no asset{_near(term, graph)}")
        if not chosen:
            raise SelectionError(
                f"{part!r} names no asset, though each of its parts does; `booru-embed build '*' --dry-run` lists all"
            )
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", dg.BetaWarning)
        keys = dg.AssetSelection.from_coercible(selection.split(",")).resolve(graph)
    return [key for key in graph.toposorted_asset_keys if key in keys]


def _resolve(selection: str, graph: BaseAssetGraph[Any]) -> set[dg.AssetKey]:
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", dg.BetaWarning)  # Dagster's of a parameter that it passes itself
            return set(dg.AssetSelection.from_string(selection).resolve(graph))
    except dg.DagsterInvalidSubsetError:
        raise SelectionError(f"{selection!r} names no asset{_near(selection, graph)}") from None
    except (dg.DagsterError, CheckError, NotImplementedError):
        remedy = "write it as 'vocab+' or 'key:\"vocab\" or group:\"posts\"'"
        raise SelectionError(f"{selection!r} is not a selection of assets; {remedy}") from None


def _near(term: str, graph: BaseAssetGraph[Any]) -> str:
    """What there is like `term`, or all if nothing is; as the end of a sentence."""
    attribute, colon, value = term.partition(":")
    nodes = [graph.get(key) for key in graph.toposorted_asset_keys]
    known: Iterable[str] = (node.key.to_user_string() for node in nodes)
    what = "assets"
    if attribute == "group":
        known, what = (node.group_name for node in nodes), "groups"
    elif attribute == "kind":
        known, what = (kind for node in nodes for kind in node.kinds), "kinds"
    names = sorted(set(known))
    match = _BARE.fullmatch(value if colon else term)
    sought = match[1].strip('"* ') if match else value
    if near := difflib.get_close_matches(sought, names, n=3):
        return f"; did you mean {' or '.join(near)}?"
    return f"; {what}: {', '.join(names)}"
