"""Stages of the full-scale benchmark: the checkpoint, and a training step."""

from __future__ import annotations

from typing import Any, Final

from benchmarks._full_scale import Place, Stage, folder_bytes


def checkpoint(place: Place) -> dict[str, Any]:
    """The size of the warehouse's checkpoint; an untrained one of the settings is published if there is none."""
    settings = place.settings
    if not (settings.warehouse_path / "checkpoint/current").is_dir():
        _publish_untrained(place)
    return {"disk_bytes": folder_bytes(place.current("checkpoint"))}


def _publish_untrained(place: Place) -> None:
    import torch

    from benchmarks.embedding import untrained_embedder
    from booru_embed_core.model.encoder import SetEncoder
    from booru_embed_core.tags.vocab import Vocab
    from booru_embed_core.training.checkpoint import encoder_config, save_checkpoint
    from booru_embed_core.training.checkpoint_config import WEIGHTS_FILE
    from booru_embed_dagster.warehouse.warehouse import Warehouse

    settings, vocab_dir = place.settings, place.current("vocab")
    vocab = Vocab.load(vocab_dir)
    torch.manual_seed(settings.training.seed)
    config = untrained_embedder(vocab, settings.model, "cpu", torch.float32).config
    model = SetEncoder(encoder_config(vocab, settings.model))
    inputs = {name: place.current(name).name for name in ("packed_tokens", "vocab")}
    warehouse = Warehouse(settings.warehouse_path, settings.warehouse.keep_versions)
    with warehouse.new_version("checkpoint", inputs, [WEIGHTS_FILE]) as draft:
        save_checkpoint(draft.path, model, config, vocab_dir)


STAGES: Final[tuple[Stage, ...]] = (Stage("checkpoint", checkpoint),)
