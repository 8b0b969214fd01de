"""What the tests of several baselines are fitted on."""

from __future__ import annotations

import pytest
from evaluation_helpers import TRAIN

from booru_embed_core.tokens.cooccurrence import Cooccurrence, count_cooccurrence


@pytest.fixture
def pairs() -> Cooccurrence:
    return count_cooccurrence(TRAIN, max_tags=100)
