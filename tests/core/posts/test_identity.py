"""Ids of several sites in one table."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from booru_embed_core.posts import identity
from booru_embed_core.posts.identity import check_sites, global_ids, hashed_ids, site_number, split_id
from booru_embed_core.posts.validation import ExportError


def test_a_site_has_the_same_number_everywhere() -> None:
    # Ids in packed files depend on it.
    assert (site_number("danbooru"), site_number("gelbooru"), site_number(None)) == (4454, 7610, 0)


@given(st.text(min_size=1), st.integers(0, 2**50 - 1))
def test_an_id_comes_back_from_the_table(site: str, post_id: int) -> None:
    (stored,) = global_ids(np.array([post_id]), site).tolist()
    assert 2**50 <= stored < 2**63
    assert split_id(stored) == (site_number(site), post_id)


def test_ids_without_a_site_are_the_sites_own() -> None:
    ids = np.array([0, 7, -5])
    assert global_ids(ids, None).tolist() == ids.tolist()
    assert split_id(7) == (0, 7)
    assert split_id(-5) == (0, -5)


def test_two_sites_of_one_number_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    assert check_sites(["danbooru", "e621", None, "e621"]) == {"danbooru": 4454, "e621": site_number("e621")}
    monkeypatch.setattr(identity, "site_number", lambda _: 5)
    with pytest.raises(ExportError, match="site 'b' has the number of 'a'; choose another name"):
        check_sites(["a", "b"])


def test_hashed_ids_depend_on_the_name_alone_and_leave_room_for_a_site() -> None:
    ids = hashed_ids(["a.txt", "b.txt", "a.txt", "\udcff"])
    assert ids[0] == ids[2]
    assert len(set(ids.tolist())) == 3
    assert (ids >= 0).all()
    assert (ids < 2**50).all()
    assert hashed_ids([]).tolist() == []
