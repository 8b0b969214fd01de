"""What a baseline costs: CPU seconds by counts and measured constants, the same on every machine.

The report says which baseline is left out for its cost, so a clock must not decide it.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from booru_embed_core.evaluation.baselines import ITEM_KNN_EXPONENTS, ITEM_KNN_NEIGHBOURS, NAIVE_BAYES_DAMPINGS
from booru_embed_core.evaluation.item2vec import ITEM2VEC_EPOCHS
from booru_embed_core.evaluation.tag_table import TAG_TABLE_EPOCHS
from booru_embed_core.evaluation.tag_vectors import LSA_DIMS, RULES, WEIGHTINGS

if TYPE_CHECKING:
    from booru_embed_core.settings import EvaluationSettings
    from booru_embed_core.tokens.cooccurrence import Cooccurrence

_RANK: Final = 2.5e-8
"""CPU seconds to score and rank a tag of a post."""
_INVERT: Final = 2.6e-11
"""To invert a matrix, by m³; once more for each task with the values that are chosen."""
_FACTOR: Final = 2.5e-7
"""To factor a matrix, by m²."""
_SORT: Final = 5e-8
"""To sort the tags by their similarity to each tag, by m²."""
_TRAIN: Final = 5.8e-8
"""To train a table, by posts and tags, in each epoch."""
_SKIP_GRAM: Final = 2e-5
"""To train on a use of a tag in each epoch; of all these, not measured at full size."""


def baseline_seconds(name: str, pairs: Cooccurrence, num_validation: int, settings: EvaluationSettings) -> float:
    """CPU seconds to fit and tune the baseline `name`: of one core, roughly.

    Args:
        name: of the settings.
        pairs: counts of the training posts.
        num_validation: validation posts of a task.
        settings: grids.
    """
    m = len(pairs.fitted)
    uses = float(pairs.counts[pairs.fitted].sum())
    fits = {
        "popularity": (1, 0.0),
        "naive_bayes": (len(NAIVE_BAYES_DAMPINGS), 0.0),
        "item_knn": (len(ITEM_KNN_NEIGHBOURS) * len(ITEM_KNN_EXPONENTS), len(ITEM_KNN_EXPONENTS) * _SORT * m**2),
        "ppmi_svd": (3 * len(RULES), _FACTOR * m**2),
        "lsa": (len(WEIGHTINGS) * len(LSA_DIMS), len(WEIGHTINGS) * _FACTOR * m**2),
        "tag_table": (len(TAG_TABLE_EPOCHS) * len(RULES), max(TAG_TABLE_EPOCHS) * _TRAIN * pairs.num_posts * m),
        "item2vec": (1 + len(NAIVE_BAYES_DAMPINGS), ITEM2VEC_EPOCHS * _SKIP_GRAM * uses),
        "ease": (len(settings.ease_lambdas), (len(settings.ease_lambdas) + 2) * _INVERT * m**3),
        "edlae": (len(settings.edlae_dropouts), (len(settings.edlae_dropouts) + 2) * _INVERT * m**3),
    }
    num_candidates, fitting = fits[name]
    return fitting + 2 * num_candidates * _RANK * num_validation * m
