"""Damaged products are refused by name or read as they were; ``python -m tests.faults.damage`` tries two thousand."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults.damage import PRODUCTS, Damage, Made, damages, make, outcome, table_of, whole_of

NUM_OF_EACH = 6
SEED = 18


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> tuple[Made, Made]:
    """Two sets of products of other posts and weights."""
    base = tmp_path_factory.mktemp("made")
    return make(base / "one", 1), make(base / "two", 2)


@pytest.mark.parametrize("name", PRODUCTS)
def test_a_damaged_product_is_refused_by_name_or_gives_the_same_answers(
    made: tuple[Made, Made], name: str, tmp_path: Path
) -> None:
    whole = whole_of(name, made[0], tmp_path)
    for number, damage in enumerate(damages(name, *made, NUM_OF_EACH, SEED)):
        found = outcome(damage, made[0], tmp_path / str(number), whole)
        assert found in ("refused", "same"), (damage, found)


def test_the_readers_see_what_the_products_hold(made: tuple[Made, Made], tmp_path: Path) -> None:
    for name in PRODUCTS:
        whole, foreign = (whole_of(name, one, tmp_path / one.base.name) for one in made)
        assert whole != foreign, name


def test_the_table_counts_by_product() -> None:
    found = [(Damage("vocab", "flip", "a", b""), "refused"), (Damage("vocab", "cut", "a", b""), "other: killed")]
    assert table_of(found).splitlines()[-1] == "| all | 2 | 1 | 0 | 1 |"
