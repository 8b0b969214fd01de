"""What the tests of several baselines are fitted on."""

from __future__ import annotations

import pytest

from booru_embed_core.tokens.cooccurrence import Cooccurrence, count_cooccurrence
from tests.core.evaluation.evaluation_helpers import TRAIN


@pytest.fixture
def pairs() -> Cooccurrence:
    return count_cooccurrence(TRAIN, max_tags=100)
