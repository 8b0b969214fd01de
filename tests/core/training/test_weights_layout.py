"""The tensors of a file of weights are those of the network."""

from __future__ import annotations

import pytest

from booru_embed_core.settings import ModelSettings
from booru_embed_core.training.weights_layout import Precision, layouts, weight_shapes
from tests.core.model_helpers import encoder


@pytest.mark.parametrize("trunk", ["attention", "deepsets"])
def test_shapes_are_those_of_the_network(trunk: str) -> None:
    sizes = (5, 0, 2, 1, 3)
    for num_layers in (1, 3):
        model = encoder(sizes, trunk=trunk, num_layers=num_layers, decoder_width=24)
        settings: ModelSettings = model.config.settings
        found = weight_shapes(settings, model.config.num_special, sum(sizes))
        assert found == {name: tuple(tensor.shape) for name, tensor in model.state_dict().items()}


def test_layouts_keep_vectors_in_float32() -> None:
    shapes = {"tokens.weight": (9, 4), "tag_bias": (3,), "head.down.weight": (4, 8)}
    assert {kind for kind, _ in layouts(shapes, Precision.FLOAT32).values()} == {"F32"}
    assert layouts(shapes, Precision.HALF) == {
        "tokens.weight": ("F16", (9, 4)),
        "tag_bias": ("F32", (3,)),
        "head.down.weight": ("F16", (4, 8)),
    }
    assert layouts(shapes, Precision.INT8) == {
        **layouts(shapes, Precision.HALF),
        "tokens.weight": ("I8", (9, 4)),
        "tokens.scales": ("F32", (9,)),
    }
