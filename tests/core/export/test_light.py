"""A light checkpoint: less room, the same vectors but for rounding, by every network and for the page's server."""

from __future__ import annotations

import pickle
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from booru_embed_core.embedder.backend import load_network
from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.export.formats import CheckpointSource, export
from booru_embed_core.export.light import write_light_weights
from booru_embed_core.schema import ExportFormat
from booru_embed_core.training.checkpoint import load_mapped, load_model
from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE, CheckpointError, read_config, write_config
from booru_embed_core.training.light_table import LightTable
from booru_embed_core.training.weights_layout import Precision
from booru_embed_core.web.sources import Sources
from tests.core.cli_helpers import Run
from tests.core.model_helpers import Trained
from tests.core.network_helpers import some_sets

CAPTIONS = ["1girl cat_ears tail", "", "sword, armor", "(solo:1.4), tail"]
LOST = {"half": 2e-3, "int8": 0.03}
"""The most that a number of a unit vector may change."""


@pytest.fixture(scope="module", params=["half", "int8"])
def light(request: pytest.FixtureRequest, trained: Trained, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder: Path = tmp_path_factory.mktemp("light") / request.param
    source = CheckpointSource.open(trained.checkpoint, precision=Precision(request.param))
    export(ExportFormat.LIGHT, source, folder)
    return folder


def test_every_network_reads_it(light: Path, trained: Trained) -> None:
    whole = BooruEmbedder.load(trained.checkpoint, "cpu", "fp32")
    by_torch = BooruEmbedder.load(light, "cpu", "fp32", "torch")
    by_numpy = BooruEmbedder.load(light, backend="numpy")
    expected = by_torch.embed(CAPTIONS)
    lost = np.abs(expected - whole.embed(CAPTIONS)).max()
    assert 0 < lost < LOST[light.name]
    assert by_numpy.embed(CAPTIONS) == pytest.approx(expected, abs=1e-5)
    assert by_numpy.probabilities("solo") == pytest.approx(by_torch.probabilities("solo"), abs=1e-5)
    assert by_numpy.hidden_states("solo")[0] == pytest.approx(by_torch.hidden_states("solo")[0], abs=1e-4)
    assert BooruEmbedder.load(light, "cpu").embed(CAPTIONS) == pytest.approx(expected, abs=0.05)  # perhaps in bf16
    for one in (by_torch, by_numpy):
        assert pickle.loads(pickle.dumps(one)).embed(CAPTIONS) == pytest.approx(expected, abs=1e-5)


def test_the_mapped_table_is_the_loaded_one(light: Path) -> None:
    config = read_config(light)
    (mapped, _), loaded = load_mapped(light, config), load_model(light, config)
    assert isinstance(mapped.tokens, LightTable)
    assert isinstance(loaded.tokens, torch.nn.Embedding)
    found, expected = mapped.state_dict(), loaded.state_dict()
    assert found.keys() == expected.keys()
    assert all(torch.equal(found[name], tensor) for name, tensor in expected.items())
    rows = torch.tensor([3, 30, 3])
    assert torch.equal(mapped.tokens(rows), expected["tokens.weight"][rows])
    sets = some_sets(5, sum(config.category_sizes))
    by = [TorchNetwork(model, torch.float32) for model in (mapped, loaded)]
    assert np.array_equal(by[0].tag_scores(sets), by[1].tag_scores(sets))
    packed = [TorchNetwork(model, torch.bfloat16) for model in (mapped, loaded)]
    assert np.array_equal(packed[0].tag_scores(sets), packed[1].tag_scores(sets))


def test_the_pages_server_loads_it(light: Path) -> None:
    served = Sources(light).load()
    assert served.embedder.config.files == read_config(light).files
    assert served.embedder.complete("1girl", k=3)


def test_it_takes_less_room_and_the_rest_is_the_same(light: Path, trained: Trained) -> None:
    before, after = load_file(trained.checkpoint / WEIGHTS_FILE), load_file(light / WEIGHTS_FILE)
    matrices = [name for name, tensor in before.items() if tensor.dim() > 1]
    table = after["tokens.weight"]
    assert table.dtype == (torch.int8 if light.name == "int8" else torch.float16)
    assert all(after[name].dtype == torch.float16 for name in matrices if name != "tokens.weight")
    assert torch.equal(after["tag_bias"], before["tag_bias"])
    assert read_config(light).model_copy(update={"files": None, "checksum": None}) == read_config(
        trained.checkpoint
    ).model_copy(update={"files": None, "checksum": None})
    if light.name == "int8":
        rows = table.float() * after["tokens.scales"][:, None]
        bound = after["tokens.scales"][:, None] * 0.5001
        assert ((rows - before["tokens.weight"]).abs() <= bound).all()
        assert (table.abs().amax(1) == 127).all()


def changed(light: Path, folder: Path, **changes: torch.Tensor | None) -> Path:
    """A copy with other weights, sealed again."""
    copy = shutil.copytree(light, folder / "copy")
    file = copy / WEIGHTS_FILE
    weights = {name: tensor for name, tensor in load_file(file).items() if name not in changes}
    weights |= {name: tensor for name, tensor in changes.items() if tensor is not None}
    save_file(weights, file, metadata={"vocab_hash": read_config(copy).vocab_hash})
    write_config(copy, read_config(copy), [WEIGHTS_FILE])
    return copy


def test_damage_is_one_line_by_every_network(light: Path, tmp_path: Path) -> None:
    weights = load_file(light / WEIGHTS_FILE)
    scales = torch.full((len(weights["tokens.weight"]),), torch.nan)
    cases: list[tuple[dict[str, torch.Tensor | None], str]] = [
        ({"bottleneck.weight": weights["bottleneck.weight"].float()}, r"bottleneck.weight is F32 .*, not F16 "),
        ({"tokens.scales": scales if light.name == "half" else None}, r"tokens.scales is .*(missing)?"),
        ({"tokens.weight": weights["tokens.weight"][:-1].clone()}, r"tokens.weight of \[\d+, \d+\]"),
    ]
    for number, (changes, message) in enumerate(cases):
        copy = changed(light, tmp_path / str(number), **changes)
        for backend in ("numpy", "torch"):
            with pytest.raises(CheckpointError, match=f"{WEIGHTS_FILE}: not this model's weights: .*{message}"):
                load_network(copy, read_config(copy), "cpu", "fp32", backend)
    (copy / WEIGHTS_FILE).write_bytes((light / WEIGHTS_FILE).read_bytes()[:-1] + b"\7")
    for backend in ("numpy", "torch"):
        with pytest.raises(CheckpointError, match="was changed: its SHA-256 is not that in"):
            load_network(copy, read_config(light), "cpu", "fp32", backend)


def test_it_is_not_made_of_itself(light: Path, tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=f"has its weights in {light.name} already; export the checkpoint that"):
        write_light_weights(light, read_config(light), tmp_path, Precision.HALF)


def test_a_weight_beyond_half_precision_is_refused(trained: Trained, tmp_path: Path) -> None:
    weights = load_file(trained.checkpoint / WEIGHTS_FILE)
    copy = changed(trained.checkpoint, tmp_path, **{"head.down.weight": weights["head.down.weight"] + 1e5})
    with pytest.raises(ValueError, match=r"head\.down\.weight has weights beyond half precision"):
        write_light_weights(copy, read_config(copy), tmp_path, Precision.HALF)


def test_the_command_writes_both_and_its_card_says_what_is_lost(run: Run, trained: Trained, tmp_path: Path) -> None:
    options = ("-c", trained.checkpoint, "--tokens", trained.corpus.packed_path)
    for precision, title in (("half", "half precision"), ("int8", "int8")):
        assert run("export", "light", *options, "-o", tmp_path / precision, "--precision", precision).code == 0
        text = (tmp_path / precision / "README.md").read_text(encoding="utf-8")
        assert f"## Loss of {title}\n\nOn " in text
        assert f"| | float32 | {title} | difference |" in text
        assert run("inspect", "checkpoint", tmp_path / precision, "--json").json["precision"] == precision
