"""Writes a checkpoint in a format of other programs, as a new folder that is complete when it appears.

The same checkpoint gives the same bytes. This module holds the list of formats, the folder and its card;
``onnx_graphs``, ``sentence_transformers`` and ``tag_vectors`` write the files.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property, partial
from pathlib import Path
from typing import Final

import torch

from booru_embed_core.embedder.embedder import BooruEmbedder
from booru_embed_core.embedder.network import Network
from booru_embed_core.embedder.torch_network import TorchNetwork
from booru_embed_core.export.model_card import (
    BOTH_USE,
    LIBRARY_USE,
    ONNX_USE,
    SENTENCE_USE,
    UNKNOWN_LICENSE,
    card,
    loss_section,
)
from booru_embed_core.export.quantization_loss import LOSS_POSTS, QuantizationLoss, quantization_loss
from booru_embed_core.export.tag_vectors import write_parquet, write_projector, write_word2vec
from booru_embed_core.model.encoder import SetEncoder
from booru_embed_core.outputs import new_folder
from booru_embed_core.schema import ExportFormat
from booru_embed_core.tags.vocab import VOCAB_FILES, Vocab
from booru_embed_core.training.checkpoint import load_mapped
from booru_embed_core.training.checkpoint_config import (
    CARD_FILE,
    WEIGHTS_FILE,
    CheckpointConfig,
    read_checkpoint,
    write_config,
)
from booru_embed_core.training.weights_layout import Precision


@dataclass(frozen=True)
class CheckpointSource:
    """The checkpoint to export, and what its card needs.

    Attributes:
        checkpoint: its folder.
        model: on the CPU.
        config: of the checkpoint.
        vocab: of the checkpoint.
        evaluation: ``evaluation.json`` of the checkpoint, for the card.
        tokens: the packed file that it was trained on, whose test posts measure the loss of int8.
        loss_posts: the most test posts for that.
        precision: of the weights of a light checkpoint.
        license_id: of the model, by its name on the Hub, for the card.
        runtime: onnxruntime-web for the demo, see `find_runtime`.
    """

    checkpoint: Path
    model: SetEncoder
    config: CheckpointConfig
    vocab: Vocab
    evaluation: Path | None
    tokens: Path | None
    loss_posts: int = LOSS_POSTS
    precision: Precision = Precision.INT8
    license_id: str = UNKNOWN_LICENSE
    runtime: Path | None = None

    @classmethod
    def open(
        cls,
        checkpoint: Path,
        evaluation: Path | None = None,
        tokens: Path | None = None,
        loss_posts: int = LOSS_POSTS,
        precision: Precision = Precision.INT8,
    ) -> CheckpointSource:
        """The source of a checkpoint's folder.

        Raises:
            CheckpointError: as in `load_mapped`; or the vocabulary is damaged.
        """
        config, vocab = read_checkpoint(checkpoint)
        return cls(
            checkpoint, load_mapped(checkpoint, config)[0], config, vocab, evaluation, tokens, loss_posts, precision
        )

    @cached_property
    def embedder(self) -> BooruEmbedder:
        """The embedder, in float32."""
        return BooruEmbedder(TorchNetwork(self.model, torch.float32), self.config, self.vocab)


def export(form: ExportFormat, source: CheckpointSource, out_dir: Path) -> None:
    """Writes `source` as `form` into the new folder `out_dir`, which appears when it is complete.

    Raises:
        ForeignPathError, FileExistsError: see `new_folder`.
        ValueError: the format cannot hold this checkpoint, or the evaluation or packed file is of another one.
    """
    with new_folder(out_dir) as draft:
        _WRITERS[form](source, draft)


def write_hub(source: CheckpointSource, out_dir: Path) -> None:
    """Writes a folder for the Hub: the files of the checkpoint, a card, and a model for sentence-transformers.

    That model is left out where `write_sentence_folder` refuses the checkpoint.
    """
    from booru_embed_core.export.sentence_transformers import has_counterpart, write_beside

    _copy(source, out_dir, WEIGHTS_FILE, *VOCAB_FILES)
    write_config(out_dir, source.config, [WEIGHTS_FILE])
    loads_both = has_counterpart(source.model) and not source.config.splits.drop_implied
    if loads_both:
        write_beside(source.model, source.vocab, out_dir)
    _write_card(source, out_dir, use=BOTH_USE if loads_both else LIBRARY_USE)


def write_demo_folder(source: CheckpointSource, out_dir: Path) -> None:
    """Writes a page that completes captions without a server."""
    from booru_embed_core.export.demo import write_demo
    from booru_embed_core.export.demo_runtime import find_runtime

    drops_implied = source.config.splits.drop_implied
    runtime = find_runtime(source.runtime)
    write_demo(source.model, source.vocab, runtime, out_dir, drops_implied=drops_implied, license_id=source.license_id)


def write_light_folder(source: CheckpointSource, out_dir: Path) -> None:
    """Writes a checkpoint whose weights take half or a quarter of the room, and a card that says what they lose."""
    from booru_embed_core.embedder.backend import load_network
    from booru_embed_core.export.light import write_light_weights

    _copy(source, out_dir, *VOCAB_FILES)
    write_light_weights(source.checkpoint, source.config, out_dir, source.precision)
    config = write_config(out_dir, source.config, [WEIGHTS_FILE])
    loads = [
        partial(load_network, folder, config, "cpu", "fp32")
        for folder, config in ((source.checkpoint, source.config), (out_dir, config))
    ]
    name = "half precision" if source.precision is Precision.HALF else source.precision.value
    section = loss_section(_loss(source, *loads), name)
    _write_card(source, out_dir, more=section)


def _loss(
    source: CheckpointSource, exact: Callable[[], Network], rounded: Callable[[], Network]
) -> QuantizationLoss | None:
    """What the network of `rounded` loses against that of `exact`; None if there are no posts to measure it on."""
    if source.tokens is None:
        return None
    return quantization_loss(exact, rounded, source.tokens, source.vocab, source.loss_posts)


def write_onnx_folder(source: CheckpointSource, out_dir: Path) -> None:
    """Writes the graphs in float32 and int8, and the other files that `BooruEmbedder.load` needs."""
    from booru_embed_core.embedder.onnx_network import INT8_FILES, OnnxNetwork
    from booru_embed_core.export.onnx_graphs import write_onnx

    _copy(source, out_dir, *VOCAB_FILES)
    write_onnx(source.model, source.vocab.hash, out_dir)
    config = write_config(out_dir, source.config, [*INT8_FILES, *INT8_FILES.values()])
    loads = [partial(OnnxNetwork.load, out_dir, config, "cpu", precision) for precision in ("fp32", "int8")]
    section = loss_section(_loss(source, *loads))
    _write_card(source, out_dir, ONNX_USE, "onnxruntime", section)


def write_sentence_folder(source: CheckpointSource, out_dir: Path) -> None:
    """Writes a model for the library sentence-transformers."""
    from booru_embed_core.export.sentence_transformers import write_sentence_transformer

    if source.config.splits.drop_implied:
        raise ValueError(
            f"{source.checkpoint}: was trained with [tokens] drop_implied, and sentence-transformers leaves out no "
            "implied tags; export it as onnx or hub, or train without drop_implied"
        )
    write_sentence_transformer(source.model, source.vocab, out_dir)
    _write_card(source, out_dir, SENTENCE_USE, "sentence-transformers")


def _copy(source: CheckpointSource, out_dir: Path, *names: str) -> None:
    for name in names:
        shutil.copyfile(source.checkpoint / name, out_dir / name)


def _write_card(
    source: CheckpointSource, out_dir: Path, use: str = LIBRARY_USE, library: str = "booru-embed", more: str = ""
) -> None:
    text = card(source.config, source.vocab, source.evaluation, use, library, more, source.license_id)
    (out_dir / CARD_FILE).write_text(text, encoding="utf-8")


_WRITERS: Final[dict[ExportFormat, Callable[[CheckpointSource, Path], None]]] = {
    ExportFormat.HUB: write_hub,
    ExportFormat.LIGHT: write_light_folder,
    ExportFormat.SENTENCE_TRANSFORMERS: write_sentence_folder,
    ExportFormat.ONNX: write_onnx_folder,
    ExportFormat.DEMO: write_demo_folder,
    ExportFormat.PARQUET: lambda source, out_dir: write_parquet(source.embedder, out_dir),
    ExportFormat.WORD2VEC: lambda source, out_dir: write_word2vec(source.embedder, out_dir),
    ExportFormat.PROJECTOR: lambda source, out_dir: write_projector(source.embedder, out_dir),
}
