"""The ways of the training benchmark differ only in how they encode."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from benchmarks import training
from benchmarks._encoders import PEERS, pad, padded_forward, peer
from benchmarks._results import BOORU_EMBED
from benchmarks.training import PADDED, captions, measure, padding, ways
from booru_embed_core.model.encoder import EncoderConfig, SetEncoder
from booru_embed_core.model.objective import Losses, objective, split_captions
from booru_embed_core.schema import SPECIAL_TOKENS
from booru_embed_core.settings import ModelSettings, TrainingSettings

TINY = ModelSettings(width=32, num_layers=2, num_heads=2, ffn_width=48, embedding_dim=16, matryoshka_dims=(4, 8))
CONFIG = EncoderConfig(settings=TINY, num_special=len(SPECIAL_TOKENS), category_sizes=(40, 0, 0, 0, 0))
SETTINGS = TrainingSettings()
BATCH = captions(torch.tensor([1, 3, 30, 12, 7]), 40)


def loss(model: SetEncoder, **encode: object) -> Losses:
    return objective(model, BATCH, SETTINGS, torch.Generator().manual_seed(3), torch.float32, **encode)


def test_a_padded_batch_holds_every_set_and_nothing_else() -> None:
    ids, mask = pad(torch.tensor([5, 6, 7, 8]), torch.tensor([1, 3]))
    assert ids.tolist() == [[5, 0, 0], [6, 7, 8]]
    assert mask.tolist() == [[True, False, False], [True, True, True]]


def test_the_padded_path_gives_our_loss_and_gradient() -> None:
    torch.manual_seed(0)
    model = SetEncoder(CONFIG)
    grads, totals = [], []
    for encode in (None, lambda *args: padded_forward(model, *args)):
        model.zero_grad()
        total = loss(model, encode=encode).total
        total.backward()
        totals.append(total.item())
        grads.append(torch.cat([p.grad.ravel() for p in model.parameters() if p.grad is not None]))
    assert totals[0] == pytest.approx(totals[1], rel=1e-5)
    assert grads[0].abs().max() > 0.01
    torch.testing.assert_close(grads[0], grads[1], rtol=1e-3, atol=1e-5)


def test_every_way_is_measured_in_every_dtype(monkeypatch: pytest.MonkeyPatch) -> None:
    seen: list[tuple[int, torch.dtype, int]] = []
    real = training.step

    def counted(way: training.Way, *args: object) -> Tensor:
        seen.append((id(way), args[2], args[3]))
        return real(way, *args)

    monkeypatch.setattr(training, "step", counted)
    every = ways(CONFIG, SETTINGS, with_peers=False)
    before = every[BOORU_EMBED].model.tag_bias.clone()
    found = measure(every, BATCH, SETTINGS, rounds=2)
    assert list(found) == ["float32", "bfloat16"]
    for of_ways in found.values():
        assert list(of_ways) == [BOORU_EMBED, PADDED]
        assert of_ways[BOORU_EMBED]["ratios"] == [1, 1]
        assert all(figure["cpu_seconds"] >= 0 and figure["tokens_per_second"] > 0 for figure in of_ways.values())
    assert len(seen) == 3 * 2 * 2
    assert {seed for _, _, seed in seen} == {0, 1, 2}
    assert not torch.equal(before, every[BOORU_EMBED].model.tag_bias), "the optimizer is part of a step"


def test_padding_is_slots_over_tokens() -> None:
    views = split_captions(BATCH, CONFIG.num_special, SETTINGS, torch.Generator().manual_seed(1))
    wanted = 10 * int(views.lengths.max()) / int(views.lengths.sum())
    assert padding(BATCH, SETTINGS, 1) == pytest.approx(wanted)


@pytest.fixture(params=PEERS)
def peer_name(request: pytest.FixtureRequest) -> str:
    pytest.importorskip("transformers")
    name: str = request.param
    return name


def test_a_peer_reads_the_same_tokens(peer_name: str) -> None:
    peer_model = peer(peer_name, CONFIG, 64)
    seen: dict[str, Tensor] = {}
    peer_model.trunk.register_forward_pre_hook(lambda _, __, given: seen.update(given), with_kwargs=True)
    found = loss(peer_model)
    views = split_captions(BATCH, CONFIG.num_special, SETTINGS, torch.Generator().manual_seed(3))
    assert torch.equal(seen["input_ids"][seen["attention_mask"].bool()], views.token_ids)
    assert torch.equal(seen["attention_mask"].sum(1), views.lengths)
    found.total.backward()
    assert all(parameter.grad is not None for parameter in peer_model.parameters())


def test_a_peer_with_booru_embeds_states_has_its_loss(peer_name: str) -> None:
    torch.manual_seed(0)
    model, peer_model = SetEncoder(CONFIG), peer(peer_name, CONFIG, 64)
    peer_model.load_state_dict(model.state_dict(), strict=False)
    own = loss(peer_model)
    with_own_states = loss(peer_model, encode=model)
    assert with_own_states.total.item() == loss(model).total.item() != own.total.item()
    assert list(own.terms) == list(with_own_states.terms)


def test_a_peer_does_not_see_its_padding(peer_name: str) -> None:
    peer_model = peer(peer_name, CONFIG, 64).eval()
    ids = torch.randint(3, CONFIG.num_tokens, (14,))
    together = peer_model(ids, torch.tensor([3, 11]), 11)
    torch.testing.assert_close(together[:1], peer_model(ids[:3], torch.tensor([3]), 3), rtol=1e-4, atol=1e-5)


def test_a_peer_is_as_large_as_booru_embed(peer_name: str) -> None:
    model, peer_model = SetEncoder(CONFIG), peer(peer_name, CONFIG, 64)
    tables = sum(table.weight.numel() for table in peer_model.tokens_of_trunk)
    num_own, num_peer = (sum(p.numel() for p in model.parameters()) for model in (model, peer_model))
    assert num_peer - (tables - peer_model.tokens.weight.numel()) == pytest.approx(num_own, rel=0.05)
