"""The network by onnxruntime, from the files of ``booru-embed export onnx``; it needs no torch.

A batch is padded to its longest set, since the graph takes rectangular inputs; sets of similar length share a batch.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, Self

import numpy as np
from numpy.typing import NDArray

from booru_embed_core.embedder.network import TagSets, sorted_tags, token_ids
from booru_embed_core.errors import one_line
from booru_embed_core.schema import PAD_TOKEN, SPECIAL_TOKENS
from booru_embed_core.training.checkpoint_config import REMEDY, CheckpointConfig, CheckpointError, verify_weights

if TYPE_CHECKING:
    from onnxruntime import InferenceSession

MODEL_FILE: Final = "model.onnx"
COMPLETION_FILE: Final = "completion.onnx"
INT8_FILES: Final = {MODEL_FILE: "model_int8.onnx", COMPLETION_FILE: "completion_int8.onnx"}
VOCAB_KEY: Final = "vocab_hash"
WEIGHTS_INPUT: Final = "weights"

_EXPORT: Final = "export the checkpoint again"
_PAD_ID: Final = SPECIAL_TOKENS.index(PAD_TOKEN)
_BATCH_TOKENS: Final = 4096
"""Tokens of one call, padding included: 4 MB of states at width 256."""


class OnnxNetwork:
    """A `Network` of two sessions; any number of threads may call it at once. A pickled one reads its files again."""

    def __init__(self, folder: Path, config: CheckpointConfig, device: str, precision: str) -> None:
        """Use `load`."""
        names = [INT8_FILES[name] if precision == "int8" else name for name in (MODEL_FILE, COMPLETION_FILE)]
        files = [folder.absolute() / name for name in names]
        self._loaded_from = (folder.absolute(), config, device, precision)
        providers = _providers(device)
        for file in files:
            verify_weights(file, config, _EXPORT)
        self._model, self._completion = (_session(file, config.vocab_hash, providers) for file in files)
        self._stamps = [_stamp(file) for file in files]
        self._num_special = config.num_special
        self._check(files[0], files[1], config)

    def _check(self, model: Path, completion: Path, config: CheckpointConfig) -> None:
        """Computes the empty caption, which shows sizes that are not those of `config`, and weights that are NaN.

        Raises:
            CheckpointError: it cannot be computed, or gives other sizes or numbers that are not finite.
        """
        nothing = TagSets.without_metadata(np.empty(0, np.int64), np.zeros(1, np.int64))
        sizes = {"embedding": config.model.embedding_dim, "logits": sum(config.category_sizes)}
        for file, session, name in ((model, self._model, "embedding"), (completion, self._completion, "logits")):
            found = [_sizes(session, output.name) for output in session.get_outputs() if output.name == name]
            if found != [[sizes[name]]]:
                raise CheckpointError(f"{file}: gives {name} of {found} numbers instead of {sizes[name]}; {_EXPORT}")
        with _errors_of(model):
            values = self.embeddings(nothing), self.tag_scores(nothing)
        for file, given in zip((model, completion), values, strict=True):
            if not np.isfinite(given).all():
                raise CheckpointError(f"{file}: has weights that are NaN or infinite; {_EXPORT}")

    def __reduce__(self) -> tuple[Any, ...]:
        return _restored, (self._loaded_from, self._stamps)

    @classmethod
    def load(cls, folder: Path, config: CheckpointConfig, device: str, precision: str) -> Self:
        """The network of an exported folder.

        Args:
            folder: holds `MODEL_FILE` and `COMPLETION_FILE`.
            config: of the exported checkpoint.
            device: ``cpu``, ``cuda``, or ``auto``: the GPU if onnxruntime has one.
            precision: ``int8`` takes the quantized files; ``auto`` and ``fp32`` the others.

        Raises:
            CheckpointError: a file is missing, damaged, or of another vocabulary.
            ValueError: no such device or precision.
        """
        if precision == "bf16":
            raise ValueError(f"{folder}: precision 'bf16' is for torch; onnxruntime takes fp32 or int8")
        return cls(folder, config, device, precision)

    def embeddings(self, sets: TagSets) -> NDArray[np.float32]:
        """The bottleneck of each set, float32 ``[n, E]``, of unit length."""
        (size,) = _sizes(self._model, "embedding")
        embeddings = np.empty((len(sets.lengths), size), dtype=np.float32)
        for rows, inputs in self._batches(sorted_tags(sets)):
            (embeddings[rows],) = self._model.run(["embedding"], inputs)
        return embeddings

    def tag_scores(self, sets: TagSets) -> NDArray[np.float32]:
        """The completion head's logit of every tag, float32 ``[n, num_tags]``."""
        (size,) = _sizes(self._completion, "logits")
        scores = np.empty((len(sets.lengths), size), dtype=np.float32)
        for rows, inputs in self._batches(sorted_tags(sets)):
            (state,) = self._model.run(["state"], inputs)
            (scores[rows],) = self._completion.run(["logits"], {"state": state})
        return scores

    def token_states(self, sets: TagSets) -> tuple[NDArray[np.float32], NDArray[np.int32]]:
        """The state of every token, float32 ``[tokens, d]``, and cu_seqlens int32 ``[n + 1]``."""
        _, lengths = token_ids(sets, self._num_special)
        cu_seqlens = np.concatenate([[0], np.cumsum(lengths)])
        *_, width = _sizes(self._model, "hidden_states")
        states = np.empty((cu_seqlens[-1], width), dtype=np.float32)
        for rows, inputs in self._batches(sets):
            (padded,) = self._model.run(["hidden_states"], inputs)
            for row, row_states in zip(rows.tolist(), padded, strict=True):
                states[cu_seqlens[row] : cu_seqlens[row + 1]] = row_states[: lengths[row]]
        return states, cu_seqlens.astype(np.int32)

    def _batches(self, sets: TagSets) -> Iterator[tuple[NDArray[np.int64], dict[str, NDArray[Any]]]]:
        """Row indices of `sets`, int64 ``[b]``, and the inputs of the encoder's graph; shorter sets first."""
        ids, lengths = token_ids(sets, self._num_special)
        weights = self._token_weights(sets, ids)
        starts = np.cumsum(lengths) - lengths
        order = np.argsort(lengths, kind="stable")
        first = 0
        while first < len(order):
            tokens = np.arange(1, len(order) - first + 1) * lengths[order[first:]]  # of a batch that ends at each set
            rows = order[first : first + max(1, int(np.searchsorted(tokens, _BATCH_TOKENS, side="right")))]
            positions = np.arange(lengths[rows[-1]])
            mask = positions < lengths[rows, None]
            tokens_of = (starts[rows, None] + positions)[mask]
            inputs: dict[str, NDArray[Any]] = {"input_ids": np.full(mask.shape, _PAD_ID, dtype=np.int64)}
            inputs["input_ids"][mask] = ids[tokens_of]
            inputs["attention_mask"] = mask.astype(np.int64)
            if weights is not None:
                inputs[WEIGHTS_INPUT] = np.ones(mask.shape, dtype=np.float32)
                inputs[WEIGHTS_INPUT][mask] = weights[tokens_of]
            yield rows, inputs
            first += len(rows)

    def _token_weights(self, sets: TagSets, ids: NDArray[np.int64]) -> NDArray[np.float32] | None:
        """The weight of each token, float32 ``[T]``; None if all are 1.

        Raises:
            CheckpointError: the graph takes no weights.
        """
        if sets.weights is None or bool((sets.weights == 1).all()):
            return None
        if WEIGHTS_INPUT not in {found.name for found in self._model.get_overridable_initializers()}:
            raise CheckpointError(
                f"{self._loaded_from[0]}: exported without weights of tags, so each must be 1; "
                "export the checkpoint again (`booru-embed export onnx`)"
            )
        weights = np.ones(len(ids), dtype=np.float32)
        weights[ids >= self._num_special] = sets.weights
        return weights


def _restored(loaded_from: tuple[Path, CheckpointConfig, str, str], stamps: list[tuple[int, int]]) -> OnnxNetwork:
    """The pickled network.

    Raises:
        CheckpointError: its files are missing, damaged, or have changed.
    """
    network = OnnxNetwork.load(*loaded_from)
    if network._stamps != stamps:
        raise CheckpointError(f"{loaded_from[0]}: changed since the embedder was loaded; load it again from there")
    return network


def _stamp(file: Path) -> tuple[int, int]:
    """Size in bytes and time of the last change in nanoseconds."""
    found = file.stat()
    return found.st_size, found.st_mtime_ns


def _sizes(session: InferenceSession, output: str) -> list[int]:
    """The fixed sizes of `output`, without the batch and the length."""
    (shape,) = [found.shape for found in session.get_outputs() if found.name == output]
    return [size for size in shape if isinstance(size, int)]


def _providers(device: str) -> list[str]:
    import onnxruntime

    on_cpu, on_gpu = ["CPUExecutionProvider"], ["CUDAExecutionProvider", "CPUExecutionProvider"]
    has_gpu = on_gpu[0] in onnxruntime.get_available_providers()
    if device == "cuda" and not has_gpu:
        raise ValueError('device = "cuda", but onnxruntime finds no GPU; install onnxruntime-gpu or use "cpu"')
    return on_gpu if has_gpu and device != "cpu" else on_cpu


@contextmanager
def _errors_of(file: Path) -> Iterator[None]:
    """Replaces the errors of onnxruntime, which have no common type of their own, by a `CheckpointError`."""
    from onnxruntime.capi import onnxruntime_pybind11_state as state

    kinds: tuple[type[Exception], ...] = (RuntimeError, *(kind for kind in vars(state).values() if _is_error(kind)))
    try:
        yield
    except state.NoSuchFile:
        raise CheckpointError(f"{file}: no such file; {_EXPORT}") from None
    except kinds as error:
        raise CheckpointError(f"{file}: not a network ({one_line(error, 200)}); {_EXPORT}") from None


def _is_error(kind: object) -> bool:
    return isinstance(kind, type) and issubclass(kind, Exception)


def _session(file: Path, vocab_hash: str, providers: list[str]) -> InferenceSession:
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.log_severity_level = 3  # errors; onnxruntime warns of every optional input
    with _errors_of(file):
        session = onnxruntime.InferenceSession(file, options, providers=providers)
    made_with = session.get_modelmeta().custom_metadata_map.get(VOCAB_KEY, "")
    if made_with != vocab_hash:
        raise CheckpointError(
            f"{file}: made with the vocab {made_with[:16] or '(none)'}, but the vocab beside it is {vocab_hash[:16]}; "
            f"{_EXPORT}, or {REMEDY}"
        )
    return session
