"""The network as ONNX graphs, written node by node from the weights.

torch's exporter is not used: it traces only the padded form, takes half a minute, and leaves paths of the machine in
the file. The graphs compute `SetEncoder.forward`; the pooling block attends with the first token as its only query.

Shape legend: B captions, L tokens of the longest, H heads, D head dimension, d width, E embedding_dim, V tags.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, Final

import numpy as np
import onnx
import torch
from numpy.typing import NDArray
from onnx import TensorProto, helper

from booru_embed_core.embedder.onnx_network import COMPLETION_FILE, INT8_FILES, MODEL_FILE, VOCAB_KEY, WEIGHTS_INPUT
from booru_embed_core.export.rounding import rounded
from booru_embed_core.model.encoder import Attention, Block, FeedForward, Linear, SetEncoder

_OPSET: Final = 18
_IR_VERSION: Final = 9  # onnxruntime 1.16 and newer read it
_MASKED: Final = -1e4  # far below any score, and finite in fp16 too
# 7-bit weights: CPUs without VNNI add pairs of products in 16 bits, which overflow with 8-bit weights.
_WEIGHT_LEVELS: Final = 63
_STATE_LEVELS: Final = 127
_ZERO: Final = np.uint8(128)


def write_onnx(model: SetEncoder, vocab_hash: str, out_dir: Path) -> None:
    """Writes ``model.onnx``, ``completion.onnx``, and both with int8 weights.

    ``model.onnx``: ``input_ids`` and ``attention_mask``, int64 ``[B, L]``, and optionally ``weights``, float32
    ``[B, L]``, to float32 ``hidden_states`` ``[B, L, d]`` (zero at padding), ``state`` ``[B, d]`` and ``embedding``
    ``[B, E]`` of unit length. Weights are those of the tags, at least 0, and 1 for special tokens and padding.
    ``completion.onnx``: ``state`` to ``logits`` ``[B, V]``.
    """
    for name, graph_of in ((MODEL_FILE, _encoder), (COMPLETION_FILE, _completion)):
        for int8, file in ((False, name), (True, INT8_FILES[name])):
            _write(graph_of, model, int8, vocab_hash, out_dir / file)


def _write(
    graph_of: Callable[[SetEncoder, _Graph], None], model: SetEncoder, int8: bool, vocab_hash: str, file: Path
) -> None:
    onnx_model = helper.make_model(
        onnx.GraphProto(),
        producer_name="booru-embed",
        ir_version=_IR_VERSION,
        opset_imports=[helper.make_opsetid("", _OPSET)],
    )
    graph_of(model, _Graph(onnx_model.graph, int8))
    helper.set_model_props(onnx_model, {VOCAB_KEY: vocab_hash})
    onnx.save_model(onnx_model, file)


class _Graph:
    """Adds nodes and constants to a graph in place, with unique names: helpers of onnx copy all tables thrice.

    With `int8`, linear maps and lookups have weights of 8 bits. States are rounded at run time, each token's by a scale
    of its own, so that a caption's numbers do not depend on the others of its batch, as with onnxruntime's own dynamic
    quantization, which takes one scale for all.
    """

    def __init__(self, graph: onnx.GraphProto, int8: bool) -> None:
        self.graph = graph
        self._int8 = int8
        self._rounded_states: dict[str, tuple[str, str]] = {}

    def constant(self, value: NDArray[Any] | np.uint8 | torch.Tensor | float | list[int]) -> str:
        """Adds a constant, float32 for numbers and int64 for lists; returns its name."""
        if isinstance(value, torch.Tensor):
            value = value.detach().float().numpy()
        elif isinstance(value, list):
            value = np.array(value, dtype=np.int64)
        elif isinstance(value, float):
            value = np.array(value, dtype=np.float32)
        return self._add(np.asarray(value), f"constant_{len(self.graph.initializer)}")

    def optional(self, name: str, default: float) -> str:
        """Gives the input `name` ``[1, 1]`` numbers for calls that leave it out; returns its name."""
        return self._add(np.full((1, 1), default, dtype=np.float32), name)

    def _add(self, value: NDArray[Any], name: str) -> str:
        tensor = self.graph.initializer.add()
        tensor.dims.extend(value.shape)
        tensor.name = name
        tensor.data_type = helper.np_dtype_to_tensor_dtype(value.dtype)
        tensor.raw_data = value.astype(value.dtype.newbyteorder("<"), copy=False).tobytes()
        return name

    def __call__(self, operator: str, *inputs: str, output: str | None = None, **attributes: Any) -> str:
        """Adds a node; returns the name of its output."""
        number = len(self.graph.node)
        output = output or f"{operator.lower()}_{number}"
        self.graph.node.append(helper.make_node(operator, inputs, [output], name=f"node_{number}", **attributes))
        return output

    def linear(self, x: str, weight: torch.Tensor) -> str:
        """`x` ``[…, in]`` by `weight` ``[out, in]``."""
        if not self._int8:
            return self("MatMul", x, self.constant(weight.T.contiguous()))
        states, scale = self._rounded(x)
        rows, scales = rounded(weight.detach().float().numpy(), _WEIGHT_LEVELS)
        product = self("MatMulInteger", states, self.constant(rows.T), self.constant(_ZERO))
        return self("Mul", self("Mul", self("Cast", product, to=TensorProto.FLOAT), scale), self.constant(scales))

    def lookup(self, table: torch.Tensor, ids: str) -> str:
        """The rows `ids` of `table`."""
        if not self._int8:
            return self("Gather", self.constant(table), ids)
        rows, scales = rounded(table.detach().float().numpy(), _STATE_LEVELS)
        found = self("Cast", self("Gather", self.constant(rows), ids), to=TensorProto.FLOAT)
        return self("Mul", found, self("Gather", self.constant(scales[:, None]), ids))

    def _rounded(self, x: str) -> tuple[str, str]:
        """`x` ``[…, in]`` in uint8 around `_ZERO`, and its scale ``[…, 1]``; once for all maps of `x`."""
        if x not in self._rounded_states:
            peak = self("ReduceMax", self("Abs", x), self.constant([-1]), keepdims=1)
            scale = self("Max", self("Mul", peak, self.constant(1 / _STATE_LEVELS)), self.constant(1e-12))
            levels = self("Mul", x, self("Reciprocal", scale))
            self._rounded_states[x] = self("QuantizeLinear", levels, self.constant(1.0), self.constant(_ZERO)), scale
        return self._rounded_states[x]

    def norm(self, x: str, size: int) -> str:
        """`encoder.rms_norm` over the last dimension, which has `size` numbers."""
        root = self("Mul", self("ReduceL2", x, self.constant([-1]), keepdims=1), self.constant(size**-0.5))
        return self("Div", x, self("Max", root, self.constant(1e-6)))

    def feed_forward(self, part: FeedForward, x: str) -> str:
        gate_weight, up_weight = part.gate_up.weight.chunk(2)
        gate, up = self.linear(x, gate_weight), self.linear(x, up_weight)
        inner = self("Mul", self("Mul", gate, self("Sigmoid", gate)), up)
        return self.linear(inner, part.down.weight)

    def attention(self, part: Attention, query_states: str, states: str, masked: str) -> str:
        """Attention of `query_states` ``[B, Q, d]`` over `states` ``[B, L, d]``; `masked` is added to the scores."""
        heads, head_dim = part.num_heads, part.head_dim
        split = self.constant([0, 0, heads, head_dim])
        key_weight, value_weight = part.key_value.weight.chunk(2)

        def of_heads(x: str, weight: torch.Tensor) -> str:
            return self("Reshape", self.linear(x, weight), split)

        scale = part.log_scale.exp()[:, None] * head_dim**-0.5
        queries = self("Mul", self.norm(of_heads(query_states, part.query.weight), head_dim), self.constant(scale))
        queries = self("Transpose", queries, perm=[0, 2, 1, 3])
        keys = self("Transpose", self.norm(of_heads(states, key_weight), head_dim), perm=[0, 2, 3, 1])
        values = self("Transpose", of_heads(states, value_weight), perm=[0, 2, 1, 3])
        weights = self("Softmax", self("Add", self("MatMul", queries, keys), masked), axis=-1)
        mixed = self("Transpose", self("MatMul", weights, values), perm=[0, 2, 1, 3])
        return self.linear(self("Reshape", mixed, self.constant([0, 0, heads * head_dim])), part.output.weight)

    def finish(self, name: str, inputs: list[onnx.ValueInfoProto], outputs: list[onnx.ValueInfoProto]) -> None:
        """Names the graph, its inputs and its outputs."""
        self.graph.name = name
        self.graph.input.extend(inputs)
        self.graph.output.extend(outputs)


@torch.inference_mode()
def _encoder(model: SetEncoder, graph: _Graph) -> None:
    """Makes `graph` that from token ids to states and embedding."""
    settings = model.config.settings
    width, dim = settings.width, settings.embedding_dim
    first_block = model.blocks[0]
    assert isinstance(first_block, Block)
    table = first_block.before_attention(model.input_vectors())
    is_token = graph("Cast", "attention_mask", to=TensorProto.FLOAT)
    penalty = graph("Mul", graph("Sub", graph.constant(1.0), is_token), graph.constant(_MASKED))
    penalty = graph("Add", penalty, graph("Log", graph.optional(WEIGHTS_INPUT, 1.0)))
    masked = graph("Unsqueeze", penalty, graph.constant([1, 2]))
    x = graph.lookup(table, "input_ids")
    for index, block in enumerate(model.blocks):
        assert isinstance(block, Block)
        if block.feed_forward_first and index:
            x = graph("Add", x, graph.feed_forward(block.feed_forward, graph.norm(x, width)))
        if block.attention is not None:
            normed = graph.norm(x, width)
            x = graph("Add", x, graph.attention(block.attention, normed, normed, masked))
        if not block.feed_forward_first:
            x = graph("Add", x, graph.feed_forward(block.feed_forward, graph.norm(x, width)))
    x = graph("Mul", x, graph("Unsqueeze", is_token, graph.constant([2])), output="hidden_states")
    pool = model.pool
    if pool.attention is None:
        # The norm cancels the factor between a sum and a mean.
        weighted = graph("Mul", x, graph("Unsqueeze", WEIGHTS_INPUT, graph.constant([2])))
        pooled = graph.norm(graph("ReduceSum", weighted, graph.constant([1]), keepdims=0), width)
    else:
        first = graph("Slice", x, graph.constant([0]), graph.constant([1]), graph.constant([1]))
        found = graph.attention(pool.attention, graph.norm(first, width), graph.norm(x, width), masked)
        pooled = graph("Squeeze", graph("Add", first, found), graph.constant([1]))
    pooled = graph("Add", pooled, graph.feed_forward(pool.feed_forward, graph.norm(pooled, width)))
    state = graph("Identity", graph.norm(pooled, width), output="state")
    bottleneck = model.bottleneck
    assert isinstance(bottleneck, Linear)
    embedding = graph.linear(state, bottleneck.weight)
    length = graph("ReduceL2", embedding, graph.constant([-1]), keepdims=1)
    graph("Div", embedding, graph("Max", length, graph.constant(1e-12)), output="embedding")
    inputs = [_tensor(name, TensorProto.INT64, "batch", "length") for name in ("input_ids", "attention_mask")]
    inputs.append(_floats(WEIGHTS_INPUT, "weights_batch", "weights_length"))  # 1 or the batch, 1 or the length
    outputs = [_floats("hidden_states", "batch", "length", width), _floats("state", "batch", width)]
    graph.finish("encoder", inputs, [*outputs, _floats("embedding", "batch", dim)])


@torch.inference_mode()
def _completion(model: SetEncoder, graph: _Graph) -> None:
    """Makes `graph` that from the pooled state to the logits of the completion head."""
    width = model.config.settings.width
    decoded = graph.norm(graph("Add", "state", graph.feed_forward(model.head, "state")), width)
    scores = graph.linear(decoded, model.tag_vectors())
    graph("Add", scores, graph.constant(model.tag_bias), output="logits")
    outputs = [_floats("logits", "batch", model.config.num_tags)]
    graph.finish("completion", [_floats("state", "batch", width)], outputs)


def _tensor(name: str, kind: int, *shape: str | int) -> onnx.ValueInfoProto:
    return helper.make_tensor_value_info(name, kind, shape)


def _floats(name: str, *shape: str | int) -> onnx.ValueInfoProto:
    return _tensor(name, TensorProto.FLOAT, *shape)
