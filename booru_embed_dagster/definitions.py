"""The code location: assembly only.

Every asset that rebuilds with the vocabulary names it as a direct dependency, since ``vocab+`` is one level deep.
"""

import dagster as dg

from booru_embed_dagster import checks, observation
from booru_embed_dagster.assets import evaluation, posts, tags, tokens, training
from booru_embed_dagster.resources import Pipeline

defs = dg.Definitions(
    assets=[
        observation.posts_export,
        observation.settings_sections,
        *dg.load_assets_from_modules([posts, tags, tokens, training, evaluation]),
    ],
    asset_checks=dg.load_asset_checks_from_package_module(checks),
    resources={"pipeline": Pipeline(), "pipes": dg.PipesSubprocessClient(termination_timeout_seconds=60)},
    # The stages take all cores themselves, and a process of its own for each would import everything again.
    executor=dg.in_process_executor,
)
